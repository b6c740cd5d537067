"""The section of the page about generated networks in feature space."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxweights.report import style, tables
from jaxweights.report.style import Section, Series

_NOTE = (
    "Features are means over all matrices, in bins at quantiles of the training networks. New: share of networks in "
    "cells of the grid of all features that no training network lies in; some held-out ones lie there, too. TV: total "
    "variation of a feature between a series and the training networks. Spread: its standard deviation over theirs."
)


def parts(study: Mapping[str, Any], series: Sequence[Series]) -> Iterator[Section]:
    """A sentence per series and a table of the numbers with their 95 % intervals.

    Args:
      study: its entry in `metrics.json`.
      series: the experiment's series, in order.
    """
    names = [s.name for s in series if s.name in study["series"]]
    told = "".join(
        f"<li>{html.escape(style.label(name))}: {html.escape(study['series'][name]['answer'])}</li>" for name in names
    )
    features = list(study["features"])
    head = [
        "series",
        "new",
        "nearest / held-out",
        *(f"TV of {f}" for f in features),
        *(f"spread of {f}" for f in features),
    ]
    entries = {style.label(name): study["series"][name] for name in names} | {"held-out runs": study["heldout"]}
    rows = [
        [
            html.escape(label),
            _number(one["new"]),
            _number(one["nearest_ratio"]),
            *(_number(one[kind][f]) for kind in ("variation", "spread") for f in features),
        ]
        for label, one in entries.items()
    ]
    cells = f"Training networks lie in {study['cells']:,} of {study['of']:,} cells."
    content = f"<p>{_NOTE} {cells}</p><ul>{told}</ul>{tables.grid(head, rows, 'numbers')}"
    if study["left_out"]:
        left = [[html.escape(name), html.escape(reason)] for name, reason in study["left_out"].items()]
        content += tables.folded("left out", tables.grid(["", "because"], left, "facts"))
    yield Section("probing", "Combinations, averages or copies", content)


def _number(found: Mapping[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{found['value']:.2f}<small>[{low:.2f}, {high:.2f}]</small>"
