"""Shuffles of the weights of a tensor: its values stay, their places go."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.bias.weights.base import Architecture, WeightTransformation
from jaxweights.settings import setting
from jaxweights.spec import WeightSpec


@dataclasses.dataclass(frozen=True)
class Shuffled(WeightTransformation):
    """The weights of every tensor shuffled, in blocks of consecutive ones: what pixel and patch shuffles are to images.

    Attributes:
      block: consecutive weights that stay together; a rest at the end of a tensor stays where it is.
      fixed: one shuffle for all networks, instead of another one for each.
    """

    KIND: ClassVar[str] = "shuffled"
    NETWORK: ClassVar[bool] = True
    KEEPS: ClassVar[str] = "the values of every tensor"

    block: int = setting(1, at_least=1)
    fixed: bool = False

    def check(self, of: Architecture) -> None:
        """Refuses blocks of which no tensor has two."""
        largest = max(leaf.size for leaf in of.spec.leaves)
        if largest < 2 * self.block:
            self.refuse("block", f"the largest tensor has {largest} weights, so set it to at most {largest // 2}")

    def fit(self, of: Architecture, weights: np.ndarray, key: jax.Array) -> Any:
        """The shuffle of all networks `[P]`, where there is one."""
        return shuffle_index(of.spec, self.block, key) if self.fixed else ()

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """The network, shuffled."""
        return row[state if self.fixed else shuffle_index(of.spec, self.block, key)]


@dataclasses.dataclass(frozen=True)
class Sorted(WeightTransformation):
    """The weights of every tensor in ascending order: their distribution, exactly."""

    KIND: ClassVar[str] = "sorted"
    KEEPS: ClassVar[str] = "the distribution of every tensor's values"

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """`[P]`."""
        return jnp.concatenate([jnp.sort(row[span]) for _, span in of.spec.spans()])


def shuffle_index(spec: WeightSpec, block: int, key: jax.Array) -> jax.Array:
    """The `[P]` gather index of a random shuffle of blocks within every tensor."""
    parts = []
    for i, (leaf, span) in enumerate(spec.spans()):
        places, whole = jnp.arange(span.start, span.stop, dtype=jnp.int32), leaf.size // block * block
        order = jax.random.permutation(jax.random.fold_in(key, i), leaf.size // block)
        parts += [places[:whole].reshape(-1, block)[order].reshape(-1), places[whole:]]
    return jnp.concatenate(parts)
