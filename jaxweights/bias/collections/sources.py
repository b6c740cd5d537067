"""Where collections come from: folders, archives, and the image sets of `jaxweights.data`."""

from __future__ import annotations

import abc
import dataclasses
import glob
import os
import pathlib
import tarfile
import zlib
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np

from jaxweights import data
from jaxweights.bias.collections.base import Collection
from jaxweights.bias.collections.reading import Item, Reading, read_items
from jaxweights.data.inspection import Inspection
from jaxweights.data.known import ALIASES, KNOWN
from jaxweights.data.sources import as_path
from jaxweights.errors import UserError
from jaxweights.settings import setting

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Ends of the names of images; other files are passed over."""

_TAR_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Source(Reading, abc.ABC):
    """A collection to read; see `Reading` for what is done to its images."""

    KIND: ClassVar[str]
    """Its key in the registry."""

    @abc.abstractmethod
    def read(self, name: str, data_dir: str | os.PathLike | None = None) -> Collection:
        """Reads the collection.

        Args:
          name: name of the collection.
          data_dir: folder of data sets, see `data.load`; relative paths are looked for there, too.

        Raises:
          UserError: nothing is there, or files cannot be used.
        """


@dataclasses.dataclass(frozen=True)
class Folder(Source):
    """All images below a folder, sorted by path.

    Attributes:
      path: the folder.
    """

    KIND: ClassVar[str] = "folder"

    path: str = ""

    def read(self, name: str, data_dir: str | os.PathLike | None = None) -> Collection:
        """See `Source.read`."""
        folder = _existing(self.path, name, data_dir)
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give one of images as the path of the collection {name}.")
        found = image_paths(folder)
        if not found:
            raise UserError(
                f"{folder} has no images ({', '.join(SUFFIXES)}); give another path of the collection {name}."
            )
        items = (Item(path.relative_to(folder).as_posix(), _content(path)) for path in found)
        return read_items(name, items, len(found), self, Inspection(folder, "images", skip=self.skip_bad))


@dataclasses.dataclass(frozen=True)
class Archive(Source):
    """The images of tar archives, one after the other, as `webdataset` writes them: the files of an example share their
    name up to the first dot, and `.cls` holds its class.

    Attributes:
      path: an archive, or a pattern such as "shards/*.tar".
    """

    KIND: ClassVar[str] = "webdataset"

    path: str = ""

    def read(self, name: str, data_dir: str | os.PathLike | None = None) -> Collection:
        """See `Source.read`."""
        paths = _matching(self.path, name, data_dir)
        inspection = Inspection(paths[0] if len(paths) == 1 else paths[0].parent, "files", skip=self.skip_bad)
        # Counted first, so that pixels are allocated once; headers alone are read for it.
        count = sum(1 for path in paths for _ in _members(path, None, contents=False))
        items = (item for path in paths for item in _members(path, inspection))
        return read_items(name, items, count, self, inspection)


@dataclasses.dataclass(frozen=True)
class ImageSet(Source):
    """An image set that `data.load` finds by its name, or a subset of it.

    Attributes:
      dataset: its name.
      part: "train", "test", or "all", which has the test images behind the training images.
      classes: classes to keep; all by default.
      first: images of these classes that are passed over, so that several collections have their own images.
    """

    KIND: ClassVar[str] = "image_set"

    dataset: str = "digits"
    part: Literal["train", "test", "all"] = "train"
    classes: tuple[int, ...] = setting((), at_least=0)
    first: int = setting(0, at_least=0)

    def read(self, name: str, data_dir: str | os.PathLike | None = None) -> Collection:
        """See `Source.read`."""
        loaded = data.load(self.dataset, data_dir, skip_bad=self.skip_bad)
        parts = {"train": ("train",), "test": ("test",), "all": ("train", "test")}[self.part]
        images = np.concatenate([getattr(loaded, f"{part}_images") for part in parts])
        labels = np.concatenate([getattr(loaded, f"{part}_labels") for part in parts])
        absent = sorted(set(self.classes) - set(range(loaded.num_classes)))
        if absent:
            known = f"has the classes 0 to {loaded.num_classes - 1}; remove {', '.join(map(str, absent))}"
            raise UserError(f"Collection {name}, classes: {loaded.name} {known}.")
        rows = np.flatnonzero(np.isin(labels, self.classes)) if self.classes else np.arange(len(labels))
        kept = rows[self.first :][: self.limit or None]
        if len(kept) < max(1, self.limit):
            raise UserError(
                f"Collection {name} wants {self.limit or 'some'} images from the {self.first}th on, but "
                f"{loaded.name} ({self.part}) has {len(rows)} of these classes. Lower first or limit."
            )
        pixels, where = as_bytes(images[kept], loaded.name), f"{loaded.name} ({self.part}), {_subset(self)}"
        items = (Item(f"image {row}", pixels[i], int(labels[row])) for i, row in enumerate(kept))
        found = read_items(name, items, len(kept), self, Inspection(where, "images", skip=self.skip_bad))
        return dataclasses.replace(found, skipped=(*loaded.skipped, *found.skipped))


def _subset(source: ImageSet) -> str:
    classes = f"classes {', '.join(map(str, source.classes))}" if source.classes else "all classes"
    return f"{classes}, from {source.first} on"


def as_bytes(images: np.ndarray, name: str) -> np.ndarray:
    """Images of a data set, uint8 of any scale or floats in [0, 1], as uint8 on the scale 0 ... 255."""
    known = KNOWN.get(ALIASES.get(name, name))
    scale = known.full_scale if known and images.dtype == np.uint8 else 255.0 if images.dtype == np.uint8 else 1.0
    if scale == 255.0:
        return images
    if images.min() < 0 or images.max() > scale:
        raise UserError(
            f"The images of {name} range from {images.min():g} to {images.max():g}; give them as bytes, or as numbers "
            "from 0 to 1."
        )
    return np.round(images * (255.0 / scale)).astype(np.uint8)


def _existing(path: str, name: str, data_dir: str | os.PathLike | None) -> pathlib.Path:
    """A path as it is given, or below the folder of data sets."""
    given = as_path(path, f"The path of the collection {name}")
    places = [given] if data_dir is None else [given, as_path(data_dir, "data_dir") / given]
    for place in places:
        if place.exists():
            return place
    looked = " and ".join(map(str, places))
    raise UserError(f"There is no {looked}; give the right path of the collection {name}.")


def _matching(path: str, name: str, data_dir: str | os.PathLike | None) -> list[pathlib.Path]:
    """The files that a path or a pattern names, sorted."""
    given = as_path(path, f"The path of the collection {name}")
    for place in [given] if data_dir is None else [given, as_path(data_dir, "data_dir") / given]:
        found = sorted(pathlib.Path(match) for match in glob.glob(str(place)))
        if found:
            return found
    raise UserError(f"There is no archive {path}; give the right path of the collection {name}.")


def image_paths(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images below a folder, sorted by path."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return [path for path in found if not path.name.startswith(".")]


def _content(path: pathlib.Path) -> bytes:
    """Bytes of a file; none of one that cannot be read, which is then refused as empty."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _members(path: pathlib.Path, inspection: Inspection | None, contents: bool = True) -> Iterator[Item]:
    """The images of an archive in order. One that ends too early is noted, and what it has until there is used."""
    key, label, waiting = "", -1, list[Item]()

    def finished() -> list[Item]:
        """The images of an example, with its label."""
        return [item._replace(name=f"{path.name}/{item.name}", label=label) for item in waiting]

    try:
        with tarfile.open(path, "r|*") as archive:
            for member in filter(tarfile.TarInfo.isfile, archive):
                folder, _, name = member.name.rpartition("/")
                if key != (key := f"{folder}/{name.partition('.')[0]}"):
                    yield from finished()
                    label, waiting = -1, []
                suffix = pathlib.PurePosixPath(name).suffix.lower()
                file = archive.extractfile(member) if contents and suffix in (*SUFFIXES, ".cls") else None
                content = file.read() if file else b""
                if suffix in SUFFIXES:
                    waiting.append(Item(member.name, content))
                elif suffix == ".cls" and content.strip().isdigit():
                    label = int(content)
        if inspection is not None and not _ended(path):
            inspection.bad[path.name] = "is truncated (it has no end-of-archive mark)"
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        if inspection is not None:
            inspection.bad[path.name] = f"is truncated or no tar archive ({error})"
    yield from finished()


def _ended(path: pathlib.Path) -> bool:
    """Whether an archive ends with the empty block that ends every archive; `tarfile` takes one that was cut between or
    within headers for whole. Compressed ones have an end of their own, which was read."""
    with path.open("rb") as file:
        is_plain = file.read(_TAR_BLOCK)[257:262] == b"ustar"
        size = file.seek(0, os.SEEK_END)
        if not is_plain:
            return True
        file.seek(max(0, size - _TAR_BLOCK))
        return size % _TAR_BLOCK == 0 and not any(file.read(_TAR_BLOCK))
