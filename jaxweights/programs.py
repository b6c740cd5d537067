"""Compiled programs: cheap ones, and those that all who ask for the same settings share, compiled once."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

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


@functools.cache
def cheap() -> dict[str, Any] | None:
    """Compiler options of programs that run once, for a moment: XLA's older way of compiling loops for a CPU takes half
    of the time. None where these options are not known."""
    if jax.default_backend() != "cpu" or not importlib.metadata.version("jaxlib").startswith("0.10."):
        return None
    return {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
