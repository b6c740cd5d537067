"""Zoos of DeepWeightFlow (arXiv 2601.05052): a folder of final networks per data set, a file per seed."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from jaxweights.layouts.base import Entry, Found, Layout, Normalisation, Options, Recipe, nothing
from jaxweights.layouts.plain import files_in
from jaxweights.layouts.tensors import Files

_SOURCE = "published code of DeepWeightFlow"
_CIFAR = Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_LOOKED_AT = 50


@dataclasses.dataclass(frozen=True)
class _Zoo:
    """A published zoo: names of its files, with the seed as a group, and what is known of its networks."""

    file: re.Pattern[str]
    recipe: Recipe


def _mlp(hidden: tuple[int, ...]) -> tuple[Mapping[str, Any], ...]:
    return ({"name": "mlp", "hidden": hidden, "activation": "relu", "input_shape": (28, 28, 1), "outputs": 10},)


_RESNET18 = ({"name": "resnet18", "stem": "cifar", "input_shape": (32, 32, 3), "outputs": 10},)
ZOOS: dict[str, _Zoo] = {
    "fashion_mnist_models": _Zoo(
        re.compile(r"mlp_seed(\d+)$"), Recipe("relu", None, "fashion_mnist", _SOURCE, _mlp((128, 128)))
    ),
    "mnist_models": _Zoo(
        re.compile(r"mlp_seed(\d+)$"), Recipe("relu", Normalisation(), "mnist", _SOURCE, _mlp((32, 32)))
    ),
    "iris_models": _Zoo(re.compile(r"mlp_\w+?_seed(\d+)$"), Recipe("relu", None, "iris, standardised", _SOURCE)),
    "imagenet_resnet_models": _Zoo(re.compile(r"resnet_weights_(\d+)$"), Recipe("relu", None, "", _SOURCE)),
    "cifar10_vit_small_patch4_models": _Zoo(re.compile(r"vit_(\d+)$"), Recipe("gelu", None, "cifar10", _SOURCE)),
    "cifar10_models": _Zoo(re.compile(r"resnet18_seed(\d+)$"), Recipe("relu", _CIFAR, "cifar10", _SOURCE, _RESNET18)),
}
"""By the name of the folder."""
_BERT = _Zoo(re.compile(r"bert_(\d+)_best$"), Recipe("gelu", None, "", _SOURCE))


def _zoo(path: pathlib.Path) -> _Zoo | None:
    found = ZOOS.get(path.resolve().name)
    first = list(itertools.islice(files_in(path, 1), _LOOKED_AT))
    for zoo in (found, _BERT):
        if zoo is not None and any(zoo.file.match(file.stem) for file in first):
            return zoo
    return None


def recognise(path: pathlib.Path) -> bool:
    """Whether a folder and its files have the names of a published zoo."""
    return path.is_dir() and _zoo(path) is not None


def find(path: pathlib.Path, options: Options) -> Found:
    """Every file is the final network of a run."""
    del options
    zoo = _zoo(path)
    found = [(file, zoo.file.match(file.stem)) for file in files_in(path, 1)] if zoo else []
    entries = [Entry(file.name, file.stem, seed=int(match[1])) for file, match in found if match]
    if zoo is None or not entries:
        raise nothing("a zoo of DeepWeightFlow", path, ", ".join(ZOOS))
    notes = ("every file is a run of its own",)
    return Found("deepweightflow", path, entries, Files(path), zoo.recipe, notes=notes)


LAYOUT = Layout(
    "deepweightflow",
    "DeepWeightFlow, a file per seed",
    f"folders {', '.join(ZOOS)} with files mlp_seed0.pt and the like, or bert_0_best.pt",
    recognise,
    find,
)
