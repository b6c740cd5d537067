"""Where the images of a data set are: by name, in a folder, or in a file."""

from __future__ import annotations

import dataclasses
import difflib
import os
import pathlib
import re

from jaxweights.data import digits, npz, originals, prepared
from jaxweights.data.files import read_files
from jaxweights.data.known import ALIASES, KNOWN, known_channels
from jaxweights.data.raw import Raw, Reading
from jaxweights.errors import UserError

_LONGEST_NAME = 255  # bytes, of the file systems of Linux and macOS
_SHOWN = 5


def default_data_dir() -> pathlib.Path:
    """Returns the directory that tensorflow-datasets uses: `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return as_path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "TFDS_DATA_DIR")


def as_path(path: str | os.PathLike, what: str) -> pathlib.Path:
    """Returns a path with "~" replaced by the home folder.

    Raises:
      UserError: an empty path, a home that is unknown, or what cannot be a path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(f"{what} is {path!r}; give a path.")
    text = os.fspath(path)
    if not text:
        raise UserError(f"{what} is empty; give a path, or leave it out.")
    if "\0" in text or any(len(os.fsencode(part)) > _LONGEST_NAME for part in text.split("/")):
        raise UserError(f"{what} is {text[:80]!r}, which cannot be a path; correct it.")
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{what} is {text!r}, but there is no such home folder; give the whole path.") from error


def find(name: str, data_dir: str | os.PathLike | None, reading: Reading) -> tuple[Raw, str]:
    """Returns the unchecked arrays of a data set and the name under which it goes; see `data.load`.

    Raises:
      UserError: no such data set, or damaged files.
    """
    given = as_path(name, "config.data.name")
    name = ALIASES.get(str(name), str(name))
    folder = default_data_dir() if data_dir is None else as_path(data_dir, "data_dir")
    if name == "digits":
        return digits.read(), name
    if given.suffix == ".npz" or (given.suffix and given.is_file()):
        inside = folder / given
        return npz.read(inside if inside.exists() and not given.is_file() else given, reading), given.stem
    reading = dataclasses.replace(reading, channels=known_channels(name))
    if folder.suffix == ".npz" or folder.is_file():
        return npz.read(folder, reading), name
    found = prepared.find(name, folder)
    if found is not None:
        # The classes of an unknown set are counted in all of its labels.
        limits = reading.limits if name in KNOWN else (0, 0)
        return prepared.read(found, name, dataclasses.replace(reading, limits=limits)), pathlib.Path(name).name
    raw = read_files(name, folder, reading)
    if raw is not None:
        return raw, pathlib.Path(name).name
    raise _missing(name, folder)


def _missing(name: str, folder: pathlib.Path) -> UserError:
    looked = f"{folder} {'has' if folder.is_dir() else 'does not exist, so there is'} no"
    there = _content(folder / name)
    if name not in KNOWN:
        near = _nearest(name)
        meant = f" (did you mean {near}?)" if near else ""
        return UserError(
            f"unknown data set '{name}'{meant}: known are {', '.join(KNOWN)} (and svhn); {looked} {name}.npz and no "
            f"directory {name} prepared for it{there}. Give a known name, the path of an .npz file, or the right "
            "data_dir."
        )
    if name not in originals.ORIGINALS:
        return UserError(
            f"data set '{name}' is not there: {looked} {name}/<version> prepared by tensorflow-datasets and no "
            f"{name}.npz{there}. Run `tfds build {name} --data_dir={folder}` (needs TensorFlow and the network), or "
            "give the data_dir where it is."
        )
    command = f"python -m launch.prepare_data --dataset={name} --data_dir={folder}"
    kinds = f"published files or {name}.npz" if KNOWN[name].shape[-1] == 3 else f"idx files or {name}.npz"
    return UserError(
        f"data set '{name}' is not there: {looked} {name}/<version> prepared by tensorflow-datasets and no "
        f"{kinds}{there}. Run `{command} --download` (needs the network), or `{command} --from=PATH` with a folder or "
        ".npz file that has the images, or give the data_dir where they are."
    )


def _content(folder: pathlib.Path) -> str:
    """What a folder that has the name of the data set holds instead."""
    if not folder.is_dir():
        return ""
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    held = f"holds {', '.join(names[:_SHOWN])}{more}" if names else "is empty"
    return f" ({folder} {held}; a finished <version> has a dataset_info.json)"


def _nearest(name: str) -> str | None:
    """The known name that a misspelt one is nearest to."""
    plain = {re.sub(r"[^a-z0-9]", "", each): each for each in (*KNOWN, *ALIASES)}
    near = difflib.get_close_matches(re.sub(r"[^a-z0-9]", "", name.lower()), list(plain), 1, 0.8)
    return plain[near[0]] if near else None
