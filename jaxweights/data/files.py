"""Plain files of a data set in a folder: idx or `.npz`."""

from __future__ import annotations

import pathlib

from jaxweights.data import idx, npz
from jaxweights.data.dataset import KNOWN, Raw, known_channels


def read_files(name: str, folder: pathlib.Path, own_folder: bool = False, resize: int = 0) -> Raw | None:
    """Reads the idx files or the `.npz` file of a data set, without checking that the arrays fit together.

    Args:
      name: the data set.
      folder: directory with a folder `<name>` of idx files (not for the known colour sets), or with `<name>.npz`.
      own_folder: whether `folder` itself is known to be the data set's own, so that bare idx files in it are taken for
        any name; otherwise, as they bear no name, only for a known one.
      resize: side that JPEG images are brought to while they are decoded, 0 for none.

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
