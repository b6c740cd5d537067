"""The stage that trains or imports the zoo, and which of its rows the later stages read."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from jaxweights import auditing, population, provenance, store, zoo
from jaxweights.errors import UserError
from jaxweights.experiment.config import MIN_HELDOUT
from jaxweights.experiment.context import Context
from jaxweights.zoo.recipe import SnapshotSettings


def run(context: Context) -> store.PopulationStore:
    """Trains the zoo, or imports it from a file; resumes, or opens what is done."""
    path = context.workdir / "zoo"
    if context.zoo_settings.import_npz:
        return _imported(context, path)
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
    if (path / store.INDEX).exists():
        opened = store.PopulationStore.open(path)
        if opened.complete:
            return opened
    settings = context.zoo_settings
    imported = population.load_npz(settings.import_npz, context.net.spec)
    records = dict(imported.records)
    if not (records["run"] >= 0).all():
        records["run"] = np.arange(len(imported))
    if not (records["split"] == population.HELDOUT).any():
        runs = np.unique(records["run"])
        heldout = np.isin(records["run"], runs[len(runs) - settings.num_heldout :])
        records["split"] = np.where(heldout, population.HELDOUT, population.TRAIN)
    with context.folder.timed("zoo"):
        result = context.evaluate(imported.weights)
        records |= {"accuracy": result.accuracy, "loss": result.loss, "transform": "imported"}
        opened = (
            store.PopulationStore.open(path)
            if (path / store.INDEX).exists()
            else store.PopulationStore.create(path, context.net.spec, context.provenance("zoo"))
        )
        if not len(opened):
            opened.append(0, population.Population.create(imported.weights, context.net.spec, **records))
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
        raise UserError("The training split of the zoo is empty: every run diverged. Lower zoo.learning_rate.")
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
            f"The zoo has {len(rows)} held-out runs, but an audit needs at least {MIN_HELDOUT}: without runs that no "
            "generator has seen there is nothing to compare a distance with. Raise zoo.num_heldout."
        )
    return rows


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
    return {
        "num_runs": int(last.sum()),
        "num_params": context.net.spec.num_params,
        "runs_by_split": runs,
        "diverged_runs": records["run"][last & (records["split"] == population.DIVERGED)].tolist(),
        "snapshots_per_run": len(opened) // max(1, int(last.sum())),
        "bytes": 4 * len(opened) * context.net.spec.num_params,
        "data": context.dataset.source,
    }
