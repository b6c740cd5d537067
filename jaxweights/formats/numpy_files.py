"""Arrays of `.npy` and `.npz` files, of any type but Python objects."""

from __future__ import annotations

import math
import zipfile
from typing import IO, Any

import numpy as np

from jaxweights.formats import archives
from jaxweights.formats.contents import Refused

MAGIC = b"\x93NUMPY"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(archive: zipfile.ZipFile, size: int, data: Any = None) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file by name; their checksums are compared on the way.

    Args:
      archive: the file.
      size: its bytes.
      data: a map of it, see `archives.array`.

    Raises:
      Refused: an array of Python objects.
      ValueError: it is damaged.
    """
    found = archives.members(archive, size)
    return {name.removesuffix(".npy"): _member(archive, member, data) for name, member in found.items()}


def read_npy(file: IO[bytes], size: int, name: str = "", data: Any = None) -> np.ndarray:
    """The array of an `.npy` file of `size` bytes; raises as `read_npz` does.

    Args:
      file: the file.
      size: its bytes.
      name: of the array, for messages.
      data: a map of the file, which the array is a read-only view of; None for a new array.
    """
    which = f"the array {name!r}" if name else "its array"
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"{which} has a header of the unknown version {version}")
    shape, fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise Refused(
            f"has Python objects in {which}, which are not read: often vectors of different lengths. Write arrays of "
            "numbers, e.g. numpy.stack(vectors)."
        )
    # Compared before there is memory for it, which a damaged header asks too much of.
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"{which} of shape {shape} and type {dtype} does not fill its {size - file.tell():,} bytes")
    order: Any = "F" if fortran else "C"
    if data is not None:
        return np.ndarray(shape, dtype, data, file.tell(), order=order)
    array = np.empty(shape, dtype, order)
    archives.read_into(file, np.ravel(array, order="K").view(np.uint8) if array.size else np.empty(0, np.uint8))
    return array


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, data: Any) -> np.ndarray:
    stored = data is not None and member.compress_type == zipfile.ZIP_STORED
    with archive.open(member) as file:
        content = archives.array(archive, member, data) if stored else None
        return read_npy(file, member.file_size, member.filename.removesuffix(".npy"), content)
