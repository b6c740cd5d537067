"""Folders as on the Hugging Face hub: `config.json` beside `model.safetensors` or `pytorch_model.bin`, whole or in
shards; or many of them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np

from jaxweights import files, formats
from jaxweights.errors import UserError
from jaxweights.layouts.architectures import ANY_ACTIVATION
from jaxweights.layouts.base import Entry, Found, Layout, Normalisation, Options, Recipe, natural
from jaxweights.layouts.names import parse
from jaxweights.layouts.tensors import read_tensors

_WHOLE = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "adapter_model.bin")
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_CONFIGS = ("config.json", "adapter_config.json")
_ACTIVATIONS = ("hidden_act", "activation_function", "hidden_activation")
_CURE = "Download the folder again."
_DEPTH = 3


def _is_model(folder: pathlib.Path) -> bool:
    has = {name for name in (*_WHOLE, *_INDICES, *_CONFIGS) if (folder / name).is_file()}
    return bool(has & set(_CONFIGS)) and bool(has - set(_CONFIGS))


def _models(folder: pathlib.Path, depth: int = _DEPTH) -> Iterator[pathlib.Path]:
    if _is_model(folder):
        yield folder
    elif depth > 1:
        for inner in sorted(folder.iterdir(), key=lambda path: natural(path.name)):
            if inner.is_dir() and not inner.name.startswith("."):
                yield from _models(inner, depth - 1)


@dataclasses.dataclass(frozen=True)
class Folders:
    """Reads the network of a folder, from one file or all of its shards.

    Attributes:
      root: what keys are relative to.
    """

    root: pathlib.Path

    def __call__(self, key: str) -> dict[str, np.ndarray]:
        """The tensors of a folder by name."""
        folder = self.root / key
        whole = next((folder / name for name in _WHOLE if (folder / name).is_file()), None)
        if whole is not None:
            return read_tensors(whole)
        index = next(folder / name for name in _INDICES if (folder / name).is_file())
        where = files.read_json(index, "index of shards", _CURE, {"weight_map": {str: str}})["weight_map"]
        found: dict[str, np.ndarray] = {}
        for shard in sorted(set(where.values())):
            if pathlib.PurePath(shard).name != shard or shard in ("", ".", ".."):
                raise UserError(f"{index} names the shard {shard!r}, which is not in its folder")
            found |= formats.flat(formats.read(folder / shard, "the shard").value, f"the shard {shard}")
        lacking = sorted(set(where) - set(found))
        if lacking:
            raise UserError(f"{index} names {', '.join(lacking[:3])}, which no shard has")
        # Together, since prefixes go where all names of the network have them.
        return formats.state_dict(found, f"the shards of {key}")[0]


def recognise(path: pathlib.Path) -> bool:
    """Whether there is such a folder."""
    return path.is_dir() and next(_models(path), None) is not None


def find(path: pathlib.Path, options: Options) -> Found:
    """Every such folder is a network; names such as checkpoint-500 are steps of the folder above."""
    del options
    folders = list(_models(path))
    entries = [_entry(folder.relative_to(path)) for folder in folders]
    notes = ("folders whose names differ in step or checkpoint alone are of one run",) if len(entries) > 1 else ()
    recipe, *others = dict.fromkeys(_recipe(folder) for folder in folders)
    if others:
        stated = sorted({known.activation or "none" for known in (recipe, *others)})
        recipe = Recipe("unknown", source=f"configurations differ, with activations {', '.join(stated)}")
    return Found("huggingface", path, entries, Folders(path), recipe, notes=notes)


def _entry(folder: pathlib.Path) -> Entry:
    said = parse(folder.name)
    run = (folder.parent / said.run).as_posix()
    return Entry(folder.as_posix(), run, said.step, seed=said.seed, accuracy=said.accuracy)


def _recipe(folder: pathlib.Path) -> Recipe:
    """What the configuration of a network says; nothing where it does not name the activation."""
    config, images = {}, {}
    for name in _CONFIGS[::-1]:
        if (folder / name).is_file():
            config |= files.read_json(folder / name, "configuration", _CURE)
    if (folder / "preprocessor_config.json").is_file():
        images = files.read_json(folder / "preprocessor_config.json", "configuration of images", _CURE)
    name = next((str(config[key]) for key in _ACTIVATIONS if key in config), "")
    mean, std = (images.get(key) for key in ("image_mean", "image_std"))
    known = isinstance(mean, list) and isinstance(std, list) and mean and std
    normalisation = Normalisation(tuple(mean or ()), tuple(std or ())) if known else None
    activation = name if name in ANY_ACTIVATION or not name else "unknown"
    return Recipe(activation, normalisation, source="config.json")


LAYOUT = Layout(
    "huggingface",
    "folders of the Hugging Face hub",
    f"config.json beside one of {', '.join((*_WHOLE, *_INDICES))}",
    recognise,
    find,
)
