"""Checkpoint sets of G.pt (Peebles et al., arXiv 2209.12892): folders of LMDB environments with `runs.json`."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxweights import extras, files
from jaxweights.errors import UserError
from jaxweights.layouts.base import TEST, TRAIN, Entry, Found, Layout, Normalisation, Options, Recipe, nothing

_DATA, _RUNS = "data.mdb", "runs.json"
_KEY = re.compile(r"ep(\d+)_it(\d+)")
_SEPARATOR = "\t"  # between folder and key
_CURE = "Download the set again."


@dataclasses.dataclass(frozen=True)
class _Task:
    """A published set: shapes of its networks, held-out runs (the last by name), and what is known of them."""

    shapes: Mapping[str, tuple[int, ...]]
    test_runs: int
    recipe: Recipe


def _task(shapes: dict[str, tuple[int, ...]], test_runs: int, net: Mapping[str, Any], **recipe: Any) -> _Task:
    known = Recipe(source="published code of G.pt", nets=(net,), **recipe)
    return _Task(shapes, test_runs, known)


TASKS = (
    _task(
        {"fc1.weight": (10, 784), "fc1.bias": (10,), "fc2.weight": (10, 10), "fc2.bias": (10,)},
        500,
        {"name": "mlp", "hidden": (10,), "input_shape": (28, 28, 1), "outputs": 10},
        activation="relu",
        normalisation=Normalisation((0.1307,), (0.3081,)),
        data="mnist",
    ),
    _task(
        {"conv1.weight": (16, 3, 3, 3), "conv2.weight": (32, 16, 3, 3), "fc.weight": (10, 32), "fc.bias": (10,)},
        2050,
        {"name": "convnet", "channels": (16, 32), "input_shape": (32, 32, 3), "outputs": 10},
        activation="relu",
        data="cifar10",
    ),
    _task(
        {
            "log_std": (1,),
            "actor.fc1.weight": (32, 4),
            "actor.fc1.bias": (32,),
            "actor.fc2.weight": (32, 32),
            "actor.fc2.bias": (32,),
            "actor.fc3.weight": (1, 32),
            "actor.fc3.bias": (1,),
        },
        500,
        {"name": "actor", "input_shape": (4,), "outputs": 1},
        activation="selu",
        normalisation=Normalisation(),
        data="cartpole",
    ),
)
"""The published sets, told by the sizes of their tensors."""


class Environments:
    """Reads networks from LMDB environments, each opened when it is first needed.

    Args:
      root: folder of the environments.
    """

    def __init__(self, root: pathlib.Path):
        self._root = root
        self._folder, self._open = "", None  # networks come run by run, so one is open at a time

    def __call__(self, key: str) -> np.ndarray:
        """The vector `[P]` of a folder and key."""
        folder, _, name = key.partition(_SEPARATOR)
        return self.floats(folder, name)

    def floats(self, folder: str, name: str) -> np.ndarray:
        """The float32 numbers under a key; raises `UserError` where there are none."""
        if folder != self._folder or self._open is None:
            self.close()
            lmdb = extras.module("formats", "lmdb")
            try:
                self._open = lmdb.open(str(self._root / folder), readonly=True, lock=False, readahead=False)
            except lmdb.Error as error:
                raise UserError(f"the environment {folder} cannot be opened ({error})") from error
            self._folder = folder
        with self._open.begin() as transaction:
            found = transaction.get(name.encode())
        if found is None:
            raise UserError(f"there is no key {name} in {folder}")
        if len(found) % 4:
            raise UserError(f"{name} has {len(found)} bytes, which are no float32 numbers")
        return np.frombuffer(found, "<f4")

    def close(self) -> None:
        """Closes the environment that is open."""
        if self._open is not None:
            self._open.close()
            self._open = None


def _environments(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder for folder in path.iterdir() if (folder / _DATA).is_file() and (folder / _RUNS).is_file())


def recognise(path: pathlib.Path) -> bool:
    """Whether a folder has an environment with its table of runs."""
    return path.is_dir() and any((inner / _DATA).is_file() and (inner / _RUNS).is_file() for inner in path.iterdir())


def find(path: pathlib.Path, options: Options) -> Found:
    """All checkpoints of all runs; a fused environment has several."""
    del options
    runs: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for folder in _environments(path):
        table = files.read_json(folder / _RUNS, "table of runs", _CURE)
        alone = isinstance(table.get("checkpoints"), Mapping)  # else an environment of several runs
        for run in [folder.name] if alone else folder.name.split("_"):
            inner = table if alone else table.get(run, {})
            if not isinstance(inner.get("checkpoints"), Mapping):
                raise UserError(f"{folder / _RUNS} has no checkpoints of the run {run}. {_CURE}")
            runs[run] = folder.name, inner["checkpoints"]
    names = [run for run in sorted(runs) if runs[run][1]]
    if not names:
        raise nothing("a set of G.pt", path, "checkpoints in runs.json")
    reader = Environments(path)
    folder, checkpoints = runs[names[0]]
    sizes = reader.floats(folder, f"{next(iter(checkpoints))}_arch").astype(int).tolist()
    task = next((t for t in TASKS if [math.prod(s) for s in t.shapes.values()] == sizes), None)
    count = task.test_runs if task is not None and len(names) > 2 * task.test_runs else 0
    last = set(names[len(names) - count :])
    notes = ["steps are iterations", "losses and errors are of test images"]
    if count:
        notes.append(f"the last {count:,} runs by name are the published test split")
    entries = []
    for run in names:
        split = "" if not count else TEST if run in last else TRAIN
        entries += _entries(run, *runs[run], split)
    recipe = Recipe() if task is None else task.recipe
    shapes = {} if task is None else task.shapes
    return Found("gpt", path, entries, reader, recipe, shapes=shapes, notes=tuple(notes), one_file=True)


def _entries(run: str, folder: str, checkpoints: Mapping[str, Mapping[str, Any]], split: str) -> list[Entry]:
    """The checkpoints of a run in order; iterations count from 1 in every epoch."""
    places = {key: tuple(map(int, match.groups())) for key in checkpoints if (match := _KEY.search(key))}
    if len(places) < len(checkpoints):
        odd = next(key for key in checkpoints if key not in places)
        raise UserError(f"The run {run} has a checkpoint {odd!r}, whose name says no epoch and iteration.")
    per_epoch = max((iteration for _, iteration in places.values()), default=0)
    found = []
    for key, stated in checkpoints.items():
        epoch, iteration = places[key]
        properties = {name: float(value) for name, value in stated.items() if isinstance(value, (int, float))}
        error = properties.pop("avg_test_err", math.nan)
        found.append(
            Entry(
                f"{folder}{_SEPARATOR}{key}",
                run,
                epoch * per_epoch + iteration,
                split,
                int(run) if run.isdigit() else -1,
                1 - error / 100,
                properties.pop("avg_test_loss", math.nan),
                properties,
            )
        )
    return found


LAYOUT = Layout("gpt", "G.pt, LMDB environments", f"folders with {_DATA} and {_RUNS}", recognise, find)
