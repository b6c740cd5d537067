"""How much memory there is, and refusals of what cannot fit."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax

from jaxweights.errors import UserError
from jaxweights.progress import human

_CGROUP = pathlib.Path("/sys/fs/cgroup/memory.max")


class Part(NamedTuple):
    """A part of what some work keeps in memory.

    Attributes:
      what: in words, e.g. "the examples".
      size: bytes.
      cure: what makes it smaller, e.g. "Lower zoo.batch_size".
    """

    what: str
    size: int
    cure: str


def host() -> int:
    """Bytes of memory that this process may use on the host."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(size, int(_CGROUP.read_text()))
    except (OSError, ValueError):  # no control group, or one without a limit ("max")
        return size


def devices() -> int:
    """Bytes of memory of all devices together; on CPU that of the host, which they share."""
    found = jax.local_devices()
    if found[0].platform == "cpu":
        return host()
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in found]
    return sum(limits) if all(limits) else host()  # type: ignore[arg-type]


def refuse_unless_fits(work: str, parts: Sequence[Part], available: int) -> None:
    """Raises `UserError` for work whose parts together need more memory than there is; names the largest part."""
    total, largest = sum(part.size for part in parts), max(parts, key=lambda part: part.size)
    if total > available:
        raise UserError(
            f"{work} needs about {human(total)}B of memory, {human(largest.size)}B of it for {largest.what}, but this "
            f"machine has {human(available)}B. {largest.cure}."
        )


def trim() -> None:
    """Gives freed memory of this process back to the system, which glibc keeps for later otherwise: after work on much
    data gigabytes of it, that count as the process's own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such function
            ctypes.CDLL(None).malloc_trim(0)
