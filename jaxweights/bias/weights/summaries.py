"""Few numbers of every layer: moments, spectra, norms."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxweights.bias.weights.base import Architecture, WeightTransformation, matrices


@dataclasses.dataclass(frozen=True)
class Statistics(WeightTransformation):
    """Mean and standard deviation: what mean colours are to images.

    Attributes:
      per: of every tensor, or of the network as a whole.
    """

    KIND: ClassVar[str] = "statistics"
    KEEPS: ClassVar[str] = "two numbers of every tensor"

    per: Literal["tensor", "network"] = "tensor"

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """Means, then deviations."""
        parts = [row] if self.per == "network" else [row[span] for _, span in of.spec.spans()]
        return jnp.stack([part.mean() for part in parts] + [part.std() for part in parts])


class _OfMatrices(WeightTransformation):
    """A transformation that needs matrices."""

    def check(self, of: Architecture) -> None:
        """Refuses networks without matrices."""
        if not matrices(of.spec):
            self.refuse_network("they have no matrices, only vectors")


@dataclasses.dataclass(frozen=True)
class SingularValues(_OfMatrices):
    """Singular values of every matrix, largest first; a kernel is a matrix of one row per unit."""

    KIND: ClassVar[str] = "singular_values"
    DECOMPOSES: ClassVar[bool] = True
    KEEPS: ClassVar[str] = "the spectrum of every matrix, no directions"

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """All spectra."""
        return jnp.concatenate([jnp.linalg.svd(m.of(row), compute_uv=False) for m in matrices(of.spec)])


@dataclasses.dataclass(frozen=True)
class Norms(_OfMatrices):
    """Norms of the rows and columns of every matrix: how much every unit and every input is used.

    Attributes:
      sides: rows (what writes every unit), columns (what reads every input), or both.
    """

    KIND: ClassVar[str] = "norms"
    KEEPS: ClassVar[str] = "how much every unit and input is used"

    sides: Literal["both", "rows", "columns"] = "both"

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """Norms of the rows, then of the columns, matrix by matrix."""
        axes = {"both": (1, 0), "rows": (1,), "columns": (0,)}[self.sides]
        return jnp.concatenate([jnp.linalg.norm(m.of(row), axis=a) for m in matrices(of.spec) for a in axes])
