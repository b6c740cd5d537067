"""Prepared image data: what is stored is what was given, damage is noticed, nothing downloads by itself."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pathlib
import socket
import struct
import time

import numpy as np
import pytest
from image_sets import assert_holds, make, raw_of, save_npz, write_idx
from PIL import Image

from jaxweights import data
from jaxweights.data import checks, known, prepare, prepared, records
from jaxweights.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent


# ---- tfrecord: a writer of our own, byte by byte as TensorFlow writes ----


def slow_crc32c(content):
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(content):
    crc = slow_crc32c(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def message(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features, packed=True):
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = message(1, message(1, value))
        elif isinstance(value, float):
            feature = message(2, message(1, struct.pack("<f", value)))
        else:
            feature = message(3, message(1, varint(value)) if packed else varint(1 << 3) + varint(value))
        entries += message(1, message(1, name.encode()) + message(2, feature))
    return message(1, entries)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


def frame(record):
    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


def write_tfrecords(folder, arrays, name="mnist", shards=2, example=example, **info):
    """Lays out a directory as tensorflow-datasets 4.9.10 does."""
    folder.mkdir(parents=True)
    splits = []
    for part in ("train", "test"):
        rows = np.array_split(np.arange(len(arrays[f"{part}_labels"])), shards)
        for shard, members in enumerate(rows):
            content = b"".join(
                frame(example({"image": png(arrays[f"{part}_images"][i]), "label": int(arrays[f"{part}_labels"][i])}))
                for i in members
            )
            (folder / f"{name}-{part}.tfrecord-{shard:05d}-of-{shards:05d}").write_bytes(content)
        splits.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": part,
                "shardLengths": [str(len(members)) for members in rows],
            }
        )
    info = {"fileFormat": "tfrecord", "name": name, "splits": splits, "version": folder.name, **info}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def test_checksum_equals_the_definition():
    # The check value of CRC-32C, RFC 3720 appendix B.4 and the catalogue of parametrised CRCs.
    assert slow_crc32c(b"123456789") == 0xE3069283
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 90, 50)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    content = rng.integers(0, 256, lengths.sum(), np.uint8)
    expected = [masked(content[s : s + n].tobytes()) for s, n in zip(starts, lengths, strict=True)]
    result = records.masked_crc32c(content, starts, lengths)
    assert [struct.pack("<I", value) for value in result] == expected


def test_example_parser_reads_packed_and_unpacked_and_negative_integers():
    features = {"image": b"\x00\xff" * 100, "label": -3, "big": 2**40, "weight": 0.5}
    for packed in (True, False):
        parsed = records.parse_example(example(features, packed))
        assert parsed == {"image": [features["image"]], "label": [-3], "big": [2**40], "weight": []}
    whole = example(features)
    for end in range(1, len(whole)):
        with pytest.raises(ValueError):
            records.parse_example(whole[:end])


def test_tfrecord_round_trip_without_tensorflow_datasets(tmp_path):
    arrays = make()
    write_tfrecords(tmp_path / "mnist" / "3.0.1", arrays)
    loaded = data.load("mnist", tmp_path)
    assert_holds(loaded, arrays)
    assert "tfrecord" in loaded.source and str(tmp_path) not in loaded.source


def test_the_newest_finished_version_is_read(tmp_path):
    old, new = make(seed=1), make(seed=2)
    write_tfrecords(tmp_path / "mnist" / "3.0.9", old)
    write_tfrecords(tmp_path / "mnist" / "3.0.10", new)
    write_tfrecords(tmp_path / "mnist" / "incomplete.X1_4.0.0", old)
    write_tfrecords(tmp_path / ".prepare-mnist-x" / "mnist" / "5.0.0", old)
    assert_holds(data.load("mnist", tmp_path), new)


def test_every_flipped_bit_of_a_tfrecord_is_noticed(tmp_path):
    folder = write_tfrecords(tmp_path / "mnist" / "3.0.1", make(train=2, test=2), shards=1)
    path = folder / "mnist-train.tfrecord-00000-of-00001"
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in [*range(16), *rng.integers(16, len(content), 60)]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=path.name):
            data.load("mnist", tmp_path)
    for end in (len(content) - 1, len(content) // 2, 5):
        path.write_bytes(content[:end])
        with pytest.raises(UserError, match=path.name):
            data.load("mnist", tmp_path)


def test_prepared_directories_that_do_not_fit_are_refused(tmp_path):
    arrays = make(train=4, test=4)

    def refused(match, name, **changes):
        folder = write_tfrecords(tmp_path / name / "mnist" / "3.0.1", arrays, **changes)
        yield folder
        with pytest.raises(UserError, match=match):
            data.load("mnist", tmp_path / name)

    for folder in refused("00001-of-00002 is missing", "gone"):
        (folder / "mnist-test.tfrecord-00001-of-00002").unlink()
    for folder in refused("has 2 examples.* states 3", "count"):
        text = (folder / "dataset_info.json").read_text()
        (folder / "dataset_info.json").write_text(text.replace('"2"', '"3"', 1))
    for folder in refused("dataset_info.json is not a description", "json"):
        (folder / "dataset_info.json").write_text("{")
    for _ in refused("only array_record and tfrecord", "parquet", fileFormat="parquet"):
        pass
    for _ in refused("'train' is needed", "splits", splits=[]):
        pass
    for _ in refused("does not describe its splits", "keys", splits=[{"shardLengths": ["1"]}]):
        pass
    for _ in refused(
        "features \\['image', 'target'\\]", "names", example=lambda f: example({"image": f["image"], "target": 1})
    ):
        pass
    for _ in refused("cannot be decoded", "picture", example=lambda f: example({**f, "image": f["image"][:60]})):
        pass
    for _ in refused("is not an example", "bytes", example=lambda f: b"\x0f\x01"):
        pass


# ---- array_record, through tensorflow-datasets ----


@pytest.mark.parametrize("name, shape", [("mnist", (28, 28, 1)), ("cifar100", (32, 32, 3)), ("my_set", (5, 6, 3))])
def test_prepared_equals_source_in_order(tmp_path, name, shape):
    import tensorflow_datasets as tfds

    arrays = make(shape, train=300, test=60)
    npz = save_npz(tmp_path / "source.npz", arrays)
    source = prepare.read_source(name, npz)
    path = prepare.prepare(name, source, tmp_path)
    assert path.parent == tmp_path / name and sorted(p.name for p in tmp_path.iterdir()) == [name, "source.npz"]
    loaded = data.load(name, tmp_path)
    assert_holds(loaded, arrays)
    assert "array_record" in loaded.source
    # The fingerprint does not depend on where the images were stored.
    assert loaded.source.split()[-1] == data.load(name, npz).source.split()[-1]
    if name != "my_set":
        examples = tfds.data_source(name, data_dir=tmp_path, split="train", download=False)
        np.testing.assert_array_equal(examples[7]["image"], arrays["train_images"][7])
        assert [examples[row]["label"] for row in range(20)] == arrays["train_labels"][:20].tolist()


def test_preparing_again_changes_nothing_and_never_mixes(tmp_path):
    arrays = make(train=30)
    source = checks.check(raw_of(arrays), "mnist")
    path = prepare.prepare("mnist", source, tmp_path)
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in path.iterdir()}
    assert prepare.prepare("mnist", source, tmp_path) == path
    shuffled = {key: value[::-1] for key, value in arrays.items()}
    assert prepare.prepare("mnist", checks.check(raw_of(shuffled), "mnist"), tmp_path) == path
    other = {**arrays, "train_labels": (arrays["train_labels"] + 1) % 10}
    with pytest.raises(UserError, match="has other images"):
        prepare.prepare("mnist", checks.check(raw_of(other), "mnist"), tmp_path)
    assert before == {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in path.iterdir()}


@pytest.mark.parametrize(
    "failure, seen",
    [(KeyboardInterrupt(), KeyboardInterrupt), (RuntimeError("write() failed: No space left on device\n"), OSError)],
    ids=["interrupted", "full disk"],
)
def test_a_failed_preparation_leaves_nothing(tmp_path, monkeypatch, failure, seen):
    source = checks.check(raw_of(make(train=30)), "mnist")
    calls = iter(range(40))

    def breaks(image):
        if next(calls) == 35:
            raise failure
        return png(image)

    monkeypatch.setattr(prepare, "encode_png", breaks)
    with pytest.raises(seen):
        prepare.prepare("mnist", source, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_preparation_are_cleared_but_not_those_of_a_living_one(tmp_path):
    arrays = make(train=30)
    source = checks.check(raw_of(arrays), "mnist")
    work = tmp_path / ".prepare-mnist"
    write_tfrecords(work / "mnist" / "9.0.0", make(seed=1))
    with pytest.raises(UserError, match="is not there"):
        data.load("mnist", tmp_path)
    handle = os.open(work, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another process"):
        prepare.prepare("mnist", source, tmp_path)
    assert (work / "mnist" / "9.0.0" / "dataset_info.json").exists()
    os.close(handle)
    prepare.prepare("mnist", source, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]
    assert_holds(data.load("mnist", tmp_path), arrays)


def test_damaged_array_record_is_refused_by_name(tmp_path):
    path = prepare.prepare("mnist", checks.check(raw_of(make(train=30)), "mnist"), tmp_path)
    shard = next(path.glob("mnist-train.array_record*"))
    content = shard.read_bytes()
    flipped = bytearray(content)
    flipped[content.index(b"IHDR")] ^= 4
    for damaged in (content[: len(content) // 2], bytes(flipped), b"", b"x" * len(content)):
        shard.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{path}"):
            data.load("mnist", tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name} is missing"):
        data.load("mnist", tmp_path)


def test_array_record_goes_before_tfrecord_before_files(tmp_path):
    first, second, third = make(seed=1), make(seed=2), make(seed=3)
    write_idx(tmp_path, third)
    assert_holds(data.load("mnist", tmp_path), third)
    write_tfrecords(tmp_path / "mnist" / "9.0.0", second)
    assert_holds(data.load("mnist", tmp_path), second)
    write_tfrecords(tmp_path / "mnist" / "8.0.0", second, alternativeFileFormats=["array_record"])
    work = tmp_path / "elsewhere"
    work.mkdir()
    path = prepare.prepare("mnist", checks.check(raw_of(first), "mnist"), work)
    path.rename(tmp_path / "mnist" / path.name)
    found = prepared.find("mnist", tmp_path)
    assert found.path.name == "8.0.0" and found.file_format == "array_record"
    (tmp_path / "mnist" / "8.0.0" / "dataset_info.json").unlink()
    assert_holds(data.load("mnist", tmp_path), first)


def test_what_cannot_be_stored_is_refused(tmp_path):
    arrays = make((4, 4, 1))
    arrays = {key: value / 7.0 if key.endswith("images") else value for key, value in arrays.items()}
    with pytest.raises(UserError, match="PNG"):
        prepare.prepare("mine", checks.check(raw_of(arrays), "mine"), tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- missing data ----


def test_missing_data_fails_at_once_without_touching_the_network(tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("touched the network")

    monkeypatch.setattr(socket, "create_connection", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    started = time.monotonic()
    for name in ("mnist", "fashion_mnist", "svhn", "cifar10", "cifar100"):
        with pytest.raises(UserError) as error:
            data.load(name, tmp_path)
        full = known.ALIASES.get(name, name)
        assert f"python -m launch.prepare_data --dataset={full} --data_dir={tmp_path} --download" in str(error.value)
        assert "--from=" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="unknown data set 'imagenet'.*digits, mnist, fashion_mnist"):
        data.load("imagenet", tmp_path / "absent")
    with pytest.raises(UserError, match="nothing.npz does not exist"):
        data.load("nothing.npz", tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "env"))
    with pytest.raises(UserError, match=str(tmp_path / "env")):
        data.load("mnist")
    # Each is a look at a few paths; the bound leaves room for a busy machine.
    assert time.monotonic() - started < 2
