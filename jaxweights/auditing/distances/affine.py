"""Affine residual: how far a model lies from everything that sums of training models with weights of sum one can reach.

A generator that only chooses such weights, as one that draws from all principal components of its training models does,
has residual zero, however far from each of them its samples are; its convex residual need not be small.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxweights.auditing.rows import MEMORY_BYTES, read_rows, row_blocks

MOST_SPANNING = 4096
"""Most models whose affine hull is taken: its system of equations grows with their cube."""

_FILLED = 0.9  # share of the dimensions there are: a hull of these says little about what lies in it
_NOTHING = 1e-12  # variance over the largest that rounding explains


class AffineHull:
    """The affine hull of a set of points `[N, P]`, taken in float64.

    Attributes:
      dimensions: of the hull.
      filled: whether there is nothing to be outside of: the hull has 90 % of the dimensions in which points differ, or
        do not span 90 % of the N - 1 that points in general position do.
        Also where there are more than 4,096 points, or a single one. Residuals are NaN then.
    """

    def __init__(self, points: Any, memory_bytes: int = MEMORY_BYTES):
        """Takes the points' inner products.

        Args:
          points: `[N, P]` finite floats; needs `shape` and slicing by rows.
          memory_bytes: working memory beside inputs and results.
        """
        count, width = points.shape
        self._count, self._memory, self.dimensions = count, memory_bytes, 0
        self.filled = not 2 <= count <= min(MOST_SPANNING, width)
        if self.filled:
            return
        self._points = points
        gram, varying = np.zeros((count, count)), 0
        for span in self._spans(count):
            near = self._around_mean(span)[0]
            gram += near @ near.T
            varying += int((near != 0).any(axis=0).sum())
        # Products of centred points are singular along the vector of ones; this much of it leaves the rest alone.
        level = np.trace(gram) / count or 1.0
        values, vectors = np.linalg.eigh(gram + level / count)
        floor = _NOTHING * values[-1]
        self.dimensions = int((values > floor).sum()) - 1
        self.filled = self.dimensions >= _FILLED * varying or self.dimensions < _FILLED * (count - 1)
        self._inverse = (vectors / np.maximum(values, floor)) @ vectors.T - 1 / (level * count)

    def residual(self, queries: Any) -> np.ndarray:
        """Distances `[n]`, float64, of queries `[n, P]` to the hull."""
        squared = np.full(len(queries), np.nan)
        if self.filled:
            return squared
        cross = np.zeros((len(queries), len(self._points)))
        spans = self._spans(len(self._points) + len(queries))
        for span in spans:
            near, ours = self._around_mean(span, queries)
            cross += ours @ near.T
        weights = cross @ self._inverse
        squared[:] = 0
        for span in spans:
            # Measured on the combination itself: the quadratic form cancels where the query lies in the hull.
            near, ours = self._around_mean(span, queries)
            missed = ours - weights @ near
            squared += np.einsum("mp,mp->m", missed, missed)
        return np.sqrt(squared)

    def residual_of_points(self, groups: np.ndarray) -> np.ndarray:
        """Distances `[N]`, float64, of the points to the hull of those of other groups `[N]`; NaN where there are none.

        The gradients of the weights that give a point are perpendicular to the hull of all the others, and the inverse
        holds their products: where one point alone is left out, its distance is one over its gradient's length.
        """
        found = np.full(self._count, np.nan)
        if self.filled:
            return found
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            if len(rows) < len(found):
                found[rows] = np.sqrt(np.maximum(np.linalg.inv(self._inverse[np.ix_(rows, rows)]).diagonal(), 0.0))
        return found

    def _spans(self, rows: int) -> list[slice]:
        """Ranges of columns of which float64 copies of that many rows fit the memory."""
        return list(row_blocks(self._points.shape[1], max(1, self._memory // (32 * rows))))

    def _around_mean(self, span: slice, queries: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Columns of the points, and of queries if there are any, relative to the points' mean, in float64."""
        points = _columns(self._points, span, self._memory)
        centre = points.mean(axis=0, keepdims=True)
        return points - centre, points[:0] if queries is None else _columns(queries, span, self._memory) - centre


def _columns(source: Any, span: slice, memory_bytes: int) -> np.ndarray:
    size = max(1, memory_bytes // (32 * source.shape[1]))
    return np.concatenate(
        [read_rows(source, rows)[:, span] for rows in row_blocks(len(source), size)], dtype=np.float64
    )
