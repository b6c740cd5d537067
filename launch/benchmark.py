"""Benchmarks on this machine: our rates, those of plain implementations in the same run, and their ratios.

    python -m launch.benchmark --suite=zoo   # `--help` names the others, `--suite=all` runs all
    python -m launch.benchmark --suite=all --json=benchmarks/mine.json
    python -m launch.benchmark --suite=growth --json=benchmarks/mine.json --curves=benchmarks/mine.png
    python -m launch.benchmark --plan

Competitors take turns and the best of several rounds counts, so that a noisy machine disturbs all of them equally.
PyTorch is timed where it can be imported, on a GPU where JAX has one and PyTorch finds it; inputs are random, since
only shapes matter. A case that fails is named at the end, and costs no other one.
"""

from __future__ import annotations

import functools
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from launch import common

SUITES = (
    "zoo",
    "evaluate",
    "partial",
    "audit",
    "sample",
    "hyperrep",
    "gpt",
    "training",
    "fields",
    "shapes",
    "growth",
    "bias",
    "probing",
    "peers",
)
OTHERS = ("plain_jax", "torch_loop", "torch_func", "torch_compile", "torch_processes")
_SUITE = flags.DEFINE_multi_enum("suite", ["zoo"], (*SUITES, "all"), "What to measure; may be given several times.")
_JSON = flags.DEFINE_string("json", None, "Also write the rows to this file, after every case.")
_RESUME = flags.DEFINE_boolean("resume", False, "Leave out the cases that the file of --json has.")
_CASE = flags.DEFINE_multi_string("case", [""], "Only cases whose name contains this; may be given several times.")
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Length of one measurement.", lower_bound=0.05)
_ROUNDS = flags.DEFINE_integer("rounds", 4, "Measurements per competitor, of which the best counts.", lower_bound=1)
_COMPETITORS = flags.DEFINE_list("competitors", list(OTHERS), f"What is measured beside ours: {', '.join(OTHERS)}.")
_MODELS = flags.DEFINE_list("models", ["256"], "Models trained at a time in the suite zoo; each number has its cases.")
_CURVES = flags.DEFINE_string("curves", None, "Also draw the curves of the suite growth as this PNG, from all rows.")
_PLAN = flags.DEFINE_boolean(
    "plan", False, "Measure nothing; print the planning tables of docs/scale.md, computed from benchmarks/*.json."
)
flags.register_validator(
    "competitors", lambda names: set(names) <= {*OTHERS, ""}, f"is a list of {', '.join(OTHERS)}, or empty"
)
flags.register_validator(
    "models", lambda counts: all(n.isdecimal() and int(n) for n in counts) and counts, "is a list of positive numbers"
)


def main(argv) -> None:
    """Runs the suites and prints one table each; status 1 where a case failed."""
    del argv
    common.setup_jax()
    if _PLAN.value:
        from launch.benchmarks import planning

        print(planning.tables())
        return
    import jax

    from jaxweights import costs, parallel
    from launch.benchmarks import (
        audit,
        bias,
        evaluate,
        fields,
        gpt,
        growth,
        hyperrep,
        measure,
        partial,
        peers,
        probing,
        sample,
        shapes,
        training,
        zoo,
    )

    jax.config.update("jax_enable_compilation_cache", False)  # compile times are part of what is measured
    modules = (zoo, evaluate, partial, audit, sample, hyperrep, gpt, training, fields, shapes)
    modules += (growth, bias, probing, peers)
    suites = {name: module.cases for name, module in zip(SUITES, modules, strict=True)}
    suites["zoo"] = functools.partial(zoo.cases, tuple(int(n) for n in _MODELS.value))
    timing = measure.Timing(costs.matmul_peak(parallel.make_mesh()), _SECONDS.value, _ROUNDS.value)
    print(measure.machine(timing.peak), flush=True)
    path = pathlib.Path(_JSON.value) if _JSON.value else None
    record = {"machine": measure.machine(timing.peak), "rows": [], "failed": []}
    if path is not None and _RESUME.value and path.exists():
        record["rows"] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    for name in SUITES if "all" in _SUITE.value else _SUITE.value:
        cases = [case for case in _cases(record, name, suites[name]) if any(t in case.name for t in _CASE.value)]
        for case in cases:
            _add(record, name, measure.only(case, _COMPETITORS.value), timing)
            _write(path, record)
        names = {case.name for case in cases}
        found = [row for row in record["rows"] if row["suite"] == name and row["case"] in names]
        print(f"\n{measure.table(found)}", flush=True)
    if curves := growth.summary(record["rows"]):
        record["growth"] = curves
        _write(path, record)
        print(f"\n{growth.table(curves)}")
        if _CURVES.value:
            growth.draw(curves, pathlib.Path(_CURVES.value))
    if path is not None:
        print(f"\nrows: {path}")
    if record["failed"]:
        failed = "; ".join(f"{row['suite']}, {row['case']}: {row['error']}" for row in record["failed"])
        sys.exit(f"{len(record['failed'])} cases failed: {failed}")


def _cases(record: dict[str, list], suite: str, make: Callable[[], list[Any]]) -> list[Any]:
    """The cases of a suite; none, and the error in the record, where they cannot be made."""
    try:
        return make()
    except Exception as error:
        _fail(record, suite, "all cases", error)
        return []


def _fail(record: dict[str, list], suite: str, case: str, error: Exception) -> None:
    said = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    record["failed"].append({"suite": suite, "case": case, "error": said})
    print(f"{suite}, {case}: {said}", file=sys.stderr, flush=True)


def _add(record: dict[str, list], suite: str, case: Any, timing: Any) -> None:
    """Measures a case, unless its row is there, and adds the row, or the error."""
    from launch.benchmarks import measure

    if any(row["suite"] == suite and row["case"] == case.name for row in record["rows"]):
        return
    begin = time.monotonic()
    try:
        row = measure.measure(suite, case, timing)
    except Exception as error:
        _fail(record, suite, case.name, error)
        return
    record["rows"].append(row)
    if not common.QUIET.value:
        took = time.monotonic() - begin
        print(f"{suite}, {case.name}: {row['ours']:,.4g} {row['unit']}, {took:.0f} s", file=sys.stderr, flush=True)


def _write(path: pathlib.Path | None, record: dict[str, Any]) -> None:
    from jaxweights import files

    if path is not None:
        files.make_dir(path.parent)
        files.write_text(path, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    common.run_main(main)
