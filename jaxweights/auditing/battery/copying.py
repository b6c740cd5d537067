"""Tests for copying that compare distances to training networks with those of held-out networks.

C_T (Meehan et al. 2020, arXiv 2004.05675, section 4.2) asks cell by cell. Calibrated distances (Carlini et al. 2023,
arXiv 2301.13188, section 3) and ratios of nearest neighbours (Yoon et al. 2023) are published with constants for
images; in weight space their size depends on the dimension, so the limit is a quantile of the held-out networks' own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxweights.auditing import statistics
from jaxweights.auditing.battery.sampling import Resampling

FEWEST = 20
"""A cell counts if it has more generated networks than this (dgm-eval; Meehan et al. leave it open)."""
CALIBRATED_NEIGHBOURS, CALIBRATED_FACTOR = 50, 0.5
_STARTS = 10  # of k-means, as published
QUANTILE = 0.05
"""Of held-out networks' values: a generator whose networks are as theirs has this share below it."""


class Cells:
    """Cells of k-means on the training networks' principal components (64 and 3 cells in dgm-eval)."""

    def __init__(self, train: np.ndarray, cells: int, components: int, seed: int):
        """Fits components and cells.

        Args:
          train: `[N, D]` floats.
          cells: how many; no more than networks.
          components: principal components, where there are more features.
          seed: random seed.
        """
        from sklearn.cluster import KMeans  # slow to import
        from sklearn.decomposition import PCA

        self._model = None
        if train.shape[1] > components:
            components = min(components, len(train))
            self._model = PCA(components, svd_solver="randomized", random_state=seed).fit(train)
        model = KMeans(min(cells, len(train)), n_init=_STARTS, random_state=seed)  # type: ignore[arg-type]
        self._cells = model.fit(self._scores(train))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The cell of every network, `[n]` int."""
        return np.asarray(self._cells.predict(self._scores(rows)))

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        return rows if self._model is None else self._model.transform(rows)


class InCells(NamedTuple):
    """Networks with their distances to the nearest training network.

    Attributes:
      distances: `[n]`.
      cells: `[n]` int.
    """

    distances: np.ndarray
    cells: np.ndarray


def c_t(generated: InCells, heldout: InCells, resampling: Resampling, fewest: int = FEWEST) -> dict[str, Any] | None:
    """C_T: the mean of Z_U in cells, by the share of held-out networks in them.

    Args:
      generated: generated networks.
      heldout: held-out networks.
      resampling: how intervals are made; over generated and held-out networks.
      fewest: cells with more generated networks than this count, if there are held-out ones in them.

    Returns:
      `value`, `ci95`, `n`, and `cells`: of every cell that counts the `heldout` share, `n` and `z_u`. None where no
      cell counts.
    """
    n, m = len(generated.distances), len(heldout.distances)
    rows = [
        (np.flatnonzero(generated.cells == c), np.flatnonzero(heldout.cells == c)) for c in np.unique(heldout.cells)
    ]
    rows = [(q, p) for q, p in rows if len(q) > fewest]
    if not rows:
        return None
    wins = [statistics.resampled_u(generated.distances[q], heldout.distances[p]) for q, p in rows]

    def statistic(query_counts: np.ndarray, heldout_counts: np.ndarray) -> np.ndarray:
        total, weight = 0.0, 0.0
        for (q, p), u in zip(rows, wins, strict=True):
            ours, theirs = query_counts[:, q], heldout_counts[:, p]
            # A resample without networks in a cell says nothing of it.
            sizes = ours.sum(axis=1), theirs.sum(axis=1)
            known = (sizes[0] > 0) & (sizes[1] > 0)
            z = statistics.standardised_u(u(ours, theirs), np.maximum(sizes[0], 1), np.maximum(sizes[1], 1))
            total, weight = total + np.where(known, sizes[1] * z, 0.0), weight + np.where(known, sizes[1], 0.0)
        return total / np.maximum(weight, 1.0)

    value = float(statistic(np.ones((1, n)), np.ones((1, m)))[0])
    estimate = resampling.of_counts(statistic, value, [n, m])
    cells = [
        {
            "heldout": len(p) / m,
            "n": len(q),
            "z_u": statistics.z_u(generated.distances[q], heldout.distances[p]),
        }
        for q, p in rows
    ]
    return {**estimate.to_json(), "cells": cells}


def calibrated_distance(nearest: np.ndarray, factor: float = CALIBRATED_FACTOR) -> np.ndarray:
    """Distance to the nearest training network over `factor` times the mean distance to the nearest ones, `[n]`.

    Args:
      nearest: `[n, k]` distances to the k nearest training networks, of as many runs, ascending.
      factor: α of the publication.
    """
    mean = factor * nearest.astype(np.float64).mean(axis=1)
    return np.divide(nearest[:, 0], mean, out=np.zeros(len(mean)), where=mean > 0)


def share_below_heldout(
    values: np.ndarray, null: np.ndarray, resampling: Resampling, quantile: float = QUANTILE
) -> dict[str, Any]:
    """The share of `[n]` values below a quantile of `[m]` held-out ones.

    The interval is the wider of the exact one for the limit as it is and a bootstrap interval over both sets, at either
    end.

    Args:
      values: `[n]` of generated networks.
      null: `[m]` of held-out ones.
      resampling: how intervals are made.
      quantile: of the held-out values.

    Returns:
      `value`, `ci95`, `n`, and the `limit`.
    """
    values, null = np.sort(values), np.sort(null)
    count, rank = len(values), quantile * (len(null) - 1)
    limit = float(np.quantile(null, quantile))

    def statistic(counts: np.ndarray, null_counts: np.ndarray) -> np.ndarray:
        drawn, up_to = np.cumsum(null_counts, axis=1), np.zeros((len(counts), count + 1))
        np.cumsum(counts, axis=1, out=up_to[:, 1:])
        ends = [(drawn > place).argmax(axis=1) for place in (np.floor(rank), np.ceil(rank))]
        limits = null[ends[0]] + (rank - np.floor(rank)) * (null[ends[1]] - null[ends[0]])
        return up_to[np.arange(len(counts)), np.searchsorted(values, limits)] / count

    exact = statistics.share(values < limit)
    drawn = resampling.of_counts(statistic, exact.value, [count, len(null)])
    interval = [min(exact.low, drawn.low), max(exact.high, drawn.high)]
    return {"value": exact.value, "ci95": interval, "n": count, "limit": limit}
