"""The cells of a comparison: one transformation of one set each, tried once and kept."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxweights import files, processes
from jaxweights.bias import classifiers, protocol
from jaxweights.bias.classifiers import Recipe
from jaxweights.bias.classifiers import recipe as recipes
from jaxweights.bias.images import Images
from jaxweights.bias.protocol import Outcome, Split
from jaxweights.bias.subject import Labelled, Subject
from jaxweights.bias.transformations.identity import Identity
from jaxweights.errors import UserError
from jaxweights.progress import Progress

TIMING, ATTENTION = "timing.json", "attention.npz"
FOLDER = "cells"
"""Where a folder of a comparison has its cells; made with the first."""
_BYTES = 128 << 20  # transformed examples that are trained on together
_SHOWN = 20  # examples of a collection that may be shown, at most
_EXPLAINED = 3  # examples of a collection with Grad-CAM, as many right as wrong ones
_KEPT = {"data": str, "accuracy": dict, "control": dict, "train_accuracy": float, "recall": list, "confusion": list}


class Cell(NamedTuple):
    """One transformation of one set.

    Attributes:
      of: name of the set.
      name: name of the transformation.
    """

    of: str
    name: str


def path(folder: pathlib.Path, cell: Cell, kind: str = "json") -> pathlib.Path:
    """Where a folder of a comparison has a cell: its numbers (json), its examples (npz), Grad-CAM (attention.npz)."""
    return folder / FOLDER / f"{cell.of}.{cell.name}.{kind}"


def kept(folder: pathlib.Path, cell: Cell, examples: Labelled) -> dict[str, Any] | None:
    """What a cell has found, if it is there.

    Raises:
      UserError: it was made from other examples.
    """
    place = path(folder, cell)
    if not place.exists():
        return None
    cure = f"Remove {place} and run the same command again."
    found = files.read_json(place, "cell of a comparison", cure, _KEPT)
    if found["data"] != examples.facts["digest"]:
        raise UserError(
            f"{place} was made from other examples than those that are read now. Give the former data, or remove "
            f"{folder} and run again."
        )
    return found


def named(folder: pathlib.Path, subject: Subject, of: str, mesh: Mesh) -> dict[str, Any]:
    """Which named features tell the collections of a set apart; made and kept where it is not there."""
    examples, place = subject.sets()[of], folder / FOLDER / f"{of}.json"
    with processes.in_turn(f"named features of {of}"):
        if not place.exists():
            split = subject.sizes.splits(examples)[0][0]
            files.write_json(place, {"data": examples.facts["digest"], **subject.named(of, split, mesh)})
        found = files.read_json(place, "table of named features", f"Remove {place} and run the same command again.")
    if found.pop("data", "") != examples.facts["digest"]:
        raise UserError(f"{place} was made from other examples than those that are read now. Remove it and run again.")
    return found


@dataclasses.dataclass(frozen=True)
class Work:
    """What the cells of a set have in common.

    Attributes:
      subject: what is compared.
      of: name of the set.
      folder: of the comparison.
      mesh: devices.
      rows: examples that some training uses, in ascending order.
      unseen: those of them that some classifier is asked about.
      splits: subsets of repeats and controls, in numbers of `rows`.
      control: whether each is a control.
    """

    subject: Subject
    of: str
    folder: pathlib.Path
    mesh: Mesh
    rows: np.ndarray
    unseen: np.ndarray
    splits: list[Split]
    control: list[bool]

    @classmethod
    def of_set(cls, subject: Subject, of: str, folder: pathlib.Path, mesh: Mesh) -> Work:
        """Draws the subsets of a set."""
        files.make_dir(folder / FOLDER)
        drawn, control = subject.sizes.splits(subject.sets()[of])
        rows = np.unique(np.concatenate([np.concatenate([split.train, split.validation]) for split in drawn]))
        unseen = np.unique(np.concatenate([split.validation for split in drawn]))
        splits = [
            Split(s.labels[rows], *(np.searchsorted(rows, side) for side in (s.train, s.validation))) for s in drawn
        ]
        return cls(subject, of, folder, mesh, rows, unseen, splits, control)

    def train(self, missing: Sequence[str]) -> None:
        """Trains the cells of some transformations, those of them that are this process's.

        Those whose examples have one shape are trained together, as far as memory allows.
        """
        own = missing[processes.index() :: processes.count()]
        with Progress(len(own) * len(self.splits), f"{self.of} ({len(own)} transformations)", "trainings") as bar:
            if isinstance(self.subject.classifier, Recipe):
                self._by_recipe(own, bar)
                return
            waiting, begin = dict[str, np.ndarray](), time.monotonic()
            for place, name in enumerate(own):
                made = self.subject.transformed(self.of, name, self.rows, self.unseen, self.mesh)
                fits = all(made.shape == x.shape and made.dtype == x.dtype for x in waiting.values())
                if waiting and not (fits and sum(x.nbytes for x in waiting.values()) + made.nbytes <= _BYTES):
                    begin = self._together(waiting, bar, place, begin)
                    waiting = {}
                waiting[name] = made
            self._together(waiting, bar, len(own), begin)

    def _together(self, waiting: dict[str, np.ndarray], bar: Progress, place: int, begin: float) -> float:
        """Trains on transformed examples of one shape and keeps the cells; returns the time."""
        each, seed = len(self.splits), self.subject.sizes.seed
        before, count = (place - len(waiting)) * each, len(waiting) * each
        trials = [split.trial(t, seed + i) for t in range(len(waiting)) for i, split in enumerate(self.splits)]
        outcomes = classifiers.train(
            self.subject.source_classifier,
            np.stack(list(waiting.values())),
            trials,
            self.subject.sets()[self.of].num_classes,
            self.mesh,
            lambda done, total: bar.update(before + count * done / total),
        )
        now = time.monotonic()
        for t, (name, made) in enumerate(waiting.items()):
            own = outcomes[t * each : (t + 1) * each]
            self._explain(name, made, own[0])
            self._keep(name, made, self.rows, own, (now - begin) / len(waiting))
        return now

    def _by_recipe(self, own: Sequence[str], bar: Progress) -> None:
        """One training after the other, each over all devices and resumed from its own checkpoints."""
        subject, recipe = self.subject, self.subject.classifier
        assert isinstance(subject, Images) and isinstance(recipe, Recipe)
        trainings = self.folder / "trainings"
        for place, name in enumerate(own):
            begin, outcomes = time.monotonic(), list[Outcome]()
            stored = subject.stored(self.of, name, self.rows, self.unseen, self.mesh)
            for i, split in enumerate(self.splits):
                outcomes.append(
                    recipes.train(
                        recipe,
                        stored,
                        subject.transformation(name),
                        split.trial(0, subject.sizes.seed + i),
                        subject.sets()[self.of].num_classes,
                        mesh=self.mesh,
                        path=files.make_dir(trainings / f"{self.of}.{name}" / str(i)),
                    )
                )
                bar.update(place * len(self.splits) + i + 1)
            self._explain(name, stored, outcomes[0])
            labels = subject.sets()[self.of].labels[self.rows]
            some = self.rows[np.sort(np.concatenate([np.flatnonzero(labels == i)[:_SHOWN] for i in np.unique(labels)]))]
            made = subject.transformed(self.of, name, some, self.unseen, self.mesh)
            self._keep(name, made, some, outcomes, time.monotonic() - begin)

    def _explain(self, name: str, made: np.ndarray, outcome: Outcome) -> None:
        """Writes Grad-CAM of the first repeat's classifier, of original images: the first that are right and wrong."""
        if self.subject.transformations[name]["kind"] != Identity.KIND or outcome.explain is None:
            return
        split = self.splits[0]
        truth, predicted = split.labels[split.validation], outcome.predictions
        chosen = [
            np.flatnonzero((truth == k) & ((predicted == k) == right))[:_EXPLAINED]
            for k in range(self.subject.sets()[self.of].num_classes)
            for right in (True, False)
        ]
        places = np.concatenate(chosen)
        images = made[split.validation[places]]
        maps = outcome.explain(images, predicted[places])
        if maps is not None:
            seen = {"images": images, "maps": maps, "truth": truth[places], "predicted": predicted[places]}
            files.write_npz(path(self.folder, Cell(self.of, name), ATTENTION), seen)

    def _keep(self, name: str, made: np.ndarray, rows: np.ndarray, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Writes a cell; `made` are its transformed examples of some rows."""
        examples, cell = self.subject.sets()[self.of], Cell(self.of, name)
        trials = [split.trial(0, 0) for split in self.splits]
        found = protocol.summary(trials, outcomes, examples.num_classes, self.control)
        shown = self.subject.shown(self.of, made, rows)
        if shown is not None:
            files.write_npz(path(self.folder, cell, "npz"), {"shown": shown})
        files.write_json(path(self.folder, cell), {"data": examples.facts["digest"], **found})
        if processes.is_first():
            place = self.folder / TIMING
            timing = files.read_json(place, "table of timings", f"Remove {place}.") if place.exists() else {}
            files.write_json(place, {**timing, f"{self.of}.{name}": round(seconds, 3)})
