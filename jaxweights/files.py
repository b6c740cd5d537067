"""Files that are complete or absent, because they are synced and renamed, and that are read with their checksums.

JSON objects carry a `checksum` of all their other content; an `.npz` file has one for every array in it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxweights.errors import UserError

CHECKSUM = "checksum"
_TEMPORARY = ".tmp-"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def make_dir(path: pathlib.Path | str) -> pathlib.Path:
    """Creates a folder and its parents, and checks that it can be written.

    Raises:
      UserError: the folder cannot be made or written.
    """
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        if error.errno in _FULL:
            raise unwritable(path, error) from error
        raise UserError(
            f"The folder {path} cannot be written ({error.strerror or error}). Choose another folder (--workdir) or "
            "change its permissions."
        ) from error


def unwritable(path: pathlib.Path | str, error: Exception) -> UserError:
    """What to say about a file or folder that could not be written: whether the disk is full, and the cure."""
    # numpy and TensorStore report a full disk in words of their own.
    words = ("requested and", "free space", "No space left", "quota exceeded")
    if getattr(error, "errno", None) in _FULL or any(w in str(error) for w in words):
        return UserError(
            f"The disk is full: {path} could not be written. Free some space and run the same command again; it goes "
            "on from what is done."
        )
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0][:200]
    return UserError(
        f"{path} could not be written ({reason}). Make its folder writable and run the same command again; it goes on "
        "from what is done."
    )


@contextlib.contextmanager
def atomic(path: pathlib.Path | str) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write; on success it is synced and renamed to `path`, on an exception it is removed.

    Raises:
      UserError: the disk is full, or the file cannot be written for another reason.
    """
    path = pathlib.Path(path)
    # The suffix is kept, since some writers (numpy, matplotlib) choose the format by it.
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_dir(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_stale(folder: pathlib.Path) -> None:
    """Removes what killed writers left of files below a folder that nobody else writes to."""
    for path in folder.rglob(f"{_TEMPORARY}*"):
        path.unlink(missing_ok=True)


def _sync_dir(path: pathlib.Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: pathlib.Path | str, text: str) -> None:
    """Writes a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path | str, data: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically, with its checksum.

    Args:
      path: the file.
      data: JSON data without NaN and infinities, which are not JSON (write None instead).
    """
    sealed = {**data, CHECKSUM: _checksum(data)}
    write_text(path, json.dumps(sealed, indent=1, allow_nan=False) + "\n")


def read_json(path: pathlib.Path | str, what: str, cure: str, shape: Any = dict) -> Any:
    """Reads a JSON file, without its checksum.

    Args:
      path: the file.
      what: name of the kind of file, for the message.
      cure: advice to the user when it cannot be read, for the message.
      shape: what it has to hold: a type, `{key: shape}` with the keys that it needs, `{str: shape}` for any keys, or
        `[shape]`.

    Raises:
      UserError: absent, unreadable, not JSON, of another shape, or changed since it was written.
    """
    try:
        data = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"There is no {what} at {path}. {cure}") from error
    except OSError as error:
        raise UserError(f"The {what} at {path} cannot be read ({error.strerror or error}). {cure}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a {what}: it is truncated or foreign ({error}). {cure}") from error
    stored = data.pop(CHECKSUM, None) if isinstance(data, dict) else None
    if stored is not None and stored != _checksum(data):
        raise UserError(f"{path} does not match its checksum: it was changed or damaged after it was written. {cure}")
    problem = _problem(data, shape)
    if problem:
        raise UserError(f"{path} is not a {what}: {problem}. {cure}")
    return data


def _checksum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, allow_nan=False).encode()).hexdigest()


def _problem(data: Any, shape: Any, place: str = "") -> str | None:
    """Why JSON data does not have a shape, see `read_json`."""
    kind = shape if isinstance(shape, type) else type(shape)
    if not isinstance(data, (int, float) if kind is float else kind):
        expected = {dict: "an object", list: "a list", str: "a text"}.get(kind, "a number")
        return f"{place or 'it'} is {json.dumps(data)[:40]} instead of {expected}"
    if isinstance(shape, list):
        parts = {f"{place}[{i}]": (value, shape[0]) for i, value in enumerate(data)}
    elif isinstance(shape, dict) and str in shape:
        parts = {f"{place}.{key}": (value, shape[str]) for key, value in data.items()}
    elif isinstance(shape, dict):
        missing = [key for key in shape if key not in data]
        if missing:
            return f"{place or 'it'} has no {', '.join(missing)}"
        parts = {f"{place}.{key}": (data[key], inner) for key, inner in shape.items()}
    else:
        return None
    problems = (_problem(value, inner, name.lstrip(".")) for name, (value, inner) in parts.items())
    return next((problem for problem in problems if problem), None)


def write_npz(path: pathlib.Path | str, arrays: Mapping[str, Any]) -> None:
    """Writes an `.npz` file of arrays by name atomically."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **dict[str, Any](arrays))


def read_npz(path: pathlib.Path | str, what: str, cure: str) -> dict[str, np.ndarray]:
    """Reads the arrays of an `.npz` file and compares them with their checksums.

    Args:
      path: the file.
      what: name of the kind of file, for the message.
      cure: advice to the user when it cannot be read, for the message.

    Raises:
      UserError: absent, unreadable, not such a file, or changed since it was written.
    """
    try:
        # Opened here because numpy leaves a damaged file that it opened itself unclosed.
        with open(path, "rb") as file:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
            if damaged is None:
                file.seek(0)
                with np.load(file, allow_pickle=False) as arrays:
                    return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError as error:
        raise UserError(f"There is no {what} at {path}. {cure}") from error
    except Exception as error:  # a damaged directory of a zip file can raise nearly anything
        raise UserError(f"{path} is not a {what}: it is truncated, damaged or foreign ({error}). {cure}") from error
    raise UserError(f"{path} does not match its checksum: {damaged} was changed or damaged. {cure}")


def sha256(path: pathlib.Path | str) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class JsonLines:
    """A file with one JSON object per line, each flushed as it is written.

    Args:
      path: the file.
    """

    def __init__(self, path: pathlib.Path | str):
        self.path = pathlib.Path(path)

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a line.

        Raises:
          UserError: the disk is full, or the file cannot be written for another reason.
        """
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise unwritable(self.path, error) from error

    def keep(self, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        """Removes the rows that are not wanted, and lines that a killed writer did not end."""
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines(keepends=True) if _wanted(line, wanted)]
        if "".join(lines) != text:
            write_text(self.path, "".join(lines))


def _wanted(line: str, wanted: Callable[[Mapping[str, Any]], bool]) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return line.endswith("\n") and isinstance(row, dict) and wanted(row)
