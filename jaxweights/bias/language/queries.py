"""Questions to a language model: one file per answer, so that what was answered is never asked again."""

from __future__ import annotations

import hashlib
import pathlib
import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from jaxweights import files
from jaxweights.bias.language.prompts import Query
from jaxweights.bias.protocol import wilson
from jaxweights.errors import UserError
from jaxweights.progress import Progress

_ANSWER = {"answer": str}


class Model(Protocol):
    """A language model."""

    @property
    def name(self) -> str:
        """What it is called in the answers' files."""
        ...

    def answer(self, prompt: str) -> str:
        """What the model says."""
        ...


def write(queries: Sequence[Query], folder: pathlib.Path) -> None:
    """Writes `<name>.txt` for every query, for models that are asked elsewhere."""
    files.make_dir(folder)
    for query in queries:
        path = folder / f"{query.name}.txt"
        if not path.exists() or path.read_text(encoding="utf-8") != query.prompt:
            files.write_text(path, query.prompt)


def ask(model: Model, queries: Sequence[Query], folder: pathlib.Path) -> dict[str, str]:
    """Asks what has no answer in a folder, and keeps every answer as `<name>.json`.

    Args:
      model: see `Model`.
      queries: what is asked.
      folder: of the answers of this model.

    Returns:
      All answers by name of the query.

    Raises:
      UserError: see `answers`, and what the model raises.
    """
    files.make_dir(folder)
    found = answers(queries, folder)
    missing = [query for query in queries if query.name not in found]
    with Progress(len(missing), f"asking {model.name}", "prompts") as progress:
        for query in missing:
            found[query.name] = model.answer(query.prompt)
            facts = {"prompt": _digest(query), "model": model.name, "answer": found[query.name]}
            files.write_json(folder / f"{query.name}.json", facts)
            progress.update(1)
    return found


def answers(queries: Sequence[Query], folder: pathlib.Path) -> dict[str, str]:
    """The answers in a folder, by name of the query: JSON files with `answer`, and the SHA-256 of `prompt` if known.

    Raises:
      UserError: a file that is no answer, or one to another prompt.
    """
    found = {}
    for query in queries:
        path = folder / f"{query.name}.json"
        if path.exists():
            kept = files.read_json(path, "answer of a model", f"Remove {path} and run the same command again.", _ANSWER)
            if kept.get("prompt", _digest(query)) != _digest(query):
                raise UserError(
                    f"{path} answers another prompt than the one there is now: the captions or the settings have "
                    f"changed. Remove {folder}, or give the former captions."
                )
            found[query.name] = kept["answer"]
    return found


def score(queries: Sequence[Query], found: dict[str, str], num_classes: int) -> dict[str, Any]:
    """How often a model names the right collection.

    An answer counts by its first number; one without a number from 1 to K is wrong and `unreadable`.

    Args:
      queries: with their truth.
      found: answers by name; queries without an answer are left out.
      num_classes: K.

    Returns:
      `accuracy` with Wilson interval, `recall` `[K]`, `confusion` `[K][K]` of the readable answers, `unreadable`,
      `unanswered`.

    Raises:
      UserError: no answer to any query.
    """
    asked = [query for query in queries if query.name in found]
    if not asked:
        raise UserError("None of the prompts has an answer, so that there is nothing to score.")
    said = [_number(found[query.name], num_classes) for query in asked]
    truth = np.array([query.truth for query in asked])
    counts = np.zeros((num_classes, num_classes), int)
    for query, number in zip(asked, said, strict=True):
        if number:
            counts[query.truth - 1, number - 1] += 1
    totals = np.bincount(truth, minlength=num_classes + 1)[1:]
    return {
        "accuracy": wilson(int(np.trace(counts)), len(asked)).to_json(),
        "recall": (np.diag(counts) / np.maximum(totals, 1)).tolist(),
        "confusion": counts.tolist(),
        "unreadable": said.count(0),
        "unanswered": len(queries) - len(asked),
    }


def _number(text: str, num_classes: int) -> int:
    """The first number of an answer, or 0 where it is none of a collection."""
    first = re.search(r"\d+", text)
    number = int(first.group()[:9]) if first else 0
    return number if 1 <= number <= num_classes else 0


def _digest(query: Query) -> str:
    return hashlib.sha256(query.prompt.encode()).hexdigest()
