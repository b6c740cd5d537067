"""A study as tables: plain text, Markdown like the paper's table of modelling factors, and CSV."""

from __future__ import annotations

import csv as csv_lib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxweights import auditing, tasks
from jaxweights.factors.cells import DEFAULT, SEEDS, Cell, label
from jaxweights.report.measures import Estimate, Measure

ACCURACY = Measure(("accuracy",), "{column}", 100)
RAW, ALIGNED = Measure(("min_l2",), "min L2"), Measure(("aligned_min_l2",), "aligned min L2")
Z_U = Measure(("tests", "z_u"), "Z_U", 1, 1)
NOVELTY = Measure(("tests", "novelty"), "novelty", 1, 2)
MEASURES = (ACCURACY, RAW, ALIGNED, Z_U, NOVELTY)
_NONE = "-"


def text(study: Mapping[str, Any]) -> str:
    """The study for a terminal: half the width of the 95 % interval after "+-"."""
    return "\n".join([*aligned(_rows(study, lambda m, e, d: f"{m.number(e.value, d)}{_half(m, e, d)}")), *notes(study)])


def markdown(study: Mapping[str, Any]) -> str:
    """The study as a Markdown table with 95 % intervals, and what there is to say about it."""
    head, *rows = _rows(study, lambda m, e, d: f"{m.number(e.value, d)}{_interval(m, e, d)}")
    lines = [head, ["---", *["---:"] * (len(head) - 2), "---"], *rows]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", *notes(study)]) + "\n"


def csv(study: Mapping[str, Any]) -> str:
    """One line per cell, and for every size of the training set one for the training and one for the held-out
    networks, with every number and the ends of its 95 % interval."""
    out = io.StringIO()
    measured = [f"{'_'.join(m.path)}{end}" for m in MEASURES for end in ("", "_low", "_high")]
    facts = (
        "factor",
        "level",
        "size",
        "settings",
        "parameters",
        "training_networks",
        "seconds",
        "n",
        "verdict",
        "failed",
    )
    writer = csv_lib.writer(out, lineterminator="\n")
    writer.writerow([*facts, *measured])
    for row in _with_references(study):
        entry, found = row["entry"] or {}, [m.find(row["entry"] or {}) for m in MEASURES]
        numbers = [x for e in found for x in (("", "", "") if e is None else (e.value, e.low, e.high))]
        own = [row["factor"], row["level"], row["size"], _settings(row), row["num_params"], row["training_networks"]]
        own += [row["seconds"], entry.get("n", ""), _verdict(row), row["failed"] or ""]
        writer.writerow([*own, *numbers])
    return out.getvalue()


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns of equal width: the first and the last at the left, numbers between them at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    padded = [
        [c.rjust(w) if 0 < i < last else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))]
        for r in rows
    ]
    return ["  ".join(row).rstrip() for row in padded]


def notes(study: Mapping[str, Any]) -> list[str]:
    """Sentences about a study: what varies with the seed alone, which controls failed, which cells there are not."""
    out = [f"{note[0].upper()}{note[1:]}." for note in study["notes"]]
    seeds = seeds_range(study)
    if seeds:
        terms = tasks.get(study["task"]).terms
        shown = [f"{m.head(terms)} {m.text(low)} to {m.text(high)}" for m, (low, high) in seeds.items()]
        out.append(f"Over the seeds of the default: {', '.join(shown)}.")
    for size, reference in study["references"].items():
        failed = reference["checks"]["failed_controls"]
        if failed:
            out.append(f"Controls that failed with {_size(int(size))}: {', '.join(failed)}.")
    return out + [f"{label(row['level'])}: {row['failed']}" for row in study["rows"] if row["failed"]]


def seeds_range(study: Mapping[str, Any]) -> dict[Measure, tuple[Estimate, Estimate]]:
    """The smallest and the largest value of each measure over the seeds of the default; empty for a single seed."""
    entries = [row["entry"] for row in study["rows"] if row["factor"] in (DEFAULT, SEEDS) and row["entry"]]
    if len(entries) < 2:
        return {}
    out = {}
    for measure in MEASURES:
        found = sorted((e for e in map(measure.find, entries) if e is not None), key=lambda e: e.value)
        if found:
            out[measure] = found[0], found[-1]
    return out


def _rows(study: Mapping[str, Any], show) -> list[list[str]]:
    """Head and cells of a table; columns without a number are left out."""
    terms = tasks.get(study["task"]).terms
    lines = list(_with_references(study))
    columns = [["", *(_name(row) for row in lines)], ["parameters", *(_count(row["num_params"]) for row in lines)]]
    columns.append(["networks", *(_count(row["training_networks"]) for row in lines)])
    for measure in MEASURES:
        found = [measure.find(row["entry"] or {}) for row in lines]
        decimals = measure.shared([e for e in found if e is not None])
        if any(found):
            shown = [_NONE if e is None else show(measure, e, decimals) for e in found]
            columns.append([measure.head(terms), *shown])
    columns.append(["verdict", *(_verdict(row) or _NONE for row in lines)])
    return [list(row) for row in zip(*columns, strict=True)]


def _with_references(study: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rows, each size of the training set after its training and held-out networks."""
    seen: set[str] = set()
    for row in study["rows"]:
        size = str(row["size"])
        if size not in seen:
            seen.add(size)
            reference = study["references"][size]
            for name in (auditing.TRAINING, auditing.HELDOUT):
                known = {
                    "factor": "",
                    "level": name,
                    "size": row["size"],
                    "num_params": "",
                    "seconds": "",
                    "failed": None,
                }
                networks = reference["training_networks"]
                yield {**known, "changes": {}, "training_networks": networks, "entry": reference[name]}
        yield row


def _name(row: Mapping[str, Any]) -> str:
    names = {auditing.TRAINING: "training networks", auditing.HELDOUT: "held-out runs"}
    if row["level"] in names:
        return names[row["level"]] + (f" (x {row['size']})" if row["size"] > 1 else "")
    return label(row["level"]) + (f" ({_settings(row)})" if row["changes"] else "")


def _settings(row: Mapping[str, Any]) -> str:
    return Cell(row["factor"], row["level"], row["changes"]).text


def _size(size: int) -> str:
    return "the config's training set" if size == 1 else f"the training set x {size}"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else _NONE


def _verdict(row: Mapping[str, Any]) -> str:
    if row["failed"]:
        return "failed"
    return ((row["entry"] or {}).get("verdict") or {}).get("label", "")


def _half(measure: Measure, found: Estimate, decimals: int) -> str:
    return "" if found.low is None else f"+-{measure.number(found.half_width, decimals)}"


def _interval(measure: Measure, found: Estimate, decimals: int) -> str:
    if found.low is None or found.high is None:
        return ""
    return f" [{measure.number(found.low, decimals)}, {measure.number(found.high, decimals)}]"
