"""What a sweep takes, before it is run: runs, programs, bytes, and the time left where cells are done."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from jaxweights.experiment import plan as experiments
from jaxweights.progress import duration, human
from jaxweights.sweeps import plan as plan_lib
from jaxweights.sweeps import study
from jaxweights.sweeps.plan import Group, Plan
from jaxweights.sweeps.table import shown

_FLOAT = 4  # bytes
_RUN_BYTES = 250  # of a run in a cell's file and in the tables, about
_SHOWN = 20  # programs that are listed


def facts(config: Mapping[str, Any], workdir: pathlib.Path | str | None = None, data_dir: str | None = None):
    """What a sweep takes.

    Args:
      config: of an experiment, with a section `sweep`.
      workdir: folder in which cells may be done; None for none.
      data_dir: only for data sets whose sizes are not published facts.

    Returns:
      JSON data: `runs`, `recipes`, `seeds`, `traced`, `programs` (each with its `fixed` values, `recipes`, `cells`,
      `parameters` of a network or of the generator, `operations`), `bytes` on disk, `memory` of the largest cell, and
      `done`, `seconds_left` (None where nothing is measured).

    Raises:
      UserError: see `plan.make`.
    """
    plan = plan_lib.make(config, data_dir)
    programs = [_program(plan, group) for group in plan.groups]
    done, left = (0, None) if workdir is None else study.left(pathlib.Path(workdir), plan)
    return {
        "runs": plan.num_runs,
        "recipes": len(plan.recipes),
        "seeds": plan.settings.seeds,
        "generator": plan.generator,
        "traced": list(plan.traced),
        "programs": programs,
        "cells": len(plan.cells),
        "bytes": _RUN_BYTES * plan.num_runs,
        "memory": max(p["memory"] for p in programs),
        "operations": sum(p["operations"] for p in programs),
        "done": done,
        "seconds_left": left,
    }


def _program(plan: Plan, group: Group) -> dict[str, Any]:
    cells = [cell for cell in plan.cells if cell.group == group.number]
    examples = plan.examples(group)
    out: dict[str, Any] = {
        "fixed": dict(group.fixed),
        "recipes": len(group.recipes),
        "cells": len(cells),
        "runs": sum(len(cell.seeds) for cell in cells),
    }
    if plan.generator:
        planned = experiments.make(group.settings, group.config, examples)
        generator = planned.generators[plan.generator][0]
        shapes = experiments.stage_shapes(generator, planned.net)
        parts = experiments.generator_memory(generator, planned.training(generator), shapes)
        params = sum(experiments.count(one.params) for one in shapes)
        return {**out, "parameters": params, "memory": cells[0].size * sum(p.size for p in parts), "operations": 0.0}
    net, recipe = plan.outline(group), plan.recipe(group, examples.train)
    per_step, per_example = plan.task.operations(net, recipe)
    per_run = per_step * recipe.snapshots[-1] + per_example * examples.test
    weights = _FLOAT * net.spec.num_params * cells[0].size
    return {
        **out,
        "parameters": net.spec.num_params,
        "memory": 5 * weights,  # weights, two moments, gradients, and the last weights on the host
        "operations": per_run * sum(cell.size for cell in cells),
    }


def text(config: Mapping[str, Any], workdir: pathlib.Path | str | None = None, data_dir: str | None = None) -> str:
    """What a sweep takes, as aligned lines; see `facts`."""
    return lines(facts(config, workdir, data_dir))


def lines(found: Mapping[str, Any], processes: int = 1, computed: str | None = None) -> str:
    """What a sweep takes, as aligned lines.

    Args:
      found: of `facts`.
      processes: how many the cells are dealt out over.
      computed: how long all takes where nothing is measured in the workdir, in words; None where that is not known.
    """
    programs = found["programs"]
    rows = [
        ("runs", f"{found['runs']:,}: {found['recipes']:,} recipes with {found['seeds']:,} seeds each"),
        ("traced", ", ".join(found["traced"]) or "none"),
        ("programs", f"{len(programs):,} to compile, {found['cells']:,} cells over {processes:,} processes"),
    ]
    for number, one in enumerate(programs[:_SHOWN]):
        fixed = ", ".join(f"{name} {shown(value)}" for name, value in one["fixed"].items())
        what = "the generator" if found["generator"] else "a network"
        size = f"{one['recipes']:,} recipes in {one['cells']:,} cells, {one['parameters']:,} parameters of {what}"
        rows.append((f"  {number}", f"{fixed}: {size}" if fixed else size))
    if len(programs) > _SHOWN:
        rows.append(("", f"and {len(programs) - _SHOWN:,} more"))
    work = f"{human(found['operations'])}FLOP, " if found["operations"] else ""
    rows.append(("work", f"{work}about {human(found['memory'])}B of memory, {human(found['bytes'])}B on disk"))
    if found["seconds_left"] is not None:
        time = f"{duration(found['seconds_left'] / processes)} left at the rate of those"
    else:
        time = computed or "time not known before the first"
    rows.append(("time", f"{found['done']:,} of {found['cells']:,} cells done, {time}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {line}" for name, line in rows)
