"""Training rows in memory or on disk, and what generators ask of all of them, block by block.

Sums are in float64; of rows that fit one block they are those that NumPy gives of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

_BLOCK_BYTES = 256 << 20  # of float64


def kept(weights: Any) -> Any:
    """Weights `[N, P]` as examples of a generator: float32 arrays, or rows that stay on disk."""
    return np.asarray(weights, np.float32) if isinstance(weights, (np.ndarray, jax.Array)) else weights


def blocks(weights: Any, span: slice = slice(None)) -> Iterator[np.ndarray]:
    """Columns of the rows, in order, as float64 arrays `[b, width]`."""
    size = max(1, _BLOCK_BYTES // (8 * weights.shape[1]))
    for start in range(0, len(weights), size):
        yield np.asarray(weights[start : start + size])[:, span].astype(np.float64)


def mean(weights: Any) -> np.ndarray:
    """The mean row, `[P]` float64."""
    return np.sum([block.sum(axis=0) for block in blocks(weights)], axis=0) / len(weights)


def variance(weights: Any) -> np.ndarray:
    """The variance of every column, `[P]` float64."""
    centre = mean(weights)
    squares = [np.square(block - centre[None, :]).sum(axis=0) for block in blocks(weights)]
    return np.sum(squares, axis=0) / len(weights)


def std(weights: Any) -> float:
    """The standard deviation of all entries."""
    size = len(weights) * weights.shape[1]
    centre = sum(block.sum() for block in blocks(weights)) / size
    return float(np.sqrt(sum(np.square(block - centre).sum() for block in blocks(weights)) / size))


def smallest(weights: Any, span: slice) -> np.ndarray:
    """The smallest entry of every column of a span, float64."""
    return np.min([block.min(axis=0) for block in blocks(weights, span)], axis=0)
