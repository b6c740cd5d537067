"""Plain files of a data set in a folder: idx, `.npz`, or the published ones."""

from __future__ import annotations

import pathlib
import re

from jaxweights.data import idx, npz, originals
from jaxweights.data.known import ALIASES, KNOWN
from jaxweights.data.raw import AS_STORED, Raw, Reading


def read_files(name: str, folder: pathlib.Path, reading: Reading = AS_STORED, own_folder: bool = False) -> Raw | None:
    """Reads the idx files, the `.npz` file or the published files of a data set, without checking the arrays.

    They are looked for in `folder`, in its folder of that name, in any spelling (`MNIST`, `fashion-mnist`), and in the
    folder `raw` of these, where torchvision has them.

    Args:
      name: the data set.
      folder: directory of files or of folders.
      reading: how they are read.
      own_folder: whether `folder` holds this data set alone, so that idx files directly in it, which carry no name, are
        read for any name; otherwise they are read for known names only.

    Returns:
      The arrays, or None when there are no such files.

    Raises:
      UserError: a file is damaged.
    """
    named = _named(name, folder)
    if name not in KNOWN or KNOWN[name].shape[-1] == 1:
        own = (folder, folder / "raw") if own_folder or name in KNOWN or _spells(name, folder) else ()
        for place in (*named, *own):
            files = idx.find(place)
            if files is not None:
                return idx.read(files, name)
    for place in (folder, *named):
        path = place / f"{name}.npz"
        if path.is_file():
            return npz.read(path, reading)
    for place in (folder, *named, folder / "downloads" / name):
        raw = originals.read(name, place, reading)
        if raw is not None:
            return raw
    return None


def _named(name: str, folder: pathlib.Path) -> list[pathlib.Path]:
    """Folders of a data set's name, and the folders `raw` in them."""
    others = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    places = [folder / name, *(path for path in others if path.name != name and _spells(name, path))]
    return [place / below for place in places for below in ("", "raw")]


def _spells(name: str, folder: pathlib.Path) -> bool:
    """Whether a folder has a data set's name, in any spelling."""
    names = {name, *(alias for alias, full in ALIASES.items() if full == name)}
    return _plain(folder.name) in {_plain(each) for each in names}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
