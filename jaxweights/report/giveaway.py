"""The section of the page about what gives generated networks away."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxweights.report import style, tables
from jaxweights.report.style import Picture, Section, Series

_NOTE = (
    "A classifier tells samples from as many networks of held-out runs, after a transformation that keeps only part of "
    "them; chance is 50&nbsp;%. Where it can, what is kept is where the generator differs; bold: beyond chance, "
    "corrected for the number of transformations. Samples that copy training networks pass all of them, so the last "
    "column has to be read beside: the median distance to the nearest training network over that of held-out runs."
)


def parts(study: Mapping[str, Any], series: Sequence[Series]) -> Iterator[Picture | Section]:
    """A sentence and a table: accuracy in percent with its 95 % interval per series and transformation.

    Args:
      study: its entry in `metrics.json`.
      series: the experiment's series, in order.
    """
    names = [s.name for s in series if s.name in study["series"]]
    keeps = study["keeps"]
    rows = [_row(style.label(name), study["series"][name], list(keeps)) for name in names]
    rows.append(["control: halves of the held-out runs", *(_percent(study["control"][n]) for n in keeps), ""])
    head = ["series", *(html.escape(style.label(name)) for name in keeps), "nearest / held-out"]
    sentences = "".join(f"<li>{html.escape(sentence(n, study['series'][n]))}</li>" for n in names)
    meanings = [[html.escape(style.label(name)), html.escape(kept)] for name, kept in keeps.items()]
    left = [[html.escape(name), html.escape(reason)] for name, reason in study["left_out"].items()]
    content = f"<p>{_NOTE}</p><ul>{sentences}</ul>{tables.grid(head, rows, 'numbers')}"
    content += tables.folded("what every transformation keeps", tables.grid(["", "keeps"], meanings, "facts"))
    if left:
        content += tables.folded("left out", tables.grid(["", "because"], left, "facts"))
    yield Section("giveaway", "What gives them away", content)


def sentence(name: str, entry: Mapping[str, Any]) -> str:
    """What gives a series away, in words."""
    ratio, found = entry["nearest_ratio"], entry["given_away_by"]
    near = f"nearest training networks are {ratio['value']:.2f} times as far as those of held-out runs"
    if not found:
        return f"{style.label(name)}: nothing tells it from held-out runs; its {near}."
    best = entry["transformations"][found[0]]["accuracy"]
    others = f", {len(found) - 1} more of {len(entry['transformations'])}" if len(found) > 1 else ""
    low, high = best["ci95"]
    return (
        f"{style.label(name)}: given away by {style.label(found[0])}, {100 * best['value']:.0f} % "
        f"[{100 * low:.0f}, {100 * high:.0f}] right{others}; its {near}."
    )


def _row(label: str, entry: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    cells = []
    for name in names:
        text = _percent(entry["transformations"][name]["accuracy"])
        cells.append(f"<b>{text}</b>" if name in entry["given_away_by"] else text)
    ratio = entry["nearest_ratio"]
    low, high = ratio["ci95"]
    return [html.escape(label), *cells, f"{ratio['value']:.2f}<small>[{low:.2f}, {high:.2f}]</small>"]


def _percent(found: Mapping[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{100 * found['value']:.0f}<small>[{100 * low:.0f}, {100 * high:.0f}]</small>"
