"""Designed images as what is probed."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import parallel, programs, settings
from jaxweights.generators.base import LearnedGenerator
from jaxweights.lanes import LaneTrainer
from jaxweights.population import Population
from jaxweights.probing import data, estimators, models
from jaxweights.probing.features import Design, Feature
from jaxweights.probing.models import ImageModel
from jaxweights.probing.settings import ProbingSettings
from jaxweights.probing.subject import Made, Subject
from jaxweights.training import train_generator

_BLOCK = 256  # images drawn at a time on every device
_SAMPLING = 1  # number that a training's key is folded with for its samples
_FITTING = 2  # number that the seed's key is folded with for the estimator


class Images(Subject):
    """Images, models of images, and an estimator of features."""

    KIND = "images"

    def __init__(self, options: ProbingSettings, seed: int):
        self.data = data.make(options.data)
        self.estimator = estimators.make(options.estimator)
        self.estimator.check(self.data)
        self.models: dict[str, ImageModel] = {k: models.make(k, v) for k, v in sorted(options.models.items())}
        self._seed = seed
        self._state: Any = None
        self._fitted = False

    @property
    def features(self) -> tuple[Feature, ...]:
        """Of the data."""
        return self.data.features

    @property
    def facts(self) -> dict[str, Any]:
        """Settings of the data, the estimator and the models."""
        found = {name: _with_kind(one) for name, one in self.models.items()}
        return {"data": _with_kind(self.data), "estimator": _with_kind(self.estimator), "models": found}

    def check(self, design: Design) -> None:
        """As the data says."""
        self.data.check(design)

    def draw(self, design: Design, n: int, seed: int, mesh: Mesh) -> Population:
        """Renders images."""
        return data.draw(self.data, design, n, seed, mesh=mesh)

    def fit(self, mesh: Mesh, folder: pathlib.Path) -> None:
        """The estimator, once."""
        if not self._fitted:
            key = jax.random.fold_in(jax.random.key(self._seed), _FITTING)
            self._state, self._fitted = self.estimator.fit(self.data, key, mesh, folder), True

    def measure(self, rows: np.ndarray, mesh: Mesh, folder: pathlib.Path) -> np.ndarray:
        """By the estimator, which learns first where it has to."""
        self.fit(mesh, folder)
        return self.estimator.measure(self._state, self.data, rows.reshape(-1, *self.data.shape))

    def accuracy(self, n: int, seed: int, mesh: Mesh, folder: pathlib.Path) -> dict[str, Any]:
        """On rendered images, through the path that samples take."""
        self.fit(mesh, folder)
        return estimators.accuracy(self.data, self.estimator, self._state, n, seed, mesh=mesh)

    def train(
        self,
        model: str,
        training: Sequence[Population],
        keys: jax.Array,
        count: int,
        mesh: Mesh,
        *,
        folders: Sequence[pathlib.Path] | None,
        report: Callable[[float], None],
    ) -> list[Made]:
        """As lanes of one program, or one after the other."""
        chosen = self.models[model]
        if folders is None:
            states, losses = _together(chosen, training, keys, mesh, report)
        else:
            states, losses = [], [None] * len(training)
            for i, (one, folder) in enumerate(zip(training, folders, strict=True)):
                states.append(train_generator(chosen, one, mesh, key=keys[i], path=folder))
                report(i + 1)
        found = []
        for key, state, loss in zip(keys, states, losses, strict=True):
            samples = sample(chosen, state, jax.random.split(jax.random.fold_in(key, _SAMPLING), count), mesh)
            found.append(Made(samples, loss))
        return found

    def shown(self, rows: np.ndarray) -> np.ndarray:
        """The images themselves; what is not finite is black."""
        return np.rint(255 * np.clip(np.nan_to_num(rows), 0, 1)).astype(np.uint8).reshape(-1, *self.data.shape)

    def describe(self, mesh: Mesh | None = None) -> dict[str, dict[str, Any]]:
        """Counted for two empty images, without allocating anything."""
        del mesh
        shape = self.data.shape
        blank = Population.create(np.zeros((2, int(np.prod(shape))), np.float32), data.pixels(shape), run=np.arange(2))
        return {name: described(one, one.prepare(blank)[1]) for name, one in self.models.items()}


def _with_kind(chosen: Any) -> dict[str, Any]:
    plain = settings.plain(chosen)
    plain.pop("name", None)
    return {"kind": chosen.KIND, **plain}


def _together(
    model: ImageModel,
    training: Sequence[Population],
    keys: jax.Array,
    mesh: Mesh,
    report: Callable[[float], None],
) -> tuple[list[Mapping[str, Any]], list[float | None]]:
    """States and losses of lanes of one program."""
    pool = Population.create(np.concatenate([one.weights for one in training]), training[0].spec)
    rows = np.arange(len(pool)).reshape(len(training), -1)
    total = sum(stage.steps for stage in model.stages())
    trained = LaneTrainer(model, mesh).run(pool, keys, {}, lambda steps: report(steps / total), rows=rows)
    return list(trained.states), [float(loss) for loss in trained.losses]


def sample(model: ImageModel, state: Mapping[str, Any], keys: jax.Array, mesh: Mesh) -> np.ndarray:
    """Images `[n, H * W * C]` float32, drawn in blocks; NaN where a training diverged."""
    program, block = _sampler(model, mesh), _BLOCK * mesh.size
    state = jax.device_put(state, parallel.replicated(mesh))
    parts = []
    for first in range(0, len(keys), block):
        padded = parallel.pad_rows(keys[first : first + block], min(block, len(keys)))
        parts.append(np.asarray(program(state, padded).weights))
    return np.concatenate(parts)[: len(keys)]


@programs.shared
def _sampler(model: ImageModel, mesh: Mesh):
    return parallel.map_rows(model.sample, mesh)


def described(model: LearnedGenerator, constants: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters, steps and batches of a model's stages.

    Args:
      model: its settings.
      constants: what `prepare` returns besides examples.

    Returns:
      `num_params` in all, and `stages.<name>` with `num_params` (that sampling needs), `auxiliary_params` (that serve
      training alone), `steps` and `batch_size`.
    """
    done: dict[str, Any] = {"constants": constants}
    found = {}
    for stage in model.stages():
        params, model_state = jax.eval_shape(stage.init, jax.random.key(0), done)
        done = {**done, stage.name: {"params": params, "model_state": model_state}}
        extra = _size({k: v for k, v in params.items() if k in stage.auxiliary}) if stage.auxiliary else 0
        found[stage.name] = {
            "num_params": _size(params) - extra,
            "auxiliary_params": extra,
            "steps": stage.steps,
            "batch_size": stage.batch_size,
        }
    return {"num_params": sum(one["num_params"] for one in found.values()), "stages": found}


def _size(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
