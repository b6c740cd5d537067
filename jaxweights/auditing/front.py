"""Does a generator beat what needs no generator? Accuracy against novelty, beside the baselines' front.

The novelty of a network is its distance to the nearest training network in units of tau, the median distance between
training networks of different runs, at most 1: farther than a new run is no more novel. A series is a point, its mean
novelty and its mean accuracy. Drawing from two baselines at random gives every point on the line between theirs, so
what baselines reach is the concave front over them: the most accurate that is at least as novel. Copies with noise of
several lengths (`ladder`) are always among them, so that there is a baseline at every distance.

A generator beats the baselines if its accuracy lies above the front at its own novelty.

"Novel and performing" is the share of networks that are farther than a multiple of tau and as accurate as all but the
worst of the held-out runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights.auditing import statistics
from jaxweights.auditing.measurements import HELDOUT, TRAINING, Measured
from jaxweights.population import Population, variance_spans

LADDER = (0.2, 0.4, 0.6, 0.8, 1.0, 1.3)
"""Lengths of the noise of `ladder`, in median distances of held-out runs."""
TAUS = (1, 2, 3, 4, 6)
"""Multiples of tau of "novel and performing"."""
_LADDER_NETWORKS = 32  # of each length
_BLOCK = 1024  # training networks whose deviation is summed up at a time


def ladder(train: Population, distance: float, seed: int = 0) -> Population:
    """Copies of training networks with Gaussian noise of the lengths in `LADDER`, which every audit compares with.

    The noise of a parameter is proportional to its standard deviation over training networks. Running variances stay
    above the smallest of each in training.

    Args:
      train: training networks.
      distance: the median distance of held-out runs to the nearest training network.
      seed: random seed.

    Returns:
      `len(LADDER) * 32` networks, all lengths in turn.
    """
    rng = np.random.default_rng([seed, 20_000])
    deviation = _deviation(train)
    deviation /= np.sqrt(np.mean(np.square(deviation)))
    parents = rng.integers(len(train), size=len(LADDER) * _LADDER_NETWORKS)
    lengths = np.tile(LADDER, _LADDER_NETWORKS) * distance
    noise = deviation * rng.normal(size=(len(parents), len(deviation)))
    rows = np.asarray(train.weights[parents], np.float64)
    rows += lengths[:, None] / np.sqrt(len(deviation)) * noise
    spans = variance_spans(train.spec)
    if spans:
        places = np.concatenate([np.arange(span.start, span.stop) for span in spans])
        smallest = np.min([np.asarray(block)[:, places].min(axis=0) for block in _blocks(train)], axis=0)
        rows[:, places] = np.maximum(rows[:, places], smallest)
    return train.derive(rows.astype(np.float32), parents, "noise of a length")


def _blocks(train: Population):
    return (train.weights[start : start + _BLOCK] for start in range(0, len(train), _BLOCK))


def _deviation(train: Population) -> np.ndarray:
    """Standard deviation of every parameter; ones if no parameter varies."""
    first = np.asarray(train.weights[:1], np.float64)[0]
    total, squares = np.zeros_like(first), np.zeros_like(first)
    for block in _blocks(train):
        moved = np.asarray(block, np.float64) - first
        total += moved.sum(axis=0)
        squares += np.square(moved).sum(axis=0)
    mean = total / len(train)
    deviation = np.sqrt(np.maximum(squares / len(train) - np.square(mean), 0))
    return deviation if deviation.any() else np.ones_like(deviation)


@dataclasses.dataclass(frozen=True)
class Points:
    """What is needed of a series: `novelty` and `accuracy` `[n]`, both from 0 to 1; R² below 0 counts as 0."""

    novelty: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(cls, one: Measured, tau: float, level: int | None = None) -> Points:
        """The points of networks; those without finite outputs are as near as a copy and have the accuracy that they
        have. Of a ladder, those of one level."""
        novelty = np.where(one.defined, np.minimum(one.distance / tau, 1.0), 0.0)
        chosen = slice(None) if level is None else slice(level, None, len(LADDER))
        return cls(novelty[chosen], np.clip(np.nan_to_num(one.accuracy, nan=0.0), 0.0, 1.0)[chosen])

    def means(self, rng: np.random.Generator, resamples: int) -> np.ndarray:
        """Mean novelty and accuracy of the series and of resamples of it, `[1 + R, 2]`."""
        both = np.stack([self.novelty, self.accuracy], axis=1)
        counts = rng.multinomial(len(both), np.full(len(both), 1 / len(both)), size=resamples)
        return np.concatenate([both.mean(axis=0)[None], counts @ both / len(both)])


def front(points: np.ndarray, novelty: np.ndarray) -> np.ndarray:
    """The accuracy that baselines reach at a novelty: of the best, or the best mixture of two, that is as novel.

    Args:
      points: `[B, R, 2]` novelty and accuracy of B baselines in R resamples.
      novelty: `[R]`.

    Returns:
      `[R]` accuracies; that of the worst baseline where none is as novel.
    """
    x, y = points[..., 0], points[..., 1]
    as_novel = x >= novelty
    best = np.where(as_novel, y, -np.inf).max(axis=0)
    for i in range(len(points)):
        span = x - x[i]
        part = np.divide(novelty - x[i], span, out=np.zeros_like(x), where=span > 0)
        mixed = y[i] + part * (y - y[i])
        best = np.maximum(best, np.where(~as_novel[i] & as_novel, mixed, -np.inf).max(axis=0))
    return np.where(as_novel.any(axis=0), best, y.min(axis=0))


def tau_run(train: Measured, heldout: Measured, one_run: bool) -> float:
    """Median distance of training networks to those of other runs; of held-out runs where training is a single one."""
    return float(np.median(heldout.distance if one_run else train.distance))


class Performance:
    """Compares series with the baselines of an audit; see the module.

    Args:
      measured: by series, with "training" and "heldout"; evaluated.
      baselines: names of the baselines among them; training networks themselves are another.
      noise: measurements of `ladder`, if there are any.
      one_run: whether all training networks are checkpoints of one run.
      quantile: of the held-out runs' accuracies that a network has to reach to perform.
      resamples, seed: of the bootstrap.
    """

    def __init__(
        self,
        measured: Mapping[str, Measured],
        baselines: Sequence[str],
        noise: Measured | None,
        one_run: bool,
        quantile: float,
        resamples: int,
        seed: int,
    ):
        self.train, self.heldout = measured[TRAINING], measured[HELDOUT]
        self.tau = tau_run(self.train, self.heldout, one_run)
        self.tau_all = self._spacing()
        self.alpha = float(np.quantile(self.heldout.accuracy, quantile))
        self.ceiling = float(Points.of(self.heldout, self.tau).novelty.mean())
        self.resamples, self.rng = resamples, np.random.default_rng([seed, 30_000])
        copies = Points(np.zeros(len(self.train)), Points.of(self.train, self.tau).accuracy)
        self.names, points = ["copies of training networks"], [copies.means(self.rng, resamples)]
        for name in baselines:
            self.names.append(name)
            points.append(Points.of(measured[name], self.tau).means(self.rng, resamples))
        for level in range(len(LADDER) if noise is not None else 0):
            assert noise is not None
            self.names.append(f"noise of {LADDER[level]:g} held-out distances")
            points.append(Points.of(noise, self.tau, level).means(self.rng, resamples))
        self.points = np.stack(points)

    def _spacing(self) -> float | None:
        """Median distance between training networks as published, to any other checkpoint; None where that of other
        runs is all that there is."""
        own = self.train.same_run_l2
        if not len(own) or np.isnan(own).all():
            return None
        return float(np.median(np.fmin(own, self.train.min_l2)))

    def baselines(self) -> dict[str, Any]:
        """The baselines' front, as JSON data."""
        grid = np.linspace(0, 1, 101)
        area = float(np.trapezoid([front(self.points[:, :1], np.array([x]))[0] for x in grid], grid))
        return {
            "tau_run": self.tau,
            "tau_all": self.tau_all,
            "alpha": self.alpha,
            "area": area,
            "points": {
                name: {"novelty": float(p[0, 0]), "accuracy": float(p[0, 1])}
                for name, p in zip(self.names, self.points, strict=True)
            },
        }

    def of(self, name: str, one: Measured) -> dict[str, Any]:
        """Performance of a series, as JSON data.

        Returns:
          `novelty`: an estimate; `excess`: accuracy above the front of the other baselines, a test;
          `novel_and_performing`: shares by multiples of tau, and as a share of the held-out runs' own.
        """
        own = Points.of(one, self.tau).means(self.rng, self.resamples)
        others = [i for i, known in enumerate(self.names) if known != name]
        # As novel as held-out runs is novel enough: no baseline has to be farther than these.
        excess = own[:, 1] - front(self.points[others], np.minimum(own[:, 0], self.ceiling))
        return {
            "novelty": self._estimate(own[:, 0], len(one)).to_json("mean"),
            "excess": self._estimate(excess, len(one)).to_json(),
            "novel_and_performing": self._novel_and_performing(one),
        }

    def _estimate(self, values: np.ndarray, n: int) -> statistics.Estimate:
        tail = (1 - statistics.CONFIDENCE) / 2
        low, high = np.quantile(values[1:], [tail, 1 - tail])
        return statistics.Estimate(float(values[0]), float(low), float(high), n)

    def _novel_and_performing(self, one: Measured) -> dict[str, Any]:
        performs = one.accuracy >= self.alpha

        def shares(distance: np.ndarray, tau: float) -> dict[str, Any]:
            far = [performs & (distance >= factor * tau) for factor in TAUS]
            return {str(factor): statistics.share(f).to_json() for factor, f in zip(TAUS, far, strict=True)}

        distance = np.where(one.defined, one.distance, 0.0)
        published = None
        if self.tau_all is not None:
            published = shares(np.where(one.defined, one.distance, 0.0), self.tau_all)
        return {
            "tau_run": shares(distance, self.tau),
            "tau_all": published,
            "of_heldout": self._of_heldout(performs & (distance >= self.tau)),
        }

    def _of_heldout(self, chosen: np.ndarray) -> dict[str, Any] | None:
        """The share at tau as a share of the held-out runs' own; None where these have none."""
        ceiling = (self.heldout.accuracy >= self.alpha) & (self.heldout.distance >= self.tau)
        if not ceiling.any():
            return None
        drawn = [
            np.append(mask.mean(), self.rng.binomial(len(mask), mask.mean(), self.resamples) / len(mask))
            for mask in (chosen, ceiling)
        ]
        ratio = drawn[0] / np.maximum(drawn[1], 1 / len(ceiling))
        return self._estimate(ratio, len(chosen)).to_json()


def answer(performance: Mapping[str, Any] | None, quality: str) -> dict[str, Any]:
    """Whether a series beats the baselines, in words: `{"answer": "yes" | "no" | "not evaluated", "text"}`.

    Args:
      performance: what `Performance.of` returned; None for networks that were not evaluated.
      quality: the task's word for accuracies.
    """
    if performance is None:
        return {"answer": "not evaluated", "text": "Whether it beats the baselines was not evaluated."}
    excess, novelty = performance["excess"], performance["novelty"]["mean"]
    low, high = excess["ci95"]
    beats = low > 0
    points = f"{100 * excess['value']:+.1f} points of {quality} [{100 * low:+.1f}, {100 * high:+.1f}]"
    text = (
        f"{'It beats' if beats else 'It does not beat'} the baselines: {points} beside the best mixture of baselines "
        f"that is as novel (novelty {novelty:.2f}, of copies 0 and of new runs near 1)."
    )
    return {"answer": "yes" if beats else "no", "text": text}
