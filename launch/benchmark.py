"""Benchmarks on this machine: our rates, those of plain implementations in the same run, and their ratios.

    python -m launch.benchmark --suite=zoo   # `--help` names the others, `--suite=all` runs all
    python -m launch.benchmark --suite=all --json=benchmarks/mine.json
    python -m launch.benchmark --plan

Competitors take turns and the best of several rounds counts, so that a noisy machine disturbs all of them equally.
PyTorch is timed where it can be imported; inputs are random, since only shapes matter.
"""

from __future__ import annotations

import json
import pathlib

from absl import flags

from launch import common

SUITES = ("zoo", "evaluate", "partial", "audit", "sample", "hyperrep", "gpt", "fields", "shapes", "growth")
_SUITE = flags.DEFINE_enum("suite", "zoo", (*SUITES, "all"), "What to measure.")
_JSON = flags.DEFINE_string("json", None, "Also write the rows to this file.")
_CASE = flags.DEFINE_string("case", "", "Only the cases whose name contains this text.")
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Length of one measurement.", lower_bound=0.05)
_ROUNDS = flags.DEFINE_integer("rounds", 4, "Measurements per competitor, of which the best counts.", lower_bound=1)
_PLAN = flags.DEFINE_boolean(
    "plan", False, "Measure nothing; print the planning tables of docs/scale.md, computed from benchmarks/*.json."
)


def main(argv) -> None:
    """Runs the suites and prints one table each."""
    del argv
    common.setup_jax()
    if _PLAN.value:
        from launch.benchmarks import planning

        print(planning.tables())
        return
    import jax

    from jaxweights import costs, files, parallel
    from launch.benchmarks import audit, evaluate, fields, gpt, growth, hyperrep, measure, partial, sample, shapes, zoo

    jax.config.update("jax_enable_compilation_cache", False)  # compile times are part of what is measured
    modules = (zoo, evaluate, partial, audit, sample, hyperrep, gpt, fields, shapes, growth)
    suites = {name: module.cases for name, module in zip(SUITES, modules, strict=True)}
    peak = costs.matmul_peak(parallel.make_mesh())
    print(measure.machine(peak))
    rows = []
    for name in SUITES if _SUITE.value == "all" else (_SUITE.value,):
        found = [
            measure.measure(name, c, peak, _SECONDS.value, _ROUNDS.value)
            for c in suites[name]()
            if _CASE.value in c.name
        ]
        print(f"\n{measure.table(found)}", flush=True)
        rows += found
    if _JSON.value:
        path = pathlib.Path(_JSON.value)
        files.make_dir(path.parent)
        files.write_text(path, json.dumps({"machine": measure.machine(peak), "rows": rows}, indent=1) + "\n")
        print(f"\nrows: {path}")


if __name__ == "__main__":
    common.run_main(main)
