"""Numbers of a network that do not depend on how its hidden units are ordered, scaled or signed."""

from __future__ import annotations

import numpy as np

from jaxweights.auditing.alignment.canonical import stored_groups
from jaxweights.auditing.rows import row_blocks
from jaxweights.nn.normalization import is_statistic
from jaxweights.spec import WeightSpec

MOST_SINGULAR_VALUES = 16
"""Singular values of a matrix that are looked at, evenly spaced from the largest to the smallest."""
_LONGEST_SIDE = 64  # shorter side of a matrix whose spectrum is taken: one costs its square times the longer side
_BLOCK_BYTES = 64 << 20
_TINY = 1e-12


def describe(spec: WeightSpec, coordinates: np.ndarray) -> np.ndarray:
    """Logarithms of the norm and the singular values of every tensor, its mean, third and fourth moments.

    Moments are those of a tensor over its root mean square, of absolute values where units have signs. Kernels of
    convolutions are matrices of what leaves by what enters. Matrices whose shorter side is longer than 64 have no
    spectrum.

    Args:
      spec: of the networks.
      coordinates: `[n, D]` floats, canonical coordinates: balanced weights without running statistics.

    Returns:
      `[n, F]` float64.
    """
    return np.concatenate(
        [
            np.concatenate(list(_of_block(spec, np.asarray(coordinates[rows], np.float64))), axis=1)
            for rows in row_blocks(len(coordinates), max(1, _BLOCK_BYTES // (32 * coordinates.shape[1])))
        ]
    )


def _of_block(spec: WeightSpec, rows: np.ndarray):
    start = 0
    for leaf in spec.leaves:
        if is_statistic(leaf.name):
            continue
        size = int(np.prod(leaf.stored_axes, dtype=np.int64))
        tensor = rows[:, start : start + size].reshape(len(rows), *leaf.stored_axes)
        start += size
        signed = any(group >= 0 and spec.groups[group].scaling == "sign" for group in stored_groups(leaf))
        flat = np.abs(tensor).reshape(len(rows), -1) if signed else tensor.reshape(len(rows), -1)
        rms = np.sqrt(np.square(flat).mean(axis=1, keepdims=True)) + _TINY
        unit = flat / rms
        yield np.log(rms)
        yield np.stack([(unit**power).mean(axis=1) for power in (1, 3, 4)], axis=1)
        matrix = tensor.reshape(len(rows), tensor.shape[1], -1) if tensor.ndim > 2 else tensor[:, None, :]
        sides = matrix.shape[1:]
        if 1 < min(sides) <= _LONGEST_SIDE:
            chosen = np.unique(np.linspace(0, min(sides) - 1, MOST_SINGULAR_VALUES).round().astype(np.int64))
            yield np.log(np.linalg.svd(matrix, compute_uv=False)[:, chosen] + _TINY)
