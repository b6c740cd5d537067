"""The numbers of an audit as tables for other programs: CSV with every number, LaTeX with the main ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from jaxweights.report import measures, style, tables
from jaxweights.report.measures import Estimate, Measure

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
_FAMILIES = (("Z_U", r"$Z_U$"), ("L2", r"$L_2$"), ("R2", r"$R^2$"))
_MISSING = "--"


def rows(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every number of every series: its role, verdict, n, and `path`, `path.lower`, `path.upper` of every estimate, the
    latter two of its 95 % interval."""
    found = {}
    for name, entry in metrics["series"].items():
        row: dict[str, Any] = {"role": entry["role"], "verdict": tables.label_of(entry), "n": measures.count(entry)}
        answer = tables.answer_of(entry)
        if answer:
            row["beats_baselines"] = answer
        for path, number in tables.numbers_in(entry):
            row[path] = number.value
            if number.low is not None:
                row |= {f"{path}.lower": number.low, f"{path}.upper": number.high}
        found[name] = row
    return found


def csv_table(metrics: Mapping[str, Any]) -> str:
    """`rows` as CSV: one line per series, the numbers with all their digits; what was not measured is empty."""
    table = rows(metrics)
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["series", *columns])
    for name, row in table.items():
        writer.writerow([name, *(row.get(column, "") for column in columns)])
    return out.getvalue()


def latex_table(metrics: Mapping[str, Any]) -> str:
    """The main table as a LaTeX `tabular` with the rules of booktabs; 95 % intervals stand in brackets.

    Columns without any number are left out, and so are the decimals that the intervals do not justify.
    """
    entries, terms = metrics["series"], tables.terms_of(metrics)
    shown = [m for m in measures.main(metrics) if any(m.find(entry) for entry in entries.values())]
    columns = [_column(m, [m.find(entry) for entry in entries.values()]) for m in shown]
    answers = [tables.answer_of(entry) if entry["role"] == "generator" else "" for entry in entries.values()]
    heads = ["series", "$n$", *(_head(m.head(terms)) for m in shown), "verdict"]
    lines = [
        [escape(style.label(name)), f"{measures.count(entry):,}", *cells, escape(tables.label_of(entry)) or _MISSING]
        for (name, entry), *cells in zip(entries.items(), *columns, strict=True)
    ]
    if any(answers):
        heads.append("beats baselines")
        lines = [[*line, escape(answer) or _MISSING] for line, answer in zip(lines, answers, strict=True)]
    body = [" & ".join(line) + r" \\" for line in lines]
    roles = [entry["role"] for entry in entries.values()]
    for place in reversed([i for i in range(1, len(roles)) if _group(roles[i]) != _group(roles[i - 1])]):
        body.insert(place, r"\midrule")
    layout = "lr" + "r" * len(shown) + "l" * (len(heads) - 2 - len(shown))
    top = ["% \\usepackage{booktabs}; brackets are 95 % intervals", rf"\begin{{tabular}}{{{layout}}}", r"\toprule"]
    return "\n".join([*top, " & ".join(heads) + r" \\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""])


def _group(role: str) -> str:
    """Roles between which the table has no rule."""
    return "trained" if role in ("training", "heldout") else "control" if "control" in role else role


def _column(measure: Measure, found: list[Estimate | None]) -> list[str]:
    """A measure of all series, with equally many decimals."""
    decimals = measure.shared([e for e in found if e is not None])

    def text(e: Estimate | None) -> str:
        if e is None:
            return _MISSING
        value = _math(measure.number(e.value, decimals))
        if e.low is None or e.high is None:
            return value
        low, high = (_math(measure.number(x, decimals)) for x in (e.low, e.high))
        return rf"{value} {{\scriptsize[{low}, {high}]}}"

    return [text(e) for e in found]


def _math(number: str) -> str:
    """A number whose sign is a minus."""
    return f"${number}$" if number.startswith("-") or "e" in number else number


def _head(title: str) -> str:
    text = escape(title)
    for name, formula in _FAMILIES:
        text = text.replace(escape(name), formula)
    return text


def escape(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
