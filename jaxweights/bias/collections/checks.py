"""What makes collections easy to tell apart, or too easy, for reasons that are no bias of theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxweights.bias.collections.base import Collection
from jaxweights.errors import UserError

_FORMAT_DIFFERENCE = 0.05  # total variation between shares of formats that is worth a warning
_SIZE_RATIO = 1.25  # of median short sides
_SHOWN = 3  # images that a message names


class Checked(NamedTuple):
    """Collections that can be compared.

    Attributes:
      collections: without the images that were removed.
      notes: warnings and what was changed, one sentence each.
    """

    collections: tuple[Collection, ...]
    notes: tuple[str, ...]


def check(
    collections: Sequence[Collection], *, repeated: Literal["refuse", "remove"] = "refuse", least: int = 1
) -> Checked:
    """Checks collections against each other.

    Args:
      collections: two or more.
      repeated: what is done about an image that is in two collections, by its hash: "refuse", or "remove" it from all.
        Of an image that is several times in one collection, the first is kept.
      least: images that all collections together need, such as classes times the size of a batch.

    Raises:
      UserError: fewer than two collections, names that occur twice, images of several shapes, images in two
        collections, or too few.
    """
    names = [collection.name for collection in collections]
    if len(collections) < 2 or len(set(names)) < len(names):
        raise UserError(f"The collections are {', '.join(names) or 'none'}; give two or more, each a name of its own.")
    shapes = {collection.name: "x".join(map(str, collection.shape)) for collection in collections}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise UserError(
            f"The collections have images of several shapes ({listed}); set the same size and channels in all."
        )
    notes = [
        f"{c.name}: {len(c.skipped)} bad items left out ({'; '.join(c.skipped)})." for c in collections if c.skipped
    ]
    once = [_once(collection, notes) for collection in collections]
    apart = _apart(once, repeated, notes)
    total = sum(map(len, apart))
    if not all(map(len, apart)) or total < least:
        listed = ", ".join(f"{c.name} {len(c)}" for c in apart)
        raise UserError(
            f"There are too few images ({listed}): {total} together, and {least} are needed (classes times the size of "
            "a batch). Give more images, or lower bias.classifier.batch_size."
        )
    notes += [*_sizes(apart), *_confounds(apart)]
    return Checked(tuple(apart), tuple(notes))


def _once(collection: Collection, notes: list[str]) -> Collection:
    """A collection without repetitions within it."""
    _, first = np.unique(collection.digests, return_index=True)
    extra = len(collection) - len(first)
    if not extra:
        return collection
    notes.append(f"{collection.name}: {extra} of {len(collection)} images are repetitions and were left out.")
    return collection.take(np.sort(first))


def _apart(collections: list[Collection], repeated: str, notes: list[str]) -> list[Collection]:
    """Collections without images that are in two of them."""
    every = np.concatenate([c.digests for c in collections])
    values, counts = np.unique(every, return_counts=True)
    common = values[counts > 1]
    if not len(common):
        return collections
    shared = {c.name: np.flatnonzero(np.isin(c.digests, common)) for c in collections}
    places = "; ".join(
        f"{name}: {len(rows)}, at {', '.join(map(str, rows[:_SHOWN]))}{', ...' if len(rows) > _SHOWN else ''}"
        for name, rows in shared.items()
        if len(rows)
    )
    if repeated == "refuse":
        raise UserError(
            f"{len(common)} images are in two collections or more, with the same pixels ({places}), which "
            "spoils the splits. Remove them, or set bias.repeated to 'remove'."
        )
    notes.append(f"{len(common)} images that were in two collections or more were left out ({places}).")
    return [c.take(np.setdiff1d(np.arange(len(c)), shared[c.name])) for c in collections]


def _sizes(collections: Sequence[Collection]) -> list[str]:
    counts = {c.name: len(c) for c in collections}
    if len(set(counts.values())) == 1:
        return []
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    return [f"The collections have different sizes ({listed}); {min(counts.values())} of each are compared."]


def _confounds(collections: Sequence[Collection]) -> list[str]:
    """Differences of storage, which a classifier sees and which are no bias of what is shown."""
    notes = []
    alike = len({c.quality for c in collections}) == 1 and collections[0].quality > 0
    traces = (
        " Re-encoded alike; traces of an earlier compression can remain."
        if alike
        else (" Set the same quality in all collections to re-encode them alike.")
    )
    for what, of in (("formats", [c.formats for c in collections]), ("modes", [c.modes for c in collections])):
        if _difference(of) > _FORMAT_DIFFERENCE:
            listed = "; ".join(f"{c.name} {_listed(counts)}" for c, counts in zip(collections, of, strict=True))
            notes.append(
                f"The collections are stored in different {what} ({listed}), which betrays the source.{traces}"
            )
    if len({c.quality for c in collections}) > 1:
        listed = ", ".join(f"{c.name} {c.quality or 'none'}" for c in collections)
        notes.append(f"The collections are re-encoded differently (JPEG quality: {listed}).")
    medians = {c.name: float(np.median(c.sizes.min(axis=1))) for c in collections}
    if max(medians.values()) > _SIZE_RATIO * min(medians.values()):
        listed, least = ", ".join(f"{name} {median:g}" for name, median in medians.items()), min(medians.values())
        shrunk = len({c.shrink for c in collections}) == 1 and 0 < collections[0].shrink <= least
        detail = (
            f" All were shrunk to {collections[0].shrink} first, so that they have the same detail."
            if shrunk
            else f" Set shrink to {least:g} or less in all of them to give them the same detail."
        )
        notes.append(
            f"The collections have different resolutions (median short side: {listed} pixels), and resizing leaves "
            f"traces.{detail}"
        )
    return notes


def _difference(counts: Sequence[Mapping[str, int]]) -> float:
    """Largest total variation distance between two of several lists of counts."""
    shares = [{key: count / max(sum(of.values()), 1) for key, count in of.items()} for of in counts]
    return max(
        0.5 * sum(abs(one.get(key, 0) - other.get(key, 0)) for key in {*one, *other})
        for i, one in enumerate(shares)
        for other in shares[i:]
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {key}" for key, count in sorted(counts.items()))


def balanced(collections: Sequence[Collection], seed: int, count: int = 0) -> list[Collection]:
    """As many images of each collection, drawn at random and kept in order.

    Args:
      collections: any sizes.
      seed: of the draws.
      count: images of each; 0 for the size of the smallest.

    Raises:
      UserError: a collection has fewer.
    """
    smallest = min(collections, key=len)
    count = count or len(smallest)
    if len(smallest) < count:
        raise UserError(
            f"{smallest.name} has {len(smallest)} images, but {count} of each collection are wanted; lower that number."
        )
    rows = [np.random.default_rng([seed, i]).permutation(len(c))[:count] for i, c in enumerate(collections)]
    return [c.take(np.sort(r)) for c, r in zip(collections, rows, strict=True)]
