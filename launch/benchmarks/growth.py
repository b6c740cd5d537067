"""Suite `growth`: how time and memory grow with the number of networks, their parameters, test images, samples and
width, one number at a time.

With `--curves=PATH` the rows become a figure; every panel has the exponent that is fitted, and the one that the work
itself has.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxweights import costs, files, parallel, settings, tasks, zoo
from jaxweights.auditing.alignment import hidden_layer, matching
from jaxweights.auditing.distances import euclidean, similarity
from jaxweights.data import Dataset
from jaxweights.evaluation import evaluate
from jaxweights.nets import TaskNet
from jaxweights.report import style
from jaxweights.tasks.classification import ClassifierZoo
from launch.benchmarks import sample
from launch.benchmarks.measure import Case, Work

CLASSES, EPOCHS, IMAGES = 10, 4, 1437
PAIRS = 2048  # more numbers than are matched without a compiled program
LEAST_MIB = 4.0  # of memory that enters a fit; less is lost in what the process has at hand


@dataclasses.dataclass(frozen=True)
class Curve:
    """A cost as one number grows.

    Attributes:
      work: what is done.
      number: what grows.
      values: its values.
      time: exponent of the operations in that number.
      memory: exponent of what has to be in memory at once.
      build: makes the work of a value; a unit is one call.
    """

    work: str
    number: str
    values: tuple[int, ...]
    time: float
    memory: float
    build: Callable[[int], Callable[[], Any]]

    def case(self, value: int) -> str:
        """Name of the row of a value."""
        return f"{self.work}, {self.number} = {value}"


def cases() -> list[Case]:
    """All values of all curves."""
    return [
        Case(curve.case(value), "calls/s", None, {"ours": functools.partial(_measured, curve.build, value)})
        for curve in CURVES
        for value in curve.values
    ]


def _measured(build: Callable[[int], Callable[[], Any]], value: int) -> Work:
    """A call as work, with the memory that it adds."""
    call = build(value)
    call()  # compiles
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what was freed before does not hide what is taken
    with costs.metered() as before:
        pass
    with costs.metered() as cost:
        call()

    def run(times):
        for _ in range(times):
            call()

    return Work(run, float, 0.0, max(0, cost.peak_bytes - before.peak_bytes) / 2**20)


def _mlp(*hidden: int, side: int = 8) -> TaskNet:
    return tasks.build({"name": "mlp", "hidden": hidden}, (side, side, 1), CLASSES)


def _networks(net: TaskNet, count: int) -> np.ndarray:
    """`[count, P]` independent initialisations."""
    return np.asarray(jax.jit(jax.vmap(net.init))(jax.random.split(jax.random.key(0), count)))


def _training(runs: int, width: int = 16) -> Callable[[], Any]:
    """A zoo in memory, with the evaluation of its runs."""
    rng, net = np.random.default_rng(0), _mlp(width)
    images, labels = rng.integers(0, 256, (IMAGES, 8, 8, 1), np.uint8), rng.integers(0, CLASSES, IMAGES)
    one = np.ones(1, np.float32)
    dataset = Dataset("random", images, labels, images[:360], labels[:360], CLASSES, one / 74, -128 * one / 74, "")
    recipe = zoo.Recipe.from_settings(settings.make(ClassifierZoo, {"epochs": EPOCHS}), IMAGES)
    return lambda: zoo.train_zoo(net, recipe, dataset, num_runs=runs, num_heldout=0)


def _evaluation(models: int, images: int) -> Callable[[], Any]:
    net, mesh = _mlp(16), parallel.make_mesh()
    weights, rng = _networks(net, models), np.random.default_rng(0)
    x, y = rng.normal(size=(images, 8, 8, 1)).astype(np.float32), rng.integers(0, CLASSES, images)
    return lambda: evaluate(net, weights, x, y, mesh)


def _iou(images: int) -> Callable[[], Any]:
    models = 1000
    rng, mesh, ids = np.random.default_rng(0), parallel.make_mesh(), np.arange(models)
    masks = np.packbits(rng.random((models, images), np.float32) < 0.06, axis=1)
    return lambda: similarity.max_error_iou(masks, masks, images, ids, ids, mesh=mesh)


def _nearest(models: int, parameters: int) -> Callable[[], Any]:
    vectors = np.random.default_rng(0).normal(size=(models, parameters)).astype(np.float32)
    mesh, ids = parallel.make_mesh(), np.arange(models)
    return lambda: euclidean.nearest(vectors, vectors, 1, ids, ids, mesh=mesh)


def _aligned(models: int, width: int) -> Callable[[], Any]:
    net = _mlp(width)
    vectors, (units, rest) = _networks(net, models), net.spec.units(0)
    mesh, ids = parallel.make_mesh(), np.arange(models)
    return lambda: hidden_layer.aligned_nearest(vectors, vectors, units, rest, 1, ids, ids, mesh=mesh)


def _match(width: int) -> Callable[[], Any]:
    net = _mlp(width, width)
    vectors = _networks(net, 2 * PAIRS)
    return lambda: matching.match(net.spec, vectors[:PAIRS], vectors[PAIRS:])


def _samples(count: int) -> Callable[[], Any]:
    generator, state = sample.untrained(sample.pdiff("pdiff_small"), "float32")
    mesh = parallel.make_mesh()
    state = jax.device_put(state, parallel.replicated(mesh))
    keys = jax.random.split(jax.random.key(1), count)
    program = parallel.map_rows(generator.sample_latents, mesh)
    return lambda: jax.block_until_ready(program(state, keys))


CURVES = (
    Curve("training and evaluation of digits MLPs", "runs N", (128, 256, 512, 1024, 2048, 4096), 1, 1, _training),
    Curve(
        "training of 64 MLPs 64-h-10", "hidden width h", (8, 16, 32, 64, 128, 256), 1, 1, lambda h: _training(64, h)
    ),
    Curve(
        "evaluation on 2,000 images", "networks N", (128, 512, 2048, 8192), 1, 1, lambda n: _evaluation(n, 2000)
    ),
    Curve(
        "evaluation of 1,024 networks", "test images T", (500, 1000, 2000, 4000, 8000), 1, 1,
        lambda t: _evaluation(1024, t),
    ),
    Curve("error IoU of 1,000 x 1,000", "test images T", (2000, 4000, 8000, 16_000, 32_000), 1, 1, _iou),
    Curve("nearest L2, N x N", "networks N", (1000, 2000, 4000, 8000), 2, 1, lambda n: _nearest(n, 1210)),
    Curve(
        "nearest L2, 2,000 x 2,000", "parameters P", (300, 1200, 5000, 20_000), 1, 1,
        lambda p: _nearest(2000, p),
    ),
    Curve("aligned nearest, N x N", "networks N", (500, 1000, 2000, 4000), 2, 1, lambda n: _aligned(n, 16)),
    Curve("aligned nearest, 1,000 x 1,000", "hidden width h", (8, 16, 32, 64), 2, 1, lambda h: _aligned(1000, h)),
    Curve("matching of 2,048 pairs 64-h-h-10", "hidden width h", (8, 16, 32, 64, 128), 3, 2, _match),
    Curve("sampling from P-diff", "samples S", (100, 200, 400, 800, 1600), 1, 1, _samples),
)  # fmt: skip


def fitted(values: Sequence[float], measured: Sequence[float | None], least: float = 0.0) -> float | None:
    """Exponent of a power law through the measurements in the upper half of the values, on logarithmic axes, where
    fixed costs count for little.

    Args:
      values: what grows, ascending.
      measured: what it costs.
      least: costs below this are left out.

    Returns:
      The exponent; None with fewer than two measurements.
    """
    middle = math.sqrt(values[0] * values[-1])
    found = [(v, m) for v, m in zip(values, measured, strict=True) if v >= middle and m is not None and m > least]
    if len(found) < 2:
        return None
    x, y = np.log(np.array(found)).T
    return float(np.polyfit(x, y, 1)[0])


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every curve whose rows are there: values, seconds, MiB, fitted exponents and those of the work."""
    by_name = {row["case"]: row for row in rows if row["suite"] == "growth"}
    found = []
    for curve in CURVES:
        of = [by_name.get(curve.case(value)) for value in curve.values]
        points = [(v, 1 / row["ours"], row["peak_mib"]) for v, row in zip(curve.values, of, strict=True) if row]
        if len(points) < 2:
            continue
        values, seconds, mib = (list(column) for column in zip(*points, strict=True))
        found.append(
            {"work": curve.work, "number": curve.number, "values": values, "seconds": seconds, "mib": mib}
            | {"time_exponent": fitted(values, seconds), "expected_time": curve.time}
            | {"memory_exponent": fitted(values, mib, LEAST_MIB), "expected_memory": curve.memory}
        )
    return found


def table(curves: Sequence[Mapping[str, Any]]) -> str:
    """The exponents as a Markdown table."""
    lines = ["| work | what grows | from, to | time | expected | memory | expected |", "|---|---|---|---|---|---|---|"]
    for c in curves:
        ends = f"{c['values'][0]:,}, {c['values'][-1]:,}"
        time, memory = ("-" if c[k] is None else f"{c[k]:.2f}" for k in ("time_exponent", "memory_exponent"))
        lines.append(
            f"| {c['work']} | {c['number']} | {ends} | {time} | {c['expected_time']:g} | {memory} | "
            f"{c['expected_memory']:g} |"
        )
    return "\n".join(lines)


def draw(curves: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """One panel per curve: seconds of a call and MiB that it adds, on logarithmic axes, as PNG; above it the fitted
    exponents and, in brackets, those of the work."""
    columns = 3
    with style.drawing():
        figure = style.new_figure(10, 2.5 * -(-len(curves) // columns))
        panels = list(figure.subplots(-(-len(curves) // columns), columns, squeeze=False).flat)
        for axes, c in zip(panels, curves, strict=False):
            axes.loglog(c["values"], c["seconds"], "o-", color="#1f77b4", label="seconds of a call")
            axes.loglog(c["values"], np.maximum(c["mib"], 0.1), "s--", color="#d62728", label="MiB that it adds")
            memory = (
                "" if c["memory_exponent"] is None else f"; MiB: {c['memory_exponent']:.2f} ({c['expected_memory']:g})"
            )
            exponents = f"s: {c['time_exponent']:.2f} ({c['expected_time']:g}){memory}"
            axes.set_title(f"{c['work']}\n{exponents}", fontsize=8)
            axes.set_xlabel(c["number"], fontsize=8)
            axes.minorticks_off()
            ends = c["values"][0], c["values"][-1]
            axes.set_xticks(ends, [f"{value:,}" for value in ends])
            axes.yaxis.set_major_formatter("{x:g}")
            axes.tick_params(labelsize=8)
        style.legend(figure, *panels[0].get_legend_handles_labels())
        for axes in panels[len(curves) :]:
            axes.remove()
        with files.atomic(path) as temporary:
            figure.savefig(temporary, format="png", dpi=style.DPI, metadata={"Software": None})
