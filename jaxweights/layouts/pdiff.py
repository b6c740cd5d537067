"""Folders of P-diff (Wang et al., arXiv 2402.13144) and RPG (Wang et al., arXiv 2501.11587): checkpoints of one run
with index, accuracy and seed in their names, and the networks that were generated from them."""

from __future__ import annotations

import itertools
import pathlib
import re

from jaxweights.layouts.base import GENERATED, Entry, Found, Layout, Options, Recipe, fraction, nothing
from jaxweights.layouts.plain import files_in
from jaxweights.layouts.tensors import Files

_CHECKPOINT = re.compile(r"(\d{3,})_acc(\d+(?:\.\d+)?)_(?:seed(\d+)_)?(.*)$")
_GENERATED = re.compile(r"generated_(.+)_(\d{3,})$")
_SUBSET = re.compile(r"class(\d+)")
_LOOKED_AT = 50

# Activations of the published networks by the end of their tag; normalised units have no rescaling anyway.
_ACTIVATIONS = (("resnet18", "relu"), ("resnet50", "relu"), ("vit", "gelu"), ("convnext", "gelu"), ("", "leaky_relu"))


def _fits(file: pathlib.Path) -> bool:
    return bool(_CHECKPOINT.match(file.stem) or _GENERATED.match(file.stem))


def recognise(path: pathlib.Path) -> bool:
    """Whether one of the first files has such a name."""
    return path.is_dir() and any(_fits(file) for file in itertools.islice(files_in(path), _LOOKED_AT))


def find(path: pathlib.Path, options: Options) -> Found:
    """All checkpoints; those of a folder are one run, of class-conditional sets those of a subset of classes."""
    del options
    entries, tags, left = [], set(), 0
    for file in files_in(path):
        key = file.relative_to(path)
        made, found = _GENERATED.match(file.stem), _CHECKPOINT.match(file.stem)
        if made:
            tags.add(made[1])
            entries.append(Entry(key.as_posix(), f"{key.parent.as_posix()}/{file.stem}", split=GENERATED))
        elif found:
            tags.add(found[4])
            entries.append(_checkpoint(key, found))
        else:
            left += 1
    if not entries:
        raise nothing("a folder of P-diff or RPG", path, "files NNNN_acc…_seed…_TAG.pth or generated_TAG_NNN.pth")
    notes = [
        "all checkpoints of a folder are one run, at steps by their number",
        "stated accuracies are of test images",
    ]
    if left:
        notes.append(f"{left} other files are left out (pretrained.pth, generated_model.pth and the like)")
    return Found("pdiff", path, entries, Files(path), _recipe(tags), notes=tuple(notes))


def _checkpoint(key: pathlib.Path, found: re.Match) -> Entry:
    subset = _SUBSET.search(found[4])
    folder = key.parent.as_posix()
    run = f"{folder}/{subset[0]}" if subset else folder
    properties: dict[str, float | str] = {"class_subset": float(subset[1])} if subset else {}
    return Entry(
        key.as_posix(),
        run,
        int(found[1]),
        seed=int(found[3]) if found[3] else -1,
        accuracy=fraction(float(found[2])),
        properties=properties,
    )


def _recipe(tags: set[str]) -> Recipe:
    tag = min(tags)
    activation = next(name for part, name in _ACTIVATIONS if part in tag)
    data = tag.partition("_")[0]
    return Recipe(activation, None, data, f"published settings of the tag {tag}")


LAYOUT = Layout(
    "pdiff",
    "P-diff and RPG, checkpoints and samples",
    "files 0000_acc0.7655_seed0040_TAG.pth or generated_TAG_001.pth",
    recognise,
    find,
)
