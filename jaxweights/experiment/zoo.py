"""The stage that trains or imports the zoo, and which of its rows the later stages read."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxweights import auditing, population, processes, provenance, store, zoo
from jaxweights.errors import UserError
from jaxweights.experiment import imports
from jaxweights.experiment.config import MIN_HELDOUT
from jaxweights.experiment.context import Context
from jaxweights.zoo.recipe import SnapshotSettings


def run(context: Context) -> store.PopulationStore:
    """Trains the zoo, or imports it from a file; resumes, or opens what is done.

    Raises:
      UserError: a file of networks that is not as it has to be, an impossible zoo, or one in which too few runs are
        left.
    """
    path = context.workdir / "zoo"
    imports.check_files(context)
    opened = _imported(context, path) if context.zoo_settings.import_npz else _trained(context, path)
    training_rows(context, opened)
    heldout_rows(context, opened)
    return opened


def _trained(context: Context, path: pathlib.Path) -> store.PopulationStore:
    recipe = zoo.Recipe.from_settings(context.zoo_settings, context.dataset.num_examples)
    net = context.net  # trains the base, which has a time of its own
    if (path / store.INDEX).exists():
        _check_origin(context, store.PopulationStore.open(path, drop_missing=True))
    with context.folder.timed("zoo"):
        return zoo.train_zoo(
            net,
            recipe,
            context.dataset,
            context.mesh,
            path=path,
            seed=context.settings.seed,
            provenance=context.provenance("zoo"),
            evaluate=context.evaluate,
        )


def _imported(context: Context, path: pathlib.Path) -> store.PopulationStore:
    with processes.in_turn("import"):
        opened = store.PopulationStore.open(path, drop_missing=True) if (path / store.INDEX).exists() else None
        if processes.is_first() and not (opened and opened.chunk_ids):
            with context.folder.timed("zoo"):
                imported, notes = imports.zoo(context)
                if opened is None:
                    provenance = context.provenance("zoo") | {"taken_for": notes}
                    opened = store.PopulationStore.create(path, context.net.spec, provenance)
                opened.append(0, imported)
    assert opened is not None
    if not opened.complete:
        opened.finish()
    return opened


def open_zoo(context: Context) -> store.PopulationStore:
    """The complete zoo.

    Raises:
      UserError: it is absent, incomplete, or another experiment's.
    """
    opened = store.PopulationStore.open(context.workdir / "zoo")
    if not opened.complete:
        raise UserError(
            f"The zoo in {context.workdir} is not complete. Run launch.train_zoo (or launch.run) again; it resumes."
        )
    _check_origin(context, opened)
    return opened


def _check_origin(context: Context, opened: store.PopulationStore) -> None:
    """Refuses a zoo that was put here from another experiment."""

    def settings(config: Any) -> dict[str, Any]:
        kept = {key: config.get(key) for key in ("seed", "data", "net", "zoo")}
        return kept | {"zoo": {k: v for k, v in (kept["zoo"] or {}).items() if k != "use"}}

    if "origin" in opened.provenance:
        changed = context.changes("zoo", opened.provenance["origin"])
    else:
        changed = provenance.differences(settings(opened.provenance.get("config", {})), settings(context.config))
    if opened.spec != context.net.spec:
        changed.append(f"{opened.spec.num_params} -> {context.net.spec.num_params} parameters per network")
    if changed:
        raise UserError(
            f"The zoo in {opened.path} was made by another config: {'; '.join(changed)}. Remove that folder and run "
            "again, or choose another --workdir."
        )


def training_rows(context: Context, opened: store.PopulationStore) -> np.ndarray:
    """Row numbers of the networks that generators are trained on and the audit compares with.

    Raises:
      UserError: no run of the training split is left.
    """
    records = opened.records
    chosen = np.ones(len(opened), bool)
    if context.zoo_settings.use == "last":
        chosen = population.last_checkpoints(records)
    rows = np.flatnonzero(chosen & (records["split"] == population.TRAIN))
    if not len(rows):
        raise UserError(
            f"The zoo in {opened.path} has no training run{_lost(records, context.zoo_settings)}, or choose another "
            "--workdir."
        )
    return rows


def heldout_rows(context: Context, opened: store.PopulationStore) -> np.ndarray:
    """Row numbers of one checkpoint of every held-out run: the last, or, where training networks are consecutive
    checkpoints, one at a step like theirs.

    Raises:
      UserError: too few of the held-out runs are left.
    """
    records = opened.records
    heldout = records["split"] == population.HELDOUT
    settings = context.zoo_settings
    if isinstance(settings, SnapshotSettings) and settings.snapshot_range:
        rows = np.flatnonzero(heldout)
        kept = {name: records[name][rows] for name in ("run", "step")}
        steps = records["step"][training_rows(context, opened)]
        rows = rows[auditing.at_training_steps(kept, steps, context.settings.seed)]
    else:
        rows = np.flatnonzero(population.last_checkpoints(records) & heldout)
    if len(rows) < MIN_HELDOUT:
        raise UserError(
            f"The zoo in {opened.path} has {len(rows)} held-out runs, but an audit needs at least {MIN_HELDOUT} that "
            f"no generator has seen{_lost(records, settings)}, or choose another --workdir."
        )
    return rows


def _lost(records: Mapping[str, np.ndarray], settings: Any) -> str:
    """Why runs are in no split, and what to do."""
    diverged = len(np.unique(records["run"][records["split"] == population.DIVERGED]))
    if not diverged:
        return ". Raise zoo.num_runs or zoo.num_heldout, or give a file of more runs; remove that folder first"
    limit = f" or above zoo.largest_weight = {settings.largest_weight:g}" if settings.largest_weight else ""
    return (
        f": {diverged} runs diverged (weights or a loss not finite{limit}). Lower zoo.learning_rate"
        f"{' or raise the limit' if limit else ''}; remove that folder first"
    )


def heldout_checkpoints(opened: store.PopulationStore) -> np.ndarray:
    """Row numbers of all checkpoints of the held-out runs."""
    return np.flatnonzero(opened.records["split"] == population.HELDOUT)


def starts(opened: store.PopulationStore) -> population.Population:
    """The first kept checkpoint of every held-out run, in the order of the runs."""
    heldout = heldout_checkpoints(opened)
    run, step = opened.records["run"][heldout], opened.records["step"][heldout]
    order = np.lexsort((step, run))
    first = np.unique(run[order], return_index=True)[1]
    return opened.read(heldout[order][first])


def checkpoints(context: Context, opened: store.PopulationStore, split: str, generator) -> np.ndarray:
    """Row numbers of a split's checkpoints, as many per run as a generator is trained on."""
    records = opened.records
    chosen = records["split"] == split
    if context.zoo_settings.use == "last" and not generator.TRAJECTORIES:
        chosen &= population.last_checkpoints(records)
    return np.flatnonzero(chosen)


def summary(context: Context, opened: store.PopulationStore) -> dict[str, Any]:
    """The zoo's part of `metrics.json`."""
    records = opened.records
    last = population.last_checkpoints(records)
    runs = {
        split: int(np.sum(last & (records["split"] == split)))
        for split in (population.TRAIN, population.HELDOUT, population.DIVERGED)
    }
    notes = opened.provenance.get("taken_for")
    return {
        "num_runs": int(last.sum()),
        "num_params": context.net.spec.num_params,
        "runs_by_split": runs,
        "diverged_runs": records["run"][last & (records["split"] == population.DIVERGED)].tolist(),
        "snapshots_per_run": len(opened) // max(1, int(last.sum())),
        "bytes": 4 * len(opened) * context.net.spec.num_params,
        "data": context.dataset.source,
        **({"taken_for": notes} if notes else {}),
    }
