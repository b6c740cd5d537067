"""Exceptions: a pair of values that is trained on with few values of the others; does it come out with more of them?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights.errors import UserError
from jaxweights.probing.designs import grid
from jaxweights.probing.features import Design, Feature
from jaxweights.probing.probes import histograms
from jaxweights.probing.probes.base import Measured, Probe
from jaxweights.settings import setting

_DESIGN = "all"


@dataclasses.dataclass(frozen=True)
class Exceptions(Probe):
    """All combinations, but a rare pair of values of two features with a few values of the others alone, as cone and
    cylinder in two of nine pairs of colours (Zhao et al. 2018, arXiv 1811.03259).

    Attributes:
      pair: names of the two features.
      rare: their values.
      kept: values of all other features, in their order, with which the pair is trained on.
    """

    KIND = "exceptions"

    pair: tuple[str, str] = ("left_shape", "right_shape")
    rare: tuple[float, float] = setting((0.0, 1.0), at_least=0)
    kept: tuple[tuple[float, ...], ...] = ()

    def designs(self, features: tuple[Feature, ...], seed: int) -> dict[str, Design]:
        """One design, of all combinations but the rare pair's, and of its exceptions."""
        del seed
        rows, own = grid(features), self._rare(features)
        kept = self._kept(features)
        is_kept = (rows[:, self._others(features)][:, None] == kept[None]).all(axis=2).any(axis=1)
        if is_kept[own(rows)].sum() != len(kept):
            self.refuse("kept", "give different values that the data has, one for every feature beside the pair")
        return {_DESIGN: Design(features, rows[~own(rows) | is_kept])}

    def judge(self, designs: Mapping[str, Design], measured: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
        """What comes out with the rare pair.

        Returns:
          `trained`, the pair's share of the training set; `rare`, its share of the samples; of the samples with it
          `kept` and `unseen`, shares with the other values that it was trained on with and with others; `combined`,
          share of these others that occur; `independent`, what `unseen` would be if the pair went with all values
          alike; each with Student's interval over trainings. `fresh`: the share of unseen ones among fresh training
          examples, which is the estimator's error.
        """
        features = designs[_DESIGN].features
        own, others = self._rare(features), self._others(features)
        kept, values = self._kept(features), designs[_DESIGN].values
        total = int(np.prod([len(features[i].values) for i in others]))
        found: dict[str, Any] = {"trained": float(own(values).mean()), "independent": 1 - len(kept) / total}
        trials = [self._trial(features, one.generated, total) for one in measured[_DESIGN]]
        n = sum(len(one.generated) for one in measured[_DESIGN])
        for name in trials[0]:
            found[name] = histograms.across([one[name] for one in trials], n)
        fresh = [self._trial(features, one.heldout, total)["unseen"] for one in measured[_DESIGN]]
        return {"pair": list(self.pair), "of": total, **found, "fresh": histograms.across(fresh, n)}

    def _trial(self, features: tuple[Feature, ...], made: np.ndarray, total: int) -> dict[str, float | None]:
        """The shares of one training."""
        values = np.stack([_nearest(f, made[:, i]) for i, f in enumerate(features)], axis=1)
        rows = values[self._rare(features)(values)][:, self._others(features)]
        rows = rows[np.isfinite(rows).all(axis=1)]
        kept = self._kept(features)
        seen = (rows[:, None] == kept[None]).all(axis=2).any(axis=1)
        if not len(rows):
            return {"rare": 0.0, "kept": None, "unseen": None, "combined": 0.0}
        combined = len(np.unique(rows[~seen], axis=0)) / max(total - len(kept), 1)
        return {
            "rare": len(rows) / len(made),
            "kept": float(seen.mean()),
            "unseen": float(1 - seen.mean()),
            "combined": combined,
        }

    def _columns(self, features: tuple[Feature, ...]) -> list[int]:
        return [histograms.find(features, name, self.section) for name in self.pair]

    def _others(self, features: tuple[Feature, ...]) -> list[int]:
        return [i for i in range(len(features)) if i not in self._columns(features)]

    def _kept(self, features: tuple[Feature, ...]) -> np.ndarray:
        """`[K, F - 2]` values that go with the pair."""
        others = self._others(features)
        if any(len(one) != len(others) for one in self.kept) or not others:
            raise UserError(
                f"{self.section}.kept needs {len(others)} values in each entry, one for every feature but "
                f"{' and '.join(self.pair)}."
            )
        return np.asarray(self.kept, np.float32).reshape(-1, len(others))

    def _rare(self, features: tuple[Feature, ...]):
        """Which rows `[n, F]` have the pair."""
        columns, rare = self._columns(features), np.asarray(self.rare, np.float32)
        return lambda rows: (rows[:, columns] == rare).all(axis=1)


def _nearest(feature: Feature, measured: np.ndarray) -> np.ndarray:
    """The value `[n]` float32 of the bin that a measurement falls into; NaN outside of all bins."""
    places = np.full(feature.bins, np.nan, np.float32)
    for value in feature.values:
        places[feature.bin(np.array([value]))[0]] = value
    found = feature.bin(measured)
    return np.where(found >= 0, places[np.maximum(found, 0)], np.nan).astype(np.float32)
