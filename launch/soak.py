"""Kills an experiment again and again, starts it again each time, and compares what comes out with an undisturbed run.

    python -m launch.soak --config=configs/digits.py --workdir=runs/soak --kills=50
    python -m launch.soak --config=configs/digits.py --workdir=runs/soak --kills=20 --processes=2

Both runs are `launch.run`, in `undisturbed/` and `killed/` of the workdir, in processes of this machine. All processes
of a job are killed (SIGKILL) at a moment that is drawn anew each time, within the time that an undisturbed run takes. A
run that ends before its kill is compared, and another one is begun.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

from absl import flags

from launch import common

_CONFIG = flags.DEFINE_string("config", None, "Experiment config of both runs.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of both runs.")
_KILLS = flags.DEFINE_integer("kills", 50, "How often the experiment is killed.", lower_bound=0)
_PROCESSES = flags.DEFINE_integer("processes", 1, "Processes of the killed job.", lower_bound=1)
_DEVICES = flags.DEFINE_integer("devices", 1, "CPU devices of all processes of a run together.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the moments.")

_CHANGING = ("timing", "checksum", "versions")  # entries of metrics.json that differ between equal runs
_START_SECONDS = 2.0  # before which nothing is worth killing


def main(argv) -> None:
    """Runs both and prints how they compare; status 1 where they differ."""
    del argv
    from jaxweights.errors import UserError

    if not _CONFIG.value or not _WORKDIR.value:
        raise UserError("Give the --config of an experiment and a --workdir for two runs of it.")
    folder = pathlib.Path(_WORKDIR.value)
    begin = time.monotonic()
    _finish(folder / "undisturbed", 1)
    seconds, rng = time.monotonic() - begin, random.Random(_SEED.value)
    kills, rounds, ended = 0, 0, False
    different: list[str] = []
    while kills < _KILLS.value or not ended:
        wait = rng.uniform(_START_SECONDS, max(2 * _START_SECONDS, seconds))
        if kills == _KILLS.value:
            _finish(folder / "killed", _PROCESSES.value)
            ended = True
        else:
            ended = _killed_after(folder / "killed", wait)
        if not ended:
            kills += 1
            print(f"kill {kills} of {_KILLS.value} after {wait:.1f} s", flush=True)
            continue
        different += compare(folder / "undisturbed", folder / "killed", exact=_PROCESSES.value == 1)
        rounds += 1
        print(f"run {rounds} ended, {kills} kills so far; different: {', '.join(different) or 'nothing'}", flush=True)
        shutil.rmtree(folder / "killed")
    if different:
        sys.exit(1)


def _start(workdir: pathlib.Path, processes: int) -> list[subprocess.Popen]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "launch.run", f"--config={_CONFIG.value}", f"--workdir={workdir}", "--quiet"]
    command.append(f"--host_devices={max(1, _DEVICES.value // processes)}")
    job = [f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={processes}"] if processes > 1 else []
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir.parent / f"{workdir.name}.log", "a", encoding="utf-8") as log:
        return [
            subprocess.Popen(
                [*command, *job, *([f"--process_id={i}"] if job else [])], stdout=log, stderr=log, cwd=common.ROOT
            )
            for i in range(processes)
        ]


def _finish(workdir: pathlib.Path, processes: int) -> None:
    from jaxweights.errors import UserError

    statuses = [process.wait() for process in _start(workdir, processes)]
    if any(statuses):
        raise UserError(
            f"The experiment in {workdir} ended with status {statuses}; {workdir.parent / workdir.name}.log says why."
        )


def _killed_after(workdir: pathlib.Path, seconds: float) -> bool:
    """Kills a run after some time; whether it had ended before."""
    job = _start(workdir, _PROCESSES.value)
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(process.poll() is None for process in job):
        time.sleep(0.05)
    ended = all(process.poll() == 0 for process in job)
    for process in job:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return ended


def compare(one: pathlib.Path, other: pathlib.Path, exact: bool = True) -> list[str]:
    """Names of the results of two workdirs that are not the same, bit for bit; what is measured of networks need only
    agree to nine digits where they are not `exact`, since its sums are taken in other orders; `metrics.json`, which is
    made of that, is then not compared."""
    import numpy as np

    from jaxweights.store import INDEX, PopulationStore

    found = []
    for path in sorted({p.relative_to(one).parent for p in one.rglob(INDEX)} | {pathlib.Path("zoo")}):
        ours, theirs = (PopulationStore.open(folder / path) for folder in (one, other))
        columns = all(
            np.array_equal(v, theirs.records[k], equal_nan=v.dtype.kind == "f") for k, v in ours.records.items()
        )
        if not (np.array_equal(ours.weights[:], theirs.weights[:]) and columns):
            found.append(str(path))
    for path in sorted(one.glob("audit/*.npz")):
        with np.load(path) as ours, np.load(other / "audit" / path.name) as theirs:
            alike = _alike if not exact else lambda a, b: np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
            if not all(alike(ours[name], theirs[name]) for name in ours.files):
                found.append(f"audit/{path.name}")
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (one, other)]
    for table in metrics:
        for name in _CHANGING:
            table.pop(name, None)
    if exact and metrics[0] != metrics[1]:
        found.append("metrics.json")
    return found


def _alike(ours, theirs) -> bool:
    import numpy as np

    if ours.dtype.kind != "f":
        return np.array_equal(ours, theirs)
    return np.allclose(
        ours, theirs, rtol=1e-9, atol=1e-9 * max(1.0, float(np.nanmax(np.abs(ours), initial=0.0))), equal_nan=True
    )


if __name__ == "__main__":
    common.run_main(main)
