"""Trials: one training of one model on one designed training set each, trained together where shapes are equal."""

from __future__ import annotations

import dataclasses
import pathlib
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import files, processes
from jaxweights.auditing.distances import euclidean
from jaxweights.auditing.statistics import bootstrap_median_ratio
from jaxweights.population import Population
from jaxweights.probing.features import Design
from jaxweights.probing.probes import Measured, Probe
from jaxweights.probing.settings import ProbingSettings
from jaxweights.probing.subject import Subject
from jaxweights.progress import Progress

EXAMPLES, TRIALS, TRAININGS, ESTIMATOR = "examples", "trials", "trainings", "estimator"
"""Folders of a study."""
TIMING = "timing.json"
_BYTES = 256 << 20  # training examples of the trials that are trained together
_COMPARED = 256  # examples whose nearest training example is looked for
_TRAIN, _HELDOUT = 0, 1  # purposes of a trial's seed


class Trial(NamedTuple):
    """One training set.

    Attributes:
      design: its name.
      seed: number of the training on that design.
    """

    design: str
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """All designs of all probes, equal ones once.

    Attributes:
      designs: by name, `<probe>.<design>` of the first probe that asks for it.
      asked: for every probe, its designs under its own names.
      names: for every probe, the name in `designs` of each of its own.
    """

    designs: dict[str, Design]
    asked: dict[str, dict[str, Design]]
    names: dict[str, dict[str, str]]

    @classmethod
    def of(cls, probes: Mapping[str, Probe], subject: Subject, seed: int) -> Plan:
        """Draws the designs of every probe.

        Raises:
          UserError: see `Probe.designs` and `Subject.check`.
        """
        known, designs, names = dict[bytes, str](), dict[str, Design](), dict[str, dict[str, str]]()
        asked = {name: probe.designs(subject.features, seed) for name, probe in probes.items()}
        for probe, own in asked.items():
            names[probe] = {}
            for name, design in own.items():
                content = design.values.tobytes()
                if content not in known:
                    subject.check(design)
                    known[content] = f"{probe}.{name}"
                    designs[known[content]] = design
                names[probe][name] = known[content]
        return cls(designs, asked, names)


def trial_path(folder: pathlib.Path, model: str, trial: Trial) -> pathlib.Path:
    """Where a folder of a study has what a model made."""
    return folder / TRIALS / model / f"{trial.design}.{trial.seed}.npz"


def seed_of(design: Design, number: int, seed: int, purpose: int) -> int:
    """A seed that depends on the combinations of a design, not on its name or its neighbours."""
    return zlib.crc32(design.values.tobytes() + np.array([seed, number, purpose], np.int64).tobytes()) & 0x7FFFFFFF


def measured(subject: Subject, rows: np.ndarray, mesh: Mesh, folder: pathlib.Path) -> np.ndarray:
    """Features `[n, F]` float32 of examples `[n, P]`, see `Subject.measure`; of those that are not finite, as of a
    training that diverged, none is defined."""
    finite = np.isfinite(rows).all(axis=1, keepdims=True)
    return np.where(finite, subject.measure(np.nan_to_num(rows), mesh, folder), np.nan).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Work:
    """What the trials of a study have in common.

    Attributes:
      subject: what is probed.
      plan: its designs.
      options: sizes.
      seed: random seed.
      folder: of the study.
      mesh: devices.
    """

    subject: Subject
    plan: Plan
    options: ProbingSettings
    seed: int
    folder: pathlib.Path
    mesh: Mesh

    @property
    def trials(self) -> list[Trial]:
        """All training sets."""
        return [Trial(name, s) for name in self.plan.designs for s in range(self.options.seeds)]

    def examples(self, trial: Trial) -> pathlib.Path:
        """Where the measured features of a training set are."""
        return self.folder / EXAMPLES / f"{trial.design}.{trial.seed}.npz"

    def path(self, model: str, trial: Trial) -> pathlib.Path:
        """Where what a model made is."""
        return trial_path(self.folder, model, trial)

    def missing(self, model: str) -> list[Trial]:
        """The trials of a model that are not kept."""
        return [t for t in self.trials if not (self.path(model, t).exists() and self.examples(t).exists())]

    def groups(self, trials: Sequence[Trial]) -> list[list[Trial]]:
        """Trials that are trained together, as memory allows; as many in each as fit all devices."""
        if not self.subject.TOGETHER:
            return [[trial] for trial in trials]
        each = 4 * self.options.num_train * self._draw(trials[0], _TRAIN, 1).weights.shape[1] if trials else 1
        most = max(1, _BYTES // each)
        most = max(most - most % self.mesh.size, 1)
        return [list(trials[i : i + most]) for i in range(0, len(trials), most)]

    def train(self, model: str, missing: Sequence[Trial]) -> None:
        """Trains the trials of a model that are this process's, and keeps them."""
        own = list(missing)[processes.index() :: processes.count()]
        files.make_dir(self.folder / EXAMPLES)
        files.make_dir(self.folder / TRIALS / model)
        done, begin = 0, time.monotonic()
        with Progress(len(own), f"{model} ({len(own)} training sets)", "trainings") as bar:
            for group in self.groups(own):
                training = [self._draw(trial, _TRAIN, self.options.num_train) for trial in group]
                keys = jax.vmap(jax.random.key)(np.array([self._seed(trial, model) for trial in group], np.uint32))
                made = self.subject.train(
                    model,
                    training,
                    keys,
                    self.options.num_samples,
                    self.mesh,
                    folders=None if self.options.together else [self._checkpoints(model, trial) for trial in group],
                    report=lambda trained, before=done: bar.update(before + trained),
                )
                for trial, rows, one in zip(group, training, made, strict=True):
                    self._keep(model, trial, rows, one.samples, one.loss)
                done += len(group)
        if processes.is_first():
            self._time(model, time.monotonic() - begin)

    def _keep(self, model: str, trial: Trial, training: Population, samples: np.ndarray, loss: float | None) -> None:
        """Measures a training set, if that was not done, and what came out."""
        heldout = self._draw(trial, _HELDOUT, self.options.num_heldout)
        if not self.examples(trial).exists():
            found = {"train": self._measure(training.weights), "heldout": self._measure(heldout.weights)}
            files.write_npz(self.examples(trial), found | self._shown(training.weights))
        own, null = (self._nearest(rows[:_COMPARED], training.weights) for rows in (samples, heldout.weights))
        kept = {
            "generated": self._measure(samples),
            "nearest": own,
            "nearest_heldout": null,
            "loss": np.float64(np.nan if loss is None else loss),
        }
        files.write_npz(self.path(model, trial), kept | self._shown(samples))

    def _nearest(self, rows: np.ndarray, training: np.ndarray) -> np.ndarray:
        """Distances `[n]` to the nearest training examples; NaN of rows that are not finite."""
        found = euclidean.nearest(np.nan_to_num(rows), training, k=1, mesh=self.mesh).distances[:, 0]
        return np.where(np.isfinite(rows).all(axis=1), found, np.nan)

    def _measure(self, rows: np.ndarray) -> np.ndarray:
        return measured(self.subject, np.asarray(rows), self.mesh, self.folder / ESTIMATOR)

    def _shown(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        seen = self.subject.shown(np.asarray(rows[: self.options.shown]))
        return {} if seen is None else {"shown": seen}

    def _seed(self, trial: Trial, model: str) -> int:
        """Of a training; other models start from other numbers."""
        return seed_of(self.plan.designs[trial.design], trial.seed, self.seed, zlib.crc32(model.encode()))

    def _draw(self, trial: Trial, purpose: int, n: int) -> Population:
        design = self.plan.designs[trial.design]
        return self.subject.draw(design, n, seed_of(design, trial.seed, self.seed, purpose), self.mesh)

    def _checkpoints(self, model: str, trial: Trial) -> pathlib.Path:
        return files.make_dir(self.folder / TRAININGS / model / f"{trial.design}.{trial.seed}")

    def _time(self, model: str, seconds: float) -> None:
        place = self.folder / TIMING
        timing = files.read_json(place, "table of timings", f"Remove {place}.") if place.exists() else {}
        files.write_json(place, {**timing, model: round(timing.get(model, 0) + seconds, 3)})

    def read(self, model: str | None, trial: Trial) -> dict[str, np.ndarray]:
        """What was kept of a trial; without a model, fresh training examples in the place of what came out.

        Raises:
          UserError: a file that is absent or damaged.
        """
        cure = "Remove it and run the same command again."
        found = files.read_npz(self.examples(trial), "table of measured examples", cure)
        if model is None:
            return {**found, "generated": found["heldout"]}
        kept = files.read_npz(self.path(model, trial), "table of measured samples", cure)
        return {**found, **kept, "trained": found.get("shown", np.zeros(0))}

    def measured(self, model: str | None, design: str) -> list[Measured]:
        """What was measured of all trainings on a design."""
        read = (self.read(model, Trial(design, s)) for s in range(self.options.seeds))
        return [Measured(one["train"], one["heldout"], one["generated"]) for one in read]

    def nearest(self, model: str, design: str) -> dict[str, Any]:
        """Median distance of samples to the nearest training example over that of fresh examples; of those that are
        finite."""
        read = [self.read(model, Trial(design, s)) for s in range(self.options.seeds)]
        own, null = (np.concatenate([one[k] for one in read]) for k in ("nearest", "nearest_heldout"))
        own = own[np.isfinite(own)]
        if not len(own) or not np.median(null) > 0:
            return {"value": None, "ci95": [None, None], "n": len(own)}
        return bootstrap_median_ratio(own, null, 500, 0).to_json()
