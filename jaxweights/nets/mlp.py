"""Multi-layer perceptrons: the digits network 64-16-10 and G.pt's MNIST network 784-10-10 (7,960 parameters)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
from flax import linen as nn

from jaxweights.nets.settings import ImageSettings
from jaxweights.nn.activations import ACTIVATIONS, activation, scaling
from jaxweights.nn.dense import UnitDense
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.parameters import INITIALISERS
from jaxweights.settings import setting
from jaxweights.spec import FIXED, WeightSpec


class MLP(nn.Module):
    """Dense layers fc1, fc2, ... on the flattened image, an activation after each but the last, which may have an
    initialiser of its own."""

    hidden: tuple[int, ...]
    num_classes: int
    activation: str = "relu"
    initialiser: str = "torch"
    last_initialiser: str = ""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        act = activation(self.activation)
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.hidden):
            x = act(UnitDense(width, self.initialiser, name=f"fc{i + 1}")(x, units_first=i > 0))
        last = self.last_initialiser or self.initialiser
        return UnitDense(self.num_classes, last, name=f"fc{len(self.hidden) + 1}")(x, units_first=bool(self.hidden)).T


@dataclasses.dataclass(frozen=True)
class MLPSettings(ImageSettings):
    """Settings of the `mlp` network.

    Attributes:
      name: name of the network.
      hidden: widths of the hidden layers.
      activation: activation function after each hidden layer.
      init: distribution of the initial weights.
    """

    name: Literal["mlp"] = "mlp"
    hidden: tuple[int, ...] = setting((16,), at_least=1)
    activation: str = setting("relu", one_of=ACTIVATIONS)
    init: str = setting("torch", one_of=INITIALISERS)


def build(settings: MLPSettings, input_shape: tuple[int, ...], num_classes: int) -> tuple[MLP, WeightSpec]:
    """An MLP and its spec; every hidden layer is one permutation group."""
    leaves = Leaves()
    dense_stack(leaves, "fc", input_shape, settings.hidden, num_classes, scaling(settings.activation))
    return MLP(settings.hidden, num_classes, settings.activation, settings.init), leaves.spec()


def dense_stack(
    leaves: Leaves, name: str, inputs: int | Sequence[int], hidden: Sequence[int], outputs: int, scaling: str
) -> None:
    """Declares the leaves of an `MLP`, whose hidden layers are one permutation group each.

    Args:
      leaves: what is collected.
      name: beginning of the layers' names.
      inputs: number of inputs, or the factors of a flattened feature map.
      hidden: widths of the hidden layers.
      outputs: number of outputs.
      scaling: the rescaling that hidden units admit.
    """
    reads = FIXED
    for i, width in enumerate(hidden):
        writes = leaves.group(width, scaling)
        leaves.dense(f"{name}{i + 1}", inputs, width, reads, writes)
        inputs, reads = width, writes
    leaves.dense(f"{name}{len(hidden) + 1}", inputs, outputs, reads)
