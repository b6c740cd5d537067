"""The main results as plain text for the terminal."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from jaxweights.report import style
from jaxweights.report.measures import MAIN, Estimate, Measure, count, main
from jaxweights.report.tables import answer_of, controls_text, label_of, notes, terms_of

TEXT_WIDTH = 110
_DIGITS_SHARE = 0.5  # of the series with all digits that their intervals justify; more do not fit
# Head, path of the measure, its decimals, and whether with its interval, for the plain-text table.
_TEXT = (
    ("{quality} %", ("accuracy",), None, True),
    ("min L2", ("min_l2",), None, False),
    ("aligned L2", ("aligned_min_l2",), None, True),
    ("{overlap}", ("max_error_iou",), 2, False),
    ("Z_U", ("tests", "z_u"), 1, True),
    ("far %", ("tests", "novelty"), 0, False),
    ("copy %", ("tests", "memorised_share"), 0, False),
    ("copy %", ("tests", "copied_share"), 0, False),
    ("mix %", ("tests", "interpolated_share"), 0, False),
)
_ANSWERS = {"yes": "yes", "no": "no", "undecided": "?"}
"""Whether a series beats the baselines, in the table."""


def summary(metrics: Mapping[str, Any]) -> str:
    """The main results as a table of at most 110 columns, in ASCII.

    Args:
      metrics: result of the audit.

    Returns:
      Lines without a final line break: one row per series (half the width of the 95 % interval after "+-"), the state
      of the controls, and the verdict on every generator.
    """
    entries, words = metrics["series"], dataclasses.asdict(terms_of(metrics))
    shown = [one for one in _TEXT if any(one[1] == m.path for m in main(metrics))]
    rows = [["series", "n", *(head.format(**words) for head, *_ in shown), "verdict", "beats"]]
    columns = [_column(_measure(path, digits), interval, list(entries.values())) for _, path, digits, interval in shown]
    for (name, entry), *cells in zip(entries.items(), *columns, strict=True):
        beats = _ANSWERS.get(answer_of(entry), "") if entry["role"] == "generator" else ""
        rows.append([style.label(name), str(count(entry)), *cells, label_of(entry), beats])
    used = [i for i in range(len(rows[0])) if any(row[i] not in ("", "-") for row in rows[1:])]
    rows = [[row[i] for i in used] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(used))]
    widths[0] = max(6, min(widths[0], TEXT_WIDTH - sum(widths[1:]) - len(widths) + 1))
    lines = [line for row in rows for line in _lines(row, widths)]
    lines.insert(1, "-" * (sum(widths) + len(widths) - 1))
    lines += ["", _wrap(controls_text(metrics["checks"])), *map(_wrap, notes(metrics))]
    lines += [
        _wrap(f"{style.label(name)} {label_of(entry).upper()}: {entry['verdict']['text']}{_beside(entry)}")
        for name, entry in entries.items()
        if entry["role"] in ("generator", "baseline")
    ]
    return "\n".join(lines)


def _beside(entry: Mapping[str, Any]) -> str:
    """Whether a generator beats the baselines, as a further sentence."""
    found = entry["verdict"].get("beats_baselines") if entry["role"] == "generator" else None
    return f" {found['text']}" if found else ""


def _measure(path: Sequence[str], digits: int | None) -> Measure:
    """A measure of the page's main table with other decimals."""
    return dataclasses.replace(next(m for m in MAIN if m.path == path), digits=digits)


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
