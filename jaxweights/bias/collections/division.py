"""One collection cut into several: without any difference between them, or by what the images show."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxweights.bias.collections.base import Collection
from jaxweights.errors import UserError


def identical(collection: Collection, parts: int, seed: int) -> list[Collection]:
    """Random parts of equal size: pseudo-collections, which no classifier can tell apart on images that it has not
    seen. Equal images come into the same part.

    Args:
      collection: what is cut.
      parts: number of parts, at least 2.
      seed: of the draw.

    Raises:
      UserError: fewer distinct images than parts.
    """
    _, first = np.unique(collection.digests, return_index=True)
    size = len(first) // parts
    if not size:
        raise UserError(f"{collection.name} has {len(first)} distinct images, too few to cut into {parts}.")
    order = np.random.default_rng(seed).permutation(np.sort(first))
    cut = [np.sort(order[part * size : (part + 1) * size]) for part in range(parts)]
    return [
        dataclasses.replace(
            collection.take(rows, f"{collection.name} {part}/{parts}"),
            source=f"{collection.source}; random part {part} of {parts}",
        )
        for part, rows in enumerate(cut, 1)
    ]


def by_class(collection: Collection, groups: Sequence[Sequence[int]] | int) -> list[Collection]:
    """Parts of equal size that show different classes: a bias of meaning alone.

    Args:
      collection: what is cut; its labels are known.
      groups: classes of every part, or a number of parts of equally many classes each, in order; classes that are left
        over are in no part.

    Raises:
      UserError: unknown labels, too few classes, or a class without images or in two parts.
    """
    if collection.labels is None:
        raise UserError(f"The classes of {collection.name} are not known, so that it cannot be cut by class.")
    known = np.unique(collection.labels).tolist()
    if isinstance(groups, int):
        each = len(known) // groups
        if not each:
            raise UserError(f"{collection.name} has {len(known)} classes, too few for {groups} parts.")
        groups = [known[part * each : (part + 1) * each] for part in range(groups)]
    listed = [label for group in groups for label in group]
    if len(set(listed)) < len(listed) or not set(listed) <= set(known) or not all(groups):
        raise UserError(
            f"{collection.name} has the classes {known}; give each of them in one part at most, not {groups}."
        )
    rows = [np.flatnonzero(np.isin(collection.labels, group)) for group in groups]
    size = min(map(len, rows))
    named = [f"classes {', '.join(map(str, group))}" for group in groups]
    # Thinned evenly, so that the part keeps the shares of its classes whatever the order of the images is.
    thinned = [of[np.arange(size) * len(of) // size] for of in rows]
    return [
        dataclasses.replace(
            collection.take(own, f"{collection.name} {name}"), source=f"{collection.source}; of these {name}"
        )
        for own, name in zip(thinned, named, strict=True)
    ]
