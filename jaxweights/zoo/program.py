"""The protocol of training programs: how one run is trained; `trainer.Trainer` does the rest."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import nets
from jaxweights.data import Dataset
from jaxweights.zoo.recipe import Recipe


class RunState(NamedTuple):
    """State of `[R]` runs between dispatches; every leaf has a leading run axis. Programs see one run, without it."""

    params: Any
    opt_state: Any  # state of the optimizer, and whatever else goes from step to step
    words: jax.Array  # [R, 2] uint32, key of the batch order and of everything else that steps draw
    hyper: dict[str, jax.Array]  # [R] float32 each


class RunData(NamedTuple):
    """What runs read besides their state: arrays that all runs share, and arrays `[R, ...]` of one entry per run."""

    shared: Any
    own: Any = ()


@dataclasses.dataclass(frozen=True)
class Program(abc.ABC):
    """How one run of a zoo is trained, as pure functions of that run's state.

    Attributes:
      net: the task network.
      recipe: how each run is trained.
      num_examples: size of the training set.
    """

    net: nets.TaskNet
    recipe: Recipe
    num_examples: int

    ends_early: ClassVar[bool] = False
    """Whether runs may end before their last step, see `done`."""

    @property
    def shares_batches(self) -> bool:
        """Whether all runs see the same batches."""
        return False

    @property
    def run_bytes(self) -> int:
        """Bytes of the data that every run has for itself."""
        return 0

    def check_recipe(self) -> None:
        """Raises `UserError` unless runs can be trained by this recipe."""
        return

    def check(self, dataset: Dataset, runs: int) -> None:
        """Raises `UserError` unless a zoo of so many runs can be trained on this data set by this program."""
        del dataset, runs
        self.check_recipe()

    @abc.abstractmethod
    def default_lanes(self, backend: str) -> int:
        """Models trained together under `vmap` on one device."""

    def widths(self, backend: str) -> tuple[int, ...]:
        """What `default_lanes` may be replaced by where a measurement says so; see `widths.chosen`."""
        return (self.default_lanes(backend),)

    @abc.abstractmethod
    def load(self, dataset: Dataset, mesh: Mesh) -> Any:
        """What `select` takes the data of a chunk of runs from."""

    def select(self, data: Any, run_ids: np.ndarray, mesh: Mesh) -> RunData:
        """The data of the given runs, on the devices."""
        del run_ids, mesh
        return data

    def given(self) -> Any:
        """Arrays that `start` reads, the same for all runs."""
        return None

    @abc.abstractmethod
    def start(self, key: jax.Array, hyper: dict[str, jax.Array], given: Any) -> tuple[Any, Any]:
        """Parameters and optimizer state before the first step.

        Args:
          key: key of the run's initialisation.
          hyper: the run's hyper-parameters.
          given: see above.
        """

    def restart(self, state: RunState, run_ids: np.ndarray, first: np.ndarray, mesh: Mesh) -> RunState:
        """States of runs that start from the last weights `[P]` of run 0; run 0 itself keeps its own."""
        raise NotImplementedError(f"{type(self).__name__} has no start from the weights of another run.")

    @abc.abstractmethod
    def step(self, state: RunState, data: RunData, step: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        """Parameters and optimizer state after a step.

        Args:
          state: one run; only its key and its hyper-parameters count.
          data: one run's data, from `select`.
          step: number of the step, from 0.
          carry: parameters and optimizer state before it.
        """

    @abc.abstractmethod
    def vector(self, params: Any) -> jax.Array:
        """The weights `[P]` that a snapshot keeps."""

    def done(self, opt_state: Any) -> jax.Array:
        """Whether a run has ended early; asked where `ends_early`."""
        raise NotImplementedError

    def columns(self, state: RunState, data: RunData, weights: np.ndarray, mesh: Mesh) -> dict[str, np.ndarray]:
        """Further columns of the records of trained runs, one entry per run.

        Args:
          state: trained runs, of which only the first `len(weights)` count.
          data: data of the runs, from `select`.
          weights: `[R, P]`, the last weights of each.
          mesh: devices.
        """
        del state, data, weights, mesh
        return {}
