"""Distances of two sets of coordinates, and the nearest rows of them, also among random halves of a set.

Products are taken in float64, since `|a|^2 + |b|^2 - 2 a.b` cancels for near duplicates, which a battery of tests for
copying must see. Rows that agree as far as float32 weights can are at distance 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxweights.auditing.alignment.canonical import COPY_TOLERANCE
from jaxweights.auditing.distances.products import squared_norms
from jaxweights.auditing.rows import row_blocks

_BLOCK_BYTES = 1 << 26


def distances(first: np.ndarray, second: np.ndarray, centre: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
    """Euclidean distances of all pairs of rows.

    Args:
      first: `[A, D]` floats.
      second: `[B, D]` floats.
      centre: `[D]`, subtracted from both for accuracy.
      scale: `[D]` factors of the features; None for ones.

    Returns:
      `[A, B]` float32, accurate to 1e-6 of the rows' norms; exactly 0 below that.
    """
    out = np.empty((len(first), len(second)), np.float32)
    for rows in row_blocks(len(first), max(1, _BLOCK_BYTES // (8 * len(second)))):
        out[rows] = _block(first[rows], second, centre, scale)
    return out


def _block(first: np.ndarray, second: np.ndarray, centre: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    squared = np.zeros((len(first), len(second)))
    norms, sizes = [np.zeros(len(x)) for x in (first, second)], [np.zeros(len(x)) for x in (first, second)]
    width = max(1, _BLOCK_BYTES // (8 * (len(first) + len(second))))
    for columns in row_blocks(first.shape[1], width):
        parts = []
        for side, rows in enumerate((first, second)):
            part = rows[:, columns].astype(np.float64)
            if scale is not None:
                part *= scale[columns]
            sizes[side] += squared_norms(part)
            part -= centre[columns] if scale is None else centre[columns] * scale[columns]
            norms[side] += squared_norms(part)
            parts.append(part)
        squared += parts[0] @ parts[1].T
    squared *= -2.0
    squared += norms[0][:, None]
    squared += norms[1][None, :]
    squared[squared <= COPY_TOLERANCE**2 * np.maximum(sizes[0][:, None], sizes[1][None, :])] = 0.0
    return np.sqrt(squared, out=squared)


class Nearest(NamedTuple):
    """The k nearest rows of every row, nearest first.

    Attributes:
      distances: `[A, k]` float32.
      indices: `[A, k]` int64.
    """

    distances: np.ndarray
    indices: np.ndarray


def nearest(between: np.ndarray, k: int, within: bool = False) -> Nearest:
    """Finds the k smallest of every row of `[A, B]` distances; all where there are fewer.

    Args:
      between: `[A, B]` distances.
      k: how many.
      within: whether both sets are the same one; no row is a neighbour of itself.
    """
    k = min(k, between.shape[1] - within)
    found, which = np.empty((len(between), k), np.float32), np.empty((len(between), k), np.int64)
    for rows in row_blocks(len(between), max(1, _BLOCK_BYTES // (8 * between.shape[1]))):
        part = between[rows]
        if within:
            part = part.copy()
            np.fill_diagonal(part[:, rows.start :], np.inf)
        chosen = np.argpartition(part, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(part, chosen, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        found[rows], which[rows] = np.take_along_axis(values, order, 1), np.take_along_axis(chosen, order, 1)
    return Nearest(found, which)


def listed(k: int) -> int:
    """Neighbours to list so that k of them are in a random half of the set, but for one in a million."""
    return 4 * k + 16


def among(lists: Nearest, chosen: np.ndarray, k: int) -> np.ndarray:
    """Distances `[A, k]` to the k nearest rows among those `chosen`, `[B]` bool, of lists long enough for it."""
    found = chosen[lists.indices]
    places = found.argmax(axis=1)[:, None] if k == 1 else np.argsort(~found, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(lists.distances, places, axis=1)


def distinct(within: np.ndarray) -> np.ndarray:
    """Rows of a set, given its distances `[n, n]`, without those that are duplicates of an earlier one."""
    return np.flatnonzero(~np.tril(within == 0, -1).any(axis=1))
