"""Parts of every single weight: its sign, its magnitude, its leading bits."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxweights.bias.weights.base import Architecture, WeightTransformation
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class Sign(WeightTransformation):
    """Signs: -1, 0 or 1."""

    KIND: ClassVar[str] = "sign"
    NETWORK: ClassVar[bool] = True
    KEEPS: ClassVar[str] = "the pattern of signs"

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """`[P]`."""
        return jnp.sign(row)


@dataclasses.dataclass(frozen=True)
class Magnitude(WeightTransformation):
    """Magnitudes."""

    KIND: ClassVar[str] = "magnitude"
    NETWORK: ClassVar[bool] = True
    KEEPS: ClassVar[str] = "the scale of every weight"

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """`[P]`."""
        return jnp.abs(row)


@dataclasses.dataclass(frozen=True)
class Quantised(WeightTransformation):
    """Weights rounded to the middles of equal intervals between plus and minus the largest magnitude of their tensor.

    Attributes:
      bits: logarithm of the number of intervals; 1 leaves signs and one scale per tensor.
    """

    KIND: ClassVar[str] = "quantised"
    NETWORK: ClassVar[bool] = True
    KEEPS: ClassVar[str] = "the leading bits of every weight"

    bits: int = setting(4, at_least=1, at_most=16)

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """`[P]`."""
        levels, parts = 2**self.bits, []
        for _, span in of.spec.spans():
            values = row[span]
            largest = jnp.abs(values).max()
            unit = jnp.where(largest > 0, values / largest, 0.0)
            place = jnp.clip(jnp.floor((unit + 1.0) * (levels / 2)), 0, levels - 1)
            parts.append(((place + 0.5) * (2.0 / levels) - 1.0) * largest)
        return jnp.concatenate(parts)
