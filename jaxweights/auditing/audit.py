"""The audit: every series against the training networks, with held-out runs as the null and copies as the positive
controls.

Nothing here knows which generator made a series, or what the networks are for.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxweights import files, memory, parallel, processes, traces
from jaxweights.auditing import battery, front, measurements
from jaxweights.auditing.alignment.coordinates import SeriesCoordinates
from jaxweights.auditing.measure import Measurer
from jaxweights.auditing.measurements import HELDOUT, NOISE_LADDER, TRAINING, Measured
from jaxweights.auditing.subject import AuditSettings, Subject, check
from jaxweights.auditing.summary import summarise
from jaxweights.progress import Progress

_TRACED_SERIES = 2  # the first one after training and held-out networks, which compile


def run(
    subject: Subject,
    settings: AuditSettings | None = None,
    seed: int = 0,
    mesh: Mesh | None = None,
    folder: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Measures every series and tests it.

    Args:
      subject: what to audit.
      settings: how to measure; None for the defaults.
      seed: random seed of the bootstrap and of the split of the held-out runs.
      mesh: devices; None for all.
      folder: folder of the measurements; series that are there already are not measured again. None keeps nothing.

    Returns:
      JSON data: `series.<name>`, `checks` and `training` (what training networks were compared with), see
      `docs/audit.md`.

    Raises:
      UserError: see `subject.check`.
    """
    settings = settings or AuditSettings()
    coordinates = SeriesCoordinates(subject.train, parallel.resolve(mesh))
    with parallel.host_products(*subject.train.weights.shape):
        measured = measure(subject, settings, mesh, folder, coordinates)
        metrics = describe(subject, measured, settings, seed, mesh, coordinates) if processes.is_first() else None
    return processes.agreed(metrics)


def measure(
    subject: Subject,
    settings: AuditSettings,
    mesh: Mesh | None = None,
    folder: pathlib.Path | None = None,
    coordinates: SeriesCoordinates | None = None,
) -> dict[str, Measured]:
    """The measurements of every series by name, "training" and "heldout" first, and where networks are evaluated of
    `front.ladder`; see `run`. Coordinates that are given are those that `describe` is given too."""
    check(subject, settings)
    if folder is not None:
        files.make_dir(folder)
    measurer = Measurer(subject, settings, parallel.resolve(mesh), coordinates)
    populations = {TRAINING: measurer.training, HELDOUT: subject.heldout, **subject.generated}
    names = [*populations, *([NOISE_LADDER] if subject.evaluate is not None else [])]
    measured: dict[str, Measured] = {}
    with Progress(len(names), "audit", "series") as bar:
        for i, name in enumerate(names):
            if name == NOISE_LADDER:
                networks = front.ladder(subject.train, float(np.median(measured[HELDOUT].min_l2)))
            else:
                networks = populations[name]
            path = folder / f"{name}.npz" if folder is not None else None
            if path is not None and processes.agreed(path.exists()):
                measured[name] = measurements.load(path, len(networks))
            else:
                with traces.moment("audit", _TRACED_SERIES):
                    measure_one = measurer.located if name == NOISE_LADDER else functools.partial(measurer, name=name)
                    measured[name] = measure_one(networks)
                memory.trim()
                with processes.together(f"measurements of {name}"):
                    if path is not None and processes.is_first():
                        measurements.save(path, measured[name])
            bar.update(i + 1, name)
    return measured


def describe(
    subject: Subject,
    measured: dict[str, Measured],
    settings: AuditSettings,
    seed: int = 0,
    mesh: Mesh | None = None,
    coordinates: SeriesCoordinates | None = None,
) -> dict[str, Any]:
    """Tests and verdicts of measured series, as JSON data; see `run`."""
    metrics = summarise(
        measured,
        subject.controls,
        settings.bootstrap,
        seed,
        subject.task.terms,
        subject.one_run,
        baselines=subject.baselines,
    )
    metrics["training"] = {
        "networks": len(subject.train),
        "compared": len(measured[TRAINING]),
        "runs": len(np.unique(subject.train.records["run"])),
        "leaves_out": "itself" if subject.one_run else "its run",
        "duplicates": len(subject.duplicates),
        "duplicate_rows": list(subject.duplicates),
    }
    if coordinates is None:
        coordinates = SeriesCoordinates(subject.train, parallel.resolve(mesh))
    for name, found in _battery(subject, measured, settings, seed, coordinates).items():
        metrics["series"][name]["battery"] = found
    return metrics | {"task": subject.task.name}


def _battery(
    subject: Subject,
    measured: dict[str, Measured],
    settings: AuditSettings,
    seed: int,
    coordinates: SeriesCoordinates,
) -> dict[str, dict[str, Any]]:
    """What is said of whole series, in canonical coordinates; undefined networks have none."""
    populations = {TRAINING: subject.train, HELDOUT: subject.heldout, **subject.generated}
    charted, nearest = {}, {}
    for name, networks in populations.items():
        one, rows = measured[name], np.flatnonzero(measured[name].defined)
        found = coordinates(name, networks.weights)
        if name != TRAINING:  # all of which are defined
            nearest[name] = battery.NearestRuns(one.distance[rows], one.second[rows])
            found = found if len(rows) == len(one) else found[rows]
        charted[name] = found
    with Progress(len(populations), "battery", "series") as bar:
        return battery.describe(
            charted,
            settings.battery,
            seed,
            runs=subject.train.records["run"],
            nearest=nearest,
            spec=subject.train.spec,
            progress=lambda done, _: bar.update(done),
        )
