"""Sets of neural fields of images: those of DWSNets (Navon et al., arXiv 2301.12780) and of neural functionals
(nfn, Zhou et al., arXiv 2302.14040)."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from jaxweights.errors import UserError
from jaxweights.layouts.base import (
    TEST,
    TRAIN,
    VALIDATION,
    Entry,
    Found,
    Layout,
    Normalisation,
    Options,
    Recipe,
    natural,
    nothing,
)
from jaxweights.layouts.hyperdiffusion import INNER
from jaxweights.layouts.tensors import Files

_FOLDER = re.compile(r".*?_png_(training|testing)_(\d+)_(\d+)$")
_CLASS = re.compile(r"(randinit_\w+?)_(\d+)s$")
_FILE = re.compile(r"net(\d+)\.pth$")
_CIFAR_PREFIX, _CIFAR_SPLIT = "randinit_smaller", (45_000, 50_000)  # first validation and test images (nfn)
_PARTS = {"train": TRAIN, "val": VALIDATION, "test": TEST}


def nets() -> tuple[Mapping[str, Any], ...]:
    """SIRENs of grey and of colour images."""
    shared = {"name": "field", "hidden": (32, 32), "activation": "sine", "signal": "image", "input_shape": (2,)}
    return ({**shared, "outputs": 1}, {**shared, "outputs": 3})


def recognise(path: pathlib.Path) -> bool:
    """Whether a folder has folders of images, or of classes with a file per image."""
    return path.is_dir() and any(
        inner.is_dir()
        and (
            (bool(_FOLDER.match(inner.name)) and _inner(inner) is not None)
            or (bool(_CLASS.match(inner.name)) and any(_FILE.match(file.name) for file in inner.glob("net*.pth")))
        )
        for inner in path.iterdir()
    )


def find(path: pathlib.Path, options: Options) -> Found:
    """Every network is a run of its own."""
    folders = sorted((p for p in path.iterdir() if p.is_dir()), key=lambda p: natural(p.name))
    entries = [*_of_images(folders, path), *_of_classes(folders, path)]
    if not entries:
        raise nothing("a set of neural fields", path, "folders mnist_png_training_2_23089 or randinit_test_2s")
    notes = ["every field is a run of its own", "coordinates are from -1 to 1, sines of frequency 30"]
    split = _split_file(path, options)
    if split is not None:
        entries = _given(entries, split)
        notes.append(f"split by {split.name}, whose paths are matched by their ends")
    recipe = Recipe("sine", Normalisation(), "fields of images", "published code of DWSNets and nfn", nets())
    return Found("fields", path, entries, Files(path), recipe, by_order=True, notes=tuple(notes))


def _inner(folder: pathlib.Path) -> str | None:
    return next((name for name in INNER if (folder / name).is_file()), None)


def _of_images(folders: list[pathlib.Path], root: pathlib.Path) -> list[Entry]:
    """Folders such as mnist_png_training_2_23089: part, class, number of the image."""
    found = []
    for folder in folders:
        match, inner = _FOLDER.match(folder.name), _inner(folder)
        if match is None or inner is None:
            continue
        split = TRAIN if match[1] == "training" else TEST
        key = (folder / inner).relative_to(root).as_posix()
        found.append(Entry(key, folder.name, split=split, properties={"label": float(match[2])}))
    return found


def _of_classes(folders: list[pathlib.Path], root: pathlib.Path) -> list[Entry]:
    """Folders such as randinit_smaller_2s, or randinit_smaller_aug0_2s of further fits: files net<image>.pth."""
    found = []
    for folder in folders:
        named = _CLASS.match(folder.name)
        if named is None:
            continue
        for file in sorted(folder.glob("net*.pth"), key=lambda p: natural(p.name)):
            match = _FILE.match(file.name)
            if match is None:
                continue
            image = int(match[1])
            split = ""
            if named[1].startswith(_CIFAR_PREFIX):
                split = TRAIN if image < _CIFAR_SPLIT[0] else VALIDATION if image < _CIFAR_SPLIT[1] else TEST
            properties: dict[str, float | str] = {"label": float(named[2]), "image": float(image)}
            key = file.relative_to(root).as_posix()
            found.append(Entry(key, f"{folder.name}/{file.stem}", split=split, properties=properties))
    return found


def _split_file(path: pathlib.Path, options: Options) -> pathlib.Path | None:
    if options.splits:
        return pathlib.Path(options.splits).expanduser()
    there = sorted(path.glob("*split*.json"))
    if len(there) > 1:
        raise UserError(f"{path} has several split files ({', '.join(f.name for f in there)}); give one with --splits.")
    return there[0] if there else None


def _given(entries: list[Entry], file: pathlib.Path) -> list[Entry]:
    """The networks that a split file lists, with their splits."""
    try:
        parts = json.loads(file.read_text(encoding="utf-8"))
        listed = {str(p): _PARTS[name] for name in _PARTS if name in parts for p in parts[name]["path"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is no split file ({error}): it has {{train, val, test: {{path: [...], label: [...]}}}}."
        ) from error
    by_key = {entry.key: entry for entry in entries}
    found: dict[str, Entry] = {}
    for listed_path, split in listed.items():
        parts = pathlib.PurePosixPath(listed_path.replace("\\", "/")).parts
        key = next((k for i in range(len(parts)) if (k := "/".join(parts[i:])) in by_key), None)
        if key is None:
            raise UserError(f"{file} lists {listed_path}, which is not in the folder of the networks.")
        entry = by_key[key]
        found[key] = Entry(key, entry.run, split=split, properties=entry.properties)
    return list(found.values())


LAYOUT = Layout(
    "fields",
    "neural fields of DWSNets and nfn",
    f"folders mnist_png_training_2_23089 with {INNER[0]}, or randinit_test_2s with net<image>.pth",
    recognise,
    find,
)
