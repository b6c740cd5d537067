"""Subsets where classifiers learn from some examples and are asked about others: from real networks to the samples of
generators, and back. Otherwise as in `protocol`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxweights.bias.protocol import Split, rows_of
from jaxweights.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Transfer:
    """Examples of which some are learned from and the others asked about, and how many of each.

    Attributes:
      labels: `[n]` int, the collection of each example, `0 ... K - 1`.
      groups: `[n]`, what must not be on both sides.
      asked: `[n]` bool, examples that are asked about; the others are learned from.
      num_train: groups of each collection to learn from, in every repeat; 0 for all that are left.
      num_validation: groups of each collection to be asked about.
      seed: random seed.
    """

    labels: np.ndarray
    groups: np.ndarray
    asked: np.ndarray
    num_train: int
    num_validation: int
    seed: int = 0

    @property
    def num_classes(self) -> int:
        """K."""
        return int(np.max(self.labels)) + 1

    def splits(self, repeats: int = 3) -> list[Split]:
        """Draws the subsets of the repeats; groups that a repeat asks about are not learned from, in no collection.

        Args:
          repeats: number of subsets; their validation sets share no group.

        Raises:
          UserError: too few groups.
        """
        labels, names, groups = self._numbered()
        place = np.random.default_rng([self.seed, 0]).permutation(len(names))
        count, asked, most, out = self.num_classes, self.asked, self.num_validation, []
        about, from_ = (
            [_ordered(groups[(labels == i) & side], place) for i in range(count)] for side in (asked, ~asked)
        )
        for r in range(repeats):
            validation = [own[r * most : (r + 1) * most] for own in about]
            left = [own[~np.isin(own, np.concatenate(validation))] for own in from_]
            wanted = self.num_train or max(1, min(map(len, left)))
            train = [np.roll(own, -r * (len(own) // repeats))[:wanted] for own in left]
            for i in range(count):
                if len(validation[i]) < most or len(train[i]) < wanted:
                    raise UserError(
                        f"Collection {i} has {len(about[i])} independent examples to be asked about and "
                        f"{len(from_[i])} to learn from, too few for {repeats} repeats of {most} and {wanted}. Give "
                        "more, or lower bias.num_train, bias.num_validation or bias.repeats."
                    )
            rows = rows_of(labels, groups, train, ~asked), rows_of(labels, groups, validation, asked)
            out.append(Split(labels, *rows))
        return out

    def control_splits(self, repeats: int = 3) -> list[Split]:
        """Draws the subsets of the control: repeat r has collection `r % K`, cut into K pseudo-collections of random
        groups, on either side.

        Args:
          repeats: number of subsets.

        Raises:
          UserError: a collection with fewer groups on a side than pseudo-collections.
        """
        labels, names, groups = self._numbered()
        count, asked, out = self.num_classes, self.asked, []
        for r in range(repeats):
            own, place = labels == r % count, np.random.default_rng([self.seed, 1, r]).permutation(len(names))
            about = _ordered(groups[own & asked], place)
            from_ = np.setdiff1d(groups[own & ~asked], about)
            if len(from_) < count:  # all of them can be asked about: half of each part is
                about, from_ = about[: len(about) // 2], _ordered(about[len(about) // 2 :], place)
            if min(len(about), len(from_)) < count:
                raise UserError(
                    f"Collection {r % count} has too few independent examples for a control of {count} "
                    "pseudo-collections; each needs one to learn from and one to be asked about. Give more examples."
                )
            pseudo = np.full(len(names), -1, np.int32)
            for side, most in ((_ordered(from_, place), self.num_train), (about, self.num_validation)):
                side = side[: count * min(len(side) // count, most or len(side))]
                pseudo[side] = np.arange(len(side)) % count
            renamed = np.where(own, pseudo[groups], -1).astype(np.int32)
            sides = (np.isin(groups, from_) & ~asked, np.isin(groups, about) & asked)
            parts = [np.flatnonzero(pseudo == i) for i in range(count)]
            out.append(Split(renamed, *(rows_of(renamed, groups, parts, side) for side in sides)))
        return out

    def _numbered(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels as int32, the distinct groups, and the number of each example's."""
        return (np.asarray(self.labels, np.int32), *np.unique(np.asarray(self.groups), return_inverse=True))


def _ordered(groups: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The distinct groups in the order of drawing."""
    own = np.unique(groups)
    return own[np.argsort(place[own])]
