"""Canonical coordinates: networks as vectors whose Euclidean distances do not depend on how hidden units are ordered,
scaled or signed.

Networks are balanced (`canonical`) and their hidden units matched with those of one reference, the generalised mean of
training networks: all are matched with it, and it is their mean (Procrustes analysis; a single network for a reference
would bring its own noise). Coordinates are a chart, not a distance: pairs that are matched with the reference and not
with each other are farther apart than they need be, so the distances of `quotient` and `alignment` stay those of
verdicts. What is taken in coordinates is what needs a vector space: densities, clusters, spans.
"""

from __future__ import annotations

import functools
import math
import tempfile
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxweights import population
from jaxweights.auditing.alignment import canonical, matching, reordering
from jaxweights.auditing.rows import read_rows, row_blocks
from jaxweights.population import Population
from jaxweights.spec import WeightSpec

_ROUNDS = 4
_REFERENCES = 256  # training networks that the reference is the mean of
_BLOCK_BYTES = 64 << 20
_HELD_BYTES = 1 << 30


class Coordinates:
    """Canonical coordinates of networks of one spec.

    Running statistics of batch normalisation move with their channels and are left out. Where the spec has no groups of
    hidden units, coordinates are the weights themselves. The coordinates of a network depend on the training networks
    and on itself alone.

    Networks that share an initialisation have their units in one order already. They keep it as long as units are
    nearer to their own mean than to those of others (in trials with digits, of 16 to 64 units and up to 100 epochs, all
    did): then coordinates are the balanced weights. Others move, but only towards the reference.
    """

    def __init__(self, spec: WeightSpec, train: Any, mesh: Mesh | None = None, rows: np.ndarray | None = None):
        """Finds the reference.

        Args:
          spec: meaning of the vectors.
          train: `[N, P]` finite training networks; needs `shape` and indexing by rows.
          mesh: devices; None for all.
          rows: the training networks that the reference may be the mean of, e.g. the last of every run; None for all.
            Of more than 256, 256 evenly spaced ones are taken.
        """
        self.spec, self._mesh = spec, mesh
        self._places = canonical.weight_places(spec) if spec.groups else None
        self.width = spec.num_params if self._places is None else len(self._places)
        if spec.groups:
            rows = np.arange(len(train)) if rows is None else np.asarray(rows)
            spaced = np.unique(np.linspace(0, len(rows) - 1, min(_REFERENCES, len(rows))).round().astype(np.int64))
            self._reference = generalised_mean(spec, canonical.balance(spec, read_rows(train, rows[spaced])), mesh)

    @classmethod
    def of(cls, train: Population, mesh: Mesh | None = None) -> Coordinates:
        """Those that training networks define; the last checkpoints of their runs give the reference."""
        rows = np.flatnonzero(population.last_checkpoints(train.records))
        return cls(train.spec, train.weights, mesh, rows)

    def __call__(self, weights: Any) -> np.ndarray:
        """Coordinates `[n, D]`, float32, of finite networks `[n, P]`; needs `shape` and slicing by rows.

        More than 1 GiB of them are in a temporary file, mapped into memory.
        """
        shape = len(weights), self.width
        out = np.empty(shape, np.float32) if 4 * math.prod(shape) <= _HELD_BYTES else _on_disk(shape)
        for rows in row_blocks(len(weights), max(1, _BLOCK_BYTES // (8 * self.spec.num_params))):
            found = read_rows(weights, rows)
            if self.spec.groups:
                found = brought(self.spec, canonical.balance(self.spec, found), self._reference, self._mesh)[0]
            out[rows] = found if self._places is None else found[:, self._places]
        return out


class SeriesCoordinates:
    """Canonical coordinates of the series of one audit, each found once: measurements and the battery need them."""

    def __init__(self, train: Population, mesh: Mesh):
        """Takes the training networks, which define the coordinates, and the devices."""
        self._train, self._mesh = train, mesh
        self._found: dict[str, np.ndarray] = {}

    @functools.cached_property
    def chart(self) -> Coordinates:
        """The coordinates of any networks."""
        return Coordinates.of(self._train, self._mesh)

    def __call__(self, name: str, weights: Any) -> np.ndarray:
        """Coordinates `[n, D]`, float32, of a series by its name; its networks are `[n, P]`."""
        if name not in self._found:
            self._found[name] = self.chart(weights)
        return self._found[name]


def generalised_mean(spec: WeightSpec, rows: np.ndarray, mesh: Mesh | None = None) -> np.ndarray:
    """The generalised mean `[P]` of networks `[n, P]`: first that which is nearest to their mean, then the mean of all
    in its order, and so on."""
    centre = rows.mean(axis=0, keepdims=True)
    reference, before = rows[np.square(rows - centre).sum(axis=1).argmin()], np.zeros(0)
    for _ in range(_ROUNDS):
        moved, orders = brought(spec, rows, reference, mesh)
        reference = moved.mean(axis=0)
        if np.array_equal(orders, before):
            break
        before = orders
    return reference


def brought(
    spec: WeightSpec, rows: np.ndarray, reference: np.ndarray, mesh: Mesh | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Networks `[n, P]` in the order and with the signs of a reference `[P]`, and these `[n, 2 U]`."""
    targets = np.broadcast_to(reference, rows.shape)
    found = matching.match(spec, targets, rows, mesh=mesh)
    moved = reordering.reordered(spec, rows, found.permutations, found.signs)
    return moved, np.concatenate([found.permutations, found.signs], axis=1)


def _on_disk(shape: tuple[int, int]) -> np.ndarray:
    """An array in a file without a name, which goes with the array."""
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=shape)
