"""The order of hidden units: networks as they are, in a random order, and in an order of their own."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxweights.auditing.alignment.coordinates import Coordinates
from jaxweights.bias.weights.base import Architecture, HostTransformation, WeightTransformation
from jaxweights.nn.normalization import is_statistic
from jaxweights.spec import WeightSpec


@dataclasses.dataclass(frozen=True)
class Raw(WeightTransformation):
    """The weights as they are."""

    KIND: ClassVar[str] = "raw"
    NETWORK: ClassVar[bool] = True
    KEEPS: ClassVar[str] = "everything"

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """The network."""
        return row


class _OfUnits(WeightTransformation):
    """A transformation that needs hidden units that can be reordered."""

    def check(self, of: Architecture) -> None:
        """Refuses networks without such units."""
        if not of.spec.groups:
            self.refuse_network("they have no hidden units that can be reordered")


@dataclasses.dataclass(frozen=True)
class Permuted(_OfUnits):
    """Hidden units in a random order, another one for every network: the same functions."""

    KIND: ClassVar[str] = "permuted"
    NETWORK: ClassVar[bool] = True
    KEEPS: ClassVar[str] = "the function"

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """The network with its units reordered."""
        return of.spec.permute(row, of.spec.random_permutation(key))


@dataclasses.dataclass(frozen=True)
class Canonical(_OfUnits):
    """Hidden units by the norm of the weights that write them, largest first: one order for all copies of a network."""

    KIND: ClassVar[str] = "canonical"
    NETWORK: ClassVar[bool] = True
    KEEPS: ClassVar[str] = "everything but the order of hidden units"

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """The network in that order."""
        return of.spec.permute(row, [jnp.argsort(-norms) for norms in writing_norms(of.spec, row)])


@dataclasses.dataclass(frozen=True)
class Matched(_OfUnits, HostTransformation):
    """Hidden units balanced and matched with those of one reference, the mean of networks of all collections: the
    canonical coordinates of the audit."""

    KIND: ClassVar[str] = "matched"
    KEEPS: ClassVar[str] = "everything but order, scale and sign of hidden units"

    def fit(self, of: Architecture, weights: np.ndarray, key: jax.Array) -> Coordinates:
        """The reference."""
        return Coordinates(of.spec, weights)

    def rows(self, of: Architecture, state: Coordinates, weights: np.ndarray, mesh: Mesh) -> np.ndarray:
        """The coordinates."""
        return np.asarray(state(weights))


def writing_norms(spec: WeightSpec, row: jax.Array) -> list[jax.Array]:
    """Norms `[size]`, for every group, of what writes each of its units: incoming weights, biases, factors of
    normalisation.

    Args:
      spec: meaning of the vector.
      row: `[P]`.
    """
    return [jnp.sqrt(x) for x in unit_squares(spec, row, 1)]


def unit_squares(spec: WeightSpec, row: jax.Array, role: int) -> list[jax.Array]:
    """Sums of squares `[size]`, for every group, of the weights that write (role 1) or read (-1) each of its units."""
    squares = [jnp.zeros(group.size) for group in spec.groups]
    for leaf, span in spec.spans():
        if is_statistic(leaf.name):
            continue
        values = jnp.square(row[span].reshape(leaf.stored_axes))
        for place, axis in enumerate(leaf.order):
            if leaf.roles[axis] == role:
                others = tuple(i for i in range(values.ndim) if i != place)
                squares[leaf.groups[axis]] += values.sum(axis=others)
    return squares
