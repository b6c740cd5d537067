"""The idx files of MNIST and Fashion-MNIST: four files, plain or compressed with gzip."""

from __future__ import annotations

import gzip
import math
import pathlib
import zlib

import numpy as np

from jaxweights.data.dataset import Raw
from jaxweights.errors import UserError

_STEMS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
_HEADER_BYTES = 4
# Deflate compresses by at most about 1,032, so a header with a larger ratio is damaged.
_MOST_COMPRESSION = 1100

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
    if not found:
        return None
    for stem in _STEMS:
        if stem not in found:
            raise UserError(
                f"{folder} has {', '.join(p.name for p in found.values())} but not {_names(stem)[0]}[.gz]; add the "
                "missing file."
            )
    return list(found.values())


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
      UserError: a file is truncated, damaged, not idx, or belongs to the other data set; the message names it.
    """
    arrays = [read_array(path) for path in files]
    first = tuple(arrays[1].reshape(-1)[:10].tolist())
    for sibling, labels in _FIRST_LABELS.items():
        if name in _FIRST_LABELS and name != sibling and first == labels:
            raise UserError(
                f"{files[1]} belongs to {sibling}, not to {name}, whose files have the same names; put the files of "
                f"{name} into a folder {name} of the data directory."
            )
    return Raw(*arrays, files="idx " + ", ".join(path.name for path in files), where=str(files[0].parent))


def read_array(path: pathlib.Path) -> np.ndarray:
    """Reads one idx file of bytes.

    Args:
      path: the file; a name that ends in `.gz` is decompressed.

    Returns:
      uint8 array of the shape that the file's header states.

    Raises:
      UserError: the file is unreadable, truncated, too long, or does not hold bytes.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            return _parse(file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); it is damaged or truncated: get the file again.") from error


def _parse(file, path: pathlib.Path) -> np.ndarray:
    magic = file.read(_HEADER_BYTES)
    if len(magic) < _HEADER_BYTES or magic[:3] != b"\x00\x00\x08" or magic[3] not in (1, 2, 3, 4):
        raise UserError(f"{path} is not an idx file of bytes (it starts with {magic.hex() or 'nothing'}).")
    rank = magic[3]
    header = file.read(_HEADER_BYTES * rank)
    if len(header) < _HEADER_BYTES * rank:
        raise UserError(f"{path} is truncated inside its header: get the file again.")
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
    size = math.prod(shape)
    if size > path.stat().st_size * _MOST_COMPRESSION:
        raise UserError(f"{path} states the shape {shape}, far more than the file can hold: get the file again.")
    array = np.empty(shape, np.uint8)
    view = array.reshape(-1).data
    filled = 0
    while filled < size:
        count = file.readinto(view[filled:])
        if not count:
            raise UserError(
                f"{path} is truncated: its header states {size} bytes, it has {filled}: get the file again."
            )
        filled += count
    if file.read(1):
        raise UserError(f"{path} has more than the {size} bytes that its header states: get the file again.")
    return array
