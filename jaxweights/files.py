"""Atomic files: written under a temporary name, synced, renamed, so that they are complete or absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from jaxweights.errors import UserError


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
        raise UserError(
            f"The folder {path} cannot be written ({error.strerror or error}). Choose another folder (--workdir) or "
            "change its permissions."
        ) from error


@contextlib.contextmanager
def atomic(path: pathlib.Path | str) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write; on success it is synced and renamed to `path`, on an exception it is
    removed."""
    path = pathlib.Path(path)
    # The suffix is kept, since some writers (numpy, matplotlib) choose the format by it.
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_dir(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


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


def write_json(path: pathlib.Path | str, data: Any) -> None:
    """Writes JSON atomically; refuses NaN and infinities, which are not JSON (write None instead)."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: pathlib.Path | str, what: str, cure: str) -> Any:
    """Reads a JSON file.

    Args:
      path: the file.
      what: name of the kind of file, for the message.
      cure: advice to the user when it cannot be read, for the message.

    Raises:
      UserError: absent, unreadable, or not JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"There is no {what} at {path}. {cure}") from error
    except OSError as error:
        raise UserError(f"The {what} at {path} cannot be read ({error.strerror or error}). {cure}") from error
    except ValueError as error:
        raise UserError(f"{path} is not a {what}: it is truncated or foreign ({error}). {cure}") from error


def sha256(path: pathlib.Path | str) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def json_lines(path: pathlib.Path | str) -> Iterator[Callable[[Any], None]]:
    """Yields a function that appends one JSON value per line to a file, each flushed as it is written."""
    with open(path, "a", encoding="utf-8") as file:

        def write(row: Any) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        yield write
