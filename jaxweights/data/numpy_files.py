"""Arrays from `.npy` and `.npz` files. What a file is, is found out first, so that other kinds are called by name."""

from __future__ import annotations

import pathlib
import re
import zipfile
import zlib
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np

from jaxweights.data.inspection import Bad

_HEAD = 512  # bytes that tell kinds apart; numpy's headers of plain arrays are shorter


class _Kind(NamedTuple):
    """A kind of file that is not read: first bytes, name, and an expression that reads it in Python, if any."""

    start: bytes
    name: str
    reading: str = ""


_TORCH = _Kind(b"", "a PyTorch file", "torch.load({path!r})")
# Patterns of the first bytes.
_KINDS = (
    _Kind(rb"\x80[\x02-\x05]", "a pickle or an old PyTorch file", "torch.load({path!r}) or pickle.load"),
    _Kind(rb"\x89HDF", "an HDF5 file", "h5py.File({path!r})"),
    _Kind(rb"MATLAB", "a MATLAB file", "scipy.io.loadmat({path!r})"),
    _Kind(rb".{7}\x00\{\"", "a safetensors file", "safetensors.numpy.load_file({path!r})"),
    _Kind(rb"PAR1", "a Parquet file", "pandas.read_parquet({path!r})"),
    _Kind(rb"\x1f\x8b", "compressed with gzip: unpack it by gunzip"),
    _Kind(rb"BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf", "a compressed file: unpack it"),
    _Kind(rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF", "one image"),
    _Kind(rb"\s*(<!DOCTYPE|<html|<\?xml)", "a web page, so its download failed: get it again"),
    _Kind(rb"version https://git-lfs", "a pointer of Git LFS: run `git lfs pull`"),
    _Kind(rb"[\t\r\n\x20-\x7e]+\Z", "a text file", "numpy.loadtxt({path!r}, delimiter=',')"),
)


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
            _refuse_kind(path, start, write)
    except OSError as error:
        raise Bad(path, f"cannot be read ({error.strerror or error})", "Check the file and its permissions.") from error


def _members(path: pathlib.Path, file: BinaryIO, write: str, layouts: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Arrays of a zip archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if any(name.endswith("data.pkl") for name in names):
                raise _other(path, _TORCH, write)
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
    # An encrypted archive is a RuntimeError.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise Bad(path, f"is truncated or damaged ({error})", "Get or write the file again.") from error


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
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        reason = f"is truncated or damaged: {what} cannot be read ({error})"
        raise Bad(path, reason, "Get or write the file again.") from error
    return array


def _header(start: bytes) -> bytes:
    """The description of type and shape at the start of an array's file."""
    if not start.startswith(b"\x93NUMPY") or len(start) < 12:
        return b""
    ends = 10 if start[6] == 1 else 12  # of the bytes that have its length, from byte 8 on
    return start[ends : ends + int.from_bytes(start[8:ends], "little")]


def _refuse_kind(path: pathlib.Path, start: bytes, write: str) -> NoReturn:
    if not start:
        raise Bad(path, "is empty (0 bytes)", "Get or write the file again.")
    kind = next((kind for kind in _KINDS if re.match(kind.start, start, re.DOTALL)), None)
    if kind is None:
        raise Bad(path, "is no .npz or .npy file", f"Write it by {write}.")
    raise _other(path, kind, write)


def _other(path: pathlib.Path, kind: _Kind, write: str) -> Bad:
    if not kind.reading:
        return Bad(path, f"is no .npz or .npy file but {kind.name}", f"What is read is written by {write}.")
    reading = kind.reading.format(path=str(path))
    return Bad(path, f"is {kind.name}, no .npz or .npy", f"Read it by {reading}, and write the arrays by {write}.")
