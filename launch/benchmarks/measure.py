"""Timing of competitors in turns, best of several rounds, with compile time and memory."""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxweights import parallel
from jaxweights.training import StageTrainer

COMPETITORS = ("ours", "plain_jax", "torch_loop", "torch_func")
FURTHER = {"torch_compile": "torch.compile", "torch_processes": "torch, process per core"}
"""Competitors of some suites alone, with their columns' names."""


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


@dataclasses.dataclass(frozen=True)
class Timing:
    """How cases are measured.

    Attributes:
      peak: rate of float32 matrix products on this machine, in FLOP/s.
      seconds: length of one measurement.
      rounds: measurements per competitor, of which the best counts.
    """

    peak: float
    seconds: float
    rounds: int


def only(case: Case, others: Sequence[str]) -> Case:
    """The case with these competitors beside ours."""
    return dataclasses.replace(case, build={k: v for k, v in case.build.items() if k == "ours" or k in others})


def measure(suite: str, case: Case, timing: Timing) -> dict[str, Any]:
    """Times all competitors of a case in turns; returns a row of JSON data, with None for what was not run, or failed
    where it is not ours."""
    works: dict[str, Work] = {}
    amounts: dict[str, int] = {}
    for name, make in case.build.items():
        try:
            work = make()
            if work is None:
                continue
            if name == "ours" and work.compile_s is None:
                work.compile_s = _first_call(work)
            works[name], amounts[name] = work, _calibrate(work, timing.seconds)
        except Exception as error:
            if name == "ours":
                raise
            print(f"{case.name}: {name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    best = dict.fromkeys(works, 0.0)
    for _ in range(timing.rounds):
        for name, work in works.items():
            best[name] = max(best[name], work.units(amounts[name]) / _seconds(work, amounts[name]))
    ours = works["ours"]
    row: dict[str, Any] = {"suite": suite, "case": case.name}
    row |= {name: best.get(name) for name in (*COMPETITORS, *(set(FURTHER) & set(case.build)))}
    row |= {
        "unit": case.unit,
        "peak_fraction": best["ours"] * case.flop / timing.peak if case.flop else None,
        "compile_s": ours.compile_s,
        "peak_mib": ours.peak_mib,
    }
    works.clear()
    gc.collect()
    if cuda := _cuda():
        cuda.empty_cache()
    return row


def _seconds(work: Work, amount: int) -> float:
    """Seconds that an amount of work takes."""
    begin = time.perf_counter()
    work.run(amount)
    if cuda := _cuda():
        cuda.synchronize()
    return time.perf_counter() - begin


def _first_call(work: Work) -> float:
    """Seconds by which the first call is slower than the second: tracing and compiling of all programs."""
    first, second = (_seconds(work, 1) for _ in range(2))
    return max(0.0, first - second)


def _calibrate(work: Work, seconds: float) -> int:
    """The amount of work that takes about `seconds`; also the warm-up."""
    work.run(1)
    if work.fixed:
        return 1
    amount = 1
    while True:
        took = _seconds(work, amount)
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


def training(generator, population, units: Callable[[int], float], number: int = 0) -> Work:
    """Optimizer steps of a stage of a learned generator, after the initial state of those before it; `units` converts a
    number of steps."""
    data, constants = generator.prepare(population)
    state, key = {"constants": constants}, jax.random.key(0)
    *before, stage = generator.stages()[: number + 1]
    for earlier in before:
        params, model_state = jax.jit(earlier.init)(key, state)
        state = {**state, earlier.name: {"params": params, "model_state": model_state}}
    trainer = StageTrainer(stage, data, state, parallel.make_mesh(), key, "benchmark")
    box = [trainer.init()]

    def run(times):
        while times:
            count = min(times, 256)
            box[0], metrics = trainer.advance(box[0], count)
            jax.block_until_ready(metrics)
            times -= count

    return Work(run, units)


@functools.cache
def torch():
    """PyTorch on all cores, or None where it is not installed; with new tensors on the GPU where JAX has one and
    PyTorch finds it, and then, as JAX does, with products of float32 matrices as TF32."""
    try:
        module = importlib.import_module("torch")
    except ImportError:
        return None
    module.set_num_threads(parallel.num_cores())
    if jax.default_backend() == "gpu" and module.cuda.is_available():
        module.set_default_device("cuda")
        module.set_float32_matmul_precision("high")
    return module


def torch_device() -> str:
    """Where PyTorch is measured: "cpu" or "cuda"."""
    found = torch()
    return "cpu" if found is None else found.get_default_device().type


def _cuda():
    """PyTorch's module for the GPU that it is measured on, whose work it does not wait for; None without one."""
    if "torch" not in sys.modules:  # no competitor has imported it, which takes seconds
        return None
    found = torch()
    return found.cuda if found is not None and torch_device() == "cuda" else None


def machine(peak: float) -> str:
    """One line about the machine."""
    device = jax.devices()[0]
    try:
        with_torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        with_torch = "absent"
    return (
        f"{len(jax.devices())} x {device.device_kind} ({processor()}), jax {jax.__version__}, Python "
        f"{platform.python_version()}, "
        f"PyTorch {with_torch}; float32 matrix-product peak {peak / 1e9:.0f} "
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
    further = [name for name in FURTHER if any(name in row for row in rows)]
    head[8:8] = [text for name in further for text in (FURTHER[name], "x")]
    lines = [head]
    for row in rows:
        cells = [row["case"], _number(row["ours"])]
        for other in (*COMPETITORS[1:], *further):
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
