"""What the stages of an experiment share: its config and workdir, and what is made of them once they are asked for."""

from __future__ import annotations

import functools
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxweights import data, files, generators, nets, parallel, provenance, tasks, zoo
from jaxweights.evaluation import Evaluator
from jaxweights.experiment.config import complete, parse
from jaxweights.experiment.stages import CONTROLS, stages
from jaxweights.experiment.workdir import Workdir
from jaxweights.training import train_generator


class Context:
    """An experiment bound to a workdir.

    Args:
      config: plain nested dict, see `configs/base.py`.
      workdir: folder of everything it makes.
      data_dir: where data sets other than the embedded ones are, or None for the default of `data.load`.

    Raises:
      UserError: an unwritable workdir, a workdir whose trained networks belong to another config (naming the settings
        that differ), or an impossible config.
    """

    def __init__(self, config: Mapping[str, Any], workdir: pathlib.Path | str, data_dir: str | None = None):
        self.settings = parse(config)
        self.config = complete(config, self.settings)
        self.folder = Workdir(workdir, self.config, stages)
        self.workdir = self.folder.path
        self.data_dir = data_dir
        self._states: dict[str, Any] = {}

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """All devices."""
        return parallel.make_mesh()

    @functools.cached_property
    def task(self) -> tasks.Task:
        """What the networks are for."""
        return tasks.get(self.settings.task)

    @property
    def zoo_settings(self) -> Any:
        """Settings of the zoo, of the task's class."""
        return self.settings.zoo

    @functools.cached_property
    def dataset(self) -> data.Dataset:
        """The task's training and test examples; bad items that were left out are listed in `skipped_data.txt`."""
        runs = self.zoo_settings.num_runs + self.zoo_settings.num_heldout
        loaded = self.task.load(self.settings.data, net=self.config["net"], runs=runs, data_dir=self.data_dir)
        if loaded.skipped:
            listed = self.workdir / "skipped_data.txt"
            files.write_text(listed, "".join(f"{line}\n" for line in loaded.skipped))
            print(f"data: {len(loaded.skipped)} left out, listed in {listed}", file=sys.stderr, flush=True)
        return loaded

    @functools.cached_property
    def net(self) -> nets.TaskNet:
        """The task network; where there is a base, the part of it that runs train, with the rest frozen."""
        whole = self.task.build(self.config["net"], self.dataset.train_images.shape[1:], self.dataset.num_classes)
        chosen = self.task.base(self.zoo_settings)
        if chosen is None:
            return whole
        with self.folder.timed("base"):
            base = zoo.train_base(
                self.workdir / "base",
                whole,
                chosen,
                self.dataset,
                self.mesh,
                seed=self.settings.seed,
                provenance=self.provenance("base"),
            )
        return nets.partial(whole, base, self.zoo_settings.subset)

    @functools.cached_property
    def test_images(self) -> np.ndarray:
        """Standardised test inputs `[T, ...]` float32."""
        return np.asarray(data.standardise(self.dataset.test_images, self.dataset.scale, self.dataset.shift))

    @functools.cached_property
    def evaluate(self) -> Evaluator:
        """Accuracy, loss and error masks of networks on the test set."""
        return Evaluator(self.net, self.test_images, self.dataset.test_labels, self.mesh)

    @functools.cached_property
    def generators(self) -> dict[str, tuple[Any, str]]:
        """Every generator and control by name, with the name of the one whose training it uses; learned ones first,
        then baselines, then controls."""
        resolved = generators.resolve(self.config["generators"])
        learned = {k: v for k, v in resolved.items() if isinstance(v[0], generators.LearnedGenerator)}
        rest = {k: v for k, v in resolved.items() if k not in learned}
        return {**learned, **rest, **generators.resolve(CONTROLS)}

    @functools.cached_property
    def _streams(self) -> dict[str, int]:
        return self.folder.streams(self.generators)

    def state(self, name: str, training, trajectories) -> Any:
        """The state of a trained or fitted generator; what is not on disk yet is trained.

        Args:
          name: of a generator that has a training of its own.
          training: function of no arguments that reads the training networks.
          trajectories: likewise, all checkpoints of their runs.
        """
        generator, trained = self.generators[name]
        if name != trained:
            raise ValueError(f"{name} uses the training of {trained}.")
        if isinstance(generator, generators.ClosedFormGenerator):
            return generator.fit(training())
        if name not in self._states:
            log = files.JsonLines(self.workdir / "metrics.jsonl")
            with self.folder.timed(f"train {name}"):
                self._states[name] = train_generator(
                    generator,
                    trajectories() if generator.TRAJECTORIES else training(),
                    self.mesh,
                    key=jax.random.fold_in(self.key(1), self._streams[name]),
                    path=self.workdir / "generators" / name,
                    log=log.append,
                    begin=functools.partial(_forget, log),
                )
        return self._states[name]

    def key(self, purpose: int) -> jax.Array:
        """The PRNG key of a stage; all derive from the config's seed."""
        return jax.random.fold_in(jax.random.key(self.settings.seed), purpose)

    def sample_keys(self, name: str) -> jax.Array:
        """One PRNG key per sample of a generator."""
        return jax.random.split(jax.random.fold_in(self.key(2), self._streams[name]), self.settings.num_samples)

    def provenance(self, stage: str) -> dict[str, Any]:
        """What is kept with every population."""
        return {"stage": stage, "config": self.config, "data": self.dataset.source, "versions": provenance.versions()}


def _forget(log: files.JsonLines, generator: str, stage: str, step: int) -> None:
    """Removes the points of a stage behind the step from which it is trained, which come again."""

    def before(row: Mapping[str, Any]) -> bool:
        return (row.get("generator"), row.get("stage")) != (generator, stage) or row.get("step", 0) <= step

    log.keep(before)
