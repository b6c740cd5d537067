"""Reads a file of any kind that is known."""

from __future__ import annotations

import contextlib
import mmap
import pathlib
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from jaxweights import checkpoints
from jaxweights.errors import UserError
from jaxweights.formats import hdf5, kinds, msgpack, numpy_files, safetensors, torch_files
from jaxweights.formats.contents import Content, Refused, largest

_AGAIN = "Copy the file again, or write it anew."


def read(path: pathlib.Path | str, what: str, absent: str = "", *, mapped: bool = False) -> Content:
    """What a file holds, of whatever kind it is.

    NumPy (`.npy`, `.npz`), PyTorch (both containers, and tensors in pickles), safetensors, HDF5 and MATLAB 7.3, msgpack
    of Flax, and folders of Orbax.

    Args:
      path: the file; "~" is the home folder.
      what: what it is read for, in messages.
      absent: what to do where there is no such file, for the message.
      mapped: leave arrays on disk where the format lets them: arrays of `.npy` and safetensors files, of archives that
        are not packed, and of both containers of PyTorch are views of a map of the file, and matrices of HDF5 are
        `hdf5.Rows`. Packed archives, pickles, MATLAB files, msgpack and Orbax are read whole all the same.

    Raises:
      UserError: no file, one of a kind that is not read, with objects or programs that are not, or a damaged one.
    """
    path = pathlib.Path(path).expanduser()
    try:
        if path.is_dir():
            return _folder(path)
        with path.open("rb") as file:
            return _read(path, file, mapped)
    except Refused as error:
        raise UserError(f"{what} {path} {error}") from error
    except FileNotFoundError as error:
        raise UserError(f"{what} {path} does not exist. {absent}".rstrip()) from error
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read ({error.strerror or error}).") from error
    except MemoryError as error:
        raise UserError(f"{what} {path} is damaged, or does not fit in memory ({error}).") from error


@contextlib.contextmanager
def _whole(kind: str) -> Iterator[None]:
    """Surrounds the reading of a file of a kind; what goes wrong with it is that it is damaged."""
    try:
        yield
    except (Refused, UserError, OSError, MemoryError):
        raise
    except Exception as error:  # what libraries raise for damaged files is no closed list
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise Refused(f"is {kind} that is truncated or damaged ({reason}). {_AGAIN}") from error


def _read(path: pathlib.Path, file: IO[bytes], mapped: bool) -> Content:
    head = file.read(kinds.HEAD)
    size = path.stat().st_size
    file.seek(0)
    # Not closed: arrays are views of it, and the last of them closes it.
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if mapped and head else None
    if head.startswith(b"PK"):
        with _whole("a zip archive"), zipfile.ZipFile(file) as archive:
            return _archive(archive, size, data)
    kind = kinds.recognise(head)
    if kind is None:
        raise Refused("is of an unknown kind." if head else "is empty (0 bytes).")
    if kind not in _READERS:
        raise Refused(f"is {kind.name}. {kind.advice}")
    with _whole(kind.name):
        found = _READERS[kind](path, file, size, data)
        value, texts = found if kind in _WITH_TEXTS else (found, {})
        return Content(value, kind.name, texts)


def _archive(archive: zipfile.ZipFile, size: int, data: Any) -> Content:
    names = archive.namelist()
    if kinds.recognise(b"", names) is kinds.TORCH:
        with _whole(kinds.TORCH.name):
            return Content(torch_files.read_zip(archive, size, data), kinds.TORCH.name)
    foreign = [name for name in names if not name.endswith(".npy")]
    if foreign or not names:
        found = f"holds {', '.join(foreign[:3])}" if foreign else "is empty"
        raise Refused(f"is a zip archive that {found}, not arrays.")
    with _whole("an .npz file"):
        return Content(numpy_files.read_npz(archive, size, data), "an .npz file")


def _folder(path: pathlib.Path) -> Content:
    """The tree of a folder that Orbax wrote: of itself, or of the item in it."""
    inside = [path, *sorted(inner for inner in path.iterdir() if inner.is_dir())]
    trees = [folder for folder in inside if checkpoints.holds_tree(folder)]
    if not trees:
        raise Refused("is a folder, and not one of Orbax; give a file in it.")
    if trees[0] != path and len(trees) > 1:
        names = ", ".join(folder.name for folder in trees[:3])
        raise Refused(f"is a folder with {len(trees)} checkpoints; give one of them: {names}.")
    with _whole("a folder of Orbax"):
        return Content(checkpoints.read_tree(trees[0], largest), "a folder of Orbax")


@contextlib.contextmanager
def _mapped(file: IO[bytes]) -> Iterator[Any]:
    """The content of a file, which takes no memory of its own."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


_Reader = Callable[[pathlib.Path, IO[bytes], int, Any], Any]
"""Reads a file, of its path, the open file, its bytes, and a map of it or None."""


def _of_map(read: Callable[[Any], Any]) -> _Reader:
    def of_file(path: pathlib.Path, file: IO[bytes], size: int, data: Any) -> Any:
        with _mapped(file) as data:
            return read(data)

    return of_file


def _old_torch(path: pathlib.Path, file: IO[bytes], size: int, data: Any) -> Any:
    if data is not None:
        return torch_files.read_old(data, copy=False)
    return _of_map(torch_files.read_old)(path, file, size, None)


_READERS: dict[kinds.Kind, _Reader] = {
    kinds.NUMPY: lambda path, file, size, data: numpy_files.read_npy(file, size, data=data),
    kinds.OLD_TORCH: _old_torch,
    kinds.PICKLE: _of_map(torch_files.read_pickle),
    kinds.SAFETENSORS: lambda path, file, size, data: safetensors.read(file, size, data),
    kinds.HDF5: lambda path, file, size, data: hdf5.read(path, mapped=data is not None),
    kinds.MATLAB_7: lambda path, file, size, data: hdf5.read(path, turned=True),
    kinds.MSGPACK: _of_map(msgpack.read),
}
_WITH_TEXTS = (kinds.SAFETENSORS, kinds.HDF5, kinds.MATLAB_7)
