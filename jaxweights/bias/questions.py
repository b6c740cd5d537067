"""Yes/no questions about images, answered by a model that sees them: how often it says yes, by collection."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from jaxweights.bias import reading
from jaxweights.bias.protocol import wilson
from jaxweights.errors import UserError

QUESTIONS = {
    "product": "Is this a picture that a shop would use to show a product for sale?",
    "white": "Is the background of this picture plain white?",
    "person": "Is there at least one person in this picture?",
    "outdoor": "Was this picture taken outdoors?",
    "domestic": "Does this picture show the inside of somebody's home?",
}
"""The five checks of Zeng, Yin and Liu (arXiv 2412.01876); the wording is not theirs."""
FORM = "Answer with yes or no alone."
"""What follows a question."""

_WORD = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def is_yes(answer: str) -> bool | None:
    """Whether an answer says yes, by its first "yes" or "no"; None where it has neither."""
    found = _WORD.search(answer)
    return found[1].lower() == "yes" if found else None


def read(paths: Mapping[str, str]) -> dict[str, dict[str, list[bool | None]]]:
    """Answers from a table per collection.

    A row of `.csv`, `.tsv` or `.jsonl` has `image`, and `question` and `answer`; one of `.jsonl` may have `answers`
    instead, a mapping from questions to answers.

    Args:
      paths: collection → file.

    Returns:
      By question and collection, what was said of every image, see `is_yes`.

    Raises:
      UserError: a file that cannot be read or lacks these columns, an image twice, or questions that not all
        collections were asked.
    """
    told = {name: _table(pathlib.Path(path)) for name, path in paths.items()}
    asked = {name: {question for question, _ in one} for name, one in told.items()}
    every = set().union(*asked.values())
    lacking = [name for name, one in asked.items() if one != every]
    if lacking:
        raise UserError(
            f"The collections {', '.join(lacking)} were not asked all of {', '.join(sorted(every))}. Give tables of "
            "the same questions."
        )
    order = [q for q in QUESTIONS if q in every] + sorted(every - set(QUESTIONS))
    return {q: {name: [yes for (own, _), yes in one.items() if own == q] for name, one in told.items()} for q in order}


def _table(path: pathlib.Path) -> dict[tuple[str, str], bool | None]:
    """Answers of one collection by question and image."""
    found: dict[tuple[str, str], bool | None] = {}
    for row in reading.rows(path, ("answer", "answers")):
        answers: Any = row["answers"] if "answers" in row else {row.get("question"): row["answer"]}
        if "image" not in row or not isinstance(answers, Mapping) or None in answers:
            raise UserError(f"{path} has rows without `image`, `question` and `answer`. Give all three in every row.")
        for question, answer in answers.items():
            key = str(question), str(row["image"])
            if key in found:
                raise UserError(f"{path} answers {key[0]} twice for the image {key[1]}. Give one answer.")
            found[key] = is_yes(str(answer))
    if not found:
        raise UserError(f"{path} has no answers. Give tables with one row at least.")
    return found


def rates(told: Mapping[str, Mapping[str, list[bool | None]]]) -> dict[str, Any]:
    """How often the answer is yes.

    Args:
      told: of `read`.

    Returns:
      By question, and collection: `value`, `ci95` (Wilson) and `n`, of the readable answers; `unreadable`, the number
      of the others. `value` is None where no answer is readable.
    """
    return {q: {name: _rate(answers) for name, answers in one.items()} for q, one in told.items()}


def _rate(answers: list[bool | None]) -> dict[str, Any]:
    readable = [yes for yes in answers if yes is not None]
    unknown = {"value": None, "ci95": None, "n": 0}
    found = wilson(sum(readable), len(readable)).to_json() if readable else unknown
    return {**found, "unreadable": len(answers) - len(readable)}
