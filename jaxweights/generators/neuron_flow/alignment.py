"""Many networks with their hidden units in one order, block by block; see `generators.canonical` for other forms."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxweights.auditing.alignment import canonical, coordinates
from jaxweights.auditing.rows import read_rows, row_blocks
from jaxweights.spec import WeightSpec

_BLOCK_BYTES = 64 << 20


def aligned(spec: WeightSpec, weights: Any, references: int, *, order: str, scale: str) -> np.ndarray:
    """Networks `[N, P]`, float32, in one form; their functions stay the same.

    Args:
      spec: meaning of the vectors.
      weights: `[N, P]` finite networks; needs `shape` and indexing by rows.
      references: networks that the mean is taken of, at most; evenly spaced ones.
      order: "mean" for the order and the signs of units of the generalised mean, "none" for those that they have.
      scale: "balanced" (`auditing.canonical`), or "none" for the scales that they have.
    """

    def scaled(rows: Any) -> np.ndarray:
        found = read_rows(weights, rows)
        return canonical.balance(spec, found) if scale == "balanced" and spec.groups else found

    reference = None
    if order == "mean" and spec.groups:
        spaced = np.unique(np.linspace(0, len(weights) - 1, min(references, len(weights))).round().astype(np.int64))
        reference = coordinates.generalised_mean(spec, scaled(spaced))
    found = np.empty(weights.shape, np.float32)
    for rows in row_blocks(len(weights), max(1, _BLOCK_BYTES // (8 * spec.num_params))):
        block = scaled(rows)
        found[rows] = block if reference is None else coordinates.brought(spec, block, reference)[0]
    return found
