"""At what rate an experiment is trained on this machine: its zoo, or its zoo and then its learned generators.

    python -m launch.rate --config=configs/digits.py --workdir=runs/rate --seconds=60 --json=runs/rate.json
    python -m launch.rate --config=configs/digits.py --workdir=runs/rate --seconds=60 --generators

It ends when the time is up, or before where all is trained; what came of it stays in the workdir, from which the other
programs go on.
"""

from __future__ import annotations

import json
import pathlib
import signal
import time
from collections.abc import Mapping
from typing import Any

from absl import flags

from launch import common, stages

_SECONDS = flags.DEFINE_float("seconds", 60.0, "When it ends, counted from the first look at the data.", lower_bound=1)
_GENERATORS = flags.DEFINE_boolean("generators", False, "Go on with the learned generators when the zoo is trained.")
_TOGETHER = 0.1  # seconds between points of one dispatch, at most
_JSON = flags.DEFINE_string("json", None, "Also write the numbers to this file.")


class _TimeUp(BaseException):
    """Ends the training, which no `except Exception` keeps from ending."""


def main(argv) -> None:
    """Trains, and prints the rates as JSON."""
    del argv
    points: list[tuple[float, dict[str, Any]]] = []
    experiment = stages.experiment()
    from jaxweights import costs, provenance

    experiment.trackers = (*experiment.trackers, lambda row: points.append((time.monotonic(), dict(row))))
    peak = costs.matmul_peak(experiment.mesh)
    begin, done = time.monotonic(), True
    signal.signal(signal.SIGALRM, _end)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS.value)
    try:
        experiment.train_generators() if _GENERATORS.value else experiment.zoo()
    except _TimeUp:
        done = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    found = {
        "device": provenance.versions()["device"],
        "seconds": round(time.monotonic() - begin, 1),
        "done": done,
        "zoo": _zoo(experiment.workdir / "zoo"),
        "generators": _generators(points, experiment, peak) if points else {},
        "host_peak_gib": round(costs.host_peak() / 2**30, 2),
        "device_peak_gib": round(costs.device_peak() / 2**30, 2),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(text + "\n", encoding="utf-8")


def _end(*_) -> None:
    raise _TimeUp


def _zoo(path: pathlib.Path) -> dict[str, Any]:
    """Whole runs of a zoo, their rate from the end of the first chunk to that of the last, and their accuracy."""
    import numpy as np

    from jaxweights import population, store

    if not (path / store.INDEX).exists():
        return {"runs": 0}
    opened = store.PopulationStore.open(path)
    if not len(opened):
        return {"runs": 0}
    records = opened.records
    last = population.last_checkpoints(records)
    runs = [len(np.unique(rows.records["run"])) for _, rows in opened.chunks()]
    times = sorted(file.stat().st_mtime for file in path.glob("records-*"))
    found = {"runs": sum(runs), "checkpoints": len(opened), "bytes": 4 * len(opened) * opened.spec.num_params}
    found |= {name: round(float(np.mean(records[name][last])), 4) for name in ("loss", "accuracy")}
    if len(runs) > 1:
        found["runs_per_s"] = round(sum(runs[1:]) / (times[-1] - times[0]), 2)
    return found


def _generators(points: list[tuple[float, dict[str, Any]]], experiment, peak: float) -> dict[str, Any]:
    """Steps per second of every stage from its first point of the loss curve to its last, and the share of the float32
    product peak that a generator of one stage reaches."""
    from jaxweights.describe import describe

    facts: Mapping[str, Any] = describe(experiment.config, experiment.data_dir)["generators"]
    found: dict[str, Any] = {}
    for name, stage in dict.fromkeys((row["generator"], row["stage"]) for _, row in points):
        own = [(at, row) for at, row in points if (row["generator"], row["stage"]) == (name, stage)]
        begin, first = [point for point in own if point[0] - own[0][0] < _TOGETHER][-1]
        end, last = own[-1]
        rate = (last["step"] - first["step"]) / (end - begin) if end > begin else None
        one: dict[str, Any] = {"steps": last["step"], "steps_per_s": rate, "peak": peak}
        one |= {"first_loss": own[0][1]["loss"], "last_loss": last["loss"]}
        if rate and len(facts[name]["stages"]) == 1:
            one["flop_per_step"] = facts[name]["operations"] / facts[name]["steps"]
            one["peak_fraction"] = rate * one["flop_per_step"] / peak
        found[f"{name}/{stage}"] = one
    return found


if __name__ == "__main__":
    common.run_main(main)
