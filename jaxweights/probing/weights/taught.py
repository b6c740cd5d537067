"""Training of classifiers that are taught some of the classes: every run sees examples of its own classes alone, all
runs by one program."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import parallel, shuffle
from jaxweights.zoo.program import RunData
from jaxweights.zoo.supervised import Supervised

_START = 0  # seed of the weights that aligned runs begin with


class Own(NamedTuple):
    """What a run sees.

    Attributes:
      rows: `[n]` int32, all examples, those of its classes first.
      count: int32, number of the latter, at least a batch.
    """

    rows: jax.Array
    count: jax.Array


@dataclasses.dataclass(frozen=True)
class TaughtProgram(Supervised):
    """Supervised training on the examples of some classes.

    Attributes:
      aligned: whether all runs begin with the same weights.
    """

    aligned: bool = False

    def start(self, key: jax.Array, hyper: dict[str, jax.Array], given):
        return super().start(jax.random.key(_START) if self.aligned else key, hyper, given)

    def rows(self, data: RunData, words: jax.Array, step: jax.Array) -> jax.Array:
        own: Own = data.own
        return own.rows[shuffle.batch_indices(words, step, self.recipe.batch_size, own.count)]


def own_examples(labels: np.ndarray, taught: np.ndarray, mesh: Mesh) -> Own:
    """What runs see, on the devices.

    Args:
      labels: `[n]`, classes of the training examples.
      taught: `[R, C]` bool, the classes of every run.
      mesh: devices that the runs are sharded over.
    """
    mine = taught[:, labels]
    rows = np.argsort(~mine, axis=1, kind="stable").astype(np.int32)
    return jax.device_put(Own(rows, mine.sum(axis=1, dtype=np.int32)), parallel.sharded(mesh))  # type: ignore[arg-type]
