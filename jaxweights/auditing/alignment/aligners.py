"""How networks of a spec are compared modulo their symmetries: exactly for one group of hidden units, by matching for
several."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from jaxweights import parallel
from jaxweights.auditing.alignment import canonical, hidden_layer, quotient
from jaxweights.nn.normalization import is_statistic
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

    def __getitem__(self, rows: slice) -> Alignment:
        """The neighbours of some networks."""
        return Alignment(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


class Aligner(Protocol):
    """A distance modulo the symmetries of a spec."""

    def nearest(self, queries: Any, reference: Any, k: int = 1, mesh: Mesh | None = None, **groups: Any) -> Alignment:
        """The k nearest references of every query; see `hidden_layer.aligned_nearest`."""
        ...

    def brought(self, networks: np.ndarray, neighbours: np.ndarray, found: Alignment) -> tuple[np.ndarray, np.ndarray]:
        """Networks `[n, P]` and their neighbours `[n, k, P]` as vectors whose distances are the aligned ones."""
        ...


def aligner(spec: WeightSpec, mesh: Mesh) -> Aligner | None:
    """The distance for networks of a spec: of balanced networks, over permutations and sign flips, without running
    statistics; exact for one group of units, an upper bound for several. None where the spec declares no symmetries."""
    if not spec.groups:
        return None
    repeated = any(leaf.groups.count(0) > 1 for leaf in spec.leaves)
    return _OneGroup(spec, mesh) if len(spec.groups) == 1 and not repeated else _Groups(spec, mesh)


def onto(
    spec: WeightSpec, neighbours: np.ndarray, permutations: np.ndarray, signs: np.ndarray, networks: np.ndarray
) -> np.ndarray:
    """Neighbours `[n, k, P]` with units in the order, and where these count the scale and the signs, of networks
    `[n, P]`: weights that can be shown beside theirs."""
    return quotient.brought_onto(spec, neighbours, permutations, signs, networks)


class _Balanced:
    """What all distances modulo symmetries share.

    What searches need of a reference is kept for the next: an audit has one for all of its series.
    """

    def __init__(self, spec: WeightSpec, mesh: Mesh):
        self.spec, self.mesh = spec, mesh
        self._reference: tuple[Any, Any] = (None, None)

    def _known(self, reference: Any, prepare: Callable[[Any], Any]) -> Any:
        if self._reference[0] is not reference:
            self._reference = reference, prepare(reference)
        return self._reference[1]

    def brought(self, networks: np.ndarray, neighbours: np.ndarray, found: Alignment) -> tuple[np.ndarray, np.ndarray]:
        moved = quotient.brought_onto(self.spec, neighbours, found.permutations, found.signs)
        pair = canonical.balance(self.spec, networks), moved
        places = canonical.weight_places(self.spec)
        return pair if places is None else (pair[0][..., places], pair[1][..., places])


class _OneGroup(_Balanced):
    """Exact alignment of one group of units."""

    def nearest(self, queries: Any, reference: Any, k: int = 1, mesh: Mesh | None = None, **groups: Any) -> Alignment:
        """In blocks of few sizes, so that series of any length share compiled programs."""
        leaves = tuple(leaf for leaf in self.spec.leaves if not is_statistic(leaf.name))
        units, rest = WeightSpec(leaves, self.spec.groups).units(0)
        odd = self.spec.groups[0].scaling == "sign"
        comparable = functools.partial(canonical.balanced, self.spec, statistics=False)
        queries, reference = comparable(queries), self._known(reference, comparable)
        block = _ALIGNED_BLOCK
        if hidden_layer.few(len(queries), len(reference), len(units)):
            block = len(queries)  # which compiles nothing
        while block < len(queries) and len(reference) > 16 * _ALIGNED_BLOCK and block < 8 * _ALIGNED_BLOCK:
            block *= 2  # where there are many references, every block reads all of them
        own = groups.pop("query_groups", None)
        parts = []
        for start in range(0, len(queries), block):
            rows = slice(start, start + block)
            if own is not None:
                groups["query_groups"] = parallel.pad_rows(np.asarray(own[rows]), block)
            padded = parallel.pad_rows(np.asarray(queries[rows]), block)
            found = hidden_layer.aligned_nearest(
                padded, reference, units, rest, k=k, odd=odd, mesh=mesh or self.mesh, **groups
            )
            count = len(queries[rows])
            part = found.distances, found.indices, found.permutations, found.signs
            parts.append([array[:count] for array in part])
        distances, indices, permutations, signs = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Alignment(distances, indices, permutations, signs if odd else np.zeros((0, 0, 0), np.int8))


class _Groups(_Balanced):
    """Matching of several groups."""

    def nearest(self, queries: Any, reference: Any, k: int = 1, mesh: Mesh | None = None, **groups: Any) -> Alignment:
        known = self._known(reference, functools.partial(quotient.Reference, self.spec))
        found = quotient.quotient_nearest(queries, known, self.spec, k, mesh=mesh or self.mesh, **groups)
        return Alignment(found.distances, found.indices, found.permutations, found.signs)
