"""What is truer of the images of one collection than of those of the others: descriptions that a language model
proposes from captions, and that images rank (VisDiff: Dunlap et al., arXiv 2312.02974).

A proposer sees captions of both groups; a ranker compares every description with every image, by the cosine of their
embeddings in a model like CLIP, and keeps what tells the images apart.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from jaxweights.bias import auroc
from jaxweights.bias.language.captions import Captions
from jaxweights.bias.language.prompts import Query, listing
from jaxweights.errors import UserError
from jaxweights.settings import Settings, setting

_ITEM = re.compile(r"^\s*(?:[-*\u2022]|\d{1,3}[.):])\s+(.*\w.*)$")
_LONGEST = 200  # letters of a description


@dataclasses.dataclass(frozen=True)
class ProposalSettings(Settings):
    """Descriptions that are truer of one collection than of the others.

    Attributes:
      rounds: prompts for each collection, with fresh captions; 0 for none.
      captions: captions of the collection, and as many of the others, that a prompt shows.
      count: descriptions that a prompt asks for.
      embeddings: by collection, what `launch.annotate --task=embed` wrote of its images, which rank the descriptions.
    """

    SECTION: ClassVar[str] = "language.proposals"

    rounds: int = setting(0, at_least=0)
    captions: int = setting(20, at_least=1)
    count: int = setting(10, at_least=1, at_most=100)
    embeddings: Mapping[str, str] = dataclasses.field(default_factory=dict)


def queries(captions: Captions, options: ProposalSettings, seed: int) -> list[Query]:
    """Prompts that show captions of a collection and of the others, and ask for descriptions of the former.

    Args:
      captions: of the collections.
      options: numbers of prompts, captions and descriptions.
      seed: random seed.

    Raises:
      UserError: a collection with fewer captions than a prompt shows.
    """
    rows, found = captions.distinct, []
    for k, name in enumerate(captions.collections):
        others = np.concatenate([own for j, own in enumerate(rows) if j != k])
        if options.rounds and min(len(rows[k]), len(others)) < options.captions:
            raise UserError(
                f"{name} or the others have fewer than {options.captions} different captions. Lower "
                "language.proposals.captions."
            )
        for i in range(options.rounds):
            rng = np.random.default_rng([seed, 5, k, i])
            blocks = [
                listing(f"Group {group}", (captions.texts[r] for r in rng.choice(of, options.captions, False)))
                for group, of in (("A", rows[k]), ("B", others))
            ]
            task = (
                f"These are captions of two groups of images. Give {options.count} short descriptions that are true of "
                "more images of group A than of group B: of what they show, or of how they look. A description has ten "
                'words at most and names no group. Write one per line, which begins with "- ", the surest first.'
            )
            found.append(Query(f"proposal_{k + 1}_{i:05d}", "\n\n".join([task, *blocks])))
    return found


def read(answers: Mapping[str, str], collections: int) -> list[list[str]]:
    """The descriptions in answers to `queries`: list items, each once.

    Args:
      answers: by name of the query.
      collections: their number K.

    Returns:
      K lists, in order of the answers; empty for a collection without answers.
    """
    found: list[list[str]] = []
    for k in range(collections):
        own: dict[str, str] = {}
        for name in sorted(name for name in answers if name.startswith(f"proposal_{k + 1}_")):
            for match in filter(None, map(_ITEM.match, answers[name].splitlines())):
                text = " ".join(match[1].strip(" \"'*\u201c\u201d").split())[:_LONGEST]
                own.setdefault(text.lower().rstrip("."), text)
        found.append([text for text in own.values() if text])
    return found


def rank(
    proposals: Sequence[Sequence[str]],
    scores: Sequence[np.ndarray],
    labels: np.ndarray,
    names: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Ranks descriptions by how well their scores tell the images of their collection from the others.

    Args:
      proposals: K lists, of `read`.
      scores: K arrays `[P, n]`, how well each description fits each image.
      labels: `[n]`, the collection of each image; as many of all, so that no collection outweighs the others.
      names: of the collections.
      seed: random seed.

    Returns:
      By collection with descriptions: `images`, those of all collections; `best_at_random`, see
      `auroc.best_at_random`; `ranked`: `{"proposal", "value", "ci95", "n"}`, the largest area first.

    Raises:
      UserError: see `auroc.areas`.
    """
    found = {}
    for k, (texts, own) in enumerate(zip(proposals, scores, strict=True)):
        if texts:
            areas = auroc.areas(own, labels == k)
            order = sorted(range(len(texts)), key=lambda i: (-areas[i].value, texts[i]))
            found[names[k]] = {
                "images": len(labels),
                "best_at_random": auroc.best_at_random(own, labels == k, seed),
                "ranked": [{"proposal": texts[i], **areas[i].to_json()} for i in order],
            }
    return found
