"""Prompts for any language model: which collection a caption comes from, and what sets collections apart.

Collections have numbers instead of names. The truth is never in the prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from jaxweights.bias.language.captions import Captions
from jaxweights.errors import UserError
from jaxweights.settings import Settings, setting

_PATTERNS, _BULLETS = 2, 5  # of a collection in one summary, and in the condensed one


@dataclasses.dataclass(frozen=True)
class PromptSettings(Settings):
    """How many prompts are written, with how many captions.

    Attributes:
      queries: captions of each collection that a model is asked about; 0 for no prompts.
      demonstrations: captions of each collection that a prompt shows, drawn anew for every prompt.
      summaries: prompts that ask what sets the collections apart.
    """

    SECTION: ClassVar[str] = "language.prompts"

    queries: int = setting(0, at_least=0)
    demonstrations: int = setting(120, at_least=1)
    summaries: int = setting(10, at_least=0)


class Query(NamedTuple):
    """One question to a model.

    Attributes:
      name: of its files.
      prompt: what the model reads.
      truth: number of the collection, from 1; 0 where there is none.
      caption: row of the caption in question; -1 where there is none.
    """

    name: str
    prompt: str
    truth: int = 0
    caption: int = -1


def in_context(captions: Captions, options: PromptSettings, seed: int) -> list[Query]:
    """Prompts that show captions with the number of their collection, and ask for that of another.

    Captions that are asked about are never shown, in any prompt.

    Args:
      captions: of the collections.
      options: numbers of queries and demonstrations.
      seed: random seed.

    Raises:
      UserError: a collection with fewer captions than a prompt and all queries need.
    """
    rows = captions.distinct
    needed = options.queries + options.demonstrations
    for name, own in zip(captions.collections, rows, strict=True):
        if len(own) < needed:
            raise UserError(
                f"{name} has {len(own)} different captions, but {options.queries} queries and "
                f"{options.demonstrations} demonstrations need {needed}. Lower language.prompts.queries or "
                "language.prompts.demonstrations."
            )
    mixed = [np.random.default_rng([seed, 2, k]).permutation(own) for k, own in enumerate(rows)]
    pools = [own[options.queries :] for own in mixed]
    asked = [(int(row), k) for k, own in enumerate(mixed) for row in own[: options.queries]]
    numbers = _listed(len(rows))
    found = []
    for i, (row, k) in enumerate(asked):
        shown = _drawn(pools, options.demonstrations, np.random.default_rng([seed, 3, i]))
        blocks = [f"Caption: {captions.texts[r]}\nCollection: {c + 1}" for r, c in shown]
        prompt = "\n\n".join(
            [
                f"Captions describe the images of {len(rows)} collections. Every example has the number of its "
                f"collection. Say which collection the last caption comes from. Answer with {numbers} alone.",
                *blocks,
                f"Caption: {captions.texts[row]}\nCollection:",
            ]
        )
        found.append(Query(f"in_context_{i:05d}", prompt, k + 1, row))
    return found


def summaries(captions: Captions, options: PromptSettings, seed: int) -> list[Query]:
    """Prompts that show captions of every collection, and ask for two patterns that set each apart.

    Raises:
      UserError: a collection with fewer captions than a prompt shows.
    """
    rows, found = captions.distinct, []
    if options.summaries and min(map(len, rows)) < options.demonstrations:
        short = captions.collections[int(np.argmin([len(own) for own in rows]))]
        raise UserError(
            f"{short} has fewer than {options.demonstrations} different captions. Lower "
            "language.prompts.demonstrations."
        )
    for i in range(options.summaries):
        rng = np.random.default_rng([seed, 4, i])
        drawn = [sorted(rng.choice(own, options.demonstrations, replace=False)) for own in rows]
        blocks = [listing(f"Collection {k + 1}", (captions.texts[r] for r in own)) for k, own in enumerate(drawn)]
        task = (
            f"These are captions of images from {len(rows)} collections. For every collection, name {_PATTERNS} "
            "patterns that its captions have and those of the others have not. Write one line per pattern, which "
            'begins with the number of the collection and a colon, such as "1: ...".'
        )
        found.append(Query(f"summary_{i:05d}", "\n\n".join([task, *blocks])))
    return found


def listing(title: str, texts: Iterable[str]) -> str:
    """A part of a prompt: a title, and a text per line."""
    return "\n".join([f"{title}:", *(f"- {text}" for text in texts)])


def condensing(captions: Captions, answers: Sequence[str]) -> list[Query]:
    """Prompts that condense the patterns in all answers to `summaries`, one per collection; none without answers."""
    found = []
    for k in range(len(captions.collections)):
        lines = [line.strip().lstrip("-* ") for text in answers for line in text.splitlines()]
        own = [line.partition(":")[2].strip() for line in lines if line.startswith(f"{k + 1}:")]
        if own:
            task = (
                "These patterns were found in captions of one collection of images, several times with other captions. "
                f"Condense them to {_BULLETS} short bullet points; what was found most often comes first."
            )
            found.append(Query(f"condensed_{k + 1}", "\n".join([task, "", *(f"- {line}" for line in own)])))
    return found


def _drawn(pools: Sequence[np.ndarray], each: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Rows and collections of the demonstrations of a prompt, in random order."""
    chosen = [(int(r), k) for k, pool in enumerate(pools) for r in rng.choice(pool, each, replace=False)]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _listed(count: int) -> str:
    numbers = [str(i + 1) for i in range(count)]
    return f"{', '.join(numbers[:-1])} or {numbers[-1]}"
