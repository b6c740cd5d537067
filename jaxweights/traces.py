"""JAX traces of a few moments of a program: steps of a zoo and of a generator, samples, a series of an audit.

A whole stage makes a trace of gigabytes; what one looks for is in any of its steps. `tensorboard --logdir` with its
profile plug-in, XProf and Perfetto show them.
"""

from __future__ import annotations

import collections
import contextlib
import pathlib
import re
from collections.abc import Iterator

import jax

_folder: pathlib.Path | None = None
_seen: collections.Counter[str] = collections.Counter()


def record_to(folder: pathlib.Path | str | None) -> None:
    """Has moments traced into sub-folders of a folder; None for none."""
    global _folder
    _folder = None if folder is None else pathlib.Path(folder)
    _seen.clear()


@contextlib.contextmanager
def moment(work: str, number: int = 1) -> Iterator[None]:
    """Traces the block if it is the `number`-th of its work, from 0, and traces are wanted.

    The first one compiles. The block has to wait for what it dispatches.
    """
    now = _seen[work] == number
    _seen[work] += 1
    if _folder is None or not now:
        yield
        return
    with jax.profiler.trace(str(_folder / re.sub(r"[^\w.-]+", "-", work))):
        yield
