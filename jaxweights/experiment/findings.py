"""The stages that measure and judge every series, study the trained generators, and write the report."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxweights import auditing, files, generators, population, processes, provenance, report, store, studies
from jaxweights.experiment import samples
from jaxweights.experiment import zoo as zoo_stage
from jaxweights.experiment.context import Context
from jaxweights.experiment.stages import CONTROLS
from jaxweights.generators import is_baseline, kind_of


def audit(context: Context) -> dict[str, Any]:
    """Measures every series, writes `audit/*.npz` and `metrics.json`, and returns the metrics."""
    drawn, opened = samples.stores(context), zoo_stage.open_zoo(context)
    metrics = judge(context, opened, drawn)
    if processes.count() > 1:  # a trained generator is read by all processes together
        for name in _studied(context):
            samples.state(context, opened, name)
    with processes.in_turn("audit"):
        if not processes.is_first():
            return context.folder.read_metrics()
        found = study(context, opened, drawn)
        if found:
            metrics["studies"] = found
        facts = {"zoo": zoo_stage.summary(context, opened), "timing": context.folder.timing}
        metrics |= facts | {"versions": provenance.versions()}
        files.write_json(context.workdir / "metrics.json", metrics)
    return metrics


def judge(
    context: Context, opened: store.PopulationStore, drawn: Mapping[str, store.PopulationStore]
) -> dict[str, Any]:
    """Measures the series whose samples are given, writes `audit/*.npz`, and returns tests and verdicts."""
    with context.folder.timed("audit"):
        rows = zoo_stage.training_rows(context, opened)
        distinct, duplicates = auditing.distinct(opened.view(rows))
        baselines = [name for name in drawn if is_baseline(kind_of(context.generators[name][0]))]
        subject = auditing.Subject(
            train=opened.view(rows[distinct]),
            heldout=opened.view(zoo_stage.heldout_rows(context, opened)),
            generated={name: s.read() for name, s in drawn.items()},
            duplicates=tuple(rows[list(duplicates)].tolist()),
            controls=tuple(name for name in drawn if name in CONTROLS),
            baselines=tuple(baselines),
            heldout_checkpoints=opened.view(zoo_stage.heldout_checkpoints(opened)),
            evaluate=context.evaluate,
            task=context.task,
        )
        folder = context.workdir / "audit"
        metrics = auditing.run(subject, context.settings.audit, context.settings.seed, context.mesh, folder)
    for name in drawn:
        metrics["series"][name]["kind"] = kind_of(context.generators[name][0])
    return metrics


def is_done(context: Context) -> bool:
    """Whether there is everything that a report is made of, but for the studies."""
    if not (context.workdir / "metrics.json").exists():
        return False
    names = (auditing.TRAINING, auditing.HELDOUT, *context.generators)
    return all((context.workdir / "audit" / f"{name}.npz").exists() for name in names)


def study(
    context: Context, opened: store.PopulationStore, drawn: Mapping[str, store.PopulationStore]
) -> dict[str, Any]:
    """Studies every trained generator that there is a study of, and all series together.

    Returns:
      `studies/<name>.json` by name.
    """
    out: dict[str, Any] = {}
    for name, kind in _studied(context).items():
        out[name] = _study(context, name, kind, lambda name=name: _subject(context, opened, drawn, name))
    for name in studies.of_series(context.net, context.dataset, context.settings.studies):
        out[name] = _study(context, name, name, lambda: _series(context, opened, drawn))
    return out


def _studied(context: Context) -> dict[str, str]:
    """The kinds of studies of trained generators, by generator."""
    found = {n: studies.of_generator(g) for n, (g, trained) in context.generators.items() if n == trained}
    return {name: kind for name, kind in found.items() if kind is not None}


def _study(context: Context, name: str, kind: str, subject: Callable[[], Any]) -> dict[str, Any]:
    """What a study of that kind found, from the workdir where it is done."""
    path = files.make_dir(context.workdir / "studies") / f"{name}.json"
    if not (path.exists() and path.with_suffix(".npz").exists()):
        config = context.config
        looked_at = subject()
        estimation = studies.Estimation(context.settings.audit.bootstrap, context.settings.seed, context.mesh)
        with context.folder.timed(f"studies {name}"):
            _keep(path, *studies.run(kind, looked_at, config["studies"], estimation))
    return files.read_json(path, "table of a study", f"Remove {path} and run launch.audit (or launch.run) again.")


def _subject(context: Context, opened: store.PopulationStore, drawn, name: str) -> studies.Subject:
    """A trained generator, its networks and its samples."""
    generator, state = context.generators[name][0], samples.state(context, opened, name)
    ways = {n: g for n, (g, trained) in context.generators.items() if trained == name}
    # Studies of trajectories look at few of their networks.
    read, starts = opened.view if generator.TRAJECTORIES else opened.read, zoo_stage.starts(opened)
    return studies.Subject(
        generator=generator,
        state=state,
        net=context.net,
        dataset=context.dataset,
        train=read(zoo_stage.checkpoints(context, opened, population.TRAIN, generator)),
        heldout=read(zoo_stage.checkpoints(context, opened, population.HELDOUT, generator)),
        steps_per_epoch=context.dataset.num_examples // context.zoo_settings.batch_size,
        generated={n: drawn[n].read() for n in ways},
        samplers={n: (g, g.inputs(state, context.sample_keys(n), starts)) for n, g in ways.items()},
    )


def _series(context: Context, opened: store.PopulationStore, drawn) -> studies.Series:
    """All series but the controls."""
    chosen = {name: g for name, (g, _) in context.generators.items() if name not in CONTROLS}
    copies = {n: g.copies for n, g in chosen.items() if isinstance(g, generators.Augmented)}
    return studies.Series(
        net=context.net,
        dataset=context.dataset,
        train=opened.read(zoo_stage.training_rows(context, opened)),
        heldout=opened.read(zoo_stage.heldout_rows(context, opened)),
        generated={name: drawn[name].read() for name in chosen},
        kinds={name: kind_of(g) for name, g in chosen.items()},
        shown=tuple(name for name, g in chosen.items() if isinstance(g, generators.LearnedGenerator)),
        augmented=copies if any(k > 1 for k in copies.values()) else {},
    )


def _keep(path: pathlib.Path, metrics: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays first: where the metrics are, the study is done."""
    files.write_npz(path.with_suffix(".npz"), arrays)
    files.write_json(path, metrics)


def write_report(context: Context) -> pathlib.Path:
    """Draws the figures and writes `report.html` from what the other stages left, in the first process."""
    with processes.in_turn("report"):
        if processes.is_first():
            _write_report(context)
    return context.workdir / "report.html"


def _write_report(context: Context) -> None:
    metrics, opened = context.folder.read_metrics(), zoo_stage.open_zoo(context)
    distinct = np.setdiff1d(zoo_stage.training_rows(context, opened), metrics["training"]["duplicate_rows"])
    with context.folder.timed("report"):
        report.write(
            context.workdir,
            metrics=metrics,
            config=context.config,
            net=context.net,
            dataset=context.dataset,
            train=opened.view(distinct),
            samples={name: s.read() for name, s in samples.stores(context).items()},
            heldout=opened.view(zoo_stage.heldout_rows(context, opened)),
            heldout_checkpoints=opened.view(zoo_stage.heldout_checkpoints(opened)),
            mesh=context.mesh,
        )
