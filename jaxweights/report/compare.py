"""Helpers of the sections about studies: arrays, tables of entries, comparisons of estimates."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights import files
from jaxweights.report import tables
from jaxweights.report.measures import Estimate, Measure

_NONE = '<span class="none">&ndash;</span>'


def read_arrays(workdir: pathlib.Path, name: str) -> dict[str, np.ndarray]:
    """The per-network arrays of a generator's study.

    Raises:
      UserError: they are missing or damaged.
    """
    path = workdir / "studies" / f"{name}.npz"
    # A study is repeated where its `.json` is gone.
    cure = f"Remove {path.with_suffix('.json')} and {workdir / 'metrics.json'}, and run launch.run again."
    return files.read_npz(path, "table of a study", cure)


def table(
    rows: Mapping[str, Mapping[str, Any]], texts: Mapping[str, Mapping[str, str]], measures: Sequence[Measure]
) -> str:
    """A table of HTML cells (by title and row) and measures for every row; empty columns are left out."""
    measures = [m for m in measures if any(m.find(entry) for entry in rows.values())]
    texts = {title: cells for title, cells in texts.items() if any(cells.values())}
    counts = [_count(measures, entry) for entry in rows.values()]
    columns = [tables.cells(m, list(rows.values()), counts) for m in measures]
    body = []
    for name, n, *numbers in zip(rows, counts, *columns, strict=True):
        role = f'<small class="role">n&nbsp;=&nbsp;{n:,}</small>' if n is not None else ""
        body.append([html.escape(name) + role, *(column[name] or _NONE for column in texts.values()), *numbers])
    return tables.grid(["", *texts, *(m.title for m in measures)], body, "numbers")


def _count(measures: Sequence[Measure], entry: Mapping[str, Any]) -> int | None:
    """The first n of a row's numbers."""
    found = (m.find(entry) for m in measures)
    return next((e.n for e in found if e is not None and e.n is not None), None)


def order(a: Estimate | None, b: Estimate | None) -> int:
    """-1 or 1 where a lies below or above b and their intervals do not overlap, else 0."""
    if a is None or b is None or a.low is None or a.high is None or b.low is None or b.high is None:
        return 0
    return (a.low > b.high) - (a.high < b.low)
