"""Populations in memory and on disk: round trips, lazy reads, crash safety, refusals that name the file."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxweights import files, population, progress
from jaxweights.errors import UserError
from jaxweights.nn.leaves import Leaves
from jaxweights.population import Population, last_checkpoints
from jaxweights.population_files import load
from jaxweights.store import PopulationStore

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _spec():
    leaves = Leaves()
    hidden = leaves.group(2)
    leaves.dense("fc1", 3, 2, writes=hidden)
    leaves.dense("fc2", 2, 4, reads=hidden)
    return leaves.spec()


SPEC = _spec()


def make(n, start=0):
    rng = np.random.default_rng(start)
    weights = rng.normal(size=(n, SPEC.num_params)).astype(np.float32)
    return Population.create(
        weights, SPEC, run=np.arange(start, start + n), accuracy=rng.random(n), **{"hyper/learning_rate": 0.1}
    )


def filled(path, chunks=3, rows=4):
    store = PopulationStore.create(path, SPEC, {"config": {"seed": 1}})
    for c in range(chunks):
        store.append(c, make(rows, c * rows))
    store.finish()
    return store


def test_round_trip_and_lazy_reads(tmp_path):
    filled(tmp_path / "p")
    store = PopulationStore.open(tmp_path / "p")
    whole = np.concatenate([make(4, s).weights for s in (0, 4, 8)])
    assert store.complete and len(store) == 12 and store.weights.shape == whole.shape
    assert store.spec == SPEC and store.provenance == {"config": {"seed": 1}}
    for rows in (
        slice(None),
        slice(3, 9),
        slice(10, 100),
        slice(None, None, 5),
        np.array([11, 0, 5, 5]),
        whole[:, 0] > 0,
    ):
        assert np.array_equal(store.weights[rows], whole[rows])
    assert np.array_equal(store.weights[-1], whole[-1])
    order = np.array([7, 2, 11, 0])
    view = store.view(order)
    assert (
        len(view) == 4 and view.weights.shape == (4, SPEC.num_params) and view.records["run"].tolist() == order.tolist()
    )
    for rows in (slice(None), slice(1, 3), np.array([[3, 0], [1, 1]]), 2):
        assert np.array_equal(view.weights[rows], whole[order][rows])
    assert np.array_equal(store.records["run"], np.arange(12))
    assert store.records["split"].tolist() == ["train"] * 12
    assert [len(p) for _, p in store.chunks()] == [4, 4, 4]
    store.verify()


def test_chunks_may_come_in_any_order(tmp_path):
    store = PopulationStore.create(tmp_path / "p", SPEC, {})
    for c in (2, 0, 1):
        store.append(c, make(4, 4 * c))
    assert np.array_equal(PopulationStore.open(tmp_path / "p").records["run"], np.arange(12))
    with pytest.raises(ValueError, match="already"):
        store.append(1, make(4))


def _write_forever(path):
    store = PopulationStore.create(path, SPEC, {})
    for c in range(100_000):
        store.append(c, make(50, 50 * c))


def test_a_killed_writer_leaves_whole_chunks(tmp_path):
    for attempt, delay in enumerate((0.01, 0.1)):
        path = tmp_path / str(attempt)
        script = (
            f"import sys; sys.path[:0] = ['tests', '.']; import test_store; test_store._write_forever({str(path)!r})"
        )
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
        deadline = time.monotonic() + 60
        while not list(path.glob("weights-*1.npy")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        process.wait()
        store = PopulationStore.open(path)
        store.verify()
        assert store.chunk_ids == set(range(len(store.chunk_ids))) != set()
        expected = [make(50, 50 * c).weights for c in sorted(store.chunk_ids)]
        assert np.array_equal(store.weights[:], np.concatenate(expected))
        store.append(len(expected), make(50, 50 * len(expected)))  # the next writer simply goes on


def test_damage_is_refused_by_name(tmp_path):
    path = tmp_path / "p"
    with pytest.raises(UserError, match="no population index"):
        PopulationStore.open(path)
    filled(path)
    chunk = path / "weights-00001.npy"
    original = chunk.read_bytes()
    chunk.write_bytes(original[:-5])
    with pytest.raises(UserError, match=r"weights-00001\.npy has .* truncated or foreign.*Delete it"):
        PopulationStore.open(path)
    chunk.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(UserError, match=r"weights-00001\.npy does not match its checksum"):
        PopulationStore.open(path).verify()
    chunk.unlink()
    with pytest.raises(UserError, match=r"weights-00001\.npy is missing"):
        PopulationStore.open(path)
    repaired = PopulationStore.open(path, drop_missing=True)
    assert repaired.chunk_ids == {0, 2} and not repaired.complete
    repaired.append(1, make(4, 4))
    assert np.array_equal(PopulationStore.open(path).records["run"], np.arange(12))


def test_foreign_and_future_indexes_are_refused(tmp_path):
    path = tmp_path / "p"
    filled(path)
    index = json.loads((path / "index.json").read_text())
    del index["checksum"]
    for text, message in [
        (json.dumps({**index, "version": 99}), "format version 99.*reads version 1"),
        (json.dumps({"hello": 1}), "not a population index"),
        ((path / "index.json").read_text()[:50], "truncated or foreign"),
    ]:
        (path / "index.json").write_text(text)
        with pytest.raises(UserError, match=message):
            PopulationStore.open(path)


@pytest.mark.skipif(not pathlib.Path("/proc/self").exists(), reason="needs a folder that even root cannot write")
def test_unwritable_places_are_refused():
    with pytest.raises(UserError, match="cannot be written"):
        PopulationStore.create("/proc/self/jaxweights", SPEC, {})


def test_population_selects_and_derives_without_touching_its_input():
    p = make(5)
    before = p.weights.copy()
    chosen = p.select(np.array([3, 1]))
    assert chosen.records["run"].tolist() == [3, 1]
    assert len(p.where(run=2)) == 1
    child = p.derive(p.weights[:3] + 1, np.array([4, -1, 0]), "noise")
    assert child.records["run"].tolist() == [4, -1, 0]
    assert child.records["split"].tolist() == ["generated"] * 3
    assert p.hyper()["learning_rate"].tolist() == [0.1] * 5
    assert np.array_equal(p.weights, before)


def test_last_checkpoints():
    records = {"run": np.array([0, 1, 0, 1, 2]), "step": np.array([5, 1, 2, 9, 0])}
    assert last_checkpoints(records).tolist() == [True, False, False, True, True]


def test_imports_refuse_bad_files(tmp_path):
    path = tmp_path / "zoo.npz"
    good = make(3).weights
    np.savez(path, weights=good, split=np.array(["train", "train", "heldout"]))
    assert load(path, SPEC).records["split"].tolist() == ["train", "train", "heldout"]
    bad = good.copy()
    bad[1, 2] = np.nan
    cases = [
        ({"weights": good[:, :-1]}, r"shape \(3, 19\).*\[N, 20\]"),
        ({"weights": good[:0]}, "is empty"),
        ({"weights": bad}, r"NaN or infinite weights in 1 of 3 rows \(first: \[1\]\)"),
        ({"other": good[0]}, "no array `weights`|none of the tensors"),
        ({"weights": good, "colour": good[:, 0]}, "unknown columns"),
        ({"weights": good, "split": np.array(["a", "b", "c"])}, "unknown splits"),
        ({"weights": good, "run": np.arange(2)}, "Column 'run'"),
    ]
    for arrays, message in cases:
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=message):
            load(path, SPEC)
    path.write_bytes(b"PK not a zip")
    with pytest.raises(UserError, match="truncated or damaged"):
        load(path, SPEC)
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "none.npz", SPEC)
    assert population.COLUMNS["split"][1] == "train"


def test_a_workdir_that_vanished_is_named_and_made_again(tmp_path):
    """Removed while a program runs; the same command makes it anew."""
    store = PopulationStore.create(tmp_path / "zoo", SPEC, {})
    shutil.rmtree(tmp_path / "zoo")
    with pytest.raises(UserError, match=r"zoo/.*could not be written \(No such file.*run the same command"):
        store.append(0, make(4))
    with pytest.raises(UserError, match=r"log.jsonl could not be written \(No such file"):
        files.JsonLines(tmp_path / "zoo" / "log.jsonl").append({"step": 1})
    filled(tmp_path / "zoo").finish()
    assert len(PopulationStore.open(tmp_path / "zoo")) == 12


def test_the_clock_may_step_back(tmp_path, monkeypatch):
    """Times are measured by a clock that only goes on, and files are known by what is in them."""
    clock = iter(range(10**6, 0, -1000))
    monkeypatch.setattr("time.time", lambda: float(next(clock)))
    with progress.Progress(10, "work", "steps") as bar:
        for done in range(10):
            bar.update(done)
        assert 0 <= bar.seconds < 60
    store = filled(tmp_path / "zoo")
    for i, path in enumerate(sorted((tmp_path / "zoo").iterdir())):
        os.utime(path, (10**9 - i, 10**9 - i))
    assert np.array_equal(PopulationStore.open(tmp_path / "zoo").weights[:], store.weights[:])
