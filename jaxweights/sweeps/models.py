"""A generator under many settings and seeds: trainings of a cell in one program, their samples, the audit's verdicts.

Training networks come from one experiment, whose zoo is trained first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxweights import auditing, files, generators, memory, processes
from jaxweights.errors import Diverged
from jaxweights.experiment import Experiment
from jaxweights.experiment import plan as experiments
from jaxweights.experiment import zoo as zoo_stage
from jaxweights.generators.base import LearnedGenerator, Training
from jaxweights.lanes import LaneTrainer, Trained
from jaxweights.population import TRAIN, Population
from jaxweights.progress import Progress
from jaxweights.sweeps.plan import GENERATORS, Cell, Plan
from jaxweights.training import train_generator

_TRAIN, _SAMPLE = 1, 2  # purposes of an experiment's keys


class _Bound(NamedTuple):
    """A group that is ready to train: its generator, what trains it, and what draws from it."""

    generator: LearnedGenerator
    trainer: LaneTrainer
    draw: Callable[..., generators.Samples]


class GeneratorCells:
    """Trains the cells of a sweep of a generator.

    Args:
      plan: the sweep.
      folder: of the sweep.
      mesh: devices.
      lanes: see `LaneTrainer`, by group, of former calls.
    """

    unit = "steps"

    def __init__(
        self,
        plan: Plan,
        folder: pathlib.Path,
        mesh: jax.sharding.Mesh,
        lanes: Mapping[int, int] | None = None,
    ):
        self._plan, self._folder, self._mesh, self._lanes = plan, folder, mesh, lanes or {}
        self._experiment = Experiment({**plan.config, GENERATORS: {}, "studies": {}}, folder / "zoo", plan.data_dir)
        self._opened = self._experiment.zoo()  # which all processes train together
        self._bound: dict[int, _Bound] = {}  # of one group

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        return zoo_stage.training_rows(self._experiment, self._opened)

    def _training(self, generator: LearnedGenerator) -> Population:
        chosen = self._rows
        if generator.TRAJECTORIES:
            chosen = zoo_stage.checkpoints(self._experiment, self._opened, TRAIN, generator)
        return dataclasses.replace(self._opened.read(chosen), examples=self._experiment.examples)

    @functools.cache  # noqa: B019  (lives as long as the sweep)
    def _generator(self, number: int) -> LearnedGenerator:
        name = self._plan.generator
        built: Any = generators.build(name, self._plan.groups[number].config[GENERATORS][name])
        return built

    def _bind(self, number: int) -> _Bound:
        if number not in self._bound:
            self._bound.clear()
            generator = self._generator(number)
            training = Training.of(self._training(generator))
            generator.check(training)
            experiments.refuse_large(generator, training, self._experiment.net)
            width = self._lanes.get(number) or self._plan.settings.lanes or self._fitting(generator, training)
            trainer = LaneTrainer(generator, self._mesh, width)
            self._bound[number] = _Bound(generator, trainer, generators.drawer(generator, self._mesh))
        return self._bound[number]

    def _fitting(self, generator: LearnedGenerator, training: Training) -> int:
        """Lanes that memory allows at most; 0 for any."""
        shapes = experiments.stage_shapes(generator, self._experiment.net)
        one = sum(part.size for part in experiments.generator_memory(generator, training, shapes))
        most = memory.devices() // max(one * self._mesh.size, 1)
        return 0 if most >= LaneTrainer(generator, self._mesh).lanes else max(most, 1)

    def work(self, cell: Cell) -> int:
        """Optimizer steps of all trainings of a cell."""
        return len(cell.seeds) * sum(stage.steps for stage in self._generator(cell.group).stages())

    def run(self, cell: Cell, bar: Progress, done: int) -> dict[str, Any]:
        """Trains a cell, and draws, evaluates and judges the samples.

        Args:
          cell: its trainings.
          bar: progress in optimizer steps.
          done: steps before.

        Returns:
          Of every training: mean test `accuracy` of its samples, the `best_sample`, their mean `loss` (None where one
          is undefined), `training_loss` of the last step, and `diverged` (a loss of training, or a sample, that is not
          finite). Also `lanes` and `data`, which they depend on.
        """
        bound = self._bind(cell.group)
        trained = self._train(bound, cell, lambda steps: bar.update(done + steps))
        samples = [self._draw(bound, *one) for one in zip(cell.seeds, trained.states, trained.finite, strict=True)]
        out: dict[str, Any] = {"lanes": bound.trainer.lanes, "data": self._experiment.dataset.source}
        out |= {name: [] for name in ("accuracy", "best_sample", "loss", "training_loss", "diverged")}
        for one, loss in zip(samples, trained.losses, strict=True):
            out["diverged"].append(one is None)
            out["training_loss"].append(float(loss) if np.isfinite(loss) else None)
            records = {"accuracy": np.zeros(1), "loss": np.full(1, np.nan)} if one is None else one.records
            out["accuracy"].append(float(np.mean(records["accuracy"])))
            out["best_sample"].append(float(np.max(records["accuracy"])))
            mean = float(np.mean(records["loss"]))
            out["loss"].append(mean if np.isfinite(mean) else None)
        if self._plan.settings.audit:
            self._keep(cell, samples)
        return out

    def _train(self, bound: _Bound, cell: Cell, report: Callable[[int], None]) -> Trained:
        training, values = self._training(bound.generator), self._plan.traced_values(cell.recipes)
        keys = jax.vmap(lambda seed: jax.random.fold_in(self._experiment.key(_TRAIN), seed))(cell.seeds)
        if all(stage.parameter_shards == 1 for stage in bound.generator.stages()):
            return bound.trainer.run(training, keys, values, report)
        return self._train_sharded(bound, cell, training, keys, report)

    def _train_sharded(self, bound: _Bound, cell: Cell, training: Population, keys: jax.Array, report) -> Trained:
        """One training after the other, each over all devices and resumed from its own checkpoints."""
        states, finite, steps = [], [], sum(stage.steps for stage in bound.generator.stages())
        last: dict[str, float] = {}
        for i, (recipe, seed) in enumerate(zip(cell.recipes, cell.seeds, strict=True)):
            values = {n.rpartition(".")[2]: float(self._plan.recipes[recipe][n]) for n in self._plan.traced}
            path = files.make_dir(self._folder / "trainings" / f"{recipe}_{seed}")
            last = {}
            state = None
            with contextlib.suppress(Diverged):
                state = train_generator(
                    bound.generator.replace(**values),
                    training,
                    self._mesh,
                    key=keys[i],
                    path=path if processes.count() == 1 else None,  # checkpoints are all processes' work
                    log=lambda row, last=last: last.update(loss=row["loss"]),
                )
            states.append((state, last.get("loss", np.nan)))
            finite.append(state is not None)
            report((i + 1) * steps)
        losses = np.array([loss for _, loss in states])
        return Trained([state for state, _ in states], losses, np.array(finite))

    def _draw(self, bound: _Bound, seed: int, state: Any, finite: bool) -> Population | None:
        """The evaluated samples of a training; None where it diverged, or some are not finite."""
        if not finite:
            return None
        bound_to, opened = self._experiment, self._opened

        def measure(weights: np.ndarray) -> Population:
            result = bound_to.evaluate(weights)
            return Population.create(weights, opened.spec, accuracy=result.accuracy, loss=result.loss)

        keys = jax.random.split(jax.random.fold_in(bound_to.key(_SAMPLE), seed), self._plan.config["num_samples"])
        drawn = bound.draw(state, keys, zoo_stage.starts(opened), measure)
        weights, parents = np.asarray(drawn.weights), np.asarray(drawn.parents)
        if not np.isfinite(weights).all():
            return None
        return self._evaluated(weights, np.where(parents >= 0, self._rows[parents], -1))

    def _evaluated(self, weights: np.ndarray, parents: np.ndarray) -> Population:
        """Samples with accuracy and loss; parents are rows of the zoo."""
        opened, result = self._opened, self._experiment.evaluate(weights)
        derived = opened.view(np.arange(len(opened))).derive(weights, parents, self._plan.generator)
        return Population(weights, opened.spec, {**derived.records, "accuracy": result.accuracy, "loss": result.loss})

    def _keep(self, cell: Cell, samples: list[Population | None]) -> None:
        """Writes the samples of a cell for `judge`."""
        there = {i: one for i, one in enumerate(samples) if one is not None}
        arrays = {f"weights_{i}": one.weights for i, one in there.items()}
        arrays |= {f"parents_{i}": one.records["parent"] for i, one in there.items()}
        files.write_npz(self._samples(cell), arrays)

    def _samples(self, cell: Cell) -> pathlib.Path:
        return files.make_dir(self._folder / "samples") / f"{cell.number:06d}.npz"

    def judge(self, cell: Cell) -> dict[str, list[Any]]:
        """The audit's `verdict`, `novelty`, `z_u` and mean distance `min_l2` of every training; None where it
        diverged."""
        names = [f"recipe_{r}_seed_{s}" for r, s in zip(cell.recipes, cell.seeds, strict=True)]
        path = self._samples(cell)
        arrays = files.read_npz(path, "file of samples", f"Remove {self._folder / 'cells'} and run again.")
        there = {
            name: self._evaluated(arrays[f"weights_{i}"], arrays[f"parents_{i}"])
            for i, name in enumerate(names)
            if f"weights_{i}" in arrays
        }
        series = self._audit(there) if there else {}
        found: list[Mapping[str, Any]] = [series.get(name) or {} for name in names]
        tests = [entry.get("tests") or {} for entry in found]
        return {
            "verdict": [(entry.get("verdict") or {}).get("label") for entry in found],
            "novelty": [(test.get("novelty") or {}).get("value") for test in tests],
            "z_u": [(test.get("z_u") or {}).get("value") for test in tests],
            "min_l2": [(entry.get("min_l2") or {}).get("mean") for entry in found],
        }

    def _audit(self, generated: Mapping[str, Population]) -> Mapping[str, Any]:
        """The audit of series of samples."""
        bound, opened = self._experiment, self._opened
        distinct, duplicates = auditing.distinct(opened.view(self._rows))
        subject = auditing.Subject(
            train=opened.view(self._rows[distinct]),
            heldout=opened.view(zoo_stage.heldout_rows(bound, opened)),
            generated=generated,
            duplicates=tuple(self._rows[list(duplicates)].tolist()),
            heldout_checkpoints=opened.view(zoo_stage.heldout_checkpoints(opened)),
            evaluate=bound.evaluate,
            task=bound.task,
        )
        folder = files.make_dir(self._folder / "audit")
        return auditing.run(subject, bound.settings.audit, self._plan.seed, self._mesh, folder)["series"]
