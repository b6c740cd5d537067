"""Networks of HyperDiffusion (Erkoç et al., arXiv 2303.17015): a file, or a folder with `checkpoints`, per shape."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Mapping
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
from jaxweights.layouts.tensors import Files

_NAME = re.compile(r"occ_(.+?)_(?:jitter_\d+_)?model_(?:final|current)$|occ_(.+?)(?:_jitter_\d+)?$")
INNER = ("checkpoints/model_final.pth", "checkpoints/model_current.pth")
_LISTS = {"train_split.lst": TRAIN, "val_split.lst": VALIDATION, "test_split.lst": TEST}
_BAD = "*_problematic_shapes.txt"


def nets() -> tuple[Mapping[str, Any], ...]:
    """The published occupancy network of shapes (36,737 parameters)."""
    return ({"name": "field", "hidden": (128, 128, 128), "input_shape": (3,), "outputs": 1},)


def _networks(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Keys and identities of the shapes."""
    for item in sorted(path.iterdir(), key=lambda p: natural(p.name)):
        match = _NAME.match(item.stem if item.is_file() else item.name)
        if match is None:
            continue
        if item.is_file() and item.suffix == ".pth":
            yield item.name, match[1] or match[2]
        elif item.is_dir():
            inner = next((name for name in INNER if (item / name).is_file()), None)
            if inner is not None:
                yield f"{item.name}/{inner}", match[1] or match[2]


def recognise(path: pathlib.Path) -> bool:
    """Whether a folder has files or folders of such names."""
    return path.is_dir() and next(_networks(path), None) is not None


def find(path: pathlib.Path, options: Options) -> Found:
    """Every shape is a run; splits are those of the lists beside the folder, if there are some."""
    shapes = list(_networks(path))
    if not shapes:
        raise nothing("a folder of HyperDiffusion", path, "files occ_<shape>_jitter_0_model_final.pth")
    lists = _folder_of_lists(path, options)
    splits, dropped = _lists(lists) if lists is not None else ({}, set())
    kept = [(key, shape) for key, shape in shapes if shape not in dropped]
    notes = ["every shape is a run of its own"]
    if dropped:
        notes.append(f"{len(shapes) - len(kept):,} shapes of the list of problematic ones are left out")
    entries = [Entry(key, shape, split=splits.get(shape, "")) for key, shape in kept]
    recipe = Recipe("relu", Normalisation(), "occupancy of shapes", "published code of HyperDiffusion", nets())
    return Found("hyperdiffusion", path, entries, Files(path), recipe, notes=tuple(notes))


def _folder_of_lists(path: pathlib.Path, options: Options) -> pathlib.Path | None:
    if options.splits:
        given = pathlib.Path(options.splits).expanduser()
        if not any((given / name).is_file() for name in _LISTS):
            raise UserError(f"--splits={given} has none of {', '.join(_LISTS)}. Give the folder that has them.")
        return given
    return next((at for at in (path, path.parent) if any((at / name).is_file() for name in _LISTS)), None)


def _lists(folder: pathlib.Path) -> tuple[dict[str, str], set[str]]:
    """Splits by shape, and the shapes that published training leaves out."""
    splits: dict[str, str] = {}
    for name, split in _LISTS.items():
        if (folder / name).is_file():
            splits |= dict.fromkeys(_names(folder / name), split)
    return splits, {shape for file in folder.glob(_BAD) for shape in _names(file)}


def _names(file: pathlib.Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").split()
    return [line.removesuffix(".npy").removesuffix(".obj") for line in lines]


LAYOUT = Layout(
    "hyperdiffusion",
    "HyperDiffusion, a network per shape",
    f"files occ_<shape>_jitter_0_model_final.pth, or folders occ_<shape> with {INNER[0]}",
    recognise,
    find,
)
