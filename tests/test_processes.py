"""Jobs of several processes: rows are dealt out and joined, stores are filled together, and an end is everybody's."""

import jobs
import numpy as np
import pytest

import jaxweights as jw
from jaxweights import auditing, processes
from jaxweights.auditing import measurements
from jaxweights.errors import UserError
from jaxweights.population import Population
from jaxweights.store import PopulationStore

RECIPE = {"hidden": (3,), "runs": 14, "heldout": 8, "epochs": 1, "train_limit": 100, "test_limit": 40}
RECIPE |= {"batch_size": 50, "lanes": 2, "seed": 3}


def measure(zoo, folder=None):
    rows = np.random.default_rng(0).normal(size=(9, zoo.spec.num_params)).astype(np.float32)
    samples = Population.create(rows, zoo.spec, split="generated")
    known = {"evaluate": zoo.evaluator, "task": zoo.evaluator.net.task}
    subject = auditing.Subject(zoo.train, zoo.heldout, {"mine": samples}, **known)
    return auditing.measure(subject, auditing.AuditSettings(bootstrap=9, barriers=0), folder=folder)


PROGRAM = """
import pathlib, sys
sys.path.insert(0, {tests!r})
from launch import common

folder = pathlib.Path(__file__).parent

def main(argv):
    from jaxweights import processes

    processes.HEARTBEAT_SECONDS = 6
    common.setup_jax(folder / "logs")
    import test_processes

    test_processes.work_together(folder)
    if processes.index() == 1:
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
    with processes.in_turn("repair"):
        if index == 0:
            damage(folder / "zoo" / "weights-00001.npy")


def damage(path):
    """Flips one bit, or flips it back."""
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
    said = (tmp_path / "logs" / "process-1.log").read_text()
    assert second.code == 1 and "error: process 1 of 2: There is nothing here. Look elsewhere." in said
    assert first.code != 0
    named = ("process 1 has ended or hangs", "unhealthy (stopped sending heartbeats):\n1\n")  # who is first, we or JAX
    assert any(words in first.output for words in named)
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
