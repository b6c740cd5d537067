"""Combinations and the memorisation curve: N of all combinations are trained on; which cells come out?"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights import checks
from jaxweights.errors import UserError
from jaxweights.probing.designs import combinations as listed
from jaxweights.probing.features import Design, Feature, cells, num_cells
from jaxweights.probing.probes import coverage, histograms
from jaxweights.probing.probes.base import Measured, Probe
from jaxweights.settings import setting

_PRESENT = 0.2  # of 1 / N, above which a cell counts as generated
_MOST = 3  # features of the largest marginals
_LISTS = 1_000_003  # between the seeds of lists
_TRAINED = 1 / 3  # of 1 / N, above which a cell counts as trained on


@dataclasses.dataclass(frozen=True)
class Combinations(Probe):
    """Memorisation against new combinations, over the number of combinations in the training set (Zhao et al. 2018,
    arXiv 1811.03259).

    Attributes:
      features: whose combinations; empty for all. The others are left open.
      numbers: of combinations, N of every design; each at most that of all.
      lists: independent draws of the combinations.
      nested: whether a shorter list is the beginning of a longer one; if not, every N has combinations of its own, as
        the shorter lists that were published, so that the curve mixes N with which combinations these are.
      coverage: share of the training cells that are to be found, at which purity is read.
      faithful: reports, besides, precision and recall as the published code has them, named the wrong way round, at its
        128 ranks and at the first that qualifies; None where that code fails.
    """

    KIND = "combinations"

    features: tuple[str, ...] = ()
    numbers: tuple[int, ...] = setting((5, 10, 20, 40, 80), at_least=1, length=(1, None))
    lists: int = setting(1, at_least=1, at_most=1000)
    nested: bool = True
    coverage: float = setting(0.9, above=0, at_most=1)
    faithful: bool = False

    def chosen(self, features: Sequence[Feature]) -> list[int]:
        """Columns of the features that are combined.

        Raises:
          UserError: one that the data does not have.
        """
        names = [f.name for f in features]
        for name in self.features:
            if name not in names:
                raise UserError(f"{self.section}.features has {name!r}; {checks.choose(name, names)}.")
        return [i for i, name in enumerate(names) if not self.features or name in self.features]

    def designs(self, features: tuple[Feature, ...], seed: int) -> dict[str, Design]:
        """One design per number and list, named `<N>.<list>`."""
        columns = self.chosen(features)
        of = [features[i] for i in columns]
        most, found = cells_of(of), {}
        for n in self.numbers:
            if n > most:
                self.refuse("numbers", f"the data has {most} combinations, so ask for at most as many")
            for number in range(self.lists):
                values = np.full((n, len(features)), np.nan, np.float32)
                values[:, columns] = listed(of, n, seed + number * _LISTS, self.nested).values
                found[f"{n}.{number}"] = Design(features, values)
        return found

    def judge(self, designs: Mapping[str, Design], measured: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
        """The memorisation curve: every measure over N, as the mean over lists and trainings.

        Returns:
          `cells` M, and `numbers.<N>` with `chance`, what IoU is of an independent draw of N cells, and by measure
          `value`, Student's `ci95` over trainings and `n` samples: `mass` on training cells, `iou`, `purity` at the
          coverage (None where no training reached it; `reached`: the share that did), `present` (cells above 0.2 / N),
          total variation to the training cells, `joint` and of `marginals` of one to three features, of each feature
          alone, whatever the others are, as `single.<feature>`, `product`
          (distance of the output from the product of its own marginals) and `undefined`.
        """
        features = next(iter(designs.values())).features
        columns = self.chosen(features)
        of = tuple(features[i] for i in columns)
        most, found = cells_of(of), {}
        for n in sorted(set(self.numbers)):
            trials = [
                self._trial(Cells.of(of, design.values[:, columns], one, columns), _single(of, one, columns))
                for name, design in designs.items()
                if int(name.partition(".")[0]) == n
                for one in measured[name]
            ]
            found[str(n)] = _merged(trials) | {"chance": chance(n, most), "trainings": len(trials)}
        return {"features": [f.name for f in of], "cells": most, "coverage": self.coverage, "numbers": found}

    def _trial(self, own: Cells, single: dict[str, float]) -> dict[str, Any]:
        """The measures of one training."""
        truth, made, n = own.truth, own.made, len(own.trained)
        total = max(own.samples, 1)
        wanted = np.flatnonzero(truth > _TRAINED / n)
        purity = coverage.purity(made, own.trained, self.coverage)
        found = {
            "n": own.samples,
            "mass": float(made[own.trained].sum()),
            "iou": iou(wanted, made),
            "purity": purity,
            "reached": float(purity is not None),
            "present": float((made > _PRESENT / n).sum()),
            "undefined": own.undefined,
            "outside": float(1 - made.sum() - own.undefined),
            "joint": between(truth, made),
            "marginals": {str(k): v for k, v in marginals(truth, made, own.shape).items()},
            "single": single,
            "product": to_product(made, own.shape),
        }
        if self.faithful:
            found["published"] = coverage.published(np.round(made * total), own.trained, self.coverage)
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """One training as shares of cells.

    Attributes:
      shape: bins of every feature.
      trained: cells of the combinations.
      truth: `[M]` shares of the training examples.
      made: `[M]` shares of the samples; those outside of all bins or not defined are missing.
      samples: their number.
      undefined: share of the samples without a value of some feature.
    """

    shape: tuple[int, ...]
    trained: np.ndarray
    truth: np.ndarray
    made: np.ndarray
    samples: int
    undefined: float

    @classmethod
    def of(cls, features: tuple[Feature, ...], values: np.ndarray, one: Measured, columns: Sequence[int]) -> Cells:
        """Counts the cells of a training on combinations `values` `[N, F]`."""
        trained = np.unique(cells(features, values))
        size, made = num_cells(features), one.generated[:, columns]
        truth, shares = (_shares(cells(features, x), size) for x in (one.train[:, columns], made))
        undefined = float(np.isnan(made).any(axis=1).mean()) if len(made) else 0.0
        return cls(tuple(f.bins for f in features), trained, truth, shares, len(made), undefined)


def _shares(found: np.ndarray, size: int) -> np.ndarray:
    """Shares `[M]` of cells `[n]`, of which -1 is none."""
    return np.bincount(found[found >= 0], minlength=size) / max(len(found), 1)


def cells_of(features: Sequence[Feature]) -> int:
    """Combinations of the values of features."""
    return math.prod(len(f.values) for f in features)


def chance(n: int, most: int) -> float:
    """Intersection over union of two independent draws of n of so many cells, about."""
    return (n / most) / (2 - n / most)


def iou(trained: np.ndarray, made: np.ndarray) -> float:
    """Intersection over union of cells and the equally many that come out most often; cells that never do are none."""
    order = np.argsort(-made, kind="stable")[: len(trained)]
    most = order[made[order] > 0]
    shared = len(np.intersect1d(trained, most))
    union = len(trained) + len(most) - shared
    return shared / union if union else 0.0


def between(truth: np.ndarray, made: np.ndarray) -> float:
    """Total variation between shares of cells, what is in none counted as a cell of its own."""
    return float(histograms.distance(truth, made) + abs(truth.sum() - made.sum()) / 2)


def marginals(truth: np.ndarray, made: np.ndarray, shape: Sequence[int]) -> dict[int, float]:
    """Total variation between marginals of one to three features, the mean over all choices of them; fewer than all."""
    found, grids = {}, [x.reshape(shape) for x in (truth, made)]
    for k in range(1, min(_MOST, len(shape) - 1) + 1):
        distances = []
        for kept in itertools.combinations(range(len(shape)), k):
            away = tuple(i for i in range(len(shape)) if i not in kept)
            distances.append(between(*(g.sum(axis=away).ravel() for g in grids)))
        found[k] = float(np.mean(distances))
    return found


def to_product(made: np.ndarray, shape: Sequence[int]) -> float | None:
    """Total variation between shares of cells and the product of their marginals; None without any."""
    total = made.sum()
    if not total:
        return None
    grid = made.reshape(shape) / total
    product = np.ones(())
    for i in range(len(shape)):
        product = np.multiply.outer(product, grid.sum(axis=tuple(j for j in range(len(shape)) if j != i)))
    return float(histograms.distance(grid.ravel(), product.ravel()))


def _single(features: Sequence[Feature], one: Measured, columns: Sequence[int]) -> dict[str, float]:
    """Total variation between training examples and samples of each feature; those in no bin are an outcome as well."""
    found = {}
    for feature, column in zip(features, columns, strict=True):
        truth, made = (_shares(feature.bin(x[:, column]), feature.bins) for x in (one.train, one.generated))
        found[feature.name] = between(truth, made)
    return found


def _merged(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The measures of trainings with intervals."""
    n = sum(one["n"] for one in trials)
    found: dict[str, Any] = {}
    for name in trials[0]:
        values = [one[name] for one in trials]
        if name == "n":
            continue
        if name == "published":
            found[name] = values
        elif name in ("marginals", "single"):
            found[name] = {k: histograms.across([one[k] for one in values], n) for k in values[0]}
        else:
            found[name] = histograms.across(values, n, None if name == "present" else 1.0)
    return found
