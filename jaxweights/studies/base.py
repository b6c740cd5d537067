"""What all studies share: what they look at, and how a trained generator is applied to many rows."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import data, nets, parallel
from jaxweights.generators import LearnedGenerator
from jaxweights.population import Population
from jaxweights.settings import Settings

_BLOCK = 256  # rows given to a generator at a time, over all devices


Findings = tuple[dict[str, Any], dict[str, np.ndarray]]
"""JSON data, and per-network arrays for the figures."""


@dataclasses.dataclass(frozen=True)
class Study:
    """A registered study.

    Attributes:
      settings: class of its settings, `config.studies.<name>`.
      run: `(subject, settings, estimation) -> Findings`.
      generators: class of the generators that are studied, one by one; None for a study of all series together.
      exists: whether there is something to study for a task network and its data.
      task: key in `tasks.TASKS` of the networks that are studied; None for all.
      net: settings that these have to have, by name.
      asked: whether settings of the class ask for it; one that is not asked for is not part of an experiment.
    """

    settings: type[Settings]
    run: Callable[..., Findings]
    generators: type[LearnedGenerator] | None = None
    exists: Callable[[nets.TaskNet, data.Dataset], bool] = lambda net, dataset: True
    task: str | None = None
    net: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    asked: Callable[[Any], bool] = lambda settings: True


@dataclasses.dataclass(frozen=True)
class Estimation:
    """How the numbers of a study are estimated.

    Attributes:
      resamples: bootstrap resamples of every interval.
      seed: random seed.
      mesh: devices.
    """

    resamples: int
    seed: int
    mesh: Mesh


@dataclasses.dataclass(frozen=True)
class Series:
    """All series of networks, for studies that compare them.

    Attributes:
      net: task network.
      dataset: its data.
      train: training networks, one checkpoint per run.
      heldout: networks of held-out runs, likewise.
      generated: generated networks and baselines, by series name.
      kinds: key of the series' generator in `generators.GENERATORS`, by series name.
      shown: series of learned generators, which are shown in pictures.
      augmented: number of permuted copies that series' generators were trained on; empty where none saw any.
    """

    net: nets.TaskNet
    dataset: data.Dataset
    train: Population
    heldout: Population
    generated: Mapping[str, Population]
    kinds: Mapping[str, str] = dataclasses.field(default_factory=dict)
    shown: Sequence[str] = ()
    augmented: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained generator, for studies of what it can do.

    Attributes:
      generator: generator.
      state: its state.
      net: task network.
      dataset: its images.
      train: networks that the generator was trained on.
      heldout: checkpoints of the held-out runs, as many per run.
      steps_per_epoch: optimizer steps per epoch of the zoo's recipe.
      generated: samples of every way of sampling from this generator, by series name.
      samplers: generator with that way's settings, and what its samples started from (`LearnedGenerator.inputs`), by
        series name.
    """

    generator: Any
    state: Mapping[str, Any]
    net: nets.TaskNet
    dataset: data.Dataset
    train: Population
    heldout: Population
    steps_per_epoch: int
    generated: Mapping[str, Population]
    samplers: Mapping[str, tuple[Any, Mapping[str, Any]]]

    @property
    def test_images(self) -> np.ndarray:
        """Standardised test images `[T, H, W, C]` float32."""
        return np.asarray(data.standardise(self.dataset.test_images, self.dataset.scale, self.dataset.shift))


class Rowwise:
    """A function of a trained generator, compiled and sharded, on rows that stay on the host.

    Args:
      function: `(state, rows) -> [n, ...]`, see `parallel.map_rows`.
      state: state of the trained generator.
      mesh: rows are sharded over its devices.
    """

    def __init__(self, function: Callable[[Any, Any], jax.Array], state: Mapping[str, Any], mesh: Mesh):
        self._state = jax.device_put(state, parallel.replicated(mesh))
        self._program, self._mesh = parallel.map_rows(function, mesh), mesh

    def __call__(self, rows: Any) -> np.ndarray:
        """The outcome `[n, ...]` for a pytree of `[n, ...]`; in blocks of one size, so that they share a program."""
        count, devices = len(jax.tree.leaves(rows)[0]), self._mesh.size
        size = min(_BLOCK, -(-count // devices) * devices)
        parts = []
        for first in range(0, count, size):
            block = jax.tree.map(operator.itemgetter(slice(first, first + size)), rows)
            padded = jax.tree.map(functools.partial(parallel.pad_rows, multiple=size), block)
            parts.append(np.asarray(self._program(self._state, padded)))
        return np.concatenate(parts)[:count]
