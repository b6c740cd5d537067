"""A sweep in one folder: cells that are trained once and kept, and what is made of all of them."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping
from typing import Any, Protocol

from jax.sharding import Mesh

from jaxweights import files, locks, parallel, processes, provenance
from jaxweights.errors import UserError
from jaxweights.progress import Progress
from jaxweights.sweeps import bulk, models, outcome, page, picture, table
from jaxweights.sweeps import plan as plan_lib
from jaxweights.sweeps.plan import Cell, Plan

CONFIG, RESULT, TIMING = "config.json", "sweep.json", "timing.json"
_CELLS, _VERDICTS = "cells", "_verdicts"


class Cells(Protocol):
    """What trains cells: `bulk.ZooCells`, `models.GeneratorCells`."""

    unit: str

    def work(self, cell: Cell) -> int:
        """Work of a cell in the unit of progress."""
        ...

    def run(self, cell: Cell, bar: Progress, done: int) -> dict[str, Any]:
        """The results of every run of a cell, see `bulk.ZooCells.run`."""
        ...

    def judge(self, cell: Cell) -> dict[str, Any]:
        """What else there is to say of every run, once all are trained; all processes together."""
        ...


def run(
    config: Mapping[str, Any],
    workdir: pathlib.Path | str,
    data_dir: str | None = None,
    mesh: Mesh | None = None,
    report: bool = True,
) -> dict[str, Any]:
    """Trains every cell that is not done, and writes the tables, the figures and the page.

    Args:
      config: of an experiment, with a section `sweep`.
      workdir: folder of the sweep: `cells/`, `sweep.json`, `runs.csv`, `recipes.csv`, `figures/`, `sweep.html`; of one
        of a generator, also `zoo/`, the experiment that its training networks come from.
      data_dir: folder of data sets that are not embedded.
      mesh: devices; None for all.
      report: whether figures and the page are made.

    Returns:
      JSON data, see `outcome.collect`.

    Raises:
      UserError: see `plan.make`; or a folder of another sweep.
    """
    plan, folder = plan_lib.make(config, data_dir), pathlib.Path(workdir)
    with processes.in_turn("folder of the sweep"):
        files.make_dir(folder)
    with locks.locked(folder):
        with processes.in_turn("config of the sweep"):
            _claim(folder, plan)
        result = outcome.collect(plan, _train(folder, plan, parallel.resolve(mesh)))
        with processes.together("sweep"):
            if processes.is_first():
                _write(folder, result, report)
    return result


def _write(folder: pathlib.Path, result: Mapping[str, Any], report: bool) -> None:
    files.write_json(folder / RESULT, {**result, "versions": provenance.versions()})
    files.write_text(folder / "runs.csv", table.runs_csv(result))
    files.write_text(folder / "recipes.csv", table.recipes_csv(result))
    if report:
        page.write(folder, result, picture.draw(result, files.make_dir(folder / "figures")))


def left(folder: pathlib.Path, plan: Plan) -> tuple[int, float | None]:
    """How many cells of a sweep are done in a folder, and the seconds that the others take at the rate of those of
    their program, or of all; None where nothing is measured.

    Raises:
      UserError: the folder holds another sweep.
    """
    if not (folder / CONFIG).exists():
        return 0, None
    provenance.refuse_another(folder / CONFIG, plan.facts(), "sweep")
    missing = [cell for cell in plan.cells if not _path(folder, cell).exists()]
    timing, done = _timing(folder), len(plan.cells) - len(missing)
    spent = {int(group): one["seconds"] / one["runs"] for group, one in timing.items()}
    if not spent:
        return done, 0.0 if not missing else None
    mean = sum(spent.values()) / len(spent)
    return done, sum(len(cell.seeds) * spent.get(cell.group, mean) for cell in missing)


def _claim(folder: pathlib.Path, plan: Plan) -> None:
    """Binds the folder to a sweep, or refuses it."""
    if (folder / CONFIG).exists():
        provenance.refuse_another(folder / CONFIG, plan.facts(), "sweep")
    else:
        files.make_dir(folder / _CELLS)
        files.write_json(folder / CONFIG, plan.facts())


def _train(folder: pathlib.Path, plan: Plan, mesh: Mesh) -> list[dict[str, Any]]:
    """The results of all cells; those that are not there yet are trained, each by one of the processes."""
    found = {cell.number: _kept(folder, plan, cell) for cell in plan.cells}
    missing = processes.agreed([number for number, kept in found.items() if kept is None])
    audited = plan.settings.audit and bool(plan.generator)
    unjudged = [c for c in plan.cells if audited and not _path(folder, c, _VERDICTS).exists()]
    unjudged = processes.agreed([cell.number for cell in unjudged])
    if missing or unjudged:
        lanes = {plan.cells[n].group: kept["lanes"] for n, kept in found.items() if kept is not None}
        cells = _cells(folder, plan, mesh, lanes)
        _train_own(folder, plan, cells, missing)
        processes.barrier("cells")
        for number in unjudged:
            verdicts = cells.judge(plan.cells[number])
            with processes.together("verdicts"):
                if processes.is_first():
                    files.write_json(_path(folder, plan.cells[number], _VERDICTS), verdicts)
    out = []
    for cell in plan.cells:
        kept = _kept(folder, plan, cell)
        if kept is None:
            raise UserError(f"{_path(folder, cell)} vanished. Run the same command again.")
        out.append(kept | (_read(_path(folder, cell, _VERDICTS)) if audited else {}))
    _check_data(folder, plan, {kept["data"] for kept in out})
    return out


def _train_own(folder: pathlib.Path, plan: Plan, cells: Cells, missing: list[int]) -> None:
    """Trains those of the missing cells that are this process's."""
    own = [plan.cells[number] for number in missing[processes.index() :: processes.count()]]
    total, done, runs = sum(map(cells.work, own)), 0, sum(len(cell.seeds) for cell in own)
    with Progress(total, f"sweep ({runs:,} runs of {len(plan.recipes):,} recipes)", cells.unit) as bar:
        for cell in own:
            begin = time.monotonic()
            files.write_json(_path(folder, cell), cells.run(cell, bar, done))
            done += cells.work(cell)
            if processes.is_first():
                _time(folder, cell, time.monotonic() - begin)


def _check_data(folder: pathlib.Path, plan: Plan, sources: set[str]) -> None:
    if len(sources) > len({repr(group.config["data"]) for group in plan.groups}):
        raise UserError(
            f"The cells in {folder / _CELLS} were trained on different data: {'; '.join(sorted(sources))}. Remove the "
            "folder and run again."
        )


def _cells(folder: pathlib.Path, plan: Plan, mesh: Mesh, lanes: Mapping[int, int]) -> Cells:
    if plan.generator:
        return models.GeneratorCells(plan, folder, mesh, lanes)
    return bulk.ZooCells(plan, mesh, lanes)


def _path(folder: pathlib.Path, cell: Cell, kind: str = "") -> pathlib.Path:
    return folder / _CELLS / f"{cell.number:06d}{kind}.json"


def _kept(folder: pathlib.Path, plan: Plan, cell: Cell) -> dict[str, Any] | None:
    """The results of a cell, if they are there."""
    path = _path(folder, cell)
    if not path.exists():
        return None
    found = _read(path, {"lanes": int, "data": str, "accuracy": list, "loss": list, "diverged": list})
    if len(found["accuracy"]) != len(cell.seeds):
        raise UserError(
            f"{path} has {len(found['accuracy'])} runs instead of {len(cell.seeds)}. Remove it and run the same "
            "command again."
        )
    return found


def _read(path: pathlib.Path, shape: Any = dict) -> dict[str, Any]:
    return files.read_json(path, "cell of a sweep", f"Remove {path} and run the same command again.", shape)


def _time(folder: pathlib.Path, cell: Cell, seconds: float) -> None:
    """Adds the seconds of a cell to those of its group."""
    timing = _timing(folder)
    spent = timing.setdefault(str(cell.group), {"seconds": 0.0, "runs": 0})
    spent["seconds"], spent["runs"] = round(spent["seconds"] + seconds, 3), spent["runs"] + len(cell.seeds)
    files.write_json(folder / TIMING, timing)


def _timing(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / TIMING
    return files.read_json(path, "table of timings", f"Remove {path}.") if path.exists() else {}
