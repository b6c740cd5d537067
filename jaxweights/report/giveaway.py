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
    "columns have to be read beside: the median distance to the nearest training network over that of held-out runs, "
    "of the weights as they are and, where the audit has it, after alignment of hidden units."
)


def parts(
    study: Mapping[str, Any], series: Sequence[Series], audited: Mapping[str, Any]
) -> Iterator[Picture | Section]:
    """A sentence and a table: accuracy in percent with its 95 % interval per series and transformation.

    Args:
      study: its entry in `metrics.json`.
      series: the experiment's series, in order.
      audited: what the audit found, `series` of `metrics.json`.
    """
    names = [s.name for s in series if s.name in study["series"]]
    keeps = study["keeps"]
    aligned = {name: ratio for name in names if (ratio := aligned_ratio(audited.get(name, {})))}
    rows = [
        [*_row(style.label(name), study["series"][name], list(keeps)), *[_ratio(aligned.get(name))] * bool(aligned)]
        for name in names
    ]
    control = (_percent(study["control"][n]) for n in keeps)
    rows.append(["control: halves of the held-out runs", *control, *[""] * (1 + bool(aligned))])
    last = ["nearest / held-out", *["the same, aligned"] * bool(aligned)]
    head = ["series", *(html.escape(style.label(name)) for name in keeps), *last]
    told = (sentence(name, study["series"][name], aligned.get(name)) for name in names)
    sentences = "".join(f"<li>{html.escape(one)}</li>" for one in told)
    meanings = [[html.escape(style.label(name)), html.escape(kept)] for name, kept in keeps.items()]
    left = [[html.escape(name), html.escape(reason)] for name, reason in study["left_out"].items()]
    content = f"<p>{_NOTE}</p><ul>{sentences}</ul>{tables.grid(head, rows, 'numbers')}"
    content += tables.folded("what every transformation keeps", tables.grid(["", "keeps"], meanings, "facts"))
    if left:
        content += tables.folded("left out", tables.grid(["", "because"], left, "facts"))
    yield Section("giveaway", "What gives them away", content)


def aligned_ratio(entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The median distance to the nearest training network over that of held-out runs, after alignment.

    Args:
      entry: a series in the audit's `metrics.json`.

    Returns:
      `value` and `ci95`; None where networks have no symmetries, or the series was not tested.
    """
    tests = entry.get("tests") or {}
    return tests.get("distance_ratio") if tests.get("distance") == "aligned" else None


def sentence(name: str, entry: Mapping[str, Any], aligned: Mapping[str, Any] | None = None) -> str:
    """What gives a series away, in words.

    Args:
      name: of the series.
      entry: what the study found.
      aligned: of `aligned_ratio`.
    """
    ratio, found = entry["nearest_ratio"], entry["given_away_by"]
    near = f"nearest training networks are {ratio['value']:.2f} times as far as those of held-out runs"
    near += f" ({aligned['value']:.2f} aligned)" if aligned else ""
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
    return [html.escape(label), *cells, _ratio(entry["nearest_ratio"])]


def _ratio(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    low, high = found["ci95"]
    return f"{found['value']:.2f}<small>[{low:.2f}, {high:.2f}]</small>"


def _percent(found: Mapping[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{100 * found['value']:.0f}<small>[{100 * low:.0f}, {100 * high:.0f}]</small>"
