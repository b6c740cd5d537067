"""SIGTERM, which schedulers send before they take a machine away: the program saves what it can and exits with 143."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

STATUS = 128 + signal.SIGTERM
"""Exit status of a program that was told to end."""

_noted = False
_deferred = 0


def install() -> None:
    """Makes SIGTERM end the program as an exception does, so that files are closed and times written down."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _handle)


def _handle(*_) -> None:
    global _noted
    _noted = True
    if not _deferred:
        stop()


def stop() -> None:
    """Ends the program."""
    raise SystemExit(STATUS)


def noted() -> bool:
    """Whether the program was told to end."""
    return _noted


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """The program is not ended within the block, which looks at `noted` and then saves and calls `stop`."""
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1
