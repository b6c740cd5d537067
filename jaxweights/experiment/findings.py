"""The stages that measure and judge every series, study the trained generators, and write the report."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxweights import auditing, files, generators, population, provenance, report, store, studies
from jaxweights.experiment import samples
from jaxweights.experiment import zoo as zoo_stage
from jaxweights.experiment.context import Context
from jaxweights.experiment.stages import CONTROLS, SHAPES
from jaxweights.generators import is_baseline, kind_of
from jaxweights.settings import make


def audit(context: Context) -> dict[str, Any]:
    """Measures every series, writes `audit/*.npz` and `metrics.json`, and returns the metrics."""
    drawn, opened = samples.stores(context), zoo_stage.open_zoo(context)
    with context.folder.timed("audit"):
        subject = auditing.Subject(
            train=opened.view(zoo_stage.training_rows(context, opened)),
            heldout=opened.view(zoo_stage.heldout_rows(context, opened)),
            generated={name: s.read() for name, s in drawn.items()},
            controls=tuple(CONTROLS),
            baselines=tuple(n for n, (g, _) in context.generators.items() if is_baseline(kind_of(g))),
            heldout_checkpoints=opened.view(zoo_stage.heldout_checkpoints(opened)),
            evaluate=context.evaluate,
            task=context.task,
        )
        chosen = make(auditing.AuditSettings, context.config["audit"])
        metrics = auditing.run(subject, chosen, context.config["seed"], context.mesh, context.workdir / "audit")
    found = study(context, opened, drawn)
    if found:
        metrics["studies"] = found
    facts = {"zoo": zoo_stage.summary(context, opened), "timing": context.folder.timing}
    metrics |= facts | {"versions": provenance.versions()}
    files.write_json(context.workdir / "metrics.json", metrics)
    return metrics


def study(
    context: Context, opened: store.PopulationStore, drawn: Mapping[str, store.PopulationStore]
) -> dict[str, Any]:
    """Studies every trained generator that there is a study of, and the shapes of all series.

    Returns:
      `studies/<name>.json` by name.
    """
    out: dict[str, Any] = {}
    for name, (generator, trained) in context.generators.items():
        if name != trained or not studies.exist_for(generator):
            continue
        path = files.make_dir(context.workdir / "studies") / f"{name}.json"
        if not path.exists():
            _study_generator(context, opened, drawn, name, path)
        out[name] = files.read_json(path, "table of studies", "Remove it and run again.")
    if studies.shapes.exist_for(context.net, context.dataset):
        path = files.make_dir(context.workdir / "studies") / f"{SHAPES}.json"
        if not path.exists():
            _study_shapes(context, opened, drawn, path)
        out[SHAPES] = files.read_json(path, "table of studies", "Remove it and run again.")
    return out


def _study_generator(context: Context, opened, drawn, name: str, path: pathlib.Path) -> None:
    generator, state = context.generators[name][0], samples.state(context, opened, name)
    ways = {n: g for n, (g, trained) in context.generators.items() if trained == name}
    # Studies of trajectories look at few of their networks.
    read, starts = opened.view if generator.TRAJECTORIES else opened.read, zoo_stage.starts(opened)
    subject = studies.Subject(
        net=context.net,
        dataset=context.dataset,
        train=read(zoo_stage.checkpoints(context, opened, population.TRAIN, generator)),
        heldout=read(zoo_stage.checkpoints(context, opened, population.HELDOUT, generator)),
        steps_per_epoch=context.dataset.num_examples // context.zoo_settings.batch_size,
        generated={n: drawn[n].read() for n in ways},
        samplers={n: (g, g.inputs(state, context.sample_keys(n), starts)) for n, g in ways.items()},
    )
    config = context.config
    with context.folder.timed(f"studies {name}"):
        found = studies.run(
            subject, generator, state, config["studies"], config["audit"]["bootstrap"], config["seed"], context.mesh
        )
    _keep(path, *found)


def _study_shapes(context: Context, opened, drawn, path: pathlib.Path) -> None:
    learned = {n: g for n, (g, _) in context.generators.items() if isinstance(g, generators.LearnedGenerator)}
    copies = {n: g.copies for n, g in learned.items() if isinstance(g, generators.Augmented)}
    with context.folder.timed(f"studies {SHAPES}"):
        found = studies.shapes.run(
            context.net,
            context.dataset,
            {name: s.read() for name, s in drawn.items() if name not in CONTROLS},
            opened.read(zoo_stage.training_rows(context, opened)),
            opened.read(zoo_stage.heldout_rows(context, opened)),
            context.config["studies"],
            context.config["audit"]["bootstrap"],
            context.config["seed"],
            context.mesh,
            shown=tuple(learned),
            augmented=copies if any(k > 1 for k in copies.values()) else {},
        )
    _keep(path, *found)


def _keep(path: pathlib.Path, metrics: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays first: where the metrics are, the study is done."""
    with files.atomic(path.with_suffix(".npz")) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the arrays for `allow_pickle`
    files.write_json(path, metrics)


def write_report(context: Context) -> pathlib.Path:
    """Draws the figures and writes `report.html` from what the other stages left."""
    metrics, opened = context.folder.read_metrics(), zoo_stage.open_zoo(context)
    with context.folder.timed("report"):
        return report.write(
            context.workdir,
            metrics=metrics,
            config=context.config,
            net=context.net,
            dataset=context.dataset,
            train=opened.view(zoo_stage.training_rows(context, opened)),
            samples={name: s.read() for name, s in samples.stores(context).items()},
            heldout=opened.view(zoo_stage.heldout_rows(context, opened)),
            lineages=opened.view(zoo_stage.heldout_checkpoints(opened)),
            mesh=context.mesh,
        )
