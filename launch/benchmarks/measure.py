"""Timing of competitors in turns, best of several rounds, with compile time and memory."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxweights import parallel
from jaxweights.training import StageTrainer

COMPETITORS = ("ours", "plain_jax", "torch_loop", "torch_func")


@dataclasses.dataclass
class Work:
    """Something to time.

    Attributes:
      run: function that does `units(amount)` units of work and blocks until they are done; `amount` is a number of
        steps, rows or repetitions.
      units: units of work in `run(amount)`.
      compile_s: seconds to compile; None to take the difference between the first and the second call.
      peak_mib: memory of the compiled program (arguments, results and temporaries), or of its largest array, in MiB.
      fixed: whether `amount` is always 1 (the work cannot be scaled).
    """

    run: Callable[[int], Any]
    units: Callable[[int], float]
    compile_s: float | None = None
    peak_mib: float | None = None
    fixed: bool = False


@dataclasses.dataclass
class Case:
    """One row of a table.

    Attributes:
      name: name of the case.
      unit: unit of the rates.
      flop: floating-point operations per unit that the task itself needs, or None; for the fraction of the peak.
      build: name of a competitor to a function that makes its `Work`, or None where it cannot run.
    """

    name: str
    unit: str
    flop: float | None
    build: Mapping[str, Callable[[], Work | None]]


def measure(suite: str, case: Case, peak: float, seconds: float, rounds: int) -> dict[str, Any]:
    """Times all competitors of a case in turns; returns a row of JSON data, with None for what was not run."""
    made = {name: make() for name, make in case.build.items()}
    works = {name: work for name, work in made.items() if work is not None}
    if works["ours"].compile_s is None:
        works["ours"].compile_s = _first_call(works["ours"])
    amounts = {name: _calibrate(w, seconds) for name, w in works.items()}
    best = dict.fromkeys(works, 0.0)
    for _ in range(rounds):
        for name, work in works.items():
            begin = time.perf_counter()
            work.run(amounts[name])
            best[name] = max(best[name], work.units(amounts[name]) / (time.perf_counter() - begin))
    ours = works["ours"]
    row: dict[str, Any] = {"suite": suite, "case": case.name}
    row |= {name: best.get(name) for name in COMPETITORS}
    row |= {
        "unit": case.unit,
        "peak_fraction": best["ours"] * case.flop / peak if case.flop else None,
        "compile_s": ours.compile_s,
        "peak_mib": ours.peak_mib,
    }
    works.clear()
    gc.collect()
    return row


def _first_call(work: Work) -> float:
    """Seconds by which the first call is slower than the second: tracing and compiling of all programs."""
    took = []
    for _ in range(2):
        begin = time.perf_counter()
        work.run(1)
        took.append(time.perf_counter() - begin)
    return max(0.0, took[0] - took[1])


def _calibrate(work: Work, seconds: float) -> int:
    """The amount of work that takes about `seconds`; also the warm-up."""
    work.run(1)
    if work.fixed:
        return 1
    amount = 1
    while True:
        begin = time.perf_counter()
        work.run(amount)
        took = time.perf_counter() - begin
        if took > seconds / 4:
            return max(1, round(amount * seconds / took))
        amount = max(amount + 1, min(8 * amount, int(amount * seconds / max(took, 1e-9))))


def compiled(function, *args) -> tuple[Any, float, float | None]:
    """Compiles a jitted function ahead of time; returns it, the seconds, and the MiB of its memory analysis."""
    begin = time.perf_counter()
    program = function.lower(*args).compile()
    took = time.perf_counter() - begin
    analysis = program.memory_analysis()
    mib = None
    if analysis is not None:
        size = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.output_size_in_bytes
        mib = (size - analysis.alias_size_in_bytes) / 2**20
    return program, took, mib


def training(generator, population, units: Callable[[int], float]) -> Work:
    """Optimizer steps of a learned generator with one stage; `units` converts a number of steps."""
    data, constants = generator.prepare(population)
    (stage,) = generator.stages()
    mesh, key = parallel.make_mesh(), jax.random.key(0)
    trainer = StageTrainer(stage, data, {"constants": constants}, mesh, key, "benchmark")
    box = [trainer.init()]

    def run(times):
        while times:
            count = min(times, 256)
            box[0], metrics = trainer.advance(box[0], count)
            jax.block_until_ready(metrics)
            times -= count

    return Work(run, units)


def torch():
    """PyTorch on all cores, or None where it is not installed."""
    try:
        module = importlib.import_module("torch")
    except ImportError:
        return None
    module.set_num_threads(parallel.num_cores())
    return module


def machine(peak: float) -> str:
    """One line about the machine."""
    device = jax.devices()[0]
    with_torch = torch()
    return (
        f"{len(jax.devices())} x {device.device_kind} ({processor()}), jax {jax.__version__}, Python "
        f"{platform.python_version()}, "
        f"PyTorch {with_torch.__version__ if with_torch else 'absent'}; float32 matrix-product peak {peak / 1e9:.0f} "
        "GFLOP/s"
    )


def processor() -> str:
    """The name of the CPU."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as an aligned text table (Markdown), with the ratios of our rate to each other."""
    head = [
        "case",
        "ours",
        "plain JAX",
        "x",
        "torch loop",
        "x",
        "torch.func",
        "x",
        "unit",
        "of peak",
        "compile s",
        "MiB",
    ]
    lines = [head]
    for row in rows:
        cells = [row["case"], _number(row["ours"])]
        for other in COMPETITORS[1:]:
            cells += [_number(row[other]), f"{row['ours'] / row[other]:.1f}" if row[other] else "-"]
        share = "-" if row["peak_fraction"] is None else f"{100 * row['peak_fraction']:.0f} %"
        lines.append([*cells, row["unit"], share, _number(row["compile_s"]), _number(row["peak_mib"])])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return f"suite {rows[0]['suite']}\n" + "\n".join(text) if rows else "no such case"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
