"""`report.html` of a comparison: what betrays the source, in one file in the style of the report."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxweights import files
from jaxweights.bias import picture, published, table
from jaxweights.report import page, tables

NAME = "report.html"
_BEST = 8  # features of the majority rule
_FACTS = {
    "nearest_training_distance": "nearest training network",
    "nearest_ratio": "over that of other runs",
    "aligned_nearest_ratio": "the same, aligned",
}
"""Numbers of a collection that the page shows, and their columns."""


def write(
    folder: pathlib.Path,
    result: Mapping[str, Any],
    examples: Mapping[tuple[str, str], np.ndarray],
    attention: Mapping[str, Mapping[str, np.ndarray]],
) -> pathlib.Path:
    """Draws the figures and writes the page; the same results give the same bytes.

    Args:
      folder: of the comparison.
      result: content of `metrics.json`.
      examples, attention: see `picture.draw`.

    Returns:
      Its path.
    """
    pictures = picture.draw(result, examples, attention, files.make_dir(folder / "figures"))
    sizes, names = result["sizes"], list(result["collections"])
    parts = [
        page.section("results", "Which transformation betrays the source", _results(result)),
        *(page.figure(one) for one in pictures),
        *_named(result, "named"),
        *(_another(name, found) for name, found in result["sets"].items()),
        page.section("collections", "Collections", _collections(result)),
        *([page.section("published", "The published table", _published())] if result["kind"] == "images" else []),
        page.section("classifier", "Classifier", tables.facts({**result["classifier"], **sizes})),
        page.section("settings", "Transformations", tables.folded("every setting", _settings(result))),
        page.section("versions", "Versions", tables.facts(result["versions"])),
    ]
    facts = (
        f"A classifier says of single examples from which of {len(names)} collections ({', '.join(names)}) they come, "
        f"under {len(result['transformations'])} transformations. Chance is {100 * result['chance']:.1f} %."
    )
    return page.write_parts(folder / NAME, f"Dataset classification: {result['main']}", facts, parts)


def _results(found: Mapping[str, Any], main: bool = True) -> str:
    notes = [
        "Percent, with 95 % Wilson intervals over the distinct examples that classifiers are asked about. The control "
        "is one collection cut into pseudo-collections at random: what is found there is no bias. Trained: accuracy on "
        "the training examples.",
        table.control_note(found),
        *found["notes"],
    ]
    return tables.plain(table.rows(found, main)) + "".join(f"<p>{html.escape(note)}</p>" for note in notes)


def _named(found: Mapping[str, Any], identity: str) -> list[str]:
    """The section on named features, where there are any."""
    if "named" not in found:
        return []
    ranked, majority = found["named"], found["named"]["majority"]
    note = (
        f"A logistic regression on standardised named features is right in {table.interval(ranked['accuracy'])} % of "
        f"all cases; a rule without parameters, the collection with most training examples in a feature's bin, in "
        f"{table.interval(majority[0])} % with {majority[0]['feature']}. Intervals of coefficients are those of the "
        "cluster-robust covariance."
    )
    best = [["feature", "accuracy of the majority rule in %"]]
    best += [[entry["feature"], table.interval(entry)] for entry in majority[:_BEST]]
    content = f"<p>{html.escape(note)}</p>{tables.plain(table.coefficients(ranked))}{tables.plain(best)}"
    return [page.section(identity, "Named features", content)]


def _another(name: str, found: Mapping[str, Any]) -> str:
    parts = [page.section(f"set-{name}", f"Another set: {name}", _results(found, False) + _collections(found))]
    return "\n".join([*parts, *_named(found, f"named-{name}")])


def _collections(found: Mapping[str, Any]) -> str:
    described = found["collections"]
    facts = [key for key in _FACTS if any(key in one for one in described.values())]
    rows = [["collection", "examples", *(_FACTS[key] for key in facts), "what it is"]]
    for name, one in described.items():
        numbers = [f"{one[key]:.3g}" if key in one else "-" for key in facts]
        rows.append([name, f"{one['examples']:,}", *numbers, one["source"]])
    return tables.plain(rows)


def _published() -> str:
    rows = [["transformation", "accuracy in %", ""]]
    for row in published.ROWS:
        value = f"{row.accuracy:.1f}" + ("" if row.sd is None else f" \u00b1 {row.sd:.1f}")
        rows.append([row.name, value, row.note])
    note = (
        f"{published.SOURCE}; chance is {published.CHANCE:.1f} %, intervals are standard deviations of three repeats."
    )
    return f"<p>{html.escape(note)}</p>{tables.plain(rows)}"


def _settings(result: Mapping[str, Any]) -> str:
    return tables.facts({name: one["settings"] for name, one in result["transformations"].items()})
