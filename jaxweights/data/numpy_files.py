"""Arrays from `.npy` and `.npz` files. What a file is, is found out first, so that other kinds are called by name."""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Iterable, Sequence
from typing import BinaryIO

import numpy as np

from jaxweights.data.inspection import Bad
from jaxweights.errors import UserError
from jaxweights.formats.kinds import recognise

_HEAD = 512  # bytes that tell kinds apart; numpy's headers of plain arrays are shorter


def read_arrays(path: pathlib.Path, content: str, layouts: Sequence[Sequence[str]] = ()) -> dict[str, np.ndarray]:
    """Reads the arrays of an `.npz` file by name, or the one of an `.npy` file under the name "".

    Args:
      path: the file.
      content: what it is to hold, for messages: arguments of numpy.savez.
      layouts: sets of names; of the first one that a file has completely, only these arrays are read.

    Raises:
      Bad: no file, a file of another kind, a truncated or damaged one, Python objects.
    """
    write = f"numpy.savez({path.stem + '.npz'!r}, {content})"
    if not path.is_file():
        raise Bad(path, "is a folder" if path.is_dir() else "does not exist", f"Give a file written by {write}.")
    try:
        with path.open("rb") as file:
            start = file.read(_HEAD)
            file.seek(0)
            if start.startswith(b"\x93NUMPY"):
                return {"": _array(path, "its array", file, start)}
            if start.startswith(b"PK"):
                return _members(path, file, write, layouts)
            raise _other(path, start, (), write)
    except OSError as error:
        raise Bad(path, f"cannot be read ({error.strerror or error})", "Check the file and its permissions.") from error


def _members(path: pathlib.Path, file: BinaryIO, write: str, layouts: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Arrays of a zip archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if recognise(b"", names):
                raise _other(path, b"", names, write)
            foreign = [name for name in names if not name.endswith(".npy")]
            if foreign:
                found = f"is a zip archive with {', '.join(foreign[:3])}{' and more' if foreign[3:] else ''}, no .npz"
                raise Bad(path, found, f"Unpack it, and write the arrays by {write}.")
            arrays, keys = {}, [name.removesuffix(".npy") for name in names]
            for key in next((layout for layout in layouts if set(layout) <= set(keys)), keys):
                with archive.open(f"{key}.npy") as member:
                    start = member.read(_HEAD)
                with archive.open(f"{key}.npy") as member:
                    arrays[key] = _array(path, f"its array {key}", member, start)
            return arrays
    except (UserError, OSError):
        raise
    except Exception as error:  # an encrypted archive is a RuntimeError, say
        raise Bad(path, f"is truncated or damaged ({str(error)[:200]})", "Get or write the file again.") from error


def _array(path: pathlib.Path, what: str, file, start: bytes) -> np.ndarray:
    if b"|O" in _header(start):
        raise Bad(
            path,
            f"cannot be read: {what} holds Python objects, often rows of different sizes",
            "Write numbers: numpy.stack(rows) of rows of one size, or array.astype(int).",
        )
    try:
        array = np.lib.format.read_array(file, allow_pickle=False)
        # The checksum of a member of an archive is compared at its end.
        if file.read(1):
            raise ValueError("there are more bytes than its header states")
    except Exception as error:  # what numpy and zipfile raise for damaged files is no closed list
        reason = f"is truncated or damaged: {what} cannot be read ({' '.join(str(error).split())[:200]})"
        raise Bad(path, reason, "Get or write the file again.") from error
    return array


def _header(start: bytes) -> bytes:
    """The description of type and shape at the start of an array's file."""
    if not start.startswith(b"\x93NUMPY") or len(start) < 12:
        return b""
    ends = 10 if start[6] == 1 else 12  # of the bytes that have its length, from byte 8 on
    return start[ends : ends + int.from_bytes(start[8:ends], "little")]


def _other(path: pathlib.Path, start: bytes, names: Iterable[str], write: str) -> Bad:
    """What is wrong with a file of another kind."""
    kind = recognise(start, names)
    if kind is None:
        problem = "is of an unknown kind, no .npz or .npy file" if start else "is empty (0 bytes)"
        return Bad(path, problem, f"Write it by {write}.")
    reading = f"Read it with {kind.modules}, and write" if kind.modules else "Write"
    cure = " ".join(filter(None, [kind.advice, f"{reading} the arrays by {write}." if kind.arrays else ""]))
    return Bad(path, f"is {kind.name}, no .npz or .npy file", cure)
