"""What zoos and audits cost elsewhere, computed from the rows of `benchmarks/*.json`; nothing is measured.

A row says what a device reached in a case. Of a target that was not measured, the published peak is known: it is taken
to reach the share of its peak that the measured accelerator reached of its own in the same case.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from jaxweights import parallel, tasks
from jaxweights.experiment import parse, plan
from jaxweights.experiment.config import complete
from launch import common, config_file
from launch.benchmarks import measure, networks

FOLDER = common.ROOT / "benchmarks"
_MODELS = re.compile(r", [\d,]+ models$")
_MACHINE = re.compile(r"(\d+) x (.+?) \((.+)\), jax .* peak (\d+) GFLOP/s")


class Machine(NamedTuple):
    """A machine that was measured.

    Attributes:
      source: the file, relative to the checkout.
      count: devices.
      kind: what JAX calls a device.
      processor: name of the CPU.
      peak: FLOP/s of float32 matrix products on all devices.
      rows: what was measured, by case.
    """

    source: str
    count: int
    kind: str
    processor: str
    peak: float
    rows: dict[str, dict[str, Any]]


class Estimate(NamedTuple):
    """Seconds of some work, at the highest and the lowest share of the peak that was measured.

    Attributes:
      seconds: the shortest and the longest time.
      shares: the lowest and the highest share of the peak.
      source: the file of the measurements.
    """

    seconds: tuple[float, float]
    shares: tuple[float, float]
    source: str


class Target(NamedTuple):
    """A device to plan for.

    Attributes:
      name: in the table.
      file: of the measurements.
      peak: published FLOP/s of dense bfloat16 products of the device, or None where it was measured itself.
      of: published peak of the device in the file.
    """

    name: str
    file: str
    peak: float | None = None
    of: float | None = None


_H100_PEAK = 989e12  # NVIDIA H100 SXM data sheet: dense bfloat16
_V5E_PEAK = 197e12  # Google Cloud TPU v5e documentation: bfloat16
TARGETS = (
    Target("CPU core", "cpu_2_cores.json"),
    Target("H100", "gpu_h100.json"),
    Target("TPU v5e", "gpu_h100.json", _V5E_PEAK, _H100_PEAK),
)
CASES = (
    ("configs/digits.py", "digits MLP", networks.DIGITS),
    ("configs/mnist_mlp.py", "MNIST MLP", networks.MNIST),
    ("configs/hyperrep_mnist.py", "CNN", networks.CNN),
)
"""Config, name of its network in the suite `zoo`, and that network."""

_SMALLEST_BATCH = networks.BATCH  # what the suite measures says nothing of smaller ones


@functools.cache
def machine(name: str) -> Machine:
    """Reads a file of `benchmarks/`.

    Args:
      name: of the file.
    """
    found = json.loads((FOLDER / name).read_text())
    match = _MACHINE.match(found["machine"])
    if match is None:
        raise ValueError(f"{name} says nothing that can be read of its machine: {found['machine']!r}.")
    rows = {row["case"]: row for row in found["rows"]}
    return Machine(f"benchmarks/{name}", int(match[1]), match[2], match[3], 1e9 * float(match[4]), rows)


def zoo_seconds(operations: float, devices: Mapping[str, Any]) -> Estimate | None:
    """How long the training of a zoo takes on devices like this one, or None where none was measured.

    Args:
      operations: floating-point operations.
      devices: devices and processes, see `division.divide`; of a CPU, no more than its cores count.
    """
    kind = jax.devices()[0].device_kind
    for path in sorted(FOLDER.glob("*.json")):
        known = machine(path.name)
        shares = [row["peak_fraction"] for row in known.rows.values() if row["suite"] == "zoo" and row["peak_fraction"]]
        same = known.kind == kind and (kind != "cpu" or known.processor == measure.processor())
        if same and shares:
            each = min(devices["per_process"], parallel.num_cores()) if kind == "cpu" else devices["per_process"]
            full = operations / (known.peak / known.count * each * devices["processes"])
            return Estimate((full / max(shares), full / min(shares)), (min(shares), max(shares)), known.source)
    return None


def rate(target: Target, case: str) -> float:
    """Units of a case per second on one device of a target, with as many models at a time as are fastest."""
    known = machine(target.file)
    same = [row["ours"] for name, row in known.rows.items() if _MODELS.sub("", name) == case]
    measured = max(same) / known.count
    return measured if target.peak is None or target.of is None else measured * target.peak / target.of


def tables() -> str:
    """The planning tables as Markdown."""
    return f"{zoo_table()}\n\n{audit_table()}"


def zoo_table() -> str:
    """Models per device-hour, and bytes per million checkpoints, of three configs."""
    lines = [["config", "steps x batch", "parameters", *_names("models per hour of a"), "GB per million checkpoints"]]
    for config, case, network in CASES:
        steps, batch, params, order, note = _recipe(config)
        # The suite measures batches of `networks.BATCH`; a step is taken to cost as much as its examples.
        per_model = steps * batch / networks.BATCH
        models = [3600 * rate(target, f"{case}, {order} order") / per_model for target in TARGETS]
        if params != network.net.spec.num_params:
            raise ValueError(f"{config} has another network than the case {case}.")
        bytes_per_million = 4e6 * params
        lines.append(
            [
                f"`{config}`{note}",
                f"{steps:,} x {batch}",
                f"{params:,}",
                *map(_round, models),
                f"{bytes_per_million / 1e9:.1f}",
            ]
        )
    return _markdown(lines)


def audit_table() -> str:
    """Time of a thousand million pairs."""
    pairs = (
        ("error IoU, 10,000 test images", "error IoU, 5000 x 5000, 10000 examples", 1.0),
        ("nearest L2, 1,210 parameters", "nearest L2, 5000 x 5000, 3000 parameters", 1210 / 3000),
        ("nearest L2, 7,960 parameters", "nearest L2, 5000 x 5000, 3000 parameters", 7960 / 3000),
    )
    lines = [["10^9 pairs", *_names("seconds on one")]]
    lines += [
        [name, *(_round(1e9 / rate(target, case) * factor) for target in TARGETS)] for name, case, factor in pairs
    ]
    return _markdown(lines)


def _names(what: str) -> list[str]:
    return [f"{what} {target.name}{'' if target.peak is None else ' (computed)'}" for target in TARGETS]


def _recipe(config: str) -> tuple[int, int, int, str, str]:
    """Steps, batch size, parameters and batch order of a config, and what was changed of it."""
    given, note = config_file.load(str(common.ROOT / config)).to_dict(), ""
    if given["zoo"]["batch_size"] < _SMALLEST_BATCH:
        given["zoo"]["batch_size"], note = _SMALLEST_BATCH, f", batches of {_SMALLEST_BATCH}"
    parsed = parse(given)
    full = complete(given, parsed)
    examples = tasks.get(parsed.task).examples(parsed.data, net=full["net"], data_dir=None)
    planned = plan.make(parsed, full, examples)
    chosen = planned.recipe
    return chosen.snapshots[-1], chosen.batch_size, planned.net.spec.num_params, chosen.settings.batch_order, note


def _round(value: float) -> str:
    """Two digits: the measurements are not better."""
    return f"{float(f'{value:.2g}'):,.10g}"


def _markdown(lines: list[list[str]]) -> str:
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(lines[0]), *text[1:]])
