"""The impulse response: training examples with one value of a feature, and what values come out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from jaxweights.probing.features import Design, Feature
from jaxweights.probing.probes import histograms
from jaxweights.probing.probes.base import Measured, Probe
from jaxweights.probing.probes.histograms import Bins, statistic
from jaxweights.settings import setting

_SHAPES = ("log-normal", "normal")


@dataclasses.dataclass(frozen=True)
class Impulse(Probe):
    """One value of one feature at a time (Zhao et al. 2018, arXiv 1811.03259).

    Attributes:
      feature: its name.
      values: training values, each a design of its own; empty for all.
      combinations: combinations of the other features that go with each; 0 leaves these open.
      bins: bins of the histograms, for features that are no whole numbers.
    """

    KIND = "impulse"

    feature: str = "count"
    values: tuple[float, ...] = ()
    combinations: int = setting(0, at_least=0)
    bins: int = setting(40, at_least=0, at_most=10_000)

    def designs(self, features: tuple[Feature, ...], seed: int) -> dict[str, Design]:
        """One design per value."""
        column = histograms.find(features, self.feature, self.section)
        values = histograms.allowed(features[column], self.values, self.section)
        return {f"{v:g}": histograms.fixed(features, column, [v], self.combinations, seed) for v in values}

    def judge(self, designs: Mapping[str, Design], measured: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
        """Shape of the response to every value, and whether it grows with the value as Weber's law says.

        Returns:
          `values.<value>` with `train`, `heldout`, `generated` (`mean`, `sd`, `skew`, `cv`, shares of the `histogram`
          and what is `undefined`), `excess` (the standard deviation over that of held-out examples), `log_normal`
          (log-likelihood of a sample under a log-normal minus that under a normal distribution, both fitted, and which
          of them it `favours`); `weber`; `edges`.
        """
        feature, column = self._feature(designs)
        bins, found, spreads = Bins.of(feature, self.bins), dict[str, Any](), dict[str, Moments]()
        for place, (name, design) in enumerate(designs.items()):
            rng = np.random.default_rng(place)
            entry: dict[str, Any] = {"trained": float(design.values[0, column])}
            moments = dict[str, Moments]()
            for part in histograms.PARTS:
                values = histograms.column(measured[name], part, column)
                entry[part], moments[part] = summary(values, bins, rng)
            entry["excess"] = _ratio(moments["generated"], moments["heldout"])
            entry["log_normal"] = log_normal(histograms.column(measured[name], "generated", column), rng)
            found[name], spreads[name] = entry, moments["generated"]
        return {
            "feature": self.feature,
            "edges": list(bins.edges),
            "values": found,
            "weber": weber(list(spreads.values())),
        }

    def _feature(self, designs: Mapping[str, Design]) -> tuple[Feature, int]:
        features = next(iter(designs.values())).features
        column = histograms.find(features, self.feature, self.section)
        return features[column], column


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Mean and spread of a sample, and of its resamples.

    Attributes:
      mean, sd: of the sample; NaN without defined values.
      means, sds: `[R]`, of resamples.
      n: defined values.
    """

    mean: float
    sd: float
    means: np.ndarray
    sds: np.ndarray
    n: int


def summary(values: Sequence[np.ndarray], bins: Bins, rng: np.random.Generator) -> tuple[dict[str, Any], Moments]:
    """Mean, spread and skew of values `[n]` per training, their histogram, and the moments behind them."""
    shares = histograms.mean([bins.one_hot(one) for one in values if len(one)] or [np.zeros((1, bins.size + 3))])
    defined = [one[np.isfinite(one)] for one in values]
    count, there = histograms.total(defined), [one for one in defined if len(one)]
    found: dict[str, Any] = {"histogram": histograms.plain(shares), "undefined": float(shares[-1])}
    centre = float(np.mean([one.mean() for one in there])) if there else 0.0
    powers = [np.stack([one - centre, (one - centre) ** 2, (one - centre) ** 3], 1) for one in there]
    draws = histograms.resampled(powers, rng) if there else np.zeros((0, 3))
    for name, of in (("mean", lambda m: centre + m[..., 0]), ("sd", _sd), ("skew", _skew), ("cv", _cv(centre))):
        found[name] = statistic(of, powers, draws)
    with np.errstate(all="ignore"):
        middle = histograms.mean(powers) if there else np.full(3, np.nan)
        moments = Moments(float(centre + middle[0]), float(_sd(middle)), centre + draws[:, 0], _sd(draws), count)
    return found, moments


def _sd(m: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(m[..., 1] - m[..., 0] ** 2, 0))


def _skew(m: np.ndarray) -> np.ndarray:
    """NaN without spread."""
    first, second, third = np.moveaxis(m, -1, 0)
    variance = np.maximum(second - first**2, 0)
    return np.where(variance > 0, (third - 3 * first * second + 2 * first**3) / variance**1.5, np.nan)


def _cv(centre: float):
    """Standard deviation over the mean; NaN where that is not positive."""

    def of(m: np.ndarray) -> np.ndarray:
        middle = centre + m[..., 0]
        return np.where(middle > 0, _sd(m) / middle, np.nan)

    return of


def _ratio(one: Moments, other: Moments) -> dict[str, Any]:
    """A standard deviation over another; not defined where that has no spread."""
    with np.errstate(all="ignore"):
        draws = one.sds / np.where(other.sds > 0, other.sds, np.nan) if len(one.sds) == len(other.sds) else np.zeros(0)
        value = one.sd / other.sd if other.sd > 0 else np.nan
    return histograms.number(value, draws, one.n)


def log_normal(values: Sequence[np.ndarray], rng: np.random.Generator) -> dict[str, Any]:
    """Log-likelihood per sample of a log-normal minus that of a normal distribution, both fitted to positive values.

    Returns:
      `value`, `ci95`, `n`; `left_out`, the share of values that are not positive; `favours`: "log-normal", "normal", or
      "neither" where the interval contains 0 or there is no spread.
    """
    defined = [one[np.isfinite(one)] for one in values]
    positive = [one[one > 0] for one in defined]
    there = [one for one in positive if len(one)]
    centre = np.mean([one.mean() for one in there]) if there else 1.0
    logs = [np.log(one / centre) for one in there]
    terms = [np.stack([x - centre, (x - centre) ** 2, y, y**2], 1) for x, y in zip(there, logs, strict=True)]

    def of(m: np.ndarray) -> np.ndarray:
        normal, logarithmic = _sd(m[..., :2]), _sd(m[..., 2:])
        spread = (normal > 0) & (logarithmic > 0)
        # Densities with respect to values over `centre`, so that the unit does not matter.
        return np.where(spread, -m[..., 2] - np.log(logarithmic) + np.log(normal / centre), np.nan)

    found = statistic(of, terms, histograms.resampled(terms, rng) if there else np.zeros((0, 4)))
    low, high = found["ci95"]
    sides = (low is not None and low > 0, high is not None and high < 0)
    favours = next((name for name, holds in zip(_SHAPES, sides, strict=True) if holds), "neither")
    total = histograms.total(defined)
    return found | {"left_out": 1 - histograms.total(positive) / total if total else 0.0, "favours": favours}


def weber(spreads: Sequence[Moments]) -> dict[str, Any]:
    """Whether the spread grows in proportion to the value.

    Args:
      spreads: of every value.

    Returns:
      `cv`, the mean coefficient of variation; `exponent`, the slope of log sd over log mean (1 by Weber's law, 0 for a
      constant spread); `p_constant`, the p-value of the hypothesis that all coefficients are equal (chi-square of their
      bootstrap errors); None where fewer than two values have a spread.
    """
    used = [one for one in spreads if one.n and one.mean > 0 and one.sd > 0]
    none = histograms.number(np.nan, np.zeros(0), sum(one.n for one in used))
    if len(used) < 2:
        return {"cv": none, "exponent": none, "p_constant": None, "values": len(used)}
    n = sum(one.n for one in used)
    with np.errstate(all="ignore"):
        means, sds = np.stack([one.means for one in used], 1), np.stack([one.sds for one in used], 1)
        middle, spread = np.array([one.mean for one in used]), np.array([one.sd for one in used])
        cvs = np.where((means > 0) & (sds > 0), sds / means, np.nan)
        errors = np.nanstd(cvs, axis=0)
        exponent = histograms.number(float(_slope(middle, spread)), _slope(means, sds), n)
    own = spread / middle
    p = None
    if (errors > 0).all():
        weights = 1 / errors**2
        centre = (weights * own).sum() / weights.sum()
        p = float(special.chdtrc(len(own) - 1, (weights * (own - centre) ** 2).sum()))
    return {
        "cv": histograms.number(float(own.mean()), cvs.mean(axis=1), n),
        "exponent": exponent,
        "p_constant": p,
        "values": len(used),
    }


def _slope(means: np.ndarray, sds: np.ndarray) -> np.ndarray:
    """Slope `[...]` of log sd over log mean along the last axis."""
    x, y = np.log(means), np.log(sds)
    x = x - x.mean(axis=-1, keepdims=True)
    return (x * y).sum(axis=-1) / (x**2).sum(axis=-1)
