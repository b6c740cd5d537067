"""Areas under the curve of the receiver operating characteristic: how well a score tells two groups of images apart."""

from __future__ import annotations

import numpy as np
from scipy import special

from jaxweights.auditing.statistics import CONFIDENCE, Estimate
from jaxweights.errors import UserError

RANDOM = 1000
"""Random groupings that `best_at_random` draws."""
_HALVINGS = 50  # of the interval in which a bound lies


def areas(scores: np.ndarray, own: np.ndarray) -> list[Estimate]:
    """The share of pairs of an image of the group and another one in which the former has the higher score; ties count
    half.

    The interval is the score interval on the variance of Hanley and McNeil (Newcombe 2006, method 5), which also has a
    width where all pairs are ordered alike.

    Args:
      scores: `[P, n]`, of n images for each of P scores.
      own: `[n]` bool, whether an image is of the group.

    Raises:
      UserError: scores that are not finite, or images on one side alone.
    """
    ranks, own = _ranks(scores, own)
    first, second = int(own.sum()), int((~own).sum())
    found = _areas(ranks, own[:, None].astype(float))[:, 0]
    low, high = (_bound(found, first, second, end) for end in (0.0, 1.0))
    return [Estimate(float(v), float(a), float(b), first + second) for v, a, b in zip(found, low, high, strict=True)]


def best_at_random(scores: np.ndarray, own: np.ndarray, seed: int) -> float:
    """What the largest area of all scores exceeds in 5 % of the random groupings of the same sizes: the best of many
    scores is above 1/2 by chance alone.

    Args:
      scores: `[P, n]`, see `areas`.
      own: `[n]` bool.
      seed: random seed.

    Raises:
      UserError: see `areas`.
    """
    ranks, own = _ranks(scores, own)
    rng, best = np.random.default_rng(seed), []
    for _ in range(RANDOM // 100):
        groups = rng.permuted(np.repeat(own[None, :], 100, axis=0), axis=1)
        best.append(_areas(ranks, groups.T.astype(float)).max(axis=0))
    return float(np.quantile(np.concatenate(best), CONFIDENCE))


def _ranks(scores: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, own = np.asarray(scores, float), np.asarray(own, bool)
    if not np.isfinite(scores).all():
        raise UserError("Some scores are not finite, so that images have no order. Compute them in float32.")
    if own.all() or not own.any():
        raise UserError("All images are of one group, so that a score has nothing to tell apart. Give two groups.")
    from scipy.stats import rankdata  # slow to import

    return rankdata(scores, axis=1), own


def _areas(ranks: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Areas `[P, R]` from ranks `[P, n]` and R groupings `[n, R]`, by the Mann-Whitney statistic."""
    first = groups.sum(axis=0)
    second = len(groups) - first
    return (ranks @ groups - first * (first + 1) / 2) / (first * second)


def _bound(found: np.ndarray, first: int, second: int, end: float) -> np.ndarray:
    """Where the distance to the areas is as large as the quantile times the deviation at that place, by bisection."""
    quantile = float(special.ndtri(0.5 + CONFIDENCE / 2))
    inside, outside = found.copy(), np.full_like(found, end)
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        spread = (1 - middle) / (2 - middle) + middle / (1 + middle)
        variance = middle * (1 - middle) * (1 + ((first + second) / 2 - 1) * spread) / (first * second)
        within = np.abs(middle - found) <= quantile * np.sqrt(variance)
        inside, outside = np.where(within, middle, inside), np.where(within, outside, middle)
    return np.where(found == end, end, (inside + outside) / 2)
