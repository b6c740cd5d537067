"""Intrinsic dimension: TwoNN (Facco et al. 2017, arXiv 1803.06992) and Levina and Bickel 2004 (NIPS 17).

Both underestimate beyond about ten dimensions at a thousand points, so sets are compared at equal size. Networks must
be distinct, see `pairwise.distinct`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxweights.auditing.battery.pairwise import among, distinct, listed, nearest
from jaxweights.auditing.battery.sampling import Resampling, each
from jaxweights.auditing.statistics import Estimate

DISCARDED = 0.1
"""The share of the largest ratios that TwoNN leaves out (Facco et al. 2017, "Methods")."""
NEIGHBOURS = 20
"""Neighbours for Levina and Bickel's estimate: the upper end of their range."""


def twonn(nearest: np.ndarray) -> float:
    """TwoNN: the slope through 0 of `-log(1 - F)` on `log(r2 / r1)`.

    Args:
      nearest: `[n, 2]` positive distances to the nearest and the second nearest other network.
    """
    ratios = np.sort(np.log(nearest[:, 1].astype(np.float64) / nearest[:, 0]))
    kept = int(len(ratios) * (1.0 - DISCARDED))
    x, y = ratios[:kept], -np.log1p(-np.arange(1, kept + 1) / len(ratios))
    return float(x @ y / (x @ x))


def twonn_likelihood(nearest: np.ndarray) -> float:
    """TwoNN by maximum likelihood, n / sum(log(r2 / r1)); see `twonn`."""
    return float(len(nearest) / np.sum(np.log(nearest[:, 1].astype(np.float64) / nearest[:, 0])))


def levina_bickel(nearest: np.ndarray) -> float:
    """The harmonic mean of `(k - 1) / sum(log(r_k / r_j))` over networks (MacKay and Ghahramani 2005).

    Args:
      nearest: `[n, k]` positive distances to the k nearest other networks, ascending.
    """
    logs = np.log(nearest.astype(np.float64))
    inverse = (logs[:, -1:] - logs).sum(axis=1) / (nearest.shape[1] - 1)
    return float(1.0 / inverse.mean())


def estimates(within: np.ndarray, resampling: Resampling) -> dict[str, Estimate]:
    """Both dimensions with intervals from random halves, see `sampling`; duplicates are left out.

    Args:
      within: `[n, n]` distances of networks among themselves.
      resampling: how intervals are made.

    Returns:
      "twonn" and "levina_bickel" for at least 8 distinct networks. The latter's neighbours are 20, or as many as a half
      of the networks has.
    """
    rows = distinct(within)
    k = min(NEIGHBOURS, len(rows) // 2 - 1)
    if k < 3:
        return {}
    lists = nearest(within[np.ix_(rows, rows)], listed(k), within=True)

    def estimate(statistic: Callable[[np.ndarray], float], neighbours: int) -> Estimate:
        def of_half(chosen: np.ndarray) -> float:
            return statistic(among(lists, chosen, neighbours)[chosen])

        value = statistic(lists.distances[:, :neighbours])
        return resampling.of_halves(each(of_half), value, [len(rows)])

    return {"twonn": estimate(twonn, 2), "levina_bickel": estimate(levina_bickel, k)}
