"""A lock on a folder, so that two jobs do not write to it; the operating system holds it and ends it with the process.

A process may lock a folder several times; the lock goes with the last one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator
from typing import IO

from jaxweights import files, processes
from jaxweights.errors import UserError

LOCK = ".lock"


@dataclasses.dataclass
class _Held:
    file: IO[str]
    count: int = 1


_held: dict[pathlib.Path, _Held] = {}


def acquire(folder: pathlib.Path | str) -> pathlib.Path:
    """Locks a folder, and removes what killed writers left of files in it.

    Args:
      folder: existing folder, which can be written.

    Returns:
      What `release` takes.

    Raises:
      UserError: another process has it; names the process and its host.
    """
    folder = pathlib.Path(folder).resolve()
    held = _held.get(folder)
    if held is not None and _is_at(held.file, folder / LOCK):
        held.count += 1
        return folder
    file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115  (open as long as the lock is held)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise UserError(
            f"{folder} is in use by {owner}. Wait until that has ended, or end it, or choose another folder."
        ) from error
    except OSError:
        print(f"{folder}: this file system has no locks; start one job at a time here.", file=sys.stderr)
    with contextlib.suppress(OSError):  # a full disk: locked it is
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} ({_program()}, {time.strftime('%Y-%m-%d %H:%M')})")
        file.flush()
    _held[folder] = _Held(file, 1 if held is None else held.count + 1)
    files.remove_stale(folder)
    return folder


def release(folder: pathlib.Path) -> None:
    """Gives up one `acquire`."""
    held = _held[folder]
    held.count -= 1
    if not held.count:
        del _held[folder]
        with contextlib.suppress(OSError):
            held.file.truncate(0)
        held.file.close()


@contextlib.contextmanager
def locked(folder: pathlib.Path | str) -> Iterator[None]:
    """Holds the lock of a folder, see `acquire`; in a job of several processes the first holds it for all."""
    with processes.in_turn("lock"):
        token = acquire(folder) if processes.is_first() else None
    try:
        yield
    finally:
        if token is not None:
            release(token)


def _is_at(file: IO[str], path: pathlib.Path) -> bool:
    """Whether an open file is still the one of that path: a folder may have been removed and made again."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _program() -> str:
    return pathlib.Path(sys.argv[0]).stem or "python"
