"""One experiment of the calibration: measured once, judged under any thresholds."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxweights import auditing, files, parallel, processes
from jaxweights.auditing import HELDOUT, TRAINING, AuditSettings, Measured, Subject, Thresholds, measurements, verdict
from jaxweights.auditing.measure import Measurer, siblings
from jaxweights.auditing.summary import summarise
from jaxweights.calibration import controls
from jaxweights.calibration.kinds import Kind
from jaxweights.calibration.pools import Parts
from jaxweights.population import Population
from jaxweights.settings import plain
from jaxweights.tasks import Terms

# What depends on the other networks that are measured at the same time, besides siblings; no verdict needs it.
_UNKNOWN = {name: np.zeros(0) for name in ("disagreement", "ensemble_gain")}

_MADE_OF = "made_of.json"
_CURE = "Remove its folder and run launch.calibrate again."


@dataclasses.dataclass(frozen=True)
class Cell:
    """The measurements of one experiment.

    Attributes:
      kind: of its zoo.
      seed: random seed of its parts and series.
      measured: by series, with "training" and "heldout".
      terms: words of the task.
    """

    kind: Kind
    seed: int
    measured: dict[str, Measured]
    terms: Terms


def measure(
    kind: Kind,
    parts: Parts,
    seed: int,
    settings: AuditSettings,
    mesh: Mesh | None = None,
    folder: pathlib.Path | None = None,
) -> Cell:
    """Measures the controls of one experiment.

    Noise is in units of the held-out networks' distance, so these are measured first, and all controls together.

    Args:
      kind: of the zoo.
      parts: of its pool.
      seed: random seed of the series.
      settings: how to measure; the size of the probe set is that of the kind.
      mesh: devices; None for all.
      folder: folder of the measurements; what is there already is not measured again. None keeps nothing.
    """
    settings = dataclasses.replace(settings, probe=dataclasses.replace(settings.probe, size=kind.probe))
    subject = Subject(
        train=parts.train, heldout=parts.heldout, generated={}, evaluate=parts.train.evaluator, task=parts.task
    )
    measurer = Measurer(subject, settings, parallel.resolve(mesh))

    def kept(name: str, networks: Population, measured: Callable[[], Measured]) -> Measured:
        path = folder / f"{name}.npz" if folder is not None else None
        if path is not None and processes.agreed(path.exists()):
            return measurements.load(path, len(networks))
        found = measured()
        with processes.together(f"measurements of {name}"):
            if path is not None and processes.is_first():
                measurements.save(path, found)
        return found

    if folder is not None:
        networks = {field.name: len(getattr(parts, field.name)) for field in dataclasses.fields(parts)}
        made_of = {"networks": networks, "controls": list(controls.CONTROLS), "seed": seed, "audit": plain(settings)}
        with processes.in_turn("folder of measurements"):
            _keep_if_of(folder, json.loads(json.dumps(made_of)))
    null = {
        name: kept(name, networks, functools.partial(measurer, networks, name))
        for name, networks in ((TRAINING, measurer.training), (HELDOUT, parts.heldout))
    }
    made = controls.series(parts, float(np.median(null[HELDOUT].distance)), seed, kind.one_run)
    series = np.repeat(list(made), len(parts.new))
    weights = np.concatenate([networks.weights for networks in made.values()])
    parents = np.concatenate([networks.records["parent"] for networks in made.values()])
    together = parts.train.derive(weights, parents, "control")
    found = kept("controls", together, functools.partial(_together, measurer, together, series))
    return Cell(kind, seed, null | {name: found.rows(series == name) for name in made}, parts.task.terms)


def _keep_if_of(folder: pathlib.Path, made_of: dict[str, Any]) -> None:
    """Makes the folder, without the measurements of other settings."""
    path = files.make_dir(folder) / _MADE_OF
    if not path.exists() or files.read_json(path, "record of settings", _CURE)["made_of"] != made_of:
        for stale in folder.glob("*.npz"):
            stale.unlink()
        files.write_json(path, {"made_of": made_of})


def _together(measurer: Measurer, networks: Population, series: np.ndarray) -> Measured:
    """Measures several series at once.

    Args:
      measurer: compares with the training networks.
      networks: of all series.
      series: `[n]` names of the series that they belong to.
    """
    coordinates, near = measurer.coordinates(networks.weights), np.empty(len(networks))
    for name in np.unique(series):
        rows = np.flatnonzero(series == name)
        near[rows] = siblings([networks.weights[rows], coordinates[rows]], np.arange(len(rows)), measurer.mesh)
    return dataclasses.replace(measurer(networks, "controls"), sibling_l2=near, **_UNKNOWN)


def judge(cell: Cell, settings: AuditSettings, thresholds: Thresholds = auditing.THRESHOLDS) -> dict[str, Any]:
    """Verdicts of all series.

    Args:
      cell: the measurements.
      settings: how to judge.
      thresholds: where the verdicts draw their lines.

    Returns:
      Control to `{"label", "flagged", "leaked", "rules", "saturated"}`; `leaked` is whether most of its networks are
      held-out ones, `rules` are those that apply, each as if it were asked first, `saturated` is whether errors tell
      nothing apart.
    """
    terms = cell.terms
    found = summarise(cell.measured, (), settings.bootstrap, cell.seed, terms, cell.kind.one_run, thresholds)["series"]

    def verdict_of(entry: dict[str, Any]) -> dict[str, Any]:
        errors = entry["tests"] and entry["tests"]["iou_above_heldout"]
        return {
            "label": entry["verdict"]["label"],
            "flagged": entry["verdict"]["flagged"],
            "leaked": 2 * entry["leaks"]["count"] > entry["n"],
            "rules": verdict.applying(entry, found[HELDOUT], terms, thresholds),
            "saturated": bool(errors and errors["saturated"]),
        }

    return {name: verdict_of(entry) for name, entry in found.items() if name not in (TRAINING, HELDOUT)}
