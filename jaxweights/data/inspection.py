"""Items of a data set that cannot be used: all are looked at before the first refusal, and all are listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec, TypeVar

import numpy as np

from jaxweights.errors import UserError

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Bad(UserError):
    """An item of a data set that cannot be used.

    Attributes:
      reason: what is wrong, a phrase with the item as its subject, e.g. "has no faces".
    """

    def __init__(self, place: object, reason: str, cure: str):
        super().__init__(f"{place} {reason}. {cure}")
        self.reason = reason


class Inspection:
    """Collects the bad items of a folder or file.

    Args:
      where: the folder or file.
      items: what its items are called, in the plural.
      cure: what to do about bad items, e.g. "Correct or remove them".
      skip: whether bad items are left out.

    Attributes:
      bad: reason by item, in the order in which they were found.
    """

    def __init__(self, where: object, items: str, cure: str = "Correct or remove them", skip: bool = False):
        self.where, self.items, self.cure, self.skip = where, items, cure, skip
        self.bad: dict[str, str] = {}

    def look(self, item: str, read: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        """Returns what `read` returns, or None for an item that it refuses as bad."""
        try:
            return read(*args, **kwargs)
        except Bad as error:
            self.bad[item] = error.reason
            return None

    def rows(self, what: str, rows: Sequence[int] | np.ndarray, reason: str) -> None:
        """Adds rows of an array, called `what`, that are bad for one reason."""
        if len(rows):
            self.bad[f"{what} {ranges(rows)}"] = reason

    def sort(self) -> None:
        """Orders the bad items by name."""
        self.bad = dict(sorted(self.bad.items()))

    @property
    def skipped(self) -> tuple[str, ...]:
        """One sentence per bad item."""
        return tuple(f"{item} {reason}" for item, reason in self.bad.items())

    def settle(self, left: int = 1) -> tuple[str, ...]:
        """Returns `skipped`.

        Args:
          left: number of good items.

        Raises:
          UserError: there are bad items and they are not to be left out, or no good one is left.
        """
        if self.bad and not (self.skip and left):
            others = ", or leave them out with --skip_bad" if left else ""
            raise UserError(
                f"{self.where} has {self.items} that cannot be used: {'; '.join(self.skipped)}. {self.cure}{others}."
            )
        return self.skipped


def ranges(numbers: Iterable[int] | np.ndarray) -> str:
    """Whole numbers in words, e.g. "1, 4 to 7, 9"."""
    numbers = np.unique(np.asarray(list(numbers)))
    groups = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1) if len(numbers) else []
    return ", ".join(f"{g[0]} to {g[-1]}" if len(g) > 2 else ", ".join(map(str, g)) for g in groups)
