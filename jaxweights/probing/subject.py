"""What is probed: designed examples, models that learn from them, and what measures their features."""

from __future__ import annotations

import abc
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights.population import Population
from jaxweights.probing.features import Design, Feature


class Made(NamedTuple):
    """What became of a training.

    Attributes:
      samples: `[n, P]` float32, flat.
      loss: of the last step; None of models without one.
    """

    samples: np.ndarray
    loss: float | None


class Subject(abc.ABC):
    """Designed examples, flat `[n, P]` rows of a population, and models of them."""

    KIND: ClassVar[str] = ""
    """What the examples are, for pages."""
    TOGETHER: ClassVar[bool] = True
    """Whether trainings of a model may be one program; if not, each is kept as soon as it is done."""

    @property
    @abc.abstractmethod
    def features(self) -> tuple[Feature, ...]:
        """F features, in the order of the columns of `measure`."""

    @property
    @abc.abstractmethod
    def facts(self) -> dict[str, Any]:
        """JSON data: settings of `data`, `estimator` and `models` (by name, each with its `kind`)."""

    @abc.abstractmethod
    def check(self, design: Design) -> None:
        """Raises `UserError` for combinations that no example can have."""

    @abc.abstractmethod
    def draw(self, design: Design, n: int, seed: int, mesh: Mesh) -> Population:
        """Examples of a design, with their exact features in columns `feature/<name>`."""

    def fit(self, mesh: Mesh, folder: pathlib.Path) -> None:
        """Trains what measures features, where it learns; all processes of a job call it at the same time, before they
        measure anything.

        Args:
          mesh: devices.
          folder: of its checkpoints.
        """
        del mesh, folder

    @abc.abstractmethod
    def measure(self, rows: np.ndarray, mesh: Mesh, folder: pathlib.Path) -> np.ndarray:
        """Features `[n, F]` float32 of flat examples `[n, P]`, NaN where one is not defined.

        Args:
          rows: finite examples.
          mesh: devices.
          folder: where an estimator that learns has its checkpoints.
        """

    @abc.abstractmethod
    def accuracy(self, n: int, seed: int, mesh: Mesh, folder: pathlib.Path) -> dict[str, Any]:
        """How right `measure` is, by feature, on n examples of all values, see `estimators.accuracy`.

        Args:
          n: number of examples.
          seed: of these.
          mesh: devices.
          folder: see `measure`.
        """

    @abc.abstractmethod
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
        """Trains a model on several training sets of one size, and samples from each.

        Args:
          model: its name.
          training: training sets.
          keys: `[L]` typed PRNG keys.
          count: samples of each.
          mesh: devices.
          folders: of the checkpoints of each; None for all in one program.
          report: called with the number of trainings done.
        """

    def shown(self, rows: np.ndarray) -> np.ndarray | None:
        """Pictures `[n, H, W, C]` uint8 of examples; None where there is nothing to see."""
        del rows
        return None

    def describe(self, mesh: Mesh | None = None) -> dict[str, dict[str, Any]]:
        """For every learned model its `num_params`, and of every stage `steps` and `batch_size`."""
        del mesh
        return {}
