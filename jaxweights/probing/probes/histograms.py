"""What judges have in common: outcomes of a feature as shares, numbers with intervals, resamples of trainings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from jaxweights import checks
from jaxweights.auditing.statistics import CONFIDENCE
from jaxweights.errors import UserError
from jaxweights.probing.designs import combinations as listed
from jaxweights.probing.features import Design, Feature

RESAMPLES = 500
_TAIL = (1 - CONFIDENCE) / 2


@dataclasses.dataclass(frozen=True)
class Bins:
    """Where values of a feature are counted: its bins, what lies outside of these, and what is not defined.

    Attributes:
      edges: ascending limits of the K bins.
    """

    edges: tuple[float, ...]

    @classmethod
    def of(cls, feature: Feature, number: int = 0) -> Bins:
        """A number of bins of one width between the feature's outermost edges; the feature's own for 0, and for whole
        numbers."""
        whole = all(value == round(value) for value in feature.values)
        if whole or not number:
            return cls(feature.edges)
        return cls(tuple(float(x) for x in np.linspace(feature.edges[0], feature.edges[-1], number + 1)))

    @property
    def size(self) -> int:
        """K."""
        return len(self.edges) - 1

    def one_hot(self, values: np.ndarray) -> np.ndarray:
        """Outcomes `[n, K + 3]` float64: the bins, below these, above these, and not defined."""
        place = np.searchsorted(self.edges, values, side="right") - 1
        place = np.where(place < 0, self.size, np.where(place >= self.size, self.size + 1, place))
        place = np.where(np.isnan(values), self.size + 2, place)
        return np.eye(self.size + 3)[place]


def find(features: Sequence[Feature], name: str, section: str) -> int:
    """Column of a feature.

    Raises:
      UserError: there is none of that name.
    """
    names = [f.name for f in features]
    if name not in names:
        raise UserError(f"{section}.feature is {name!r}; {checks.choose(name, names)}.")
    return names.index(name)


def allowed(feature: Feature, values: Sequence[float], section: str) -> tuple[float, ...]:
    """The asked values of a feature, as its own where they equal these; all of its own where none are asked.

    Raises:
      UserError: a value outside of its bins.
    """
    own = np.asarray(feature.values)
    found = []
    for value in values or feature.values:
        near = float(own[np.abs(own - value).argmin()])
        if not feature.edges[0] <= value <= feature.edges[-1]:
            raise UserError(
                f"{section} asks for {feature.name} {value:g}, which the data does not have; give any of "
                f"{', '.join(f'{v:g}' for v in feature.values)}, or a value between these."
            )
        found.append(near if np.isclose(near, value, rtol=1e-4, atol=1e-6) else float(value))
    return tuple(found)


def fixed(features: tuple[Feature, ...], column: int, values: Sequence[float], combinations: int, seed: int) -> Design:
    """A design of some values of one feature, each as often.

    Args:
      features: of the data.
      column: which feature.
      values: its values.
      combinations: values of the other features: that many combinations of them for every value, drawn without
        replacement and the same for all values; 0 leaves them open.
      seed: of the draw.

    Raises:
      UserError: more combinations than the other features have.
    """
    others = [i for i in range(len(features)) if i != column]
    rest = np.full((max(combinations, 1), len(features)), np.nan, np.float32)
    if combinations:
        rest[:, others] = listed([features[i] for i in others], combinations, seed).values
    rows = np.repeat(rest[None], len(values), 0)
    rows[:, :, column] = np.asarray(values)[:, None]
    return Design(features, rows.reshape(-1, len(features)))


def resampled(samples: Sequence[np.ndarray], rng: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """Means `[R, m]` of the columns of resamples: trainings are drawn with replacement, and of each its samples.

    Args:
      samples: `[n, m]` of every training; those without samples are left out.
      rng: randomness.
      resamples: R.
    """
    samples = [one for one in samples if len(one)]
    means = np.stack([_means(one, rng, resamples) for one in samples])
    drawn = rng.integers(0, len(samples), (resamples, len(samples)))
    return means[drawn, np.arange(resamples)[:, None]].mean(axis=1)


def _means(one: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Means `[R, m]` of resamples of rows `[n, m]`: counts where rows repeat, else exponential weights (the Bayesian
    bootstrap of Rubin 1981), which are several times as fast."""
    rows, counts = np.unique(one, axis=0, return_counts=True)
    if len(rows) <= len(one) // 2:
        return rng.multinomial(len(one), counts / len(one), resamples) @ rows / len(one)
    weights = rng.standard_exponential((resamples, len(one)), np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    return (weights @ one.astype(np.float32)).astype(np.float64)


def mean(samples: Sequence[np.ndarray]) -> np.ndarray:
    """Means `[m]` over trainings of the means of their samples `[n, m]`."""
    return np.mean([one.mean(axis=0) for one in samples if len(one)], axis=0)


def total(samples: Sequence[np.ndarray]) -> int:
    """Samples of all trainings."""
    return sum(len(one) for one in samples)


def number(value: float, draws: np.ndarray, n: int) -> dict[str, Any]:
    """A statistic with the percentile interval of its resamples; None for what is not defined."""
    draws = np.asarray(draws, np.float64)
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value) or not len(draws):
        return {"value": None, "ci95": [None, None], "n": int(n)}
    low, high = np.quantile(draws, [_TAIL, 1 - _TAIL])
    return {"value": float(value), "ci95": [float(low), float(high)], "n": int(n)}


def across(values: Sequence[float | None], n: int, most: float | None = 1.0) -> dict[str, Any]:
    """The mean over trainings with Student's interval, inside of 0 and `most`; no interval for a single training."""
    found = np.array([v for v in values if v is not None], np.float64)
    if not len(found):
        return {"value": None, "ci95": [None, None], "n": int(n)}
    middle = float(found.mean())
    if len(found) < 2:
        return {"value": middle, "ci95": [None, None], "n": int(n)}
    half = float(special.stdtrit(len(found) - 1, 1 - _TAIL) * found.std(ddof=1) / np.sqrt(len(found)))
    high = middle + half if most is None else min(most, middle + half)
    return {"value": middle, "ci95": [max(0.0, middle - half), high], "n": int(n)}


def statistic(
    of: Callable[[np.ndarray], np.ndarray], samples: Sequence[np.ndarray], draws: np.ndarray
) -> dict[str, Any]:
    """A function of the column means `[..., m]`, with the interval of resamples `[R, m]`."""
    if not total(samples):
        return number(np.nan, np.zeros(0), 0)
    with np.errstate(all="ignore"):
        return number(float(of(mean(samples))), of(draws), total(samples))


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Total variation between shares `[..., K]`."""
    return 0.5 * np.abs(a - b).sum(axis=-1)


def plain(shares: np.ndarray) -> list[float]:
    """Shares as JSON data."""
    return [round(float(x), 6) for x in shares]


def column(measured: Sequence[Any], part: str, index: int) -> list[np.ndarray]:
    """Values `[n]` of one feature for every training, float64."""
    return [np.asarray(getattr(one, part), np.float64)[:, index] for one in measured]


PARTS: Mapping[str, str] = {
    "train": "training examples",
    "heldout": "fresh examples of the same design",
    "generated": "samples of the model",
}
"""What is measured, and what it is."""
