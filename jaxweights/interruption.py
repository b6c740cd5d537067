"""SIGTERM, which schedulers send before they take a machine away: the program saves what it can and exits with 143."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

STATUS = 128 + signal.SIGTERM
"""Exit status of a program that was told to end."""

_AGAIN_SECONDS = 0.05

_noted = False
_deferred = 0


def install() -> None:
    """Makes SIGTERM end the program as an exception does, so that files are closed and times written down."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _handle)
        sys.unraisablehook = functools.partial(_retry, sys.unraisablehook)


def _handle(*_) -> None:
    global _noted
    _noted = True
    if not _deferred:
        stop()


def _retry(otherwise: Callable[[Any], Any], lost: Any) -> None:
    """Sends the signal again where Python drops the exception: in callbacks of its collector, of which JAX has one."""
    if _noted and issubclass(lost.exc_type, SystemExit):
        threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        otherwise(lost)


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
