"""Plain files of a data set in a folder: idx or `.npz`."""

from __future__ import annotations

import pathlib

from jaxweights.data import idx, npz
from jaxweights.data.dataset import Raw
from jaxweights.data.known import KNOWN, known_channels


def read_files(name: str, folder: pathlib.Path, own_folder: bool = False, resize: int = 0) -> Raw | None:
    """Reads the idx files or the `.npz` file of a data set, without checking the arrays.

    Args:
      name: the data set.
      folder: directory with a folder `<name>` of idx files (not for the known colour sets), or with `<name>.npz`.
      own_folder: whether `folder` holds this data set alone, so that idx files directly in it, which carry no name, are
        read for any name; otherwise they are read for known names only.
      resize: side of resized JPEG images, 0 for no resizing.

    Returns:
      The arrays, or None when there are no such files.

    Raises:
      UserError: a file is damaged.
    """
    if name not in KNOWN or KNOWN[name].shape[-1] == 1:
        for place in (folder / name, folder) if own_folder or name in KNOWN else (folder / name,):
            files = idx.find(place)
            if files is not None:
                return idx.read(files, name)
    path = folder / f"{name}.npz"
    return npz.read(path, resize, known_channels(name)) if path.is_file() else None
