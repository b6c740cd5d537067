"""Compiled programs that whoever asks for the same settings shares, so that a second call does not compile again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_KEPT = 64  # of every kind


def shared(make: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function that makes programs of settings: equal ones get the one that was made first.

    Settings that cannot be compared, such as a user's generator with arrays in its fields, get one of their own.
    """
    kept = functools.lru_cache(maxsize=_KEPT)(make)

    @functools.wraps(make)
    def find(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return kept(*args, **kwargs)  # type: ignore[arg-type]
        except (TypeError, ValueError):  # of a hash, of arrays that are compared; errors of `make` come again
            return make(*args, **kwargs)

    return find
