"""Multi-layer perceptrons: the digits network 64-16-10 and G.pt's MNIST network 784-10-10 (7,960 parameters)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import linen as nn

from jaxweights.nets.layers import Dense, activation, scaling
from jaxweights.spec import FIXED, Group, WeightSpec, dense_leaves


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
            x = act(Dense(width, self.initialiser, name=f"fc{i + 1}")(x))
        last = self.last_initialiser or self.initialiser
        return Dense(self.num_classes, last, name=f"fc{len(self.hidden) + 1}")(x)


def build(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    hidden: Sequence[int] = (16,),
    activation: str = "relu",
    init: str = "torch",
) -> tuple[MLP, WeightSpec]:
    """An MLP and its spec; every hidden layer is one permutation group."""
    widths = (*hidden, num_classes)
    leaves = dense_leaves("fc1", input_shape, widths[0], FIXED, 0 if hidden else FIXED)
    for i in range(1, len(widths)):
        leaves += dense_leaves(f"fc{i + 1}", widths[i - 1], widths[i], i - 1, i if i < len(hidden) else FIXED)
    groups = tuple(Group(width, scaling(activation)) for width in hidden)
    return MLP(tuple(hidden), num_classes, activation, init), WeightSpec(leaves, groups)
