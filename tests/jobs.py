"""Jobs of several processes on this machine, as `jax.distributed` makes them of several hosts.

The devices of every process are emulated. JAX 0.10 hangs where a process has several and programs that wait for each
other are in flight, so tests give each process one.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Outcome(NamedTuple):
    """How a process ended: its exit code (of one that was killed by a signal, minus the signal) and what it printed."""

    code: int
    output: str


class Job:
    """Processes that run.

    Attributes:
      processes: one for every process number.
    """

    def __init__(self, commands: Sequence[Sequence[str]], env: Mapping[str, str], folder: pathlib.Path):
        self._files = [folder / str(number) for number in range(len(commands))]
        self.processes = []
        for command, path in zip(commands, self._files, strict=True):
            with path.open("wb") as file:
                started = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=env, cwd=ROOT
                )
            self.processes.append(started)

    def output(self, number: int) -> str:
        """What a process has printed so far."""
        return self._files[number].read_text(errors="replace")

    def wait(self, timeout: float) -> list[Outcome]:
        """Waits until all have ended.

        Raises:
          TimeoutError: with the output of all, where one has not; all are killed.
        """
        end = time.monotonic() + timeout
        while any(process.poll() is None for process in self.processes):
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f"The job did not end within {timeout} s.\n{self._report()}")
            time.sleep(0.02)
        return [Outcome(process.returncode, self.output(i)) for i, process in enumerate(self.processes)]

    def succeed(self, timeout: float) -> list[str]:
        """Waits until all have ended with exit code 0; kills all as soon as one ended otherwise.

        Returns:
          What each of them printed.

        Raises:
          RuntimeError: with the output of all, where one did not.
        """
        end = time.monotonic() + timeout
        while any(process.poll() is None for process in self.processes):
            if any(process.poll() for process in self.processes) or time.monotonic() > end:
                time.sleep(0.2)  # for the last words of the others
                break
            time.sleep(0.02)
        if any(process.poll() != 0 for process in self.processes):
            report = self._report()
            self.kill()
            raise RuntimeError(f"The job failed, or did not end within {timeout} s.\n{report}")
        return [self.output(i) for i in range(len(self.processes))]

    def kill(self) -> None:
        """Ends all processes at once."""
        for process in self.processes:
            process.kill()
            process.wait()

    def _report(self) -> str:
        states = [f"process {i} ({p.poll()}):\n{self.output(i)}" for i, p in enumerate(self.processes)]
        return "\n".join(states)


@contextlib.contextmanager
def job(
    program: str | Sequence[str], processes: int, devices: int = 1, env: Mapping[str, str] | None = None
) -> Iterator[Job]:
    """Starts a job, and kills what is left of it at the end.

    Args:
      program: Python code, run once JAX has joined the job; or arguments of Python, such as `["-m", "launch.run",
        ...]`, to which the flags of a job are added where it has several processes.
      processes: number of processes.
      devices: emulated devices of each.
      env: further environment variables.
    """
    where = [f"--coordinator_address=127.0.0.1:{free_port()}", f"--num_processes={processes}"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_"))}
    given = {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAXWEIGHTS_HOST_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "PYTHONUNBUFFERED": "1",
    }
    commands = []
    for number in range(processes):
        join = [*where, f"--process_id={number}"] if processes > 1 else []
        body = [__file__, program] if isinstance(program, str) else program
        commands.append([sys.executable, *body, *join])
    with tempfile.TemporaryDirectory() as folder:
        started = Job(commands, {**inherited, **given, **(env or {})}, pathlib.Path(folder))
        try:
            yield started
        finally:
            started.kill()


def run_job(
    program: str | Sequence[str],
    processes: int,
    devices: int = 1,
    timeout: float = 120,
    env: Mapping[str, str] | None = None,
) -> list[str]:
    """Runs a job to its end; see `job` for the arguments.

    Returns:
      What each process printed.

    Raises:
      RuntimeError: one of them failed, or all together took longer than `timeout` seconds.
    """
    with job(program, processes, devices, env) as started:
        return started.succeed(timeout)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _main(code: str, *flags: str) -> None:
    """Runs code in one process of a job. One that fails ends at once, since JAX would have it wait for the others."""
    from jaxweights import processes

    values = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
    try:
        if values:
            processes.initialize(values["coordinator_address"], int(values["num_processes"]), int(values["process_id"]))
        exec(compile(code, "<job>", "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    _main(*sys.argv[1:])
