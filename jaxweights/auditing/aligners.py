"""How networks of a spec are compared modulo their symmetries: exactly for one group of hidden units, by matching for
several."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from jaxweights import parallel
from jaxweights.auditing import alignment, canonical, quotient, reordering
from jaxweights.auditing.hidden_units import apply_permutation
from jaxweights.spec import WeightSpec

_ALIGNED_BLOCK = 256


@dataclass(frozen=True)
class Alignment:
    """Aligned neighbours of n networks, nearest first.

    Attributes:
      distances, indices: `[n, k]` distances and rows of the reference.
      permutations: `[n, k, U]`, the order of the reference's units that matches the network's.
      signs: `[n, k, U]` int8; empty where signs do not count.
    """

    distances: np.ndarray
    indices: np.ndarray
    permutations: np.ndarray
    signs: np.ndarray

    def rows(self, rows: slice) -> Alignment:
        """The neighbours of some networks."""
        return Alignment(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


class Aligner(Protocol):
    """A distance modulo the symmetries of a spec."""

    def nearest(self, queries: Any, reference: Any, k: int = 1, mesh: Mesh | None = None, **groups: Any) -> Alignment:
        """The k nearest references of every query; see `alignment.aligned_nearest`."""
        ...

    def brought(self, networks: np.ndarray, neighbours: np.ndarray, found: Alignment) -> tuple[np.ndarray, np.ndarray]:
        """Networks `[n, P]` and their neighbours `[n, k, P]` as vectors whose distances are the aligned ones."""
        ...


def aligner(spec: WeightSpec, mesh: Mesh) -> Aligner | None:
    """The distance for networks of a spec; None where it declares no symmetries."""
    if not spec.groups:
        return None
    return _OneGroup(spec, mesh) if len(spec.groups) == 1 else _Groups(spec, mesh)


def onto(
    spec: WeightSpec, neighbours: np.ndarray, permutations: np.ndarray, signs: np.ndarray, networks: np.ndarray
) -> np.ndarray:
    """Neighbours `[n, k, P]` with units in the order, and where these count the scale and the signs, of networks
    `[n, P]`: weights that can be shown beside theirs."""
    if len(spec.groups) == 1:
        return apply_permutation(neighbours, spec.units(0)[0], permutations)
    return quotient.brought_onto(spec, neighbours, permutations, signs, networks)


@dataclass(frozen=True)
class _OneGroup:
    """Exact alignment of one group of units, by permutations alone."""

    spec: WeightSpec
    mesh: Mesh

    def nearest(self, queries: Any, reference: Any, k: int = 1, mesh: Mesh | None = None, **groups: Any) -> Alignment:
        """In blocks of one size, so that series of any length share one compiled program."""
        units, rest = self.spec.units(0)
        block = _ALIGNED_BLOCK if len(reference) <= 16 * _ALIGNED_BLOCK else 8 * _ALIGNED_BLOCK
        own = groups.pop("query_groups", None)
        parts = []
        for start in range(0, len(queries), block):
            rows = slice(start, start + block)
            if own is not None:
                groups["query_groups"] = parallel.pad_rows(np.asarray(own[rows]), block)
            padded = parallel.pad_rows(np.asarray(queries[rows]), block)
            found = alignment.aligned_nearest(padded, reference, units, rest, k=k, mesh=mesh or self.mesh, **groups)
            count = len(queries[rows])
            parts.append((found.distances[:count], found.indices[:count], found.permutations[:count]))
        joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        return Alignment(joined[0], joined[1], joined[2], np.zeros((0, 0, 0), np.int8))

    def brought(self, networks: np.ndarray, neighbours: np.ndarray, found: Alignment) -> tuple[np.ndarray, np.ndarray]:
        return networks, apply_permutation(neighbours, self.spec.units(0)[0], found.permutations)


@dataclass(frozen=True)
class _Groups:
    """Matching of several groups: upper bounds of the distance of balanced networks, without running statistics."""

    spec: WeightSpec
    mesh: Mesh

    def nearest(self, queries: Any, reference: Any, k: int = 1, mesh: Mesh | None = None, **groups: Any) -> Alignment:
        found = quotient.quotient_nearest(queries, reference, self.spec, k, mesh=mesh or self.mesh, **groups)
        return Alignment(found.distances, found.indices, found.permutations, found.signs)

    def brought(self, networks: np.ndarray, neighbours: np.ndarray, found: Alignment) -> tuple[np.ndarray, np.ndarray]:
        moved = quotient.brought_onto(self.spec, neighbours, found.permutations, found.signs)
        pair = canonical.balance(self.spec, networks), moved
        places = reordering.weight_places(self.spec)
        return pair if places is None else (pair[0][..., places], pair[1][..., places])
