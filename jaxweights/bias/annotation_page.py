"""`report.html` of objects and captions, in one file in the style of the report."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxweights import files
from jaxweights.bias import annotation_pictures, table
from jaxweights.bias.page import NAME, grid
from jaxweights.report import page, tables, template

_WORDS = 10  # distinctive words in a table


def write(folder: pathlib.Path, result: Mapping[str, Any]) -> pathlib.Path:
    """Draws the figures and writes the page; the same results give the same bytes.

    Args:
      folder: of the comparison.
      result: content of `metrics.json`.

    Returns:
      Its path.
    """
    pictures = annotation_pictures.draw(result, files.make_dir(folder / "figures"))
    parts = [page.section("results", "Which annotations betray the source", _results(result))]
    parts += [page.figure(one) for one in pictures]
    if "objects" in result:
        parts.append(page.section("objects", "Objects", _objects(result["objects"])))
    if "language" in result:
        parts.append(page.section("language", "Captions", _language(result["language"])))
        parts += [_model(name, one) for name, one in result["language"]["models"].items()]
    parts.append(page.section("versions", "Versions", tables.facts(result["versions"])))
    text = template.PAGE.format(
        title="Objects and captions",
        style=template.STYLE,
        facts="What named objects and captions say about the collection that an image comes from.",
        body="\n".join(parts),
        script=template.SCRIPT,
    )
    page.write_page(folder / NAME, text)
    return folder / NAME


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows of all accuracies, in percent, with their intervals."""
    out = [["what is told", "accuracy", "control", "trained", "chance"]]
    known = (
        ("objects, regression", "objects", "regression"),
        ("objects, majority rule", "objects", "majority"),
        ("captions, TF-IDF", "language", "classifier"),
    )
    for name, section, key in known:
        if section in result:
            one, chance = result[section][key], 100 * result[section]["chance"]
            cells = [table.interval(one["accuracy"]), table.interval(one["control"])]
            out.append([name, *cells, f"{100 * one['train_accuracy']:.1f}", f"{chance:.1f}"])
    for name, one in result.get("language", {}).get("models", {}).items():
        chance = 100 * result["language"]["chance"]
        out.append([f"captions, {name}", table.interval(one["accuracy"]), "-", "-", f"{chance:.1f}"])
    return out


def _results(result: Mapping[str, Any]) -> str:
    note = (
        "Percent, with 95 % Wilson intervals over the distinct examples that are asked about. The control is one "
        "collection cut into pseudo-collections at random: what is found there is no bias."
    )
    return grid(rows(result)) + f"<p>{html.escape(note)}</p>"


def _objects(found: Mapping[str, Any]) -> str:
    shown = found["shares"]
    note = f"Objects in fewer than {shown['least']} images are left out ({shown['left_out']})."
    out = grid(table.coefficients(found["named"], 10)) + f"<p>{html.escape(note)}</p>"
    if (found.get("correlation") or {}).get("pearson"):
        one = found["correlation"]["pearson"]
        low, high = one["ci95"]
        out += (
            f"<p>Correlation of an object's largest share with the accuracy of the reference model (of the "
            f"classifier of captions, where objects are words of these) on its images: "
            f"{one['value']:.2f} [{low:.2f}, {high:.2f}] over {one['n']} objects.</p>"
        )
    return out


def _language(found: Mapping[str, Any]) -> str:
    words = [["collection", "most distinctive words (z-score)"]]
    for name, entries in found["distinctive"].items():
        words.append([name, ", ".join(f"{one['word']} ({one['z']:.1f})" for one in entries[:_WORDS])])
    topics = [["collection", "topic", "share in %"]]
    for name, entries in found["topics"].items():
        for place, one in enumerate(entries):
            topics.append([name * (place == 0), ", ".join(one["words"]), f"{100 * one['share']:.0f}"])
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in found["notes"])
    return notes + grid(words) + grid(topics)


def _model(name: str, found: Mapping[str, Any]) -> str:
    facts = [["collection", "recall in %", "condensed summary"]]
    names = list(found["summary"])
    for k, recall in enumerate(found["recall"]):
        label = names[k] if len(names) == len(found["recall"]) else str(k + 1)
        facts.append([label, f"{100 * recall:.1f}", found["summary"].get(label, "-")])
    note = f"{found['unreadable']} answers name no collection, {found['unanswered']} prompts have no answer."
    return page.section(f"model-{name}", f"Language model: {html.escape(name)}", grid(facts) + f"<p>{note}</p>")


def text(result: Mapping[str, Any]) -> str:
    """The accuracies for a terminal."""
    return "\n".join(table.aligned(rows(result)))
