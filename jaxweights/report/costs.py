"""`costs.html`: what the stages of an experiment took. It is a page of its own, since `report.html` holds results alone
and is the same whenever and wherever they are."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxweights import files
from jaxweights.progress import human
from jaxweights.report import tables, template

PAGE = "costs.html"

_COLUMNS = ("stage", "seconds", "of these compiling", "peak memory", "FLOP", "FLOP/s", "of the machine's peak")
_NOTE = (
    "Seconds on the clock, all calls together. Programs that are compiled side by side are added, so compiling may "
    "take more seconds than the stage. Peak memory is that of the process, and of the fullest device where devices "
    "have their own. Operations are those of the traced program of a stage that trains, on all devices together; their "
    "rate counts the seconds without compiling, and its share is of the rate of float32 matrix products, {peak}FLOP/s, "
    "that was measured here on {devices}."
)


def write(
    workdir: pathlib.Path,
    timing: Mapping[str, float],
    costs: Mapping[str, Mapping[str, Any]],
    operations: Mapping[str, float],
    peak: float,
    devices: str,
) -> pathlib.Path:
    """Writes the page.

    Args:
      workdir: folder of the page.
      timing: seconds by stage.
      costs: see `costs.Cost`, by stage.
      operations: floating-point operations of stages, as far as they are known.
      peak: rate of this machine, FLOP/s.
      devices: the machine, in words.

    Returns:
      The path of the page.
    """
    rows = [
        _row(stage, seconds, costs.get(stage, {}), operations.get(stage), peak) for stage, seconds in timing.items()
    ]
    note = html.escape(_NOTE.format(peak=human(peak), devices=devices))
    body = f'<section id="costs">{tables.grid(list(_COLUMNS), rows)}<p>{note}</p></section>'
    path = workdir / PAGE
    facts = f"{len(rows)} stages, {sum(timing.values()):.0f} s"
    page = template.filled("What the stages took", facts, body)
    files.write_text(path, page)
    return path


def _row(stage: str, seconds: float, cost: Mapping[str, Any], operations: float | None, peak: float) -> list[str]:
    compiling = cost.get("compile_seconds")
    memory = [f"{human(cost[key])}B{where}" for key, where in _MEMORY.items() if cost.get(key)]
    cells = [html.escape(stage), f"{seconds:.1f}", "" if compiling is None else f"{compiling:.1f}", ", ".join(memory)]
    if not operations:
        return [*cells, "", "", ""]
    rate = operations / max(seconds - (compiling or 0.0), 1e-3)
    return [*cells, human(operations), human(rate), f"{100 * rate / peak:.1f} %"]


_MEMORY = {"peak_bytes": "", "device_peak_bytes": " of a device"}
