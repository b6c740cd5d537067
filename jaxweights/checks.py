"""Conditions on values, and the sentences about values that fail them."""

from __future__ import annotations

import abc
import dataclasses
import difflib
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np

LARGEST_INT = 2**31 - 1
"""Steps, counts and sizes are int32 in compiled programs."""
LARGEST_FLOAT = 1e18
"""The square of a larger number overflows float32."""


class Readable(abc.ABC):
    """A value that is written in a config in a form of its own, such as a distribution."""

    @classmethod
    @abc.abstractmethod
    def from_setting(cls, value: Any, path: str) -> Self:
        """Reads what a config has under `path`; raises `UserError` for what it cannot read."""

    @abc.abstractmethod
    def to_setting(self) -> Any:
        """What `from_setting` reads, as JSON-like values."""

    @property
    def numbers(self) -> tuple[float, ...]:
        """The numbers in it, which have to satisfy the conditions of the field."""
        return ()


@dataclasses.dataclass(frozen=True)
class Check:
    """Conditions on a field's value; on every entry of a tuple. Values that are None pass.

    Numbers that are not finite, or too large for the types of compiled programs, never pass.

    Attributes:
      at_least: smallest value.
      above: value that must be exceeded.
      at_most: largest value; by default `LARGEST_INT` for whole numbers, else `LARGEST_FLOAT`.
      below: value that must not be reached.
      one_of: the possible values, or a function that returns them, for names in a registry that is filled later.
      length: fewest and most entries of a tuple; None for no limit.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    one_of: Iterable[Any] | Callable[[], Iterable[Any]] | None = None
    length: tuple[int, int | None] | None = None

    def problem(self, value: Any) -> str | None:
        """What to do about a value that fails, e.g. "set it to at least 1"; None for one that passes."""
        if value is None:
            return None
        if isinstance(value, Readable):
            return next((p for p in map(self.problem, value.numbers) if p), None)
        if isinstance(value, tuple):
            low, high = self.length or (0, None)
            if len(value) < low or (high is not None and len(value) > high):
                return f"give {_count(low, high)}"
            return next((p for p in map(self.problem, value) if p), None)
        if self.one_of is not None:
            known = tuple(self.one_of() if callable(self.one_of) else self.one_of)
            return None if value in known else choose(value, known)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return None
        return self._number(value)

    def _number(self, value: Any) -> str | None:
        whole = issubclass(type(value), numbers.Integral)
        if not whole and not math.isfinite(value):
            return "set it to a finite number"
        # Programs compute in float32, where a number just below 1 may be 1, and a tiny one 0.
        rounded = float(np.float32(value)) if abs(value) <= LARGEST_FLOAT else value
        within = (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or min(value, rounded) > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or max(value, rounded) < self.below)
        )
        if not within:
            return f"set it {self._range()}"
        limit = LARGEST_INT if whole else LARGEST_FLOAT
        if abs(value) <= max(limit, self.at_most or 0):
            return None
        return f"set it to at {'most ' if value > 0 else 'least -'}{_plain(limit)}"

    def _range(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"between {_plain(self.at_least)} and {_plain(self.at_most)}"
        parts = [
            f"{word} {_plain(bound)}"
            for word, bound in (
                ("to at least", self.at_least),
                ("above", self.above),
                ("to at most", self.at_most),
                ("below", self.below),
            )
            if bound is not None
        ]
        return " and ".join(parts)


def choose(value: Any, known: Sequence[Any]) -> str:
    """What to do about a value that is none of the known ones, with the nearest of these."""
    near = difflib.get_close_matches(str(value), [str(k) for k in known], 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"set it to one of {', '.join(map(str, known))}{hint}"


def suggest(key: Any, known: Sequence[str]) -> str:
    """The names that there are, the nearest one first."""
    near = difflib.get_close_matches(str(key), known, 1)
    hint = f"did you mean {near[0]}? There are" if near else "there are"
    return f"{hint} {', '.join(known)}"


def shown(value: Any) -> str:
    """A value in a message, shortened."""
    value = value.item() if isinstance(value, np.generic) else value
    text = repr(value.to_setting() if isinstance(value, Readable) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _count(low: int, high: int | None) -> str:
    if low == high or high is None:
        return f"{'at least ' if high is None else ''}{low} {'entry' if low == 1 else 'entries'}"
    return f"{low} to {high} entries"


def _plain(bound: float) -> str:
    return f"{bound:d}" if isinstance(bound, int) else f"{bound:g}"
