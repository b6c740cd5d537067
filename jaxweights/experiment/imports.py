"""Networks that come from files: what an experiment takes them for, and what it asks of them before anything is
trained."""

from __future__ import annotations

import pathlib
import sys

import numpy as np

from jaxweights import population, population_files, store
from jaxweights.auditing.alignment import twins
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluation
from jaxweights.experiment.config import MIN_HELDOUT
from jaxweights.experiment.context import Context
from jaxweights.generators.imported import Imported
from jaxweights.population import HELDOUT, TRAIN, Population, check_variances
from jaxweights.spec import WeightSpec
from jaxweights.zoo import ZooSettings
from jaxweights.zoo.imported import scaling

_SHOWN = 5


def check_files(context: Context) -> None:
    """Reads the files of generated networks whose samples are still to be made.

    Raises:
      UserError: a file that does not hold `num_samples` networks of this kind.
    """
    for name, (generator, _) in context.generators.items():
        if isinstance(generator, Imported) and not (context.workdir / "samples" / name / store.INDEX).exists():
            rows = len(generator.read(context.outline.spec, context.settings.num_samples))
            _say(f"{name}: the first {context.settings.num_samples} of {rows} networks of {generator.path}")


def zoo(context: Context) -> tuple[Population, list[str]]:
    """The imported zoo, with runs, splits and measured accuracies in its records, and what was assumed of it.

    Raises:
      UserError: a file that holds no such zoo, see `population_files.read`, `with_runs`, `with_splits`; or networks
        whose outputs are not finite.
    """
    path = context.zoo_settings.import_npz
    read, notes = read_zoo(context.zoo_settings, context.net.spec)
    result = context.evaluate(read.weights)
    bad = np.flatnonzero(~np.isfinite(result.loss))
    if bad.size:
        raise UserError(
            f"{bad.size} of {len(read)} networks of {path} have a loss that is not finite on {context.dataset.name} "
            f"(first: rows {bad[:_SHOWN].tolist()}), though their weights are finite. Remove these rows."
        )
    notes += [f"inputs are {scaling(context.dataset)}", _quality(result, read, context.task.terms.measure)]
    _say(f"zoo: {len(read)} networks of {path}; {'; '.join(notes)}")
    records = {**read.records, "accuracy": result.accuracy, "loss": result.loss, "transform": "imported"}
    return Population.create(read.weights, context.net.spec, **records), notes


def read_zoo(settings: ZooSettings, spec: WeightSpec) -> tuple[Population, list[str]]:
    """The networks of `zoo.import_npz` with runs and splits, and what was assumed of these; see `zoo`."""
    path = settings.import_npz
    read, given = population_files.read(path, spec, setting="zoo.import_npz")
    if pathlib.Path(path).expanduser().is_dir():
        given = bool((read.records["split"] == HELDOUT).any())
    check_variances(read.weights[:], spec, f"The population {path}")
    split, notes = with_splits(with_runs(read, path), settings.num_heldout, path, given)
    if (read.records["run"] < 0).all():
        notes.insert(0, "its runs are unknown: every row counts as a run of its own")
    return split, notes


def with_runs(read: Population, path: str) -> Population:
    """A population in which every row has a run: its own where the file says nothing of runs.

    Raises:
      UserError: some rows without a run, or two of the same run and step.
    """
    run, step = read.records["run"], read.records["step"]
    if (run < 0).all():
        return _replaced(read, run=np.arange(len(read)))
    if (run < 0).any():
        raise UserError(
            f"{path} has no run (-1) in {(run < 0).sum()} of {len(run)} rows (first: "
            f"{np.flatnonzero(run < 0)[:_SHOWN].tolist()}). Give every row its run, or leave out the column run."
        )
    order = np.lexsort((step, run))
    same = np.flatnonzero((np.diff(run[order]) == 0) & (np.diff(step[order]) == 0))
    if same.size:
        rows = sorted(order[same[0] : same[0] + 2].tolist())
        raise UserError(
            f"{path} has two networks of run {run[rows[0]]} at step {step[rows[0]]} (rows {rows[0]} and {rows[1]}), so "
            "which is the later one is unknown. Give the column step, or other numbers to independent runs."
        )
    return read


def with_splits(read: Population, num_heldout: int, path: str, given: bool = False) -> tuple[Population, list[str]]:
    """A population with held-out runs: those of the file, or else its last ones.

    Args:
      read: with runs.
      num_heldout: how many runs to hold out where the file holds out none.
      path: the file, for messages.
      given: whether the file says what is held out. A given split is never changed.

    Returns:
      The population, and what was assumed.

    Raises:
      UserError: a given split without held-out rows, a run in two splits, a split "generated", fewer than 8 held-out
        runs or no others, or a held-out network that is also a training network.
    """
    run, split = read.records["run"], read.records["split"]
    if (split == population.GENERATED).any():
        raise UserError(
            f"{path} has rows of the split {population.GENERATED!r}, but a zoo has {TRAIN!r} and {HELDOUT!r}. Audit "
            'generated networks as a generator of kind "file".'
        )
    runs = np.unique(run[split != population.DIVERGED])
    if (split == HELDOUT).any():
        notes = ["runs are held out by its column split"]
        both = np.intersect1d(run[split == TRAIN], run[split == HELDOUT])
        if both.size:
            raise UserError(
                f"{path} has checkpoints of {both.size} runs in {TRAIN!r} and {HELDOUT!r} (first: run {both[0]}). Zoos "
                "are split by run: give all rows of a run the same split."
            )
    elif given:
        raise UserError(
            f"{path} has a column split in which no row is {HELDOUT!r}. Mark all rows of at least {MIN_HELDOUT} runs "
            f"that no generator has seen {HELDOUT!r}; or leave the column out, and the last zoo.num_heldout runs are "
            "held out."
        )
    else:
        if not MIN_HELDOUT <= num_heldout < len(runs):
            cure = f"Set it between {MIN_HELDOUT} and {len(runs) - 1}, or give the column split."
            if len(runs) <= MIN_HELDOUT:
                cure = (
                    f"Give a file of more runs: an audit needs {MIN_HELDOUT} held-out runs and training runs besides."
                )
            raise UserError(
                f"{path} has {len(runs)} runs, of which zoo.num_heldout = {num_heldout} cannot be held out. {cure}"
            )
        notes = [f"the last {num_heldout} of {len(runs)} runs are held out (zoo.num_heldout)"]
        chosen = np.where(np.isin(run, runs[len(runs) - num_heldout :]), HELDOUT, TRAIN)
        split = np.where(split == population.DIVERGED, split, chosen)
    counts = {part: len(np.unique(run[split == part])) for part in (TRAIN, HELDOUT)}
    if not counts[TRAIN] or counts[HELDOUT] < MIN_HELDOUT:
        raise UserError(
            f"{path} has {counts[TRAIN]} training and {counts[HELDOUT]} held-out runs, but an audit needs at least one "
            f"and {MIN_HELDOUT}. Change its column split, or give a file of more runs."
        )
    unseen = np.flatnonzero(split == HELDOUT)
    copies = unseen[twins.equal_weights(read.weights[unseen], read.weights[split == TRAIN], read.spec)]
    if copies.size:
        raise UserError(
            f"{path} has {len(copies)} held-out networks that are training networks, too (first: row {copies[0]}). "
            "Held-out runs have to be new to a generator: remove these rows."
        )
    return _replaced(read, split=split), notes


def _quality(found: Evaluation, read: Population, measure: str) -> str:
    stated = read.records["accuracy"]
    known = f", {np.nanmean(stated):.4g} by the file" if np.isfinite(stated).any() else ""
    return f"mean {measure} {np.mean(found.accuracy):.4g}{known}"


def _replaced(read: Population, **columns: np.ndarray) -> Population:
    return Population(read.weights, read.spec, {**read.records, **columns})


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
