"""A study as tables: plain text, Markdown like the paper's table of modelling factors, and CSV."""

from __future__ import annotations

import collections
import csv as csv_lib
import dataclasses
import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from jaxweights import auditing, tasks
from jaxweights.auditing.statistics import CONFIDENCE
from jaxweights.factors.cells import DEFAULT, Cell
from jaxweights.report.measures import Estimate, Measure

ACCURACY = Measure(("accuracy",), "{column}", 100)
RAW, ALIGNED = Measure(("min_l2",), "min L2"), Measure(("aligned_min_l2",), "aligned min L2")
Z_U = Measure(("tests", "z_u"), "Z_U", 1, 1)
NOVELTY = Measure(("tests", "novelty"), "novelty", 1, 2)
MEASURES = (ACCURACY, RAW, ALIGNED, Z_U, NOVELTY)
_BOUNDS = {ACCURACY: (-math.inf, 1.0), NOVELTY: (0.0, 1.0)}  # that no interval leaves
_DIGITS_SHARE = 0.8  # of a column's numbers with all digits that their intervals justify
_NONE = "-"
_FACTS = ("factor", "level", "seed", "size", "settings", "parameters", "training_networks", "seconds", "n", "verdict")


@dataclasses.dataclass(frozen=True)
class Line:
    """A level of a factor, or what generated networks are compared with.

    Attributes:
      cell: the level; for networks of the zoo, a cell without a factor.
      num_params: parameters of the generator; None where there is none.
      networks: training networks.
      entries: what the audit says of every training.
      failures: why trainings have no samples.
    """

    cell: Cell
    num_params: int | None
    networks: int
    entries: Sequence[Mapping[str, Any]]
    failures: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The line's head."""
        size = f" (x {self.cell.size})" if not self.cell.factor and self.cell.size > 1 else ""
        return self.cell.label + size + (f" ({self.cell.text})" if self.cell.changes else "")

    @property
    def verdict(self) -> str:
        """The verdicts, with how many trainings have them where they differ."""
        found = collections.Counter((entry.get("verdict") or {}).get("label", "") for entry in self.entries)
        found["failed"] += len(self.failures)
        known = {name: count for name, count in found.items() if name and count}
        return ", ".join(name if len(known) == 1 else f"{name} ({count})" for name, count in known.items())

    def find(self, measure: Measure) -> Estimate | None:
        """A measure: of a single training with its interval over networks, of several the mean with Student's interval
        over trainings."""
        found = [e for e in map(measure.find, self.entries) if e is not None]
        if len(found) < 2:
            return found[0] if found else None
        values = np.array([e.value for e in found])
        half = special.stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2) * values.std(ddof=1) / math.sqrt(len(values))
        least, most = _BOUNDS.get(measure, (-math.inf, math.inf))
        low, high = np.clip([values.mean() - half, values.mean() + half], least, most)
        return Estimate(float(values.mean()), float(low), float(high), sum(e.n or 0 for e in found))


def lines(study: Mapping[str, Any]) -> list[Line]:
    """The levels of a study, each size of the training set after its training and held-out networks."""
    out, seen = [], set()
    for _, rows in itertools.groupby(study["rows"], key=lambda row: row["level"]):
        line = _line(list(rows))
        size, reference = line.cell.size, study["references"][str(line.cell.size)]
        if size not in seen:
            seen.add(size)
            for name in (auditing.TRAINING, auditing.HELDOUT):
                out.append(Line(Cell("", name, {}, size), None, line.networks, [reference[name]]))
        out.append(line)
    return out


def text(study: Mapping[str, Any]) -> str:
    """The study for a terminal: half the width of the 95 % interval after "+-"."""

    def show(measure: Measure, found: Estimate, decimals: int) -> str:
        half = "" if found.low is None else f"+-{measure.number(found.half_width, decimals)}"
        return f"{measure.number(found.value, decimals)}{half}"

    return "\n".join([*aligned(_columns(study, show)), "", *notes(study)]).rstrip()


def markdown(study: Mapping[str, Any]) -> str:
    """The study as a Markdown table with 95 % intervals, and what there is to say about it."""

    def show(measure: Measure, found: Estimate, decimals: int) -> str:
        ends = [measure.number(end, decimals) for end in (found.low, found.high) if end is not None]
        return measure.number(found.value, decimals) + (f" [{', '.join(ends)}]" if ends else "")

    head, *rows = _columns(study, show)
    table = [head, ["---", *["---:"] * (len(head) - 2), "---"], *rows]
    said = [f"* {note}" for note in notes(study)]
    return "\n".join(["| " + " | ".join(row) + " |" for row in table] + ["", *said]).rstrip() + "\n"


def csv(study: Mapping[str, Any]) -> str:
    """One line per training, and for every size of the training set one for the training and one for the held-out
    networks, with every number and the ends of its 95 % interval over networks."""
    out = io.StringIO()
    measured = [f"{'_'.join(m.path)}{end}" for m in MEASURES for end in ("", "_low", "_high")]
    writer = csv_lib.writer(out, lineterminator="\n")
    writer.writerow([*_FACTS, *measured, "failed"])
    zoo = [(line, "") for line in lines(study) if not line.cell.factor]
    for line, seconds in [*zoo, *((_line([row]), row["seconds"]) for row in study["rows"])]:
        cell, entry = line.cell, line.entries[0] if line.entries else {}
        facts = [cell.factor, cell.level, cell.seed, cell.size, cell.text, line.num_params, line.networks, seconds]
        found = [m.find(entry) for m in MEASURES]
        numbers = [x for e in found for x in ((None,) * 3 if e is None else (e.value, e.low, e.high))]
        writer.writerow([*facts, entry.get("n"), line.verdict, *numbers, *line.failures])
    return out.getvalue()


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns of equal width: the first and the last at the left, numbers between them at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    out = []
    for first, *middle, last in rows:
        numbers = [cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)]
        out.append("  ".join([first.ljust(widths[0]), *numbers, last]).rstrip())
    return out


def notes(study: Mapping[str, Any]) -> list[str]:
    """Sentences about a study: which levels there are not, what the seed alone changes, which controls failed, and why
    trainings have no samples."""
    out = [f"{note[0].upper()}{note[1:]}." for note in study["notes"]]
    seeds, terms = seeds_range(study), tasks.get(study["task"]).terms
    if seeds:
        shown = [f"{m.head(terms)} {m.text(low)} to {m.text(high)}" for m, (low, high) in seeds.items()]
        out.append(f"Trainings of the default: {', '.join(shown)}.")
    for size, reference in study["references"].items():
        failed = reference["checks"]["failed_controls"]
        if failed:
            place = "" if size == "1" else f" beside {size} times the training set"
            out.append(f"Controls that failed{place}: {', '.join(failed)}.")
    return out + [f"{line.name}: {failure}" for line in lines(study) for failure in line.failures]


def seeds_range(study: Mapping[str, Any]) -> dict[Measure, tuple[Estimate, Estimate]]:
    """The smallest and the largest value of each measure over the trainings of the default; empty for a single one."""
    entries = [row["entry"] for row in study["rows"] if row["level"] == DEFAULT and row["entry"]]
    if len(entries) < 2:
        return {}
    found = {m: sorted((e for e in map(m.find, entries) if e is not None), key=lambda e: e.value) for m in MEASURES}
    return {m: (each[0], each[-1]) for m, each in found.items() if each}


def _columns(study: Mapping[str, Any], show: Callable[[Measure, Estimate, int], str]) -> list[list[str]]:
    """Head and rows of a table; columns without a number are left out."""
    terms, shown = tasks.get(study["task"]).terms, lines(study)
    columns = [["", *(line.name for line in shown)]]
    columns.append(["parameters", *(f"{line.num_params:,}" if line.num_params else _NONE for line in shown)])
    columns.append(["networks", *(f"{line.networks:,}" for line in shown)])
    columns.append(["trainings", *(str(len(line.entries)) if line.cell.factor else _NONE for line in shown)])
    for measure in MEASURES:
        found = [line.find(measure) for line in shown]
        decimals = measure.shared([e for e in found if e is not None], _DIGITS_SHARE)
        if any(found):
            cells = [_NONE if e is None else show(measure, e, decimals) for e in found]
            columns.append([measure.head(terms), *cells])
    columns.append(["verdict", *(line.verdict or _NONE for line in shown)])
    return [list(row) for row in zip(*columns, strict=True)]


def _line(rows: Sequence[Mapping[str, Any]]) -> Line:
    """The trainings of one level."""
    first = rows[0]
    cell = Cell(first["factor"], first["level"], first["changes"], first["size"], first["seed"])
    entries, failures = [row["entry"] for row in rows if row["entry"]], [row["failed"] for row in rows if row["failed"]]
    return Line(cell, first["num_params"], first["training_networks"], entries, failures)
