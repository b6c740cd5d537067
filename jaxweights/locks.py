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
FOLLOWERS = ".lock-others"
"""Locked by all processes of a job but the first, together: where the first is gone, they may still be writing."""

_WAIT_SECONDS = 2 * processes.HEARTBEAT_SECONDS


@dataclasses.dataclass
class _Held:
    file: IO[str]
    count: int = 1


_held: dict[pathlib.Path, _Held] = {}
_known: set[pathlib.Path] = set()  # folders that were locked before; processes that are left there are of this job


def acquire(folder: pathlib.Path | str) -> pathlib.Path:
    """Locks a folder, and removes what killed writers left of files in it.

    In a job of several processes all call it, the first one first, see `processes.in_turn`. Processes of a former job
    whose first one is gone are waited for, since they end as soon as they find out.

    Args:
      folder: existing folder, which can be written.

    Returns:
      What `release` takes.

    Raises:
      UserError: another process has it; names the process and its host.
    """
    folder = pathlib.Path(folder).resolve()
    path, held = folder / (LOCK if processes.is_first() else FOLLOWERS), _held.get(folder)
    if held is not None and _is_at(held.file, path):
        held.count += 1
        return folder
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (open as long as the lock is held)
    if processes.is_first():
        _hold(file, folder)
    else:
        _flock(file, fcntl.LOCK_SH)
    _held[folder] = _Held(file, 1 if held is None else held.count + 1)
    return folder


def _hold(file: IO[str], folder: pathlib.Path) -> None:
    if not _flock(file, fcntl.LOCK_EX):
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise UserError(
            f"{folder} is in use by {owner}. Wait until that has ended, or end it, or choose another folder."
        )
    try:
        if folder not in _known:
            _await_followers(folder)
    except UserError:
        file.close()
        raise
    _known.add(folder)
    with contextlib.suppress(OSError):  # a full disk: locked it is
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} ({_program()}, {time.strftime('%Y-%m-%d %H:%M')})")
        file.flush()
    files.remove_stale(folder)


def _await_followers(folder: pathlib.Path) -> None:
    """Waits until the other processes of a former job have ended."""
    path, end = folder / FOLLOWERS, time.monotonic() + _WAIT_SECONDS
    if not path.exists():
        return
    with open(path, "a+", encoding="utf-8") as file:
        while not _flock(file, fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise UserError(
                    f"{folder} is in use by processes of a job whose first process has ended. End them, or choose "
                    "another folder."
                )
            time.sleep(0.2)


def _flock(file: IO[str], how: int) -> bool:
    """Takes a lock unless others have it; whether it did. Where there are no locks, it says so."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        folder = pathlib.Path(file.name).parent
        print(f"{folder}: this file system has no locks; start one job at a time here.", file=sys.stderr)
    return True


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
    """Holds the lock of a folder, see `acquire`."""
    with processes.in_turn("lock"):
        token = acquire(folder)
    try:
        yield
    finally:
        release(token)


def _is_at(file: IO[str], path: pathlib.Path) -> bool:
    """Whether an open file is still the one of that path: a folder may have been removed and made again."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _program() -> str:
    return pathlib.Path(sys.argv[0]).stem or "python"
