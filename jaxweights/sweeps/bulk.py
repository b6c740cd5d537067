"""Recipes of zoos: the runs of a cell in one compiled program, evaluated together."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxweights import evaluation
from jaxweights.data import Dataset, standardise
from jaxweights.progress import Progress
from jaxweights.sweeps.plan import Cell, Plan
from jaxweights.zoo import Trainer
from jaxweights.zoo.bulk import diverged_rows, train_chunk


class _Bound(NamedTuple):
    """A group that is ready to train: with its data as they are, on the devices, and standardised for tests."""

    trainer: Trainer
    dataset: Dataset
    loaded: Any
    inputs: np.ndarray


class ZooCells:
    """Trains the cells of a sweep of recipes.

    Args:
      plan: the sweep.
      mesh: devices.
      lanes: models per `vmap` by group, of former calls, so that runs come out the same on any machine.
    """

    unit = "steps"

    def __init__(self, plan: Plan, mesh: Mesh, lanes: Mapping[int, int] | None = None):
        self._plan, self._mesh = plan, mesh
        self._lanes = lanes or {}
        self._bound: dict[int, _Bound] = {}  # of one group, since groups come one after the other

    def _bind(self, number: int) -> _Bound:
        if number in self._bound:
            return self._bound[number]
        self._bound.clear()
        plan, group = self._plan, self._plan.groups[number]
        dataset = plan.task.load(
            group.settings.data, net=group.config["net"], runs=plan.settings.seeds, data_dir=plan.data_dir
        )
        net = plan.task.build(group.config["net"], dataset.train_images.shape[1:], dataset.num_classes)
        program = plan.task.program(net, plan.recipe(group, dataset.num_examples), dataset.num_examples)
        program.check(dataset, plan.settings.seeds)
        trainer = Trainer(program, self._mesh, self._lanes.get(number, group.settings.zoo.lanes))
        inputs = np.asarray(standardise(dataset.test_images, dataset.scale, dataset.shift))
        self._bound[number] = _Bound(trainer, dataset, trainer.load(dataset), inputs)
        return self._bound[number]

    @functools.cache  # noqa: B019  (lives as long as the sweep)
    def _steps(self, number: int) -> int:
        group = self._plan.groups[number]
        return self._plan.recipe(group, self._plan.examples(group).train).snapshots[-1]

    def work(self, cell: Cell) -> int:
        """Optimizer steps of all runs of a cell."""
        return cell.size * self._steps(cell.group)

    def run(self, cell: Cell, bar: Progress, done: int) -> dict[str, Any]:
        """Trains and evaluates a cell.

        Args:
          cell: its runs.
          bar: progress in optimizer steps.
          done: steps before.

        Returns:
          `accuracy`, `loss` (None where it is not finite) and `diverged` of every run, and `lanes` and `data`, which
          they depend on.
        """
        bound, count = self._bind(cell.group), len(cell.seeds)
        # Every cell has the size of the largest, so that one program serves all.
        filled = np.minimum(np.arange(cell.size), count - 1)
        chosen = self._plan.traced_values(cell.recipes[filled])
        trained = train_chunk(
            bound.trainer, bound.loaded, self._plan.seed, cell.seeds[filled], bar, done, chosen=chosen
        )
        rows = trained[0][:count, -1]
        found = evaluation.evaluate(bound.trainer.net, rows, bound.inputs, bound.dataset.test_labels, self._mesh)
        return {
            "lanes": bound.trainer.width,
            "data": bound.dataset.source,
            "accuracy": [float(x) for x in found.accuracy],
            "loss": [float(x) if np.isfinite(x) else None for x in found.loss],
            "diverged": [bool(x) for x in diverged_rows(rows, found, bound.trainer.recipe)],
        }

    def judge(self, cell: Cell) -> dict[str, Any]:
        """Nothing: all is known of networks of a zoo."""
        del cell
        return {}
