"""Jobs of several processes: rows are dealt out and joined, stores are filled together, and an end is everybody's."""

import fcntl
import types
from typing import Any

import jobs
import numpy as np
import pytest

import jaxweights as jw
from jaxweights import auditing, locks, processes
from jaxweights.auditing import measurements
from jaxweights.errors import UserError
from jaxweights.experiment import samples
from jaxweights.population import Population
from jaxweights.store import PopulationStore

RECIPE = {"hidden": (3,), "runs": 14, "heldout": 8, "epochs": 1, "train_limit": 100, "test_limit": 40}
RECIPE |= {"batch_size": 50, "lanes": 2, "seed": 3}


def measure(zoo, folder=None):
    rows = np.random.default_rng(0).normal(size=(9, zoo.spec.num_params)).astype(np.float32)
    drawn = Population.create(rows, zoo.spec, split="generated")
    known = {"evaluate": zoo.evaluator, "task": zoo.evaluator.net.task}
    subject = auditing.Subject(zoo.train, zoo.heldout, {"mine": drawn}, **known)
    return auditing.measure(subject, auditing.AuditSettings(bootstrap=9, barriers=0), folder=folder)


PROGRAM = """
import pathlib, sys
sys.path.insert(0, {tests!r})
from launch import common

folder = pathlib.Path(__file__).parent

def main(argv):
    from jaxweights import processes

    common.setup_jax(folder / "logs")
    import test_processes

    test_processes.work_together(folder)
    if processes.is_first():
        raise test_processes.UserError("There is nothing here. Look elsewhere.")
    processes.barrier("never")

common.run_main(main)
"""


def work_together(folder):
    """What both processes do."""
    index = processes.index()
    assert (processes.count(), index in (0, 1), processes.is_first()) == (2, True, index == 0)
    assert processes.gathered("ab"[index]) == ["a", "b"] and processes.agreed(index) == 0
    assert [len(text) for text in processes.gathered("ab"[index] * 5000 * index)] == [0, 5000]
    for wrong in (0, 1):
        with pytest.raises(UserError, match=f"wrong in {wrong}") as raised, processes.together("something"):
            if index == wrong:
                raise UserError(f"wrong in {wrong}")
        assert raised.value.process == wrong
    drawn = np.full((4, 3), np.nan if index else 0.0, np.float32), np.zeros(4, int)
    context: Any = types.SimpleNamespace(settings=types.SimpleNamespace(num_samples=9), workdir=folder)
    with pytest.raises(UserError, match="4 of 9 networks sampled from 'wild' have weights that are not finite"):
        samples._refuse_undefined(context, types.SimpleNamespace(name="wild", section="generators.wild"), drawn)
    with locks.locked(folder):
        for name in (locks.LOCK, locks.FOLLOWERS):
            with (folder / name).open() as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        processes.barrier("both have looked")
    zoo = jw.train_zoo("digits", **RECIPE, path=folder / "zoo")
    measure(zoo, folder / "audit")
    with processes.in_turn("file"), (folder / "order").open("a") as file:
        file.write(str(index))
    with processes.in_turn("damage"):
        if index == 0:
            damage(folder / "zoo" / "weights-00001.npy")
    opened = PopulationStore.open(folder / "zoo")  # its second half is read by the second process
    with pytest.raises(UserError, match="weights-00001.npy does not match its checksum") as raised:
        processes.map_rows(lambda rows: rows.sum(axis=1), opened.weights)
    assert raised.value.process == 1
    with processes.in_turn("repair"):  # which makes one chunk anew
        if index == 0:
            (folder / "zoo" / "weights-00001.npy").unlink()
    assert len(jw.train_zoo("digits", **RECIPE, path=folder / "zoo")) == len(zoo)


def damage(path):
    """Flips one bit."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_two_processes_do_what_one_does_and_one_that_fails_ends_the_job(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(tests=str(jobs.ROOT / "tests")))
    with jobs.job([str(program), "--cache_dir=" + str(jobs.ROOT / ".cache" / "jax")], 2) as job:
        alone = jw.train_zoo("digits", **RECIPE)
        measured = measure(alone)
        first, second = job.wait(120)
    assert first.code == 1 and "error: process 0 of 2: There is nothing here. Look elsewhere." in first.output
    said = (tmp_path / "logs" / "process-1.log").read_text()
    named = ("process 0 has ended or hangs", "leader task was preempted")  # who is faster, we or JAX
    assert second.code != 0 and any(words in said for words in named)
    assert (tmp_path / "order").read_text() == "01"
    opened = PopulationStore.open(tmp_path / "zoo")
    assert opened.complete and len(opened.chunk_ids) > 1 and not list((tmp_path / "zoo").glob("entry-*"))
    together = opened.read()
    assert np.array_equal(together.weights, alone.weights)
    assert all(np.array_equal(together.records[k], v) for k, v in alone.records.items())
    found = {path.stem: measurements.load(path, len(measured[path.stem])) for path in (tmp_path / "audit").iterdir()}
    assert sorted(found) == ["heldout", "mine", "noise_ladder", "training"]
    for name, one in measured.items():
        for field, value in vars(one).items():
            # Sums over the rows of a block may come in another order.
            other = getattr(found[name], field)
            np.testing.assert_allclose(other, value, rtol=1e-9, atol=1e-12, err_msg=f"{name} {field}")


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
