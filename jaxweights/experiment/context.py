"""What the stages of an experiment share: its config and workdir, and what is made of them once they are asked for."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxweights import data, files, generators, nets, parallel, processes, provenance, store, tasks, zoo
from jaxweights.auditing import symmetry
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluator
from jaxweights.experiment.config import complete, parse
from jaxweights.experiment.stages import CONTROLS, input_files, origin, stages
from jaxweights.experiment.workdir import Workdir
from jaxweights.generators.base import UsesExamples
from jaxweights.population import Population, TaskExamples
from jaxweights.trackers import Tracker
from jaxweights.training import train_generator


class Context:
    """An experiment bound to a workdir.

    Args:
      config: plain nested dict, see `configs/base.py`.
      workdir: folder of everything it makes.
      data_dir: where data sets other than the embedded ones are, or None for the default of `data.load`.
      trackers: receive every row of `metrics.jsonl` too.

    Raises:
      UserError: an unwritable workdir, one that another process works in, a workdir whose trained networks belong to
        another config or other input files (naming what differs), or an impossible config.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        workdir: pathlib.Path | str,
        data_dir: str | None = None,
        trackers: Sequence[Tracker] = (),
    ):
        self.settings = parse(config)
        self.config = complete(config, self.settings)
        inputs = {name: _checksum(path) for name, path in input_files(self.config).items()}
        self.folder = Workdir(workdir, self.config, inputs, stages)
        self.workdir = self.folder.path
        self.data_dir, self.trackers = data_dir, tuple(trackers)
        self._states: dict[str, Any] = {}
        if processes.count() > 1:  # what all read together is read now, before the first does anything alone
            _ = self.dataset, self._streams

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """All devices of this process."""
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
        """The task's training and test examples; bad items that were left out are listed in `skipped_data.txt`.

        Raises:
          UserError: they are not those of former calls.
        """
        runs = self.zoo_settings.num_runs + self.zoo_settings.num_heldout
        loaded = self.task.load(self.settings.data, net=self.config["net"], runs=runs, data_dir=self.data_dir)
        with processes.in_turn("data"):  # bound to its content, whatever files it is in
            self.folder.bind({"data": loaded.source.rpartition("blake2b ")[2]})
        if loaded.skipped and processes.is_first():
            listed = self.workdir / "skipped_data.txt"
            files.write_text(listed, "".join(f"{line}\n" for line in loaded.skipped))
            print(f"data: bad items were left out; {listed} lists them", file=sys.stderr, flush=True)
        return loaded

    @functools.cached_property
    def net(self) -> nets.TaskNet:
        """The task network; where there is a base, the part of it that runs train, with the rest frozen."""
        whole = self.task.build(self.config["net"], self.dataset.train_images.shape[1:], self.dataset.num_classes)
        chosen = self.task.base(self.zoo_settings)
        if chosen is None:
            return whole
        with self.folder.timed("base"), processes.in_turn("base"):
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
    def outline(self) -> nets.TaskNet:
        """The task network, or the part of it that runs train, before there is a base: zeros are frozen."""
        whole = self.task.build(self.config["net"], self.dataset.train_images.shape[1:], self.dataset.num_classes)
        if self.task.base(self.zoo_settings) is None:
            return whole
        return nets.partial(whole, np.zeros(whole.spec.num_params, np.float32), self.zoo_settings.subset)

    @property
    def examples(self) -> TaskExamples:
        """What the networks are trained for, for generators that look at it."""
        return TaskExamples(self.net, self.dataset)

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
        controls = {name: CONTROLS[name] for name in symmetry.applicable(CONTROLS, self.outline.spec)}
        return {**learned, **rest, **generators.resolve(controls)}

    @functools.cached_property
    def _streams(self) -> dict[str, int]:
        with processes.in_turn("streams"):
            return self.folder.streams(self.generators)

    def state(self, name: str, training: Population, trajectories: Population) -> Any:
        """The state of a trained or fitted generator; what is not on disk yet is trained.

        Args:
          name: of a generator that has a training of its own.
          training: the training networks, which may be on disk.
          trajectories: likewise, all checkpoints of their runs.
        """
        generator, trained = self.generators[name]
        if name != trained:
            raise ValueError(f"{name} uses the training of {trained}.")
        if isinstance(generator, generators.ClosedFormGenerator):
            return generator.fit(_read(training))
        if name not in self._states:
            folder = self.workdir / "generators" / name
            with processes.in_turn(f"claim {name}"):
                self._claim(files.make_dir(folder) / "origin.json", f"train {name}")
            log = files.JsonLines(self.workdir / "metrics.jsonl")
            recording = {"log": self._recorder(log), "begin": functools.partial(_forget, log)}
            if not processes.is_first():
                recording = {}
            learned = trajectories if generator.TRAJECTORIES else training
            if isinstance(generator, UsesExamples):
                learned = dataclasses.replace(learned, examples=self.examples)
            with self.folder.timed(f"train {name}"):
                self._states[name] = train_generator(
                    generator,
                    learned if generator.reads_disk else _read(learned),
                    parallel.make_global_mesh(),
                    key=jax.random.fold_in(self.key(1), self._streams[name]),
                    path=folder,
                    **recording,
                )
        return self._states[name]

    def _recorder(self, log: files.JsonLines) -> Tracker:
        def record(row: Mapping[str, Any]) -> None:
            for write in (log.append, *self.trackers):
                write(row)

        return record

    def key(self, purpose: int) -> jax.Array:
        """The PRNG key of a stage; all derive from the config's seed."""
        return jax.random.fold_in(jax.random.key(self.settings.seed), purpose)

    def sample_keys(self, name: str) -> jax.Array:
        """One PRNG key per sample of a generator."""
        return jax.random.split(jax.random.fold_in(self.key(2), self._streams[name]), self.settings.num_samples)

    def provenance(self, stage: str) -> dict[str, Any]:
        """What is kept with every population."""
        facts = {"stage": stage, "config": self.config, "data": self.dataset.source, "versions": provenance.versions()}
        return facts | {"inputs": self.dataset.inputs, "origin": self.origin(stage)}

    def origin(self, stage: str) -> dict[str, Any]:
        """What the result of a stage depends on, by dotted name; of a generator, its random stream, too."""
        stream = {f"stream of {n}": s for n, s in self._streams.items() if stage in (f"train {n}", f"sample {n}")}
        return provenance.flat_config(origin(self.config, self.folder.inputs, stage) | stream)

    def changes(self, stage: str, kept: Mapping[str, Any]) -> list[str]:
        """How what a result depends on (see `origin`) differs from what it did when it was made, one line each."""
        now = self.origin(stage)
        # What is read may not be known yet, or any more; where things are computed was kept once.
        names = {
            name
            for name in {*kept, *now}
            if not (name.startswith("generators.") and name.rpartition(".")[2] in generators.LearnedGenerator.PLACEMENT)
            and (not name.startswith("inputs.") or (name in kept and name in now))
        }
        return provenance.differences(*({k: v for k, v in facts.items() if k in names} for facts in (kept, now)))

    def check_origin(self, stage: str, kept: Mapping[str, Any], path: pathlib.Path) -> None:
        """Raises `UserError` where a result in the workdir is not this experiment's, but was put there."""
        changed = self.changes(stage, kept)
        if changed:
            raise UserError(
                f"{path} was made by another config: {'; '.join(changed)}. Remove that folder and run again, or choose "
                "another --workdir."
            )

    def _claim(self, path: pathlib.Path, stage: str) -> None:
        """Keeps what the result of a stage depends on in a file beside it, or compares it with what is there."""
        if path.exists():
            kept = files.read_json(path, "record of a stage", f"Remove {path} and run the same command again.")
            self.check_origin(stage, kept, path.parent)
        else:
            files.write_json(path, self.origin(stage))


def _read(networks: Population) -> Population:
    """Networks in memory."""
    return networks.select(np.arange(len(networks)))


def _forget(log: files.JsonLines, generator: str, stage: str, step: int) -> None:
    """Removes the points of a stage behind the step from which it is trained, which come again."""

    def before(row: Mapping[str, Any]) -> bool:
        return (row.get("generator"), row.get("stage")) != (generator, stage) or row.get("step", 0) <= step

    log.keep(before)


def _checksum(path: str) -> str | None:
    """The checksum of an input file or stored zoo, where it is one; what reads it says so where it is not."""
    file = pathlib.Path(path).expanduser()
    file = file / store.INDEX if file.is_dir() else file  # which has the checksums of all files of a stored zoo
    try:
        return files.sha256(file)
    except OSError:
        return None
