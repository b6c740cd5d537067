"""What `launch.soak` is made of: jobs of an experiment that are disturbed, the stages that they are in, and how their
results are compared."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from launch import common

SIGNALS = {"kill": signal.SIGKILL, "hang": signal.SIGSTOP, "raise": signal.SIGINT}
"""What is sent for each kind of fault; SIGINT raises KeyboardInterrupt."""

STAGES = ("start", "zoo", "training", "sampling", "audit", "report")
"""Stages by what is in the workdir; samples are evaluated as they are drawn. The start is once processes have joined:
who waits for another one to come waits longer."""

END = "end"  # after the last stage, before the processes have ended

LIMIT_SECONDS = 60.0
"""Within which the others have to end."""

_AGAIN_SECONDS = 5.0
_CHANGING = ("timing", "checksum", "versions")  # entries of metrics.json that differ between equal runs


def stage(workdir: pathlib.Path) -> str:
    """The stage that the job in a workdir is in."""
    from jaxweights.store import INDEX

    if not (workdir / "zoo" / INDEX).exists():
        return "start"
    if not re.search(r'"complete": *true', (workdir / "zoo" / INDEX).read_text()):
        return "zoo"
    if (workdir / "report.html").exists():
        return END
    if (workdir / "metrics.json").exists():
        return "report"
    if (workdir / "audit").exists():
        return "audit"
    return "sampling" if (workdir / "samples").exists() else "training"


class Job:
    """An experiment that runs in processes of this machine.

    Args:
      workdir: of the experiment.
      count: number of processes.
      arguments: further arguments of `launch.run`.
    """

    def __init__(self, workdir: pathlib.Path, count: int, arguments: Sequence[str]):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self._workdir = workdir
        workdir.mkdir(parents=True, exist_ok=True)
        self.log = workdir.parent / f"{workdir.name}.log"
        self._logs = [self.log, *(workdir / "logs" / f"process-{i}.log" for i in range(1, count))]
        self._said = [path.stat().st_size if path.exists() else 0 for path in self._logs]  # by former jobs
        command = [sys.executable, "-m", "launch.run", f"--workdir={workdir}", "--quiet", *arguments]
        if count > 1:
            command += [f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={count}"]
        with open(self.log, "ab") as log:
            self._processes = [
                subprocess.Popen(
                    [*command, *([f"--process_id={i}"] if count > 1 else [])],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=common.ROOT,
                )
                for i in range(count)
            ]

    def running(self) -> bool:
        """Whether any process runs."""
        return any(process.poll() is None for process in self._processes)

    def statuses(self) -> list[int | None]:
        """Exit codes; None for what runs."""
        return [process.poll() for process in self._processes]

    def wait_for(self, wanted: str) -> None:
        """Waits until a stage is reached, or the job's end."""
        order = (*STAGES, END)
        while self.running():
            if self._joined() and order.index(stage(self._workdir)) >= order.index(wanted):
                break
            time.sleep(0.02)

    def _joined(self) -> bool:
        """Whether the processes know one another; then all but the first have said so in their logs."""
        logs = list(zip(self._logs, self._said, strict=True))[1:]
        return all(path.exists() and path.stat().st_size > before for path, before in logs)

    def sleep(self, seconds: float) -> None:
        """Waits, or until the job's end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.running():
            time.sleep(0.02)

    def disturb(self, number: int, kind: str) -> tuple[float, str | None]:
        """Disturbs a process and waits for the others to end; all have ended afterwards.

        Returns:
          Seconds until the others had ended (since it had, where it raises), and what was wrong with that, if anything.
        """
        self._processes[number].send_signal(SIGNALS[kind])
        if kind == "raise":
            self._raise_again(number)
        begin = time.monotonic()
        others = [i for i in range(len(self._processes)) if i != number]
        while any(self._processes[i].poll() is None for i in others) and time.monotonic() < begin + LIMIT_SECONDS:
            time.sleep(0.02)
        seconds, left = time.monotonic() - begin, [i for i in others if self._processes[i].poll() is None]
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
        what = f"after {kind} of process {number} in stage {stage(self._workdir)}"
        if left:
            return seconds, f"{what} the processes {left} had not ended after {seconds:.0f} s"
        silent = [i for i in others if self._processes[i].returncode and not self._names(i, number)]
        return seconds, f"{what} it is not named by {silent}; see {self._logs[silent[0]]}" if silent else None

    def _raise_again(self, number: int) -> None:
        """Waits until a process has ended; what is raised while Python collects garbage is lost."""
        end, again = time.monotonic() + LIMIT_SECONDS, time.monotonic() + _AGAIN_SECONDS
        while self._processes[number].poll() is None and time.monotonic() < end:
            if time.monotonic() > again:
                self._processes[number].send_signal(SIGNALS["raise"])
                again += _AGAIN_SECONDS
            time.sleep(0.02)

    def _names(self, number: int, other: int) -> bool:
        """Whether a process named another one among its last words."""
        words = b""
        for path, before in zip(self._logs, self._said, strict=True):
            if path in (self.log, self._logs[number]) and path.exists():
                words += path.read_bytes()[before:]
        text = words.decode(errors="replace")
        said = rf"\bprocess {other} (has|of)\b|heartbeats\):\s+{other}\b"
        if other == 0:  # JAX has other words for it, which are explained where a log begins
            said += r"|\bleader task was\b|CoordinationService/Heartbeat"
        return bool(re.search(said, text))


def differences(one: pathlib.Path, other: pathlib.Path, exact: bool = True) -> list[str]:
    """Names of the results of two workdirs that are not the same, bit for bit.

    Args:
      one: a workdir.
      other: one of the same experiment.
      exact: whether the numbers of processes are the same as well. Where not, trained generators and what is made of
        them are left out, what is measured of the other networks need only agree to nine digits, since its sums are
        taken in other orders, and `metrics.json` is not compared.
    """
    import numpy as np

    from jaxweights.store import INDEX, PopulationStore

    learned = [] if exact else [path.name for path in one.glob("generators/*")]
    found = []
    for path in sorted({p.relative_to(one).parent for p in one.rglob(INDEX)} | {pathlib.Path("zoo")}):
        if path.parts[0] == "base" or path.name in learned:
            continue
        ours, theirs = (PopulationStore.open(folder / path) for folder in (one, other))
        columns = all(
            np.array_equal(v, theirs.records[k], equal_nan=v.dtype.kind == "f") for k, v in ours.records.items()
        )
        if not (np.array_equal(ours.weights[:], theirs.weights[:]) and columns):
            found.append(str(path))
    alike = _equal if exact else _alike
    for path in sorted(one.glob("audit/*.npz")):
        if path.stem in learned:
            continue
        with np.load(path) as ours, np.load(other / "audit" / path.name) as theirs:
            found += [f"audit/{path.name} ({name})" for name in ours.files if not alike(ours[name], theirs[name])]
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (one, other)]
    for table in metrics:
        for name in _CHANGING:
            table.pop(name, None)
    if exact and metrics[0] != metrics[1]:
        found.append("metrics.json")
    return found


def _equal(ours, theirs) -> bool:
    import numpy as np

    return np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f")


def _alike(ours, theirs) -> bool:
    import numpy as np

    if ours.dtype.kind != "f":
        return np.array_equal(ours, theirs)
    return np.allclose(
        ours, theirs, rtol=1e-9, atol=1e-9 * max(1.0, float(np.nanmax(np.abs(ours), initial=0.0))), equal_nan=True
    )
