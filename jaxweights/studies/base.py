"""What all studies share: whom they look at, and how a trained generator is applied to many rows."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import data, nets, parallel
from jaxweights.population import Population

_BLOCK = 256  # rows given to a generator at a time, over all devices


@dataclasses.dataclass(frozen=True)
class Subject:
    """What the studies look at.

    Attributes:
      net: task network.
      dataset: its images.
      train: the networks that the generator was trained on.
      heldout: checkpoints of the held-out runs, as many per run.
      steps_per_epoch: of the zoo's recipe.
      generated: samples of every way of sampling from this generator, by series name.
      samplers: the generator with that way's settings, and what its samples started from (`LearnedGenerator.inputs`),
        by series name.
    """

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
      state: of the trained generator.
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
