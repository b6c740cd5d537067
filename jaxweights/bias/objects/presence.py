"""Presence vectors: which named objects each image of several collections shows."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import pathlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights import files
from jaxweights.bias import reading
from jaxweights.bias.language.captions import Captions
from jaxweights.bias.subject import Labelled
from jaxweights.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Presence:
    """Named objects of images.

    Attributes:
      collections: names of the K collections.
      names: of the F objects, sorted.
      present: `[n, F]` bool, whether an image shows an object, once or several times.
      labels: `[n]` int32, the collection of every image.
      images: `[n]`, their names; unique within a collection.
    """

    collections: tuple[str, ...]
    names: tuple[str, ...]
    present: np.ndarray
    labels: np.ndarray
    images: tuple[str, ...]

    @property
    def labelled(self) -> Labelled:
        """As examples of the protocol; every image is a group."""
        digest = hashlib.sha256("\n".join((*self.collections, *self.names, *self.images)).encode())
        digest.update(np.packbits(self.present).tobytes() + self.labels.tobytes())
        groups = np.arange(len(self.labels))
        return Labelled(self.collections, self.labels, groups, {"digest": digest.hexdigest()})

    def balanced(self, seed: int) -> Presence:
        """As many images of every collection as the smallest has, at random."""
        rng, counts = np.random.default_rng(seed), np.bincount(self.labels, minlength=len(self.collections))
        if counts.min() == counts.max():
            return self
        rows = [np.sort(rng.permutation(np.flatnonzero(self.labels == k))[: counts.min()]) for k in range(len(counts))]
        kept = np.concatenate(rows)
        images = tuple(self.images[i] for i in kept)
        return dataclasses.replace(self, present=self.present[kept], labels=self.labels[kept], images=images)


def from_names(collections: Mapping[str, Mapping[str, Sequence[str]]]) -> Presence:
    """Presence vectors from the names of every image.

    Args:
      collections: collection → image → names of its objects; a name counts once per image.

    Raises:
      UserError: fewer than two collections, one without images, or no object at all.
    """
    if len(collections) < 2:
        raise UserError(f"Objects of {len(collections)} collections were given; give two or more.")
    empty = [name for name, images in collections.items() if not images]
    if empty:
        raise UserError(f"The collections {', '.join(empty)} have no images. Give tables with one row at least.")
    names = sorted({name for images in collections.values() for found in images.values() for name in found})
    if not names:
        raise UserError("No image shows a named object, so that there is nothing to compare.")
    place = {name: i for i, name in enumerate(names)}
    counts = [len(images) for images in collections.values()]
    present = np.zeros((sum(counts), len(names)), bool)
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    images = [(image, found) for one in collections.values() for image, found in one.items()]
    for row, (_, found) in enumerate(images):
        present[row, [place[name] for name in found]] = True
    return Presence(tuple(collections), tuple(names), present, labels, tuple(image for image, _ in images))


def read(paths: Mapping[str, str], least_score: float = 0.0) -> Presence:
    """Presence vectors from a table per collection.

    A row of `.csv`, `.tsv` or `.jsonl` has `image` and `name` (one row per object or label; an empty name for an image
    without objects), and may have `score`, the certainty of a detector; one of `.jsonl` may have lists `names` and
    `scores` instead. An `.npz` file has `names` `[F]`, `present` `[n, F]`, and may have `images` `[n]`.

    Args:
      paths: collection → file.
      least_score: objects with a lower score are left out; their images stay.

    Raises:
      UserError: a file that cannot be read or lacks these columns; see `from_names`.
    """
    return from_names({name: _table(pathlib.Path(path), least_score) for name, path in paths.items()})


def _table(path: pathlib.Path, least_score: float) -> dict[str, list[str]]:
    if path.suffix.lower() == ".npz":
        return _arrays(path)
    found: dict[str, list[str]] = {}
    for row in reading.rows(path, ("name", "names")):
        if "image" not in row:
            raise UserError(f"{path} has rows without `image`. Name the image of every row.")
        names = row["names"] if "names" in row else [row["name"]]
        if not isinstance(names, list):
            raise UserError(f"{path} has `names` that are no list, at image {row['image']}. Write a list of names.")
        scores = row["scores"] if "scores" in row else [row.get("score")] * len(names)
        if not isinstance(scores, list) or len(scores) != len(names):
            raise UserError(f"{path} has not one score per name at image {row['image']}. Write lists of one length.")
        kept = found.setdefault(str(row["image"]), [])
        for name, score in zip(names, scores, strict=True):
            if _score(score, row, path) >= least_score and str(name).strip():
                kept.append(str(name).strip())
    return found


def _score(score: Any, row: Mapping[str, Any], path: pathlib.Path) -> float:
    """A score as a number; that of an object without one is infinite."""
    try:
        return math.inf if score in (None, "") else float(score)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} has the score {score!r} at image {row['image']}; give a number.") from error


def _arrays(path: pathlib.Path) -> dict[str, list[str]]:
    arrays = files.read_npz(path, "table of objects", "Give arrays `names` [F] and `present` [n, F].")
    lacking = [key for key in ("names", "present") if key not in arrays]
    if lacking:
        raise UserError(f"{path} lacks {', '.join(lacking)}. Give arrays `names` [F] and `present` [n, F].")
    names, present = arrays["names"].astype(str), arrays["present"]
    images = arrays.get("images", np.arange(len(present))).astype(str)
    if present.shape != (len(images), len(names)):
        raise UserError(
            f"{path} has `present` of shape {present.shape} for {len(images)} images and {len(names)} names; give "
            f"({len(images)}, {len(names)})."
        )
    return {image: list(names[row != 0]) for image, row in zip(images, present, strict=True)}


def read_reference(path: str, presence: Presence) -> tuple[np.ndarray, np.ndarray]:
    """What a reference model said of images that it was not trained on.

    Args:
      path: `.csv`, `.tsv` or `.jsonl` with `collection`, `image` and `predicted`, a collection's name.
      presence: of the images; those that the table does not have are left out, and the other way round.

    Returns:
      `right` `[m]` bool and `rows` `[m]`, see `analysis.correlation`.

    Raises:
      UserError: a file that cannot be read, lacks these columns, or has none of the images.
    """
    table = reading.rows(pathlib.Path(path), ("predicted",))
    if any(key not in row for row in table for key in ("collection", "image")):
        raise UserError(f"{path} has rows without `collection` or `image`. Name both in every row.")
    said = {(str(row["collection"]), str(row["image"])): str(row["predicted"]) for row in table}
    truth = [(presence.collections[k], image) for k, image in zip(presence.labels, presence.images, strict=True)]
    rows = np.array([i for i, key in enumerate(truth) if key in said], int)
    if not len(rows):
        raise UserError(f"{path} has none of the images of objects.collections. Give the same names of collections.")
    return np.array([said[truth[i]] == truth[i][0] for i in rows]), rows


def from_captions(captions: Captions, names: Sequence[str] = (), most: int = 50) -> Presence:
    """Which names captions mention, as a stand-in for detections: whole words, without regard to case or a plural s.

    Args:
      captions: of the collections.
      names: what is looked for; empty for the most frequent words that are no stop words.
      most: number of these.

    Raises:
      UserError: see `from_names`.
    """
    words = [{_singular(word) for word in re.findall(r"[^\W\d_]{3,}", text.lower())} for text in captions.texts]
    if not names:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        stop = ENGLISH_STOP_WORDS | {_singular(word) for word in ENGLISH_STOP_WORDS}
        counts = Counter(word for found in words for word in sorted(found - stop))
        names = sorted(counts, key=lambda word: (-counts[word], word))[:most]
    wanted = {_singular(name.lower()): name for name in names}
    found: dict[str, dict[str, list[str]]] = {name: {} for name in captions.collections}
    for row, mentioned in enumerate(words):
        own = [wanted[word] for word in sorted(mentioned & set(wanted))]
        found[captions.collections[captions.labels[row]]][str(row)] = own
    return from_names(found)


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
