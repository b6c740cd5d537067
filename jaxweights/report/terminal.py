"""The main results as plain text for the terminal."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from jaxweights.report import style
from jaxweights.report.measures import MAIN, Estimate, Measure, count
from jaxweights.report.tables import controls_text, label_of, notes, terms_of

TEXT_WIDTH = 110
_DIGITS_SHARE = 0.5  # of the series with all digits that their intervals justify; more do not fit
# Head, measure, and whether with its interval, for the plain-text table.
_TEXT = (
    ("{quality} %", MAIN[0], True),
    ("min L2", MAIN[1], True),
    ("aligned L2", MAIN[2], True),
    ("{overlap}", dataclasses.replace(MAIN[3], digits=2), True),
    ("Z_U", MAIN[4], True),
    ("Auth %", dataclasses.replace(MAIN[5], digits=0), True),
    ("mem. %", dataclasses.replace(MAIN[6], digits=0), False),
    ("copy %", dataclasses.replace(MAIN[7], digits=0), False),
    ("mix %", dataclasses.replace(MAIN[8], digits=0), False),
)


def summary(metrics: Mapping[str, Any]) -> str:
    """The main results as a table of at most 110 columns, in ASCII.

    Args:
      metrics: result of the audit.

    Returns:
      Lines without a final line break: one row per series (half the width of the 95 % interval after "+-"), the state
      of the controls, and the verdict on every generator.
    """
    entries, words = metrics["series"], dataclasses.asdict(terms_of(metrics))
    rows = [["series", "n", *(head.format(**words) for head, _, _ in _TEXT), "verdict"]]
    columns = [_column(measure, interval, list(entries.values())) for _, measure, interval in _TEXT]
    for (name, entry), *cells in zip(entries.items(), *columns, strict=True):
        rows.append([style.label(name), str(count(entry)), *cells, label_of(entry)])
    used = [i for i in range(len(rows[0])) if any(row[i] not in ("", "-") for row in rows[1:])]
    rows = [[row[i] for i in used] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(used))]
    widths[0] = max(6, min(widths[0], TEXT_WIDTH - sum(widths[1:]) - len(widths) + 1))
    lines = [line for row in rows for line in _lines(row, widths)]
    lines.insert(1, "-" * (sum(widths) + len(widths) - 1))
    lines += ["", _wrap(controls_text(metrics["checks"])), *map(_wrap, notes(metrics))]
    lines += [
        _wrap(f"{style.label(name)} {entry['verdict']['label'].upper()}: {entry['verdict']['text']}")
        for name, entry in entries.items()
        if entry["role"] in ("generator", "baseline")
    ]
    return "\n".join(lines)


def _column(measure: Measure, interval: bool, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """A measure of all series, with equally many decimals."""
    found = [measure.find(entry) for entry in entries]
    decimals = measure.shared([e for e in found if e is not None], _DIGITS_SHARE)

    def text(e: Estimate | None) -> str:
        if e is None:
            return "-"
        half = f"+-{measure.number(e.half_width, decimals)}" if interval and e.low is not None else ""
        return measure.number(e.value, decimals) + half

    return [text(e) for e in found]


def _lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """A row of the table; a name that is too long for its column has a line of its own."""
    long = len(row[0]) > widths[0]
    cells = ["" if long else row[0], *row[1:]]
    justified = [
        c.rjust(w) if 0 < i < len(widths) - 1 else c.ljust(w)
        for i, (c, w) in enumerate(zip(cells, widths, strict=True))
    ]
    return ([row[0][:TEXT_WIDTH]] if long else []) + [" ".join(justified).rstrip()]


def _wrap(text: str) -> str:
    return textwrap.fill(text, TEXT_WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
