"""The policy of G.pt's cart-pole data set: a Gaussian around an MLP 4-32-32-1, 1,250 parameters."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
from flax import linen as nn

from jaxweights.environments import CartPole
from jaxweights.errors import UserError
from jaxweights.nets.mlp import MLP, dense_stack
from jaxweights.nets.settings import NetSettings
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.parameters import constant, parameter
from jaxweights.settings import setting
from jaxweights.spec import WeightSpec


class Actor(nn.Module):
    """The mean action, an MLP with SELU; and `log_std`, which says how actions scatter around it.

    Their standard deviation is `exp(2 * log_std)`: the published code gives the variance to a distribution that takes
    the deviation there.
    """

    hidden: tuple[int, ...]
    actions: int
    environment: CartPole = CartPole()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        parameter(self, "log_std", (self.actions,), constant(0.0))
        return MLP(self.hidden, self.actions, "selu", "orthogonal", "orthogonal_0.01", name="actor")(x)


@dataclasses.dataclass(frozen=True)
class ActorSettings(NetSettings):
    """Settings of the `actor` network.

    Attributes:
      name: name of the network.
      hidden: widths of the hidden layers.
    """

    name: Literal["actor"] = "actor"
    hidden: tuple[int, ...] = setting((32, 32), at_least=1)


def build(settings: ActorSettings, input_shape: tuple[int, ...], num_actions: int) -> tuple[Actor, WeightSpec]:
    """The policy and its spec; every hidden layer is one permutation group, and SELU admits no rescaling.

    The flat order is that of the published state dict, where `log_std` stands before the layers.

    Raises:
      UserError: not the cart-pole's four observations and one action.
    """
    if tuple(input_shape) != (4,) or num_actions != 1:
        raise UserError(
            f"The actor network acts on the cart-pole, but the data have inputs {tuple(input_shape)} and {num_actions} "
            "classes. Set data.name to cartpole, or net.name to a classifier."
        )
    leaves = Leaves()
    leaves.vector("log_std", num_actions)
    dense_stack(leaves, "actor/fc", input_shape[-1], settings.hidden, num_actions, "none")
    return Actor(settings.hidden, num_actions), leaves.spec()
