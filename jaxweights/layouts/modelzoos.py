"""The ModelZoos (Schürholt et al., arXiv 2209.14764) as they were trained: a folder per run of ray.tune, with
`params.json`, `result.json` and a folder per checkpoint."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxweights import population
from jaxweights.layouts.base import (
    TEST,
    TRAIN,
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

_CHECKPOINT = re.compile(r"checkpoint_(\d+)$")
_FILE = "checkpoints"
_KEPT = ("lr", "wd", "momentum", "dropout", "batchsize", "nlin", "init_type", "optimizer")
_STATED = ("train_acc", "train_loss", "val_acc", "val_loss")
NOT_MEASURED = -999
"""What published runs have as accuracy and loss on training images before their first step."""
_ACTIVATIONS = {"leakyrelu": "leaky_relu"}
KNOWN_ACTIVATIONS = ("relu", "leaky_relu", "tanh", "sigmoid", "silu", "gelu")
_SPLITS = {population.TRAIN: TRAIN, population.HELDOUT: TEST}  # of zoos that this library wrote
_SHOWN = 200  # folders that are looked at to recognise a zoo

# Of the uniform zoos of random seeds; other data sets were scaled by moments that are in the zoos' image files alone.
_SCALED = {"mnist": Normalisation((0.1307,), (0.3081,)), "svhn": Normalisation((0.5,), (0.5,))}
_PUBLISHED = {"cifar10": "gelu"}  # activations of these zoos; those of the others is tanh
_DATA = ("fashion", "mnist", "svhn", "cifar10", "cifar_10", "cifar100", "cifar_100", "tiny", "stl10", "stl_10", "usps")


def nets(activation: str) -> tuple[Mapping[str, Any], ...]:
    """The small network on grey and colour images (2,464 and 2,864 parameters), and the large one (10,853)."""
    small = {"name": "cnn", "activation": activation, "outputs": 10}
    large = {**small, "channels": (16, 32, 15), "windows": (3, 3, 3), "pools": (True, True, True), "hidden": 20}
    return (
        {**small, "input_shape": (28, 28, 1)},
        {**small, "input_shape": (28, 28, 3)},
        {**large, "input_shape": (32, 32, 3)},
    )


def recipe(place: pathlib.Path, activations: Iterable[str]) -> Recipe:
    """What is known of a zoo by its name and the configurations of its runs.

    Args:
      place: folder or file of the zoo.
      activations: `model::nlin` of its runs, without those that do not say it.
    """
    name = "/".join(place.resolve().parts[-2:]).lower()
    data = next((known for known in _DATA if known in name), "").replace("_", "")
    stated = {_ACTIVATIONS.get(given, given) for given in activations}
    if len(stated) > 1:
        return Recipe("unknown", _SCALED.get(data), data, f"runs have {', '.join(sorted(stated))}")
    source = "configuration of the runs" if stated else "published recipe of the uniform zoos" if data else ""
    activation = next(iter(stated), _PUBLISHED.get(data, "tanh") if data else "")
    if activation not in KNOWN_ACTIVATIONS:
        return Recipe("unknown" if activation else "", _SCALED.get(data), data, source)
    return Recipe(activation, _SCALED.get(data), data, source, nets(activation))


def _runs(path: pathlib.Path) -> list[pathlib.Path]:
    """Folders of runs: the path itself, or those in it."""
    if _is_run(path):
        return [path]
    return [
        inner for inner in sorted(path.iterdir(), key=lambda p: natural(p.name)) if inner.is_dir() and _is_run(inner)
    ]


def _is_run(folder: pathlib.Path) -> bool:
    if not ((folder / "result.json").is_file() or (folder / "params.json").is_file()):
        return False
    return any(_CHECKPOINT.match(inner.name) for inner in folder.iterdir() if inner.is_dir())


def recognise(path: pathlib.Path) -> bool:
    """Whether a folder is a run, or has one."""
    if not path.is_dir():
        return False
    return _is_run(path) or any(_is_run(inner) for inner in list(path.iterdir())[:_SHOWN] if inner.is_dir())


def find(path: pathlib.Path, options: Options) -> Found:
    """All checkpoints of all runs; what is measured is told by the field `training_iteration`, not by the line."""
    del options
    entries: list[Entry] = []
    bad: list[tuple[str, str]] = []
    activations, unstated = set(), 0
    runs = _runs(path)
    for folder in runs:
        config, results = _config(folder), _results(folder)
        config = config or next((line["config"] for line in results.values() if "config" in line), {})
        known = {key.rpartition("::")[2]: value for key, value in config.items()}
        if known.get("nlin"):
            activations.add(str(known["nlin"]))
        for inner in sorted(folder.iterdir(), key=lambda p: natural(p.name)):
            match = _CHECKPOINT.match(inner.name)
            if match is None or not inner.is_dir():
                continue
            key = (inner / _FILE).relative_to(path).as_posix()
            if not (inner / _FILE).is_file():
                bad.append((key, "there is no such file in the folder of the checkpoint"))
                continue
            step = int(match[1])
            unstated += step not in results
            split = _SPLITS.get(str(config.get("split")), "")
            entries.append(_entry(key, folder.name, step, known, results.get(step, {}), split))
    if not entries:
        raise nothing("a ModelZoo", path, f"files <run>/checkpoint_<epoch>/{_FILE}")
    notes = ["result.json and checkpoints are matched by training_iteration", "steps are epochs"]
    if unstated:
        notes.append(f"checkpoints without a line in result.json: {unstated:,}")
    found = recipe(path, activations)
    if found.normalisation is None:
        notes.append("scaling of inputs: that of the images in dataset.pt beside the runs")
    return Found("modelzoos", path, entries, Files(path), found, by_order=True, notes=tuple(notes), bad=tuple(bad))


def _entry(key: str, run: str, step: int, config: Mapping[str, Any], stated: Mapping[str, Any], split: str) -> Entry:
    stated = {name: value for name, value in stated.items() if value != NOT_MEASURED}
    properties: dict[str, float | str] = {
        name: float(stated[name]) for name in _STATED if isinstance(stated.get(name), (int, float))
    }
    if {"train_acc", "test_acc"} <= set(stated):
        properties["ggap"] = float(stated["train_acc"]) - float(stated["test_acc"])
    for name in _KEPT:
        if isinstance(config.get(name), (int, float)):
            properties[f"hyper/{name}"] = float(config[name])
        elif isinstance(config.get(name), str):
            properties[name] = config[name]
    seed = config.get("seed", -1)
    accuracy, loss = (float(stated.get(name, float("nan"))) for name in ("test_acc", "test_loss"))
    return Entry(key, run, step, split, seed if isinstance(seed, int) and seed >= 0 else -1, accuracy, loss, properties)


def _config(folder: pathlib.Path) -> Mapping[str, Any]:
    try:
        return json.loads((folder / "params.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _results(folder: pathlib.Path) -> dict[int, Mapping[str, Any]]:
    """Lines of `result.json` by training iteration; what a killed run did not write whole is left out."""
    try:
        lines: Sequence[str] = (folder / "result.json").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    found: dict[int, Mapping[str, Any]] = {}
    for line in lines:
        try:
            row = json.loads(line)
            found[int(row["training_iteration"])] = row
        except (ValueError, KeyError, TypeError):
            continue
    return found


LAYOUT = Layout(
    "modelzoos",
    "ModelZoos, raw run folders",
    f"folders of runs with params.json or result.json and checkpoint_<epoch>/{_FILE}",
    recognise,
    find,
)
