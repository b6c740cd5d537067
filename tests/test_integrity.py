"""Damaged, replaced and foreign files, a full disk, two jobs in one folder: one sentence, and a cure that works."""

import errno
import fcntl
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import mini
import numpy as np
import pytest
from test_store import filled, make

from jaxweights import auditing, checkpoints, experiment, files, locks
from jaxweights.checkpoints import Checkpoints
from jaxweights.errors import UserError
from jaxweights.experiment.stages import input_files, origin
from jaxweights.experiment.workdir import Workdir
from jaxweights.store import INDEX, PopulationStore

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = experiment.config.complete(mini.get_config().to_dict(), experiment.parse(mini.get_config().to_dict()))


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """Waiting for the disk is most of what writing small files costs."""
    monkeypatch.setattr(files.os, "fsync", lambda handle: None)


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {
    "a bit": flip,
    "the end": lambda content: content[:-5],
    "half": lambda content: content[: len(content) // 2],
    "all": lambda content: b"",
    "foreign": lambda content: b"[]",
    "null": lambda content: b"null",
    "an empty object": lambda content: b"{}",
    "another archive": lambda content: b"PK\x03\x04" + content[4:50],
}


def removed(message):
    """Follows a printed cure: the files and folders that a message says to remove or delete."""
    found = re.findall(r"(?:Remove|Delete) (?:the folder )?(/[^ ,]+)", message) or re.findall(r"^(/[^ ]+)", message)
    assert found and "run" in message, message
    for path in map(pathlib.Path, found):
        files_below = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        for file in files_below:
            file.unlink()
        for folder in sorted((p for p in path.rglob("*")), reverse=True):
            folder.rmdir()
        if path.is_dir():
            path.rmdir()


def damaged(path, damage):
    """Damages a file; False where that changes nothing."""
    before = path.read_bytes()
    path.write_bytes(DAMAGES[damage](before))
    return path.read_bytes() != before


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [INDEX, "weights-00001.npy", "records-00001.npz"])
def test_a_damaged_population_is_refused_and_mended_by_the_printed_cure(tmp_path, name, damage):
    path = tmp_path / "p"
    whole = filled(path).read()
    damaged(path / name, damage)
    with pytest.raises(UserError) as raised:
        PopulationStore.open(path).read()
    assert name in str(raised.value)
    removed(str(raised.value))
    # As the stages do.
    if (path / INDEX).exists():
        store = PopulationStore.open(path, drop_missing=True)
        assert store.chunk_ids == {0, 2} and not store.complete
        store.append(1, make(4, 4))
    else:
        filled(path)
    again = PopulationStore.open(path).read()
    assert np.array_equal(again.weights, whole.weights)
    for column, values in whole.records.items():
        np.testing.assert_array_equal(again.records[column], values)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index["chunks"][0].update(rows=3),
        lambda index: index["chunks"].pop(),
        lambda index: index.update(complete=False),
        lambda index: index["provenance"].update(seed=7),
        lambda index: index.pop("spec"),
        lambda index: index.update(chunks={}),
        lambda index: index["chunks"][0]["weights"].update(bytes="many"),
    ],
)
@pytest.mark.parametrize("keeps_checksum", [True, False])
def test_no_entry_of_an_index_changes_in_silence(tmp_path, change, keeps_checksum):
    """Without a checksum, of files that are older, what contradicts itself is found still."""
    path = tmp_path / "p"
    filled(path)
    index = json.loads((path / INDEX).read_text())
    change(index)
    silent = not keeps_checksum and "spec" in index and isinstance(index["chunks"], list)
    silent = silent and index["chunks"][0]["rows"] == 4 and index["chunks"][0]["weights"]["bytes"] != "many"
    if not keeps_checksum:
        del index["checksum"]
    (path / INDEX).write_text(json.dumps(index))
    if silent:
        PopulationStore.open(path).read()
    else:
        with pytest.raises(UserError, match=rf"{INDEX}.*Remove the folder {path}"):
            PopulationStore.open(path).read()


def test_every_damaged_chunk_is_named_at_once(tmp_path):
    filled(tmp_path / "p")
    for name in ("weights-00000.npy", "records-00002.npz"):
        damaged(tmp_path / "p" / name, "a bit")
    with pytest.raises(UserError, match=r"weights-00000\.npy.*records-00002\.npz.*Delete them"):
        PopulationStore.open(tmp_path / "p").read()


def test_a_file_is_hashed_once_per_process_and_again_after_a_change(tmp_path, monkeypatch):
    filled(tmp_path / "p")
    os.utime(tmp_path / "p" / "weights-00000.npy")
    hashed = []
    monkeypatch.setattr(files, "sha256", lambda path, digest=files.sha256: hashed.append(path.name) or digest(path))
    for _ in range(2):
        PopulationStore.open(tmp_path / "p").read()
    assert hashed == ["weights-00000.npy"]


def state(step):
    rng = np.random.default_rng(step)
    return {"step": np.int32(step), "params": {"w": rng.normal(size=(3, 4)).astype(np.float32)}}


def restored(path):
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state(1))
    with Checkpoints(path) as kept:
        step = kept.latest_step()
        return step, kept.restore(step, like)


@pytest.mark.parametrize("damage", ["a bit", "half", "all", "foreign"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_goes_on(tmp_path, damage, capfd):
    with Checkpoints(tmp_path / "c") as kept:
        for step in (10, 20):
            kept.save(step, jax.tree.map(jax.numpy.asarray, state(step)))
    written = {p: p.read_bytes() for p in sorted((tmp_path / "c" / "20").rglob("*")) if p.is_file()}
    chosen = [p for p in written if p.name == "_CHECKPOINT_METADATA" or p.parent.name == "d" or p.suffix == ".ocdbt"]
    for path in chosen:
        damaged(path, damage)
        with pytest.raises(UserError, match="damaged") as raised:
            restored(tmp_path / "c")
        path.write_bytes(written[path])
    removed(str(raised.value))
    step, found = restored(tmp_path / "c")
    assert step == 10 and np.array_equal(found["params"]["w"], state(10)["params"]["w"])
    assert capfd.readouterr().err == ""
    damaged(tmp_path / "c" / checkpoints.CHECKSUMS, damage)
    with pytest.raises(UserError, match=checkpoints.CHECKSUMS) as raised:
        restored(tmp_path / "c")
    removed(str(raised.value))
    assert restored(tmp_path / "c")[0] == 10


def opened(path, config=CONFIG, **inputs):
    return Workdir(path, config, inputs, experiment.stages)


def records(path):
    """One after the other, what reads the records of a workdir."""
    folder = opened(path)
    return folder.streams(["a"]), folder.timing, folder.read_metrics()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["config.json", "inputs.json", "streams.json", "timing.json", "metrics.json"])
def test_a_damaged_record_is_refused_and_its_removal_cures(tmp_path, name, damage):
    folder = opened(tmp_path, **{"generators.mine.path": "1f"})
    folder.streams(["a"])
    with folder.timed("zoo"):
        pass
    files.write_json(tmp_path / "metrics.json", {"series": {}, "checks": {}, "training": {}, "zoo": {}})
    before = records(tmp_path)
    damaged(tmp_path / name, damage)
    if damage == "an empty object" and name in ("inputs.json", "streams.json", "timing.json"):
        return  # as if nothing had been kept yet
    with pytest.raises(UserError, match=name) as raised:
        records(tmp_path)
    removed(str(raised.value).replace("Remove it", f"Remove {tmp_path / name}"))
    if name in ("metrics.json", "config.json"):  # to be made again, or the results of an unknown config
        (tmp_path / "metrics.json").unlink(missing_ok=True)
        opened(tmp_path)
        files.write_json(tmp_path / "metrics.json", before[2])
    again = records(tmp_path)
    assert again[0] == before[0] and again[2] == before[2]


def test_results_without_a_config_are_refused_by_name(tmp_path):
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "copy.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"audit/copy\.npz\), but no config\.json.*Remove them"):
        opened(tmp_path)


def test_replaced_inputs_are_noticed(tmp_path, capsys):
    """A file of samples that changed makes its series anew; one that training read, or the data set, is refused."""
    config = {**CONFIG, "generators": {**CONFIG["generators"], "mine": {"kind": "file", "path": "gen.npz"}}}
    config["zoo"] = {**config["zoo"], "import_npz": "zoo.npz"}
    assert input_files(config) == {"zoo.import_npz": "zoo.npz", "generators.mine.path": "gen.npz"}
    inputs = {"zoo.import_npz": "1a", "generators.mine.path": "2b", "data": "3c"}
    opened(tmp_path, config, **inputs)
    for name in ("zoo", "samples/mine", "samples/copy"):
        (tmp_path / name).mkdir(parents=True)
    opened(tmp_path, config, **{**inputs, "generators.mine.path": "9b"})
    said = capsys.readouterr().err
    assert "the content of generators.mine.path. Made anew: sample mine" in said
    assert not (tmp_path / "samples" / "mine").exists() and (tmp_path / "samples" / "copy").exists()
    for name in ("zoo.import_npz", "data"):
        with pytest.raises(UserError, match=f"zoo anew; it differs in the content of {name}.*or the former files"):
            opened(tmp_path, config, **{**inputs, "generators.mine.path": "9b", name: "0"})
    gone = opened(tmp_path, config, **{"zoo.import_npz": None, "generators.mine.path": None})
    assert gone.inputs == {**inputs, "generators.mine.path": "9b"}
    now, then = (origin(config, found, "sample mine") for found in (gone.inputs, inputs))
    assert {k for k in now if now[k] != then[k]} == {"inputs.generators.mine.path"}


def test_measurements_of_other_networks_are_refused(tmp_path):
    names = list(auditing.Measured.__dataclass_fields__)
    auditing.measurements.save(tmp_path / "a.npz", auditing.Measured(**{name: np.zeros(5) for name in names}))
    assert len(auditing.load(tmp_path / "a.npz", 5)) == 5
    with pytest.raises(UserError, match=r"a\.npz is of 5 networks, but there are 6"):
        auditing.load(tmp_path / "a.npz", 6)


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


WRITERS = {
    "json": lambda path: files.write_json(path / "x.json", {"a": 1}),
    "npz": lambda path: files.write_npz(path / "x.npz", {"a": np.zeros(3)}),
    "chunk": lambda path: filled(path / "p"),
    "folder": lambda path: files.make_dir(path / "q"),
    "lines": lambda path: files.JsonLines(path / "x.jsonl").append({"a": 1}),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(tmp_path, monkeypatch, writer):
    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full)
        patched.setattr(files.tempfile, "TemporaryFile", full)
        patched.setattr(files.json, "dumps", full) if writer == "lines" else None
        with pytest.raises(UserError, match=f"The disk is full: {tmp_path}.*Free some space and run the same command"):
            WRITERS[writer](tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size]
    WRITERS[writer](tmp_path)


@pytest.mark.parametrize(
    "error, full_disk",
    [
        (OSError("16384 requested and 8192 written"), True),
        (OSError("Not enough free space to write 80000000 bytes after offset 128"), True),
        (ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [os_error_code='28']"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_every_writer_s_words_for_a_full_disk_are_known(tmp_path, error, full_disk):
    assert ("The disk is full" in str(files.unwritable(tmp_path, error))) == full_disk


def test_a_checkpoint_that_does_not_fit_the_disk_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="The disk is full"), Checkpoints(tmp_path / "c") as kept:
        kept._manager.save = full
        kept.save(1, jax.tree.map(jax.numpy.asarray, state(1)))


def test_a_folder_belongs_to_one_process_and_a_crash_frees_it(tmp_path):
    """A second process is told who has it; killed writers' files go with the next lock."""
    script = f"from jaxweights import locks; locks.acquire({str(tmp_path)!r}); print('held', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    (tmp_path / "zoo").mkdir()
    stale = tmp_path / "zoo" / ".tmp-77-weights-00000.npy"
    stale.write_bytes(b"half")
    with pytest.raises(UserError, match=rf"{tmp_path} is in use by process {other.pid} on .*Wait until"):
        locks.acquire(tmp_path)
    assert stale.exists()
    other.kill()
    other.communicate()
    with locks.locked(tmp_path), locks.locked(tmp_path):
        assert not stale.exists()


def test_processes_of_a_job_whose_first_one_is_gone_are_waited_for(tmp_path, monkeypatch):
    with open(tmp_path / locks.FOLLOWERS, "w") as follower:
        fcntl.flock(follower, fcntl.LOCK_SH)
        monkeypatch.setattr(locks, "_WAIT_SECONDS", 0)
        with pytest.raises(UserError, match="in use by processes of a job whose first process has ended"):
            locks.acquire(tmp_path)
        monkeypatch.setattr(locks, "_WAIT_SECONDS", 10)
        monkeypatch.setattr("time.sleep", lambda _: follower.close())  # it ends while it is waited for
        with locks.locked(tmp_path):
            assert follower.closed
    with open(tmp_path / locks.FOLLOWERS) as own:  # of this job
        fcntl.flock(own, fcntl.LOCK_SH)
        locks.release(locks.acquire(tmp_path))


def test_a_resumed_log_has_every_row_once(tmp_path):
    log = files.JsonLines(tmp_path / "metrics.jsonl")
    log.keep(lambda row: False)
    for step in (1, 2, 3):
        log.append({"stage": "a", "step": step})
    log.append({"stage": "b", "step": 3})
    with open(log.path, "a") as file:
        file.write('{"stage": "a", "st')
    log.keep(lambda row: row["stage"] != "a" or row["step"] <= 1)
    for step in (2, 3):
        log.append({"stage": "a", "step": step})
    rows = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in rows] == [("a", 1), ("b", 3), ("a", 2), ("a", 3)]
