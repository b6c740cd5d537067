"""Subsets where classifiers learn from some examples and are asked about others: from real networks to the samples of
generators, and back. Otherwise as in `protocol`.
"""

from __future__ import annotations

import numpy as np

from jaxweights.bias.protocol import Split, rows_of
from jaxweights.errors import UserError


def splits(
    labels: np.ndarray,
    groups: np.ndarray,
    asked: np.ndarray,
    num_train: int,
    num_validation: int,
    repeats: int = 3,
    seed: int = 0,
) -> list[Split]:
    """Draws the subsets of the repeats; groups that a repeat asks about are not learned from, in no collection.

    Args:
      labels: `[n]` int, the collection of each example, `0 ... K - 1`.
      groups: `[n]`, what must not be on both sides.
      asked: `[n]` bool, examples that are asked about; the others are learned from.
      num_train: groups of each collection to learn from, in every repeat; 0 for all that are left.
      num_validation: groups of each collection to be asked about.
      repeats: number of subsets; their validation sets share no group.
      seed: random seed.

    Raises:
      UserError: too few groups.
    """
    labels = np.asarray(labels, np.int32)
    names, groups = np.unique(np.asarray(groups), return_inverse=True)
    place = np.random.default_rng([seed, 0]).permutation(len(names))
    count, out = int(labels.max()) + 1, []
    about, from_ = ([_ordered(groups[(labels == i) & side], place) for i in range(count)] for side in (asked, ~asked))
    for r in range(repeats):
        validation = [own[r * num_validation : (r + 1) * num_validation] for own in about]
        left = [own[~np.isin(own, np.concatenate(validation))] for own in from_]
        wanted = num_train or max(1, min(map(len, left)))
        train = [np.roll(own, -r * (len(own) // repeats))[:wanted] for own in left]
        for i in range(count):
            if len(validation[i]) < num_validation or len(train[i]) < wanted:
                raise UserError(
                    f"Collection {i} has {len(about[i])} independent examples to be asked about and {len(from_[i])} to "
                    f"learn from, too few for {repeats} repeats of {num_validation} and {wanted}. Give "
                    "more, or lower bias.num_train, bias.num_validation or bias.repeats."
                )
        out.append(Split(labels, rows_of(labels, groups, train, ~asked), rows_of(labels, groups, validation, asked)))
    return out


def control_splits(
    labels: np.ndarray,
    groups: np.ndarray,
    asked: np.ndarray,
    num_train: int,
    num_validation: int,
    repeats: int = 3,
    seed: int = 0,
) -> list[Split]:
    """Draws the subsets of the control: repeat r has collection `r % K`, cut into K pseudo-collections of random
    groups, on either side; arguments as of `splits`.

    Raises:
      UserError: a collection with fewer groups on a side than pseudo-collections.
    """
    labels = np.asarray(labels, np.int32)
    names, groups = np.unique(np.asarray(groups), return_inverse=True)
    count, out = int(labels.max()) + 1, []
    for r in range(repeats):
        own, place = labels == r % count, np.random.default_rng([seed, 1, r]).permutation(len(names))
        about = _ordered(groups[own & asked], place)
        from_ = np.setdiff1d(groups[own & ~asked], about)
        if len(from_) < count:  # all of them can be asked about: half of each part is
            about, from_ = about[: len(about) // 2], _ordered(about[len(about) // 2 :], place)
        if min(len(about), len(from_)) < count:
            raise UserError(
                f"Collection {r % count} has too few independent examples for a control of {count} pseudo-collections; "
                "each needs one to learn from and one to be asked about. Give more examples."
            )
        pseudo = np.full(len(names), -1, np.int32)
        for side, most in ((_ordered(from_, place), num_train), (about, num_validation)):
            side = side[: count * min(len(side) // count, most or len(side))]
            pseudo[side] = np.arange(len(side)) % count
        renamed = np.where(own, pseudo[groups], -1).astype(np.int32)
        sides = (np.isin(groups, from_) & ~asked, np.isin(groups, about) & asked)
        parts = [np.flatnonzero(pseudo == i) for i in range(count)]
        out.append(Split(renamed, *(rows_of(renamed, groups, parts, side) for side in sides)))
    return out


def _ordered(groups: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The distinct groups in the order of drawing."""
    own = np.unique(groups)
    return own[np.argsort(place[own])]
