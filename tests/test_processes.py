"""Jobs of several processes: rows are dealt out and joined, stores are filled together, and an end is everybody's."""

import jobs
import pytest

from jaxweights import processes
from jaxweights.errors import UserError
from jaxweights.store import PopulationStore

TOGETHER = """
import pathlib
import jax
import numpy as np
import jaxweights as jw
from jaxweights import auditing, processes
from jaxweights.population import Population

folder, index = pathlib.Path({folder!r}), jax.process_index()
recipe = dict(hidden=(3,), runs=14, heldout=8, epochs=1, train_limit=100, test_limit=40, batch_size=50, lanes=2, seed=3)
alone = jw.train_zoo("digits", **recipe)
rows = np.random.default_rng(0).normal(size=(9, alone.spec.num_params)).astype(np.float32)
samples = Population.create(rows, alone.spec, split="generated")
known = dict(evaluate=alone.evaluator, task=alone.evaluator.net.task)
subject = auditing.Subject(alone.train, alone.heldout, {{"mine": samples}}, **known)
settings = auditing.AuditSettings(bootstrap=9, barriers=0)
measured = auditing.measure(subject, settings)

processes._initialized = True  # tests/jobs.py has joined the job
assert (processes.count(), processes.index(), processes.is_first()) == (2, index, index == 0)
assert processes.gathered("ab"[index]) == ["a", "b"] and processes.agreed(index) == 0
together = jw.train_zoo("digits", **recipe, path=folder / "zoo")
assert np.array_equal(together.weights, alone.weights)
assert all(np.array_equal(together.records[k], v) for k, v in alone.records.items())
with processes.in_turn("file"), (folder / "order").open("a") as file:
    file.write(str(index))
again = auditing.measure(subject, settings, folder=folder / "audit")
for name, one in measured.items():
    for field, value in vars(one).items():
        other = getattr(again[name], field)
        # Sums over the rows of a block may come in another order.
        assert np.allclose(value, other, rtol=1e-9, atol=1e-12, equal_nan=True), (name, field)
print("alike", index)
"""


def test_two_processes_do_what_one_does(tmp_path):
    printed = jobs.run_job(TOGETHER.format(folder=str(tmp_path)), 2)
    assert ["alike 0" in printed[0], "alike 1" in printed[1]] == [True, True]
    assert (tmp_path / "order").read_text() == "01"
    opened = PopulationStore.open(tmp_path / "zoo")
    assert opened.complete and len(opened.chunk_ids) > 1 and not list((tmp_path / "zoo").glob("entry-*"))
    assert sorted(path.stem for path in (tmp_path / "audit").iterdir()) == [
        "heldout",
        "mine",
        "noise_ladder",
        "training",
    ]


FAILS = """
import pathlib, sys
from launch import common

def main(argv):
    from jaxweights import errors, processes

    processes.HEARTBEAT_SECONDS = 5
    common.setup_jax(pathlib.Path(__file__).parent / "logs")
    if processes.index() == 1:
        raise errors.UserError("There is nothing here. Look elsewhere.")
    processes.barrier("never")

common.run_main(main)
"""


def test_a_process_that_fails_ends_the_job_and_is_named(tmp_path):
    program = tmp_path / "fails.py"
    program.write_text(FAILS)
    with jobs.job([str(program), "--cache_dir="], 2) as job:
        first, second = job.wait(60)
    said = (tmp_path / "logs" / "process-1.log").read_text()
    assert second.code == 1 and "error: process 1 of 2: There is nothing here. Look elsewhere." in said
    assert first.code != 0
    assert "unhealthy (stopped sending heartbeats):\n1\n" in first.output


@pytest.mark.parametrize(
    "job, message",
    [
        ((None, 2, None), "needs --coordinator_address, --num_processes and --process_id together"),
        (("host:1", 2, 2), "it is 0 to 1"),
    ],
)
def test_flags_that_make_no_job_are_refused(job, message):
    with pytest.raises(UserError, match=message):
        processes.initialize(*job)


@pytest.mark.parametrize(
    "error, message",
    [
        (ValueError("Number of processes must be defined."), "of the cluster that was detected here cannot be joined"),
        (RuntimeError("Retry failed with all attempts exhausted"), "a process that is alone takes --num_processes=1"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_not_taken_for_none(monkeypatch, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("jax.distributed.initialize", fail)
    with pytest.raises(UserError, match=message):
        processes.initialize()
    monkeypatch.setattr("jax.distributed.initialize", lambda *_, **__: pytest.fail("one process joins no job"))
    processes.initialize(count=1)
