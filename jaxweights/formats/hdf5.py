"""HDF5 files, and those of MATLAB 7.3, which are HDF5 behind a header of text."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from jaxweights import extras
from jaxweights.errors import UserError
from jaxweights.formats.contents import Refused, largest

MAGIC = b"\x89HDF\r\n\x1a\n"
MATLAB = b"MATLAB 7.3"
_DEEPEST = 50
_BLOCK = 16 << 20  # bytes of rows that are read at a time
_PRIVATE = "#"  # what MATLAB keeps for itself


class Rows:
    """A matrix `[N, P]` of an HDF5 file that stays on disk; of its rows some megabytes are read at a time.

    Args:
      path: the file, which stays open.
      name: of the data set.
    """

    ndim = 2

    def __init__(self, path: pathlib.Path, name: str):
        self._rows = extras.module("formats", "h5py").File(path, "r")[name]
        self.shape: tuple[int, int] = self._rows.shape
        self.dtype: np.dtype = self._rows.dtype
        fit = max(1, _BLOCK // max(1, self.shape[1] * self.dtype.itemsize))
        chunk = self._rows.chunks[0] if self._rows.chunks else 1
        self._size = max(chunk, fit // chunk * chunk)  # whole chunks, which may be compressed
        self._number, self._block = -1, np.empty((0, self.shape[1]), self.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> np.ndarray:
        """`[P]`, of the type of the file."""
        number, place = divmod(row, self._size)
        if number != self._number:
            self._number, self._block = number, self._rows[number * self._size : (number + 1) * self._size]
        return self._block[place]


def read(path: pathlib.Path, turned: bool = False, mapped: bool = False) -> tuple[dict[str, Any], dict[str, str]]:
    """The arrays of an HDF5 file by name, those of a group in a mapping of their own, and its texts by name.

    Args:
      path: the file.
      turned: whether the last axis is the first one, as MATLAB has it.
      mapped: whether matrices of numbers stay on disk, as `Rows`.

    Raises:
      Refused: h5py is not installed, or the file names data that are elsewhere.
      ValueError: it is damaged.
    """
    try:
        h5py = extras.module("formats", "h5py")
    except UserError as error:
        raise Refused(f"is an HDF5 file. {error}") from error
    try:
        with h5py.File(path, "r") as file:
            texts = {name: value for name, value in file.attrs.items() if isinstance(value, str)}
            return _group(_File(h5py, turned, largest(path.stat().st_size), path if mapped else None), file, ()), texts
    except (OSError, RuntimeError, KeyError, AttributeError) as error:  # what HDF5 raises for damaged files
        raise ValueError(str(error)) from error


@dataclasses.dataclass
class _File:
    """What is known of a file while it is read.

    Attributes:
      h5py: the package.
      turned: whether the last axis is the first one.
      left: bytes that its data may still have.
      path: the file, where matrices stay on disk; else None.
    """

    h5py: Any
    turned: bool
    left: int
    path: pathlib.Path | None


def _group(file: _File, group: Any, above: tuple[Any, ...]) -> dict[str, Any]:
    h5py = file.h5py
    place = h5py.h5o.get_info(group.id).addr
    if place in above or len(above) >= _DEEPEST:
        raise ValueError("a group holds itself, or groups are nested too deeply")
    found: dict[str, Any] = {}
    for name in group:
        if name.startswith(_PRIVATE):
            continue
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise Refused(f"links to data elsewhere ({name!r}), which are not read. Store the data themselves.")
        item = group[name]
        if isinstance(item, h5py.Group):
            found[name] = _group(file, item, (*above, place))
        elif isinstance(item, h5py.Dataset):
            found[name] = _dataset(file, item)
    return found


def _dataset(file: _File, dataset: Any) -> Any:
    name, h5py = dataset.name, file.h5py
    file.left -= dataset.nbytes
    if file.left < 0:
        raise ValueError(f"{name} of shape {dataset.shape} is said to have {dataset.nbytes:,} bytes, far more than it")
    if dataset.is_virtual or dataset.external:
        raise Refused(f"has its data {name!r} in another file, which is not read. Store the data themselves.")
    if h5py.check_string_dtype(dataset.dtype):
        return dataset.asstr()[()] if dataset.shape == () else dataset.asstr()[()].tolist()
    if dataset.dtype.kind not in "biufcSU":
        raise Refused(f"has {name!r} of the type {dataset.dtype}, which is not read. Store numbers or text.")
    if file.path is not None and dataset.ndim == 2 and dataset.dtype.kind in "biuf":
        return Rows(file.path, name)
    array = np.asarray(dataset[()])
    return array.T if file.turned else array
