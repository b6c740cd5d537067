"""Captions of several collections."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from jaxweights.bias import reading
from jaxweights.bias.subject import Labelled
from jaxweights.errors import UserError

_COLUMN = "caption"
_LEAST_WORDS = 4  # of a sentence
_NO_PROSE = re.compile(r"^(\s*\||#|\s{4,}|<)")  # tables, headings, code, HTML


@dataclasses.dataclass(frozen=True, eq=False)
class Captions:
    """Captions of images.

    Attributes:
      collections: names of the K collections.
      texts: n captions.
      labels: `[n]` int32, the collection of every caption.
      notes: what was left out, in sentences.
    """

    collections: tuple[str, ...]
    texts: tuple[str, ...]
    labels: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def labelled(self) -> Labelled:
        """As examples of the protocol; equal captions are one group."""
        _, groups = np.unique([text.lower() for text in self.texts], return_inverse=True)
        digest = hashlib.sha256("\0".join((*self.collections, *self.texts)).encode() + self.labels.tobytes())
        return Labelled(self.collections, self.labels, groups, {"digest": digest.hexdigest()})

    @property
    def distinct(self) -> list[np.ndarray]:
        """Rows of every collection without repeated captions."""
        _, first = np.unique(self.labelled.groups, return_index=True)
        return [first[self.labels[first] == k] for k in range(len(self.collections))]

    def of(self, collection: int) -> list[str]:
        """The captions of a collection."""
        return [self.texts[i] for i in np.flatnonzero(self.labels == collection)]


def from_texts(collections: Mapping[str, Sequence[str]]) -> Captions:
    """Captions by collection; those of several collections tell nothing and are left out, with a note.

    Raises:
      UserError: fewer than two collections, or one without captions.
    """
    if len(collections) < 2:
        raise UserError(f"Captions of {len(collections)} collections were given; give two or more.")
    stripped = {name: [" ".join(text.split()) for text in texts] for name, texts in collections.items()}
    stripped = {name: [text for text in texts if text] for name, texts in stripped.items()}
    owners: dict[str, set[str]] = {}
    for name, texts in stripped.items():
        for text in texts:
            owners.setdefault(text.lower(), set()).add(name)
    kept = {name: [t for t in texts if len(owners[t.lower()]) == 1] for name, texts in stripped.items()}
    empty = [name for name, texts in kept.items() if not texts]
    if empty:
        raise UserError(f"The collections {', '.join(empty)} have no captions of their own. Give one text per image.")
    shared = sum(len(names) > 1 for names in owners.values())
    notes = (f"{shared} captions are in several collections and were left out.",) if shared else ()
    labels = np.repeat(np.arange(len(kept), dtype=np.int32), [len(texts) for texts in kept.values()])
    return Captions(tuple(kept), tuple(text for texts in kept.values() for text in texts), labels, notes)


def read(paths: Mapping[str, str]) -> Captions:
    """Captions from a file per collection.

    `.txt` has one caption per line; `.csv`, `.tsv` and `.jsonl` have a column or key `caption`; of `.md` the sentences
    of running text are read, without headings, tables and code.

    Args:
      paths: collection → file.

    Raises:
      UserError: another kind of file, or one that cannot be read; see `from_texts`.
    """
    return from_texts({name: _read(pathlib.Path(path)) for name, path in paths.items()})


def _read(path: pathlib.Path) -> list[str]:
    kind = path.suffix.lower()
    if kind == ".md":
        return sentences(reading.read_text(path))
    if kind == ".txt":
        return reading.read_text(path).splitlines()
    found = [row[_COLUMN] for row in reading.rows(path, (_COLUMN,))]
    other = next((value for value in found if not isinstance(value, str)), None)
    if other is not None:
        raise UserError(f"{path} has a caption that is no text: {str(other)[:40]}. Write one text per row.")
    return found


def sentences(markdown: str) -> list[str]:
    """The sentences of running text in a Markdown file, without markup, of four words or more."""
    outside = re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    found = []
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.)\s)", outside):
        lines = [line for line in paragraph.splitlines() if not _NO_PROSE.match(line)]
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(lines))
        text = re.sub(r"[`*]|^\s*(?:-|\d+\.)\s", "", text)
        found += [s.strip() for s in re.split(r"(?<=[.!?;:])\s+", text) if len(s.split()) >= _LEAST_WORDS]
    return found
