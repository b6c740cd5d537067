"""Additivity: training examples with several values of a feature, against the mean of what single values give."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights.probing.features import Design, Feature
from jaxweights.probing.probes import histograms
from jaxweights.probing.probes.base import Measured, Probe
from jaxweights.probing.probes.histograms import Bins
from jaxweights.settings import setting

_LEVEL = 0.975  # of the null's quantile that a distance has to exceed


@dataclasses.dataclass(frozen=True)
class Mixture(Probe):
    """Several values of one feature in one training set, and each of them alone.

    Attributes:
      feature: its name.
      mixtures: training sets, each the values in it.
      combinations: combinations of the other features that go with each value; 0 leaves these open.
      bins: bins of the histograms, for features that are no whole numbers.
    """

    feature: str = "count"
    mixtures: tuple[tuple[float, ...], ...] = ()
    combinations: int = setting(0, at_least=0)
    bins: int = setting(40, at_least=0, at_most=10_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mixtures or any(len(set(one)) < 2 for one in self.mixtures):
            self.refuse("mixtures", "give lists of two or more different values")

    def designs(self, features: tuple[Feature, ...], seed: int) -> dict[str, Design]:
        """Every mixture and every single value."""
        column = histograms.find(features, self.feature, self.section)
        found = {}
        for values in (*((v,) for one in self.mixtures for v in sorted(one)), *self.mixtures):
            chosen = sorted(histograms.allowed(features[column], values, self.section))
            found[_name(chosen)] = histograms.fixed(features, column, chosen, self.combinations, seed)
        return found

    def parts(self, designs: Mapping[str, Design], measured: Mapping[str, Sequence[Measured]]):
        """For every mixture: its name, its values, the measured feature of its trainings and of those of single values.

        Yields:
          `(name, values, column, bins, mixed, singles)`.
        """
        features = next(iter(designs.values())).features
        column = histograms.find(features, self.feature, self.section)
        bins = Bins.of(features[column], self.bins)
        for one in self.mixtures:
            values = sorted(histograms.allowed(features[column], one, self.section))
            name = _name(values)
            yield name, values, column, bins, measured[name], [measured[_name([v])] for v in values]


@dataclasses.dataclass(frozen=True)
class Additivity(Mixture):
    """Whether a mixture gives the mean of what its values give alone (Zhao et al. 2018, arXiv 1811.03259)."""

    KIND = "additivity"

    def judge(self, designs: Mapping[str, Design], measured: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
        """Total variation between the output of every mixture and the mean of the outputs of its values alone.

        Returns:
          `mixtures.<name>` with `values`, the histograms `mixed`, `additive` and `trained`, `distance` (total
          variation), `null` (what it is between as many samples of the additive prediction, resampled, and that
          prediction, resampled again), `beyond_null`, `gap` (the smallest between neighbouring values, in standard
          deviations of the widest single output; None where these have no spread), and `power`: whether the gap, and
          that of the means of single outputs, exceeds 1, without which the prediction has one mode itself; `edges`.
        """
        found, edges = {}, list[float]()
        for place, (name, values, column, bins, mixed, singles) in enumerate(self.parts(designs, measured)):
            rng = np.random.default_rng(place)
            outcomes = [_outcomes(mixed, column, bins), *(_outcomes(one, column, bins) for one in singles)]
            together, alone = outcomes[0], outcomes[1:]
            prediction = np.mean([histograms.mean(one) for one in alone], axis=0)
            first, second = (np.mean([histograms.resampled(one, rng) for one in alone], axis=0) for _ in range(2))
            draws = histograms.distance(histograms.resampled(together, rng), first)
            value = float(histograms.distance(histograms.mean(together), prediction))
            n = histograms.total(together)
            drawn = np.stack([rng.multinomial(n, shares / shares.sum()) / n for shares in first])
            null = histograms.distance(drawn, second)
            gap = gap_of(values, singles, column)
            found[name] = {
                "values": values,
                "mixed": histograms.plain(histograms.mean(together)),
                "additive": histograms.plain(prediction),
                "trained": histograms.plain(histograms.mean(_outcomes(mixed, column, bins, "train"))),
                "distance": histograms.number(value, draws, n),
                "null": histograms.number(float(null.mean()), null, n),
                "beyond_null": bool(value > np.quantile(null, _LEVEL)),
                **gap,
            }
            edges = list(bins.edges)
        return {"feature": self.feature, "edges": edges, "mixtures": found}


def gap_of(values: Sequence[float], singles: Sequence[Sequence[Measured]], column: int) -> dict[str, Any]:
    """`gap` and `power` of a mixture, see `Additivity.judge`."""
    outputs = [np.concatenate(histograms.column(one, "generated", column)) for one in singles]
    outputs = [one[np.isfinite(one)] for one in outputs]
    if not all(len(one) for one in outputs):
        return {"gap": None, "power": False}
    widest, gap = max(float(one.std()) for one in outputs), float(np.diff(values).min())
    apart = float(np.diff([one.mean() for one in outputs]).min())
    return {"gap": gap / widest if widest > 0 else None, "power": bool(apart > 0 and min(gap, apart) > widest)}


def _outcomes(measured: Sequence[Measured], column: int, bins: Bins, part: str = "generated") -> list[np.ndarray]:
    return [bins.one_hot(values) for values in histograms.column(measured, part, column)]


def _name(values: Sequence[float]) -> str:
    return "+".join(f"{v:g}" for v in values)
