"""How many models are trained together on a device: measured on the machine at hand where training takes long, and
remembered."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import platform
import time
from typing import Any

import jax
import numpy as np

from jaxweights import files, operations
from jaxweights.data import Dataset
from jaxweights.errors import UserError
from jaxweights.zoo.trainer import Trainer, trainer_of

FILE = "lanes.json"
"""Measured widths, in the folder of `folder`."""

LONG_SECONDS = 60.0  # of training; shorter ones take the usual width, as programs are compiled for every other one
_RATE = 4e10  # operations per second of a core, for the estimate of the training's length
_MEASURED_SECONDS = 0.08  # of one width in one round
_ROUNDS = 4  # of which the fastest counts
_GAIN = 1.03  # by which another width has to be faster than the usual one


def chosen(trainer: Trainer, dataset: Dataset, runs: int) -> Trainer:
    """The trainer with the fastest of its program's widths.

    Widths are measured for about a second once per machine, versions, network and recipe. What is trained is the same
    up to the rounding of float32.

    Args:
      trainer: of the program and its devices; one whose lanes are set stays as it is, and so does one whose runs are
        over soon.
      dataset: training examples.
      runs: number of runs to train.
    """
    program, mesh = trainer.program, trainer.mesh
    candidates = program.widths(jax.default_backend())
    if trainer.lanes or len(candidates) == 1:
        return trainer
    loaded = trainer.load(dataset)
    if seconds(trainer, loaded, runs) < LONG_SECONDS:
        return trainer
    path, key = folder() / FILE, _key(trainer)
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(path.read_text(encoding="utf-8"))
    width = known.get(key)
    if width not in candidates:
        width = fastest(trainer, loaded)
        with contextlib.suppress(OSError, UserError):
            files.make_dir(path.parent)
            files.write_text(path, json.dumps({**known, key: width}, indent=1) + "\n")
    return trainer_of(program, mesh, width)


def seconds(trainer: Trainer, loaded: Any, runs: int) -> float:
    """About how long the runs take, by the operations of a step; nothing is compiled."""
    one = Trainer(trainer.program, trainer.mesh, 1)
    ids = np.arange(one.group)
    state = jax.eval_shape(lambda: one.init(0, ids))
    data = jax.eval_shape(lambda: one.select(loaded, ids))
    model = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state)
    own = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), data.own)
    number = jax.ShapeDtypeStruct((), np.int32)
    step = operations.count(
        trainer.program.step, model, data._replace(own=own), number, (model.params, model.opt_state)
    )
    return step * trainer.recipe.snapshots[-1] * runs / (_RATE * trainer.mesh.size)


def fastest(trainer: Trainer, loaded: Any) -> int:
    """The width that trains most models a second; widths take turns."""
    usual = trainer.width
    timed = [_Timed(trainer, width, loaded) for width in trainer.program.widths(jax.default_backend())]
    for _ in range(_ROUNDS):
        for one in timed:
            one.measure()
    return min(timed, key=lambda one: one.best * (1 if one.width == usual else _GAIN)).width


class _Timed:
    """Training of as many runs as one dispatch has at a width."""

    def __init__(self, trainer: Trainer, width: int, loaded: Any):
        self.width, self.best = width, math.inf
        self._trainer = Trainer(trainer.program, trainer.mesh, width)  # not shared: its programs are of no further use
        ids = np.arange(self._trainer.group)
        self._state, self._data = self._trainer.init(0, ids), self._trainer.select(loaded, ids)
        self._advance(1)  # compiles
        self._steps, took = 1, 0.0
        while (took := self._advance(self._steps)) < _MEASURED_SECONDS / 4:
            self._steps *= 4
        self._steps = max(1, round(self._steps * _MEASURED_SECONDS / took))

    def measure(self) -> None:
        """Notes the seconds of a model-step."""
        self.best = min(self.best, self._advance(self._steps) / (self._steps * self.width))

    def _advance(self, steps: int) -> float:
        begin = time.perf_counter()
        self._state, snapshots = self._trainer.advance(self._state, self._data, np.array([0, steps]))
        jax.block_until_ready(snapshots)
        return time.perf_counter() - begin


def folder() -> pathlib.Path:
    """Where widths are remembered: beside the persistent cache of compiled programs, else in the user's cache."""
    config: Any = jax.config
    if cache := config.jax_compilation_cache_dir:
        return pathlib.Path(cache).parent
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jaxweights"


def _key(trainer: Trainer) -> str:
    """What a width is measured for: the machine, versions, the network and what a step does."""
    program, settings = trainer.program, dataclasses.asdict(trainer.recipe.settings)
    for name in ("num_runs", "num_heldout", "steps", "epochs", "chunk_size", "import_npz"):
        settings.pop(name, None)
    what = (trainer.net.input_shape, trainer.net.module, settings, program.num_examples)
    digest = hashlib.blake2b(repr(what).encode(), digest_size=8).hexdigest()
    device = trainer.mesh.devices.flat[0].device_kind
    return f"{trainer.mesh.size} x {device} ({_processor()}), jax {jax.__version__}, {trainer.net.name} {digest}"


def _processor() -> str:
    """The name of the processor."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
