"""Suite `peers`: a zoo by every way to train it on this machine, in models per second.

Training alone is measured, over steps of a run; beside the competitors of the suite `zoo`: the vmapped step of
`torch.func` under `torch.compile`, and the PyTorch loop in one process per core.
"""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from jaxweights import parallel
from launch.benchmarks import measure, networks, zoo
from launch.benchmarks.measure import Case, Work
from launch.benchmarks.networks import Network

ZOOS = {"digits": networks.DIGITS, "MNIST": networks.MNIST}
EPOCHS = {"digits": 40, "MNIST": 25}
"""Of a run: the default of zoos, and G.pt's published recipe."""


def cases() -> list[Case]:
    """A digits and an MNIST zoo, every run with its own batch order."""
    return [_case(name, network) for name, network in ZOOS.items()]


def _case(name: str, network: Network) -> Case:
    steps = EPOCHS[name] * (network.num_examples // networks.BATCH)
    build = {
        "ours": functools.partial(zoo._ours, network, "own", zoo.MODELS),
        "plain_jax": functools.partial(zoo._plain_jax, network),
        "torch_loop": functools.partial(zoo._torch_loop, network),
        "torch_func": functools.partial(zoo._torch_func, network, "own", zoo.MODELS),
        "torch_compile": functools.partial(zoo._torch_func, network, "own", zoo.MODELS, compiled=True),
        "torch_processes": functools.partial(_torch_processes, name),
    }
    per_model = {key: functools.partial(_per_model, make, steps) for key, make in build.items()}
    unit = f"{name} zoo, {steps:,} steps of {networks.BATCH} a run"
    return Case(unit, "models/s", steps * network.training_flop(), per_model)


def _per_model(make: Callable[[], Work | None], steps: int) -> Work | None:
    """The work with models of so many steps as units."""
    work = make()
    if work is None:
        return None
    model_steps = work.units
    return dataclasses.replace(work, units=lambda amount: model_steps(amount) / steps)


def _torch_processes(name: str) -> Work | None:
    """The PyTorch loop in a process per core, each with one thread and its own models."""
    if measure.torch() is None:
        return None
    command = [sys.executable, "-m", "launch.benchmarks.peers", name]
    pipe = subprocess.PIPE
    workers: list[Any] = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(parallel.num_cores())
    ]

    def run(steps):
        for worker in workers:
            worker.stdin.write(f"{steps}\n")
            worker.stdin.flush()
        for worker in workers:
            if worker.stdout.readline() != "done\n":
                raise RuntimeError("a process of the PyTorch loop ended")

    return Work(run, lambda steps: float(steps * len(workers)))


def _serve(name: str) -> None:
    """One process: trains as many steps as a line of its input says, until there are no more lines."""
    work, torch = zoo._torch_loop(ZOOS[name]), measure.torch()
    if work is None or torch is None:
        sys.exit("PyTorch is not installed")
    torch.set_num_threads(1)
    for line in sys.stdin:
        work.run(int(line))
        print("done", flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
