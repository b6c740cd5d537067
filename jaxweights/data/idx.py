"""The idx files of MNIST and Fashion-MNIST: four files, plain or compressed with gzip."""

from __future__ import annotations

import gzip
import math
import pathlib
import zlib

import numpy as np

from jaxweights.data.inspection import Bad, Inspection
from jaxweights.data.raw import Raw
from jaxweights.errors import UserError

_STEMS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
_HEADER_BYTES = 4
# Deflate compresses by at most about 1,032, so a header with a larger ratio is damaged.
_MOST_COMPRESSION = 1100

_GZIP = b"\x1f\x8b"
_AGAIN = "Get the file again."

# The first training labels distinguish MNIST from Fashion-MNIST, whose files have the same names.
_FIRST_LABELS = {
    "mnist": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4),
    "fashion_mnist": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5),
}


def find(folder: pathlib.Path) -> list[pathlib.Path] | None:
    """Returns the four idx files of a folder in the order train images, train labels, test images, test labels.

    Returns:
      The files, uncompressed ones before compressed ones, or None when the folder has none of them.

    Raises:
      UserError: some but not all of the four files are there.
    """
    found = {stem: path for stem in _STEMS if (path := _find_one(folder, stem)) is not None}
    missing = [f"{_names(stem)[0]}[.gz]" for stem in _STEMS if stem not in found]
    if found and missing:
        raise UserError(
            f"{folder} has {', '.join(p.name for p in found.values())} but not {', '.join(missing)}; add the missing "
            f"file{'s' if missing[1:] else ''}."
        )
    return list(found.values()) or None


def _names(stem: str) -> tuple[str, str]:
    rank = 3 if stem.endswith("images") else 1
    return f"{stem}-idx{rank}-ubyte", f"{stem}.idx{rank}-ubyte"


def _find_one(folder: pathlib.Path, stem: str) -> pathlib.Path | None:
    for name in _names(stem):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def read(files: list[pathlib.Path], name: str) -> Raw:
    """Reads the four files that `find` returned.

    Args:
      files: the four paths.
      name: the data set; MNIST's files are refused as Fashion-MNIST and vice versa.

    Raises:
      UserError: files are truncated, damaged, not idx, or belong to the other data set; the message names them all.
    """
    inspection = Inspection(files[0].parent, "idx files", "Get these files again")
    read = [inspection.look(path.name, _read_part, path, stem) for path, stem in zip(files, _STEMS, strict=True)]
    inspection.settle(0)
    arrays = [array for array in read if array is not None]
    first = tuple(arrays[1].reshape(-1)[:10].tolist())
    for sibling, labels in _FIRST_LABELS.items():
        if name in _FIRST_LABELS and name != sibling and first == labels:
            raise UserError(
                f"{files[1]} belongs to {sibling}, not to {name}, whose files have the same names; put the files of "
                f"{name} into a folder {name} of the data directory."
            )
    return Raw(*arrays, files="idx " + ", ".join(path.name for path in files), where=str(files[0].parent))


def _read_part(path: pathlib.Path, stem: str) -> np.ndarray:
    array = read_array(path)
    is_labels = stem.endswith("labels")
    if (array.ndim == 1) != is_labels:
        wanted = "labels [n]" if is_labels else "images [n, height, width]"
        raise Bad(path, f"has an array of shape {array.shape}, but {wanted} belong there", "Get the right file.")
    return array


def read_array(path: pathlib.Path) -> np.ndarray:
    """Reads one idx file of bytes, plain or compressed with gzip.

    Args:
      path: the file.

    Returns:
      uint8 array of the shape that the file's header states.

    Raises:
      Bad: the file is unreadable, truncated, too long, or does not hold bytes.
    """
    try:
        # By the content, since browsers and archivers unpack without renaming.
        with path.open("rb") as file:
            compressed = file.read(2) == _GZIP
        with (gzip.open if compressed else open)(path, "rb") as file:
            return _parse(file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise Bad(path, f"cannot be read ({error})", _AGAIN) from error


def _parse(file, path: pathlib.Path) -> np.ndarray:
    magic = file.read(_HEADER_BYTES)
    if len(magic) < _HEADER_BYTES or magic[:3] != b"\x00\x00\x08" or magic[3] not in (1, 2, 3, 4):
        raise Bad(path, f"is not an idx file of bytes (it starts with {magic.hex() or 'nothing'})", _AGAIN)
    rank = magic[3]
    header = file.read(_HEADER_BYTES * rank)
    if len(header) < _HEADER_BYTES * rank:
        raise Bad(path, "is truncated inside its header", _AGAIN)
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
    size = math.prod(shape)
    if size > path.stat().st_size * _MOST_COMPRESSION:
        raise Bad(path, f"states the shape {shape}, far more than the file can hold", _AGAIN)
    array = np.empty(shape, np.uint8)
    view = array.reshape(-1).data
    filled = 0
    while filled < size:
        count = file.readinto(view[filled:])
        if not count:
            raise Bad(path, f"is truncated: its header states {size} bytes, it has {filled}", _AGAIN)
        filled += count
    if file.read(1):
        raise Bad(path, f"has more than the {size} bytes that its header states", _AGAIN)
    return array
