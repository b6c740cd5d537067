"""Features of designed examples, the values that a training set asks for, and the cells that these fall into."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxweights.errors import UserError


@dataclasses.dataclass(frozen=True)
class Feature:
    """One number that describes an example.

    Attributes:
      name: what it is, e.g. "count" or "red".
      values: what a design may ask for, in ascending order.
      edges: limits of the bins that measured values fall into, one more than there are bins, in ascending order; every
        value of `values` lies inside a bin of its own.
    """

    name: str
    values: tuple[float, ...]
    edges: tuple[float, ...]

    @classmethod
    def counted(cls, name: str, first: int, last: int) -> Feature:
        """A whole number from `first` to `last`, with a bin of its own each."""
        whole = range(first, last + 1)
        return cls(name, tuple(map(float, whole)), (*(value - 0.5 for value in whole), last + 0.5))

    @classmethod
    def between(cls, name: str, values: Sequence[float]) -> Feature:
        """A feature whose bins end halfway between its values, two or more in ascending order."""
        middles = [(a + b) / 2 for a, b in zip(values, values[1:], strict=False)]
        return cls(name, tuple(values), (2 * values[0] - middles[0], *middles, 2 * values[-1] - middles[-1]))

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(self.edges) - 1

    def bin(self, measured: np.ndarray) -> np.ndarray:
        """Bins `[n]` int64 of measured values `[n]`; -1 for those outside of all bins and for NaN."""
        place = np.searchsorted(self.edges, measured, side="right") - 1
        inside = np.isfinite(measured) & (place >= 0) & (place < self.bins)
        return np.where(inside, place, -1)


def cells(features: Sequence[Feature], measured: np.ndarray) -> np.ndarray:
    """Cells `[n]` int64 of the grid of all bins, the last feature fastest; -1 where a feature has no bin.

    Args:
      features: F of them.
      measured: `[n, F]` float, NaN where a feature is not defined (an empty image).
    """
    places = np.stack([f.bin(measured[:, i]) for i, f in enumerate(features)])
    index = np.ravel_multi_index(tuple(np.maximum(places, 0)), [f.bins for f in features])
    return np.where((places >= 0).all(axis=0), index, -1)


def num_cells(features: Sequence[Feature]) -> int:
    """Cells of the grid of all bins."""
    return int(np.prod([f.bins for f in features]))


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """A training set as its features: combinations of values, each of them as likely.

    What a combination leaves open (colours, places) is drawn anew for every example.

    Attributes:
      features: F of them.
      values: `[N, F]` float32, one combination per row; NaN where a feature is left open.
    """

    features: tuple[Feature, ...]
    values: np.ndarray

    def __post_init__(self) -> None:
        values = np.asarray(self.values, np.float32)
        if values.ndim != 2 or values.shape[1] != len(self.features) or not len(values):
            raise UserError(
                f"A design of {len(self.features)} features ({', '.join(f.name for f in self.features)}) has values of "
                f"shape {values.shape}; give one row of {len(self.features)} numbers per combination."
            )
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        return len(self.values)

    def column(self, name: str) -> np.ndarray:
        """Values `[N]` of a feature."""
        return self.values[:, [f.name for f in self.features].index(name)]

    @property
    def cells(self) -> np.ndarray:
        """Distinct cells that its combinations lie in, ascending; combinations that leave a feature open have none."""
        found = cells(self.features, self.values)
        return np.unique(found[found >= 0])

    def rows(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Combinations `[n]` int64 of n examples: all as often, up to one, in random order."""
        return rng.permutation(np.resize(rng.permutation(len(self.values)), n))
