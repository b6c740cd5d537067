"""Coverage and purity of the cells that come out most often, and the published measures, which name them the wrong way
round."""

from __future__ import annotations

from typing import Any

import numpy as np

RANKS = (*range(10), *range(10, 40, 2), *range(40, 100, 5), *range(100, 1000, 10))
"""Ranks at which the published code cuts the cells, by generated frequency."""


def curve(made: np.ndarray, trained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and purity of the cells above every threshold.

    Args:
      made: `[M]` shares or counts of generated cells.
      trained: training cells.

    Returns:
      Two arrays over the distinct frequencies above 0, the highest first: hits over training cells, and hits over
      selected cells. Cells of equal frequency are selected together.
    """
    order = np.argsort(-made, kind="stable")
    order = order[made[order] > 0]
    hits = np.cumsum(np.isin(order, trained))
    last = np.flatnonzero(np.diff(np.append(made[order], -1.0)))
    return hits[last] / len(trained), hits[last] / (last + 1)


def purity(made: np.ndarray, trained: np.ndarray, least: float) -> float | None:
    """The highest purity among selections with that coverage; None where it is never reached, however many are
    selected."""
    covered, pure = curve(made, trained)
    reached = covered >= least
    return float(pure[reached].max()) if reached.any() else None


def published(counts: np.ndarray, trained: np.ndarray, least: float) -> dict[str, Any] | None:
    """What the published code reports, with its names: its precision is coverage, its recall is purity.

    Args:
      counts: `[M]` of generated cells.
      trained: training cells.
      least: coverage, there "precision", of the point that is reported.

    Returns:
      `precision` and `recall` of the first of the 128 thresholds that qualifies; None where none does, which ends the
      published code with an IndexError. A threshold may be 0, which selects all cells.
    """
    order = np.sort(counts)[::-1]
    for rank in RANKS:
        threshold = order[rank] if rank < len(order) else 0.0
        selected = np.flatnonzero(counts >= threshold)
        hits = len(np.intersect1d(selected, trained))
        if hits / len(trained) >= least:
            return {"precision": hits / len(trained), "recall": hits / len(selected)}
    return None
