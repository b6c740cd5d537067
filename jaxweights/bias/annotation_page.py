"""`report.html` of objects, captions and questions, in one file in the style of the report."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from jaxweights import files
from jaxweights.bias import annotation_pictures, questions, table
from jaxweights.bias.page import NAME
from jaxweights.report import page, tables

_WORDS = 10  # distinctive words in a table
_RANKED = 10  # descriptions of a collection in a table


def write(folder: pathlib.Path, result: Mapping[str, Any]) -> pathlib.Path:
    """Draws the figures and writes the page; the same results give the same bytes.

    Args:
      folder: of the comparison.
      result: content of `metrics.json`.

    Returns:
      Its path.
    """
    pictures = annotation_pictures.draw(result, files.make_dir(folder / "figures"))
    parts = [page.section("results", "Which annotations betray the source", _results(result))] * _is_tried(result)
    parts += [page.figure(one) for one in pictures]
    if "objects" in result:
        parts.append(page.section("objects", "Objects", _objects(result["objects"])))
    if "language" in result:
        parts.append(page.section("language", "Captions", _language(result["language"])))
        parts += [_model(name, one) for name, one in result["language"]["models"].items()]
        parts += [_proposals(name, one) for name, one in result["language"]["proposals"].items()]
    if "questions" in result:
        parts.append(page.section("questions", "Yes/no questions", _questions(result["questions"])))
    parts.append(page.section("versions", "Versions", tables.facts(result["versions"])))
    facts = "What named objects, captions and answers say about the collection that an image comes from."
    return page.write_parts(folder / NAME, "Objects, captions and questions", facts, parts)


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows of all accuracies, in percent, with their intervals."""
    out = [["what is told", "accuracy", "control", "trained", "chance"]]
    for name, section, one in _tried(result):
        cells = [table.interval(one["accuracy"]), table.interval(one["control"]), f"{100 * one['train_accuracy']:.1f}"]
        out.append([name, *cells, f"{100 * result[section]['chance']:.1f}"])
    for name, one in result.get("language", {}).get("models", {}).items():
        chance = 100 * result["language"]["chance"]
        out.append([f"captions, {name}", table.interval(one["accuracy"]), "-", "-", f"{chance:.1f}"])
    return out


def _tried(result: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Names of the classifiers with their section and what `protocol.summary` says of them."""
    if "objects" in result:
        yield "objects, regression", "objects", result["objects"]["regression"]
        yield "objects, majority rule", "objects", result["objects"]["majority"]
    if "language" in result:
        yield "captions, TF-IDF", "language", result["language"]["classifier"]
        encoder = result["language"].get("encoder", {})
        for key, words in (("frozen", "regression on"), ("tuned", "fine-tuned")):
            if key in encoder:
                yield f"captions, {words} {_last(encoder['model'])}", "language", encoder[key]


def _is_tried(result: Mapping[str, Any]) -> bool:
    """Whether there is more than questions."""
    return "objects" in result or "language" in result


def _last(model: str) -> str:
    """The last part of a model's name or folder."""
    return model.rstrip("/").rpartition("/")[2]


def _results(result: Mapping[str, Any]) -> str:
    note = (
        "Percent, with 95 % Wilson intervals over the distinct examples that are asked about. The control is one "
        "collection cut into pseudo-collections at random: what is found there is no bias."
    )
    return tables.plain(rows(result)) + f"<p>{html.escape(note)}</p>"


def _objects(found: Mapping[str, Any]) -> str:
    shown = found["shares"]
    note = f"Objects in fewer than {shown['least']} images are left out ({shown['left_out']})."
    out = tables.plain(table.coefficients(found["named"], 10)) + f"<p>{html.escape(note)}</p>"
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
    return notes + tables.plain(words) + tables.plain(topics)


def _model(name: str, found: Mapping[str, Any]) -> str:
    facts = [["collection", "recall in %", "condensed summary"]]
    names = list(found["summary"])
    for k, recall in enumerate(found["recall"]):
        label = names[k] if len(names) == len(found["recall"]) else str(k + 1)
        facts.append([label, f"{100 * recall:.1f}", found["summary"].get(label, "-")])
    note = f"{found['unreadable']} answers name no collection, {found['unanswered']} prompts have no answer."
    return page.section(f"model-{name}", f"Language model: {html.escape(name)}", tables.plain(facts) + f"<p>{note}</p>")


def _proposals(name: str, found: Mapping[str, Any]) -> str:
    """What a model proposed, as images rank it."""
    out = [["collection", "description", "area under the curve in %", "best at random"]]
    for collection, one in found.items():
        for place, entry in enumerate(one["ranked"][:_RANKED]):
            first = (collection, f"{100 * one['best_at_random']:.1f}") if place == 0 else ("", "")
            out.append([first[0], entry["proposal"], table.interval(entry), first[1]])
    note = (
        "Descriptions that are said to be truer of a collection than of the others. Area: how often an image of the "
        "collection fits better than one of the others, 50 where they fit alike, with 95 % intervals. Best at random: "
        "what the largest area of all descriptions exceeds in 5 % of random groupings of the images."
    )
    content = tables.plain(out) + f"<p>{html.escape(note)}</p>"
    return page.section(f"proposals-{name}", f"Descriptions by {html.escape(name)}", content)


def _questions(found: Mapping[str, Any]) -> str:
    note = "Images of which a model says yes, in percent, with 95 % Wilson intervals."
    return tables.plain(_yes(found)) + f"<p>{note}</p>"


def _yes(found: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows of how often a model says yes, in percent."""
    names = list(next(iter(found.values())))
    out = [["question", *names, "unreadable"]]
    for question, one in found.items():
        cells = [table.interval(one[name]) if one[name]["n"] else "-" for name in names]
        words = questions.QUESTIONS.get(question, question)
        out.append([words, *cells, str(sum(one[name]["unreadable"] for name in names))])
    return out


def text(result: Mapping[str, Any]) -> str:
    """The accuracies and the answers for a terminal."""
    lines = table.aligned(rows(result)) if _is_tried(result) else []
    return "\n".join([*lines, *(table.aligned(_yes(result["questions"])) if "questions" in result else [])])
