"""Reads a file of any kind that is known, by its first bytes."""

from __future__ import annotations

import contextlib
import mmap
import pathlib
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from jaxweights.errors import UserError
from jaxweights.formats import numpy_files, safetensors, torch_files
from jaxweights.formats.contents import Content, Refused

_HEAD = 512  # bytes that tell kinds apart
_PICKLES = tuple(b"\x80" + bytes([version]) for version in range(2, 6))
_AGAIN = "Copy the file again, or write it anew."


def read(path: pathlib.Path | str, what: str) -> Content:
    """What a file holds, of whatever kind it is.

    Args:
      path: the file; "~" is the home folder.
      what: what it is read for, in messages.

    Raises:
      UserError: no file, one of a kind that is not read, with objects or programs that are not, or a damaged one.
    """
    path = pathlib.Path(path).expanduser()
    try:
        with path.open("rb") as file:
            return _read(path, file, what)
    except Refused as error:
        raise UserError(f"{what} {path} {error}") from error
    except FileNotFoundError as error:
        raise UserError(f"{what} {path} does not exist.") from error
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read ({error.strerror or error}).") from error
    except MemoryError as error:
        raise UserError(f"{what} {path} is damaged, or does not fit in memory ({error}).") from error
    except (ValueError, TypeError, OverflowError, RecursionError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{what} {path} is truncated or damaged ({reason}). {_AGAIN}") from error


def _read(path: pathlib.Path, file: IO[bytes], what: str) -> Content:
    head = file.read(_HEAD)
    size = path.stat().st_size
    file.seek(0)
    if head.startswith(b"PK"):
        return _archive(file, size)
    if head.startswith(numpy_files.MAGIC):
        return Content(numpy_files.read_npy(file, size), "a NumPy .npy file")
    if head.startswith(torch_files.MAGIC):
        with _mapped(file) as data:
            return Content(torch_files.read_old(data), "a PyTorch file of before 1.6")
    if head.startswith(_PICKLES):
        with _mapped(file) as data:
            return Content(torch_files.read_pickle(data), "a pickle file")
    if safetensors.fits(head):
        return Content(*safetensors.read(file, size))
    raise Refused("is empty (0 bytes)." if not head else "is of an unknown kind.")


def _archive(file: IO[bytes], size: int) -> Content:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if any(name.endswith("data.pkl") for name in names):
            return Content(torch_files.read_zip(archive, size), "a PyTorch file")
        foreign = [name for name in names if not name.endswith(".npy")]
        if foreign or not names:
            found = f"holds {', '.join(foreign[:3])}" if foreign else "is empty"
            raise Refused(f"is a zip archive that {found}, not arrays.")
        return Content(numpy_files.read_npz(archive, size), "an .npz file")


@contextlib.contextmanager
def _mapped(file: IO[bytes]) -> Iterator[Any]:
    """The content of a file, which takes no memory of its own."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data
