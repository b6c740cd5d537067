"""Tests for memorization and their uncertainty: Z_U, AuthPct, nearest-neighbour ratio, bootstrap intervals.

Inputs are distances that were measured elsewhere; every estimate carries a 95 % interval and the number of models it
rests on. Bootstrap intervals are percentile intervals over models; resamples are rows of counts, so a statistic of all
resamples is a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from jaxweights.errors import UserError

CONFIDENCE = 0.95
RESAMPLES = 2000

_TIE_TOLERANCE = 1e-6
_RESAMPLE_BYTES = 1 << 26
_SMALLEST_MEDIAN = 1e-6  # of a resample, relative to the sample's


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
      value: the statistic of the sample itself.
      low: lower end of the interval.
      high: upper end of the interval.
      n: models that it rests on.
    """

    value: float
    low: float
    high: float
    n: int

    def to_json(self, name: str = "value") -> dict[str, Any]:
        """Returns `{name: value, "ci95": [low, high], "n": n}`."""
        return {name: self.value, "ci95": [self.low, self.high], "n": self.n}


def z_u(query_distances: np.ndarray, heldout_distances: np.ndarray) -> float:
    """Computes Z_U, the data-copying statistic of Meehan et al. 2020 (arXiv 2004.05675, section 3.1).

    With U the number of pairs in which the query lies farther from the training set than the held-out model (ties
    count half, as in the Mann-Whitney test), `z = (U - (nm/2 - 1/2)) / sqrt(nm(n + m + 1) / 12)`. Below 0: copying;
    above: under-fitting.

    Args:
      query_distances: `[n]` distances of generated models to their nearest training model.
      heldout_distances: `[m]` the same for held-out models.

    Raises:
      UserError: if one of them is empty or not finite.
    """
    queries, heldout = _sample(query_distances, "query distances"), _sample(heldout_distances, "held-out distances")
    return float(standardised_u(_mann_whitney(queries, heldout), len(queries), len(heldout)))


def auth_pct(distance_to_nearest: np.ndarray, nearest_index: np.ndarray, train_loo_distance: np.ndarray) -> float:
    """Computes AuthPct of Alaa et al. 2022 (arXiv 2102.08921, section 4.3), the percentage of authentic samples.

    A sample is authentic if it lies farther from its nearest training model r than r from the rest of the training set.

    Args:
      distance_to_nearest: `[n]` distances of the samples to their nearest training models.
      nearest_index: `[n]` integers, which training models these are.
      train_loo_distance: `[N]` distance of every training model to its nearest other one.

    Raises:
      UserError: if an input is empty, not finite or does not fit the others.
    """
    return 100.0 * float(np.mean(_authentic(distance_to_nearest, nearest_index, train_loo_distance)))


def nn_ratio(first_distance: np.ndarray, second_distance: np.ndarray) -> np.ndarray:
    """Returns the distance to the nearest training model over that to the second nearest `[n]`; 0 for exact copies.

    With several checkpoints per run the second must come from another run than the first; where there is no other run
    it is NaN, and so is the ratio.

    Raises:
      UserError: if there are no samples, a nearest distance is not finite, or a second distance is smaller.
    """
    first, second = _sample(first_distance, "nearest distances"), np.asarray(second_distance, np.float64)
    # Two searches agree up to ties only, see `distances.nearest`.
    if first.shape != second.shape or np.any(second < (1.0 - _TIE_TOLERANCE) * first):
        raise UserError(
            "Every second distance must belong to the same sample as the nearest distance and be at least as large; "
            f"got shapes {first.shape} and {second.shape}. Search both in the same training population."
        )
    return np.divide(first, second, out=np.where(np.isnan(second), np.nan, 0.0), where=first > 0)


def share(selected: np.ndarray) -> Estimate:
    """Returns the share of `True` in `[n]` booleans with its exact interval.

    Raises:
      UserError: if it is empty.
    """
    selected = np.asarray(selected, bool)
    return share_interval(int(selected.sum()), selected.size)


def share_interval(k: int, n: int) -> Estimate:
    """Returns k / n with the exact interval of Clopper and Pearson (1934).

    Raises:
      UserError: unless 0 <= k <= n and n > 0.
    """
    if not 0 <= k <= n or n == 0:
        raise UserError(f"A share of {k} in {n} models has no interval; there must be at least one model.")
    tail = (1.0 - CONFIDENCE) / 2.0
    low = 0.0 if k == 0 else float(special.betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(special.betaincinv(k + 1, n - k, 1.0 - tail))
    return Estimate(k / n, low, high, n)


def nn_ratio_share(first_distance: np.ndarray, second_distance: np.ndarray, limit: float) -> Estimate:
    """Returns the share of samples whose `nn_ratio` is below the limit; NaN counts as not below.

    Raises:
      UserError: as `nn_ratio`.
    """
    return share(nn_ratio(first_distance, second_distance) < limit)


# Bootstrap.


def bootstrap(
    statistic: Callable[..., np.ndarray],
    sizes: Sequence[int],
    resamples: int = RESAMPLES,
    rng: np.random.Generator | int = 0,
) -> tuple[float, float]:
    """Returns the 95 % percentile interval of a statistic over resamples (Efron and Tibshirani 1993, chapter 13).

    Args:
      statistic: maps one matrix of counts `[R, n]` per sample, how often each of its n models was drawn, to `[R]`
        values.
      sizes: number of models of every sample; all samples are resampled independently.
      resamples: R in all; memory is bounded by taking them in parts.
      rng: generator or seed.

    Raises:
      ValueError: if `resamples` is not positive.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be positive, got {resamples}")
    rng = np.random.default_rng(rng)
    part = max(1, _RESAMPLE_BYTES // (8 * max(sizes)))
    values = []
    for start in range(0, resamples, part):
        count = min(part, resamples - start)
        values.append(statistic(*(_counts(rng, count, size) for size in sizes)))
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(np.concatenate(values), [tail, 1.0 - tail])
    return float(low), float(high)


def bootstrap_mean(values: np.ndarray, resamples: int = RESAMPLES, rng: np.random.Generator | int = 0) -> Estimate:
    """Returns the mean of `[n]` values with its bootstrap interval.

    Raises:
      UserError: if there are none or one is not finite.
    """
    values = _sample(values, "values")
    low, high = bootstrap(lambda counts: counts @ values / len(values), [len(values)], resamples, rng)
    return Estimate(float(values.mean()), low, high, len(values))


def bootstrap_z_u(
    query_distances: np.ndarray,
    heldout_distances: np.ndarray,
    resamples: int = RESAMPLES,
    rng: np.random.Generator | int = 0,
) -> Estimate:
    """Returns `z_u` with its bootstrap interval over queries and held-out models; n counts the queries.

    Raises:
      UserError: as `z_u`.
    """
    queries, heldout = _sample(query_distances, "query distances"), _sample(heldout_distances, "held-out distances")
    n, m = len(queries), len(heldout)
    u = resampled_u(queries, heldout)
    low, high = bootstrap(lambda q, p: standardised_u(u(q, p), n, m), [n, m], resamples, rng)
    return Estimate(z_u(queries, heldout), low, high, n)


def resampled_u(queries: np.ndarray, heldout: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Prepares the Mann-Whitney U of resamples.

    Args:
      queries: `[n]` distances.
      heldout: `[m]` distances.

    Returns:
      A function of counts `[R, n]` and `[R, m]`, how often each was drawn, that gives `[R]` numbers of pairs in which
      the query lies farther; ties count half.
    """
    order = np.argsort(heldout)
    below, up_to = (np.searchsorted(heldout[order], queries, side) for side in ("left", "right"))

    def u(query_counts: np.ndarray, heldout_counts: np.ndarray) -> np.ndarray:
        beaten = np.zeros((len(heldout_counts), len(order) + 1))
        np.cumsum(heldout_counts[:, order], axis=1, out=beaten[:, 1:])
        wins = 0.5 * (beaten[:, below] + beaten[:, up_to])
        return np.einsum("rn,rn->r", query_counts, wins)

    return u


def standardised_u(u: Any, n: Any, m: Any) -> Any:
    """U of n queries and m held-out networks, arrays or numbers, as `z_u` standardises it."""
    return (u - (n * m / 2.0 - 0.5)) / np.sqrt(n * m * (n + m + 1) / 12.0)


def win_rate(z: Estimate, m: int) -> Estimate:
    """Returns the probability that a query lies farther from the training set than one of m held-out models, ties half,
    from `z_u` of the same queries: the two are linear in one another."""
    pairs, deviation = z.n * m, float(np.sqrt(z.n * m * (z.n + m + 1) / 12.0))
    value, low, high = ((u * deviation + pairs / 2.0 - 0.5) / pairs for u in (z.value, z.low, z.high))
    return Estimate(value, low, high, z.n)


def bootstrap_auth_pct(
    distance_to_nearest: np.ndarray,
    nearest_index: np.ndarray,
    train_loo_distance: np.ndarray,
    resamples: int = RESAMPLES,
    rng: np.random.Generator | int = 0,
) -> Estimate:
    """Returns `auth_pct` with its bootstrap interval over samples; the training set stays as it is.

    Raises:
      UserError: as `auth_pct`.
    """
    authentic = _authentic(distance_to_nearest, nearest_index, train_loo_distance)
    return bootstrap_mean(100.0 * authentic, resamples, rng)


def bootstrap_median_ratio(
    values: np.ndarray, reference: np.ndarray, resamples: int = RESAMPLES, rng: np.random.Generator | int = 0
) -> Estimate:
    """Returns the median of `[n]` values over that of `[m]` reference values, with its bootstrap interval over both.

    Raises:
      UserError: if a sample is empty or not finite, or the reference's median is not positive.
    """
    values, reference = np.sort(_sample(values, "values")), np.sort(_sample(reference, "reference values"))
    scale = float(np.median(reference))
    if not scale > 0:
        raise UserError(f"The reference values have the median {scale:g}; a ratio needs a positive one.")
    floor = _SMALLEST_MEDIAN * scale  # for resamples with mostly zeros

    def statistic(counts: np.ndarray, reference_counts: np.ndarray) -> np.ndarray:
        return _medians(values, counts) / np.maximum(_medians(reference, reference_counts), floor)

    low, high = bootstrap(statistic, [len(values), len(reference)], resamples, rng)
    return Estimate(float(np.median(values)) / scale, low, high, len(values))


def _medians(ordered: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Medians `[R]` of resamples of ascending values `[n]`, given as counts `[R, n]`."""
    drawn, middle = np.cumsum(counts, axis=1), len(ordered) // 2
    low, high = ((drawn > place).argmax(axis=1) for place in (len(ordered) - 1 - middle, middle))
    return 0.5 * (ordered[low] + ordered[high])


def _counts(rng: np.random.Generator, resamples: int, size: int) -> np.ndarray:
    """Draws `size` of `size` models with replacement, `[resamples, size]` float64 counts."""
    drawn = rng.integers(0, size, (resamples, size))
    drawn += size * np.arange(resamples)[:, None]
    return np.bincount(drawn.reshape(-1), minlength=resamples * size).reshape(resamples, size).astype(np.float64)


def _sample(values: np.ndarray, name: str) -> np.ndarray:
    """Returns a non-empty finite vector as float64."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise UserError(
            f"The {name} are empty or not a vector (shape {values.shape}); a statistic needs one number per model, of "
            "at least one model. Check that the series is not empty."
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise UserError(
            f"{bad.size} of {values.size} {name} are non-finite, the first at row {bad[0]}. Remove such networks first."
        )
    return values


def _mann_whitney(queries: np.ndarray, heldout: np.ndarray) -> float:
    """Counts pairs with the query above the held-out value; ties count half."""
    ordered = np.sort(heldout)
    return 0.5 * float(sum(np.searchsorted(ordered, queries, side).sum() for side in ("left", "right")))


def _authentic(distance: np.ndarray, nearest: np.ndarray, train_distance: np.ndarray) -> np.ndarray:
    distance, train_distance = _sample(distance, "distances"), _sample(train_distance, "training distances")
    nearest = np.asarray(nearest)
    if nearest.shape != distance.shape or np.any((nearest < 0) | (nearest >= len(train_distance))):
        raise UserError(
            f"The nearest training models have shape {nearest.shape} for {len(distance)} samples and must lie in "
            f"0 … {len(train_distance) - 1}. Take distances and indices from one search in one training population."
        )
    return distance > train_distance[nearest]
