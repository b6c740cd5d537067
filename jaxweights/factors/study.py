"""A study of modelling factors in one folder: one experiment per size of the training set, whose generators are the
cells, so that all cells of a size share the zoo and the audit's null."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxweights import auditing, files, processes, tasks
from jaxweights.errors import UserError
from jaxweights.experiment import CONTROLS, Experiment, findings, parse, plan, samples
from jaxweights.experiment import zoo as zoo_stage
from jaxweights.experiment.config import complete
from jaxweights.factors import picture, table
from jaxweights.factors.cells import ALL, Cell, choose, experiment, generator_of
from jaxweights.generators import kind_of
from jaxweights.zoo import base

_STUDY = "study.json"


def run(
    config: Mapping[str, Any],
    workdir: pathlib.Path | str,
    wanted: Sequence[str] = (ALL,),
    generator: str | None = None,
    seeds: int = 1,
    data_dir: str | None = None,
) -> dict[str, Any]:
    """Trains, samples and audits every cell that is not done, and writes the tables and the figure.

    Every cell keeps what it has done, as in any experiment, and cells of former calls stay. One whose training or
    samples fail is named in the table, and the others go on.

    Args:
      config: of an experiment; its other generators are left out.
      workdir: folder of the study: `set_<size>` for the experiments, `study.json`, `study.csv`, `study.md`, `study.png`
        and `study.svg`.
      wanted: factors or levels, see `choose`.
      generator: name of the generator, see `generator_of`.
      seeds: trainings of every level.
      data_dir: see `Experiment`.

    Returns:
      JSON data: `generator`, `kind`, `rows` (one per cell), `references` by size (training and held-out networks,
      controls), `notes`, `task`.

    Raises:
      UserError: unknown factors, or what `Experiment` refuses.
    """
    config = complete(config, parse(config))
    name, chosen = generator_of(config, generator)
    folder = files.make_dir(workdir)
    found, notes = choose(config, chosen, wanted, seeds, processes.agreed(_begun(folder)))
    study: dict[str, Any] = {
        "generator": name,
        "kind": kind_of(chosen),
        "task": config["task"],
        "notes": notes,
        "rows": [],
        "references": {},
    }
    sizes = sorted({cell.size for cell in found})
    for size in sizes:
        members = [cell for cell in found if cell.size == size]
        place = folder / f"set_{size}"
        with processes.in_turn("base"):
            _share_base(folder / f"set_{sizes[0]}", place)
        bound = Experiment(experiment(config, name, members), place, data_dir)
        rows, reference = _size(bound, members)
        study["rows"] += rows
        study["references"][str(size)] = reference
        # The order of the factors, not of the sizes.
        order = [(cell.level, cell.seed) for cell in found]
        study["rows"].sort(key=lambda row: order.index((row["level"], row["seed"])))
        with processes.together("study"):
            if processes.is_first():
                _write(folder, study)
    return study


def plan_of(
    config: Mapping[str, Any],
    wanted: Sequence[str],
    generator: str | None = None,
    seeds: int = 1,
    data_dir: str | None = None,
) -> str:
    """The cells with their parameters, training networks and changed settings, as lines; nothing is computed."""
    config = complete(config, parse(config))
    name, chosen = generator_of(config, generator)
    found, notes = choose(config, chosen, wanted, seeds)
    rows = [("cell", "parameters", "training networks", "settings")]
    for size in sorted({cell.size for cell in found}):
        members = [cell for cell in found if cell.size == size]
        changed = experiment(config, name, members)
        parsed = parse(changed)
        task = tasks.get(parsed.task)
        planned = plan.make(parsed, changed, task.examples(parsed.data, net=changed["net"], data_dir=data_dir))
        for cell in members:
            built: Any = planned.generators[cell.name][0]
            params = plan.num_params(built, planned.net)
            rows.append((cell.name, f"{params:,}", f"{planned.training(built).rows:,}", cell.text))
    return "\n".join([*table.aligned(rows), *notes])


def _begun(folder: pathlib.Path) -> list[str]:
    """The cells whose training has begun in former calls; an experiment does not give up what it has trained."""
    return sorted(path.name for path in folder.glob("set_*/generators/*") if path.is_dir())


def _share_base(trained: pathlib.Path, place: pathlib.Path) -> None:
    """Links the base network of one experiment into another that does not have it yet."""
    for name in (base.WEIGHTS, base.INDEX):  # the index last: it says that the network is there
        source, target = trained / "base" / name, place / "base" / name
        if (trained / "base" / base.INDEX).exists() and source.exists() and not target.exists():
            os.link(source, files.make_dir(target.parent) / name)


def _size(bound: Experiment, members: Sequence[Cell]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of the cells of one size, and what they are compared with."""
    opened = bound.zoo()
    failed: dict[str, str] = {}
    for cell in members:
        try:
            samples.run(bound, [cell.name])
        except UserError as error:
            failed[cell.name] = str(error)
    done = [cell.name for cell in members if cell.name not in failed]
    metrics = _metrics(bound, [*done, *(name for name in bound.generators if name in CONTROLS)])
    series, timing = metrics["series"], bound.folder.timing
    networks = len(zoo_stage.training_rows(bound, opened))
    rows = []
    for cell in members:
        built: Any = bound.generators[cell.name][0]
        row: dict[str, Any] = {**dataclasses.asdict(cell), "training_networks": networks}
        row["num_params"] = plan.num_params(built, bound.net)
        row["seconds"] = timing.get(f"train {cell.name}", 0.0)
        rows.append(row | {"failed": failed.get(cell.name), "entry": series.get(cell.name)})
    references = {name: series[name] for name in (auditing.TRAINING, auditing.HELDOUT)}
    return rows, {**references, "checks": metrics["checks"], "training_networks": networks}


def _metrics(bound: Experiment, names: Sequence[str]) -> dict[str, Any]:
    """Tests and verdicts of series, from the workdir where they are there."""
    path, made_of = bound.workdir / _STUDY, json.loads(json.dumps({"series": names, "of": bound.origin("audit")}))
    if processes.agreed(path.exists()):
        kept = files.read_json(path, "table of audit results", f"Remove {path} and run the same command again.")
        if kept.get("made_of") == made_of:
            return kept["metrics"]
    metrics = findings.judge(bound, zoo_stage.open_zoo(bound), samples.run(bound, names))
    with processes.together("verdicts"):
        if processes.is_first():
            files.write_json(path, {"made_of": made_of, "metrics": metrics})
    return metrics


def _write(folder: pathlib.Path, study: Mapping[str, Any]) -> None:
    files.write_json(folder / _STUDY, study)
    files.write_text(folder / "study.csv", table.csv(study))
    files.write_text(folder / "study.md", table.markdown(study))
    picture.draw(study, folder)
