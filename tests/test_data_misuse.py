"""Misuse of data in one file: foreign files and impossible settings are one sentence, and --skip_bad goes on without
bad images."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from image_sets import KEYS, check_sentence, make, pixels, save_npz

from jaxweights import data
from jaxweights.data import shapes
from jaxweights.errors import UserError

SIZES = {"runs": 5, "unseen": 1, "samples": 64, "surface": 8, "probes": 16}
Misuse = tuple[Callable[[Any], Any], str]


# ---- files that hold other things ----


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for name, content in members.items():
            written.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


def npy(shape: tuple[int, ...], content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


ENDLESS = npy((10**9, 2000, 2000, 1), b"123")
FOREIGN: dict[str, tuple[bytes, str]] = {
    "PyTorch": (archive(archive_data__pkl=b"x"), "a PyTorch file.*numpy.savez"),
    "pickle": (pickle.dumps({"a": 1}), "a pickle file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file.*h5py"),
    "safetensors": (struct.pack("<Q", 20) + b'{"a":{"dtype":"F32"}}' + bytes(10), "a safetensors file"),
    "gzip": (gzip.compress(b"abc"), "a compressed file.*Unpack"),
    "text": (b"a b\n1 2\n", "a text file"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "an HTML page.*download it again"),
    "nothing": (b"", r"empty \(0 bytes\)"),
    "zip of images": (archive(a__png=b"\x89PNG"), "a zip archive with a.png.*Unpack"),
    "endless": (archive(**{f"{key}__npy": ENDLESS for key in KEYS}), "truncated or damaged.*train_images"),
    "header": (archive(**{f"{key}__npy": b"\x93NUMPY\x01\x00\x06\x00{'a(\n" for key in KEYS}), "truncated or damaged"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_called_by_their_name_in_every_reader(tmp_path, kind):
    content, message = FOREIGN[kind]
    for name, load in (
        ("mine.npz", lambda path: data.load(str(path))),
        ("voxels.npz", lambda path: shapes.load(str(path), **SIZES)),
        ("clouds.npy", shapes.read_clouds),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} .*{message}") as error:
            load(tmp_path / name)
        check_sentence(error.value)


# ---- arrays ----


def arrays(change: Callable[[dict], dict], **settings: Any) -> Callable[[Any], Any]:
    return lambda folder: data.load(str(save_npz(folder / "mine.npz", change(make((4, 4, 1))))), **settings)


def labels(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict], dict]:
    return lambda held: {key: change(value) if key.endswith("labels") else value for key, value in held.items()}


def ragged(held: dict) -> dict:
    rows = np.empty(40, object)
    rows[:] = [np.zeros((row + 1, 3), np.uint8) for row in range(40)]
    return {**held, "train_images": rows}


def named(name: str, **settings: Any) -> Callable[[Any], Any]:
    return lambda folder: data.load(name, settings.get("data_dir", folder))


def _folder(folder):
    (folder / "mine.npz").mkdir()
    data.load("mine.npz", folder)


def _content(folder):
    (folder / "mine" / "cat").mkdir(parents=True)
    data.load("mine", folder)


ARRAYS: dict[str, Misuse] = {
    "labels from 1": (arrays(labels(lambda x: x + 1)), "labels are 1 to 10, .* 11 classes.*numpy.unique"),
    "one label 255": (
        arrays(labels(lambda x: np.where(np.arange(len(x)) == 3, 255, x))),
        "0 to 9, 255, .* 256 .* 245",
    ),
    "label 2**62": (arrays(labels(lambda x: np.where(x == 3, 2**62, x))), "4 to 9, 4611686018427387904"),
    "label 2**63": (arrays(labels(lambda x: x.astype(np.uint64) + np.uint64(2**63))), "9223372036854775808 to"),
    "one class": (arrays(labels(lambda x: x * 0)), "two classes"),
    "truth values": (arrays(labels(lambda x: x > 4)), r"type bool; .*astype\(int\)"),
    "one-hot": (arrays(labels(lambda x: np.eye(10, dtype=int)[x])), r"labels.argmax\(axis=1\)"),
    "ragged images": (arrays(ragged), "train_images holds Python objects.*numpy.stack"),
    "NaN": (
        arrays(pixels(lambda x: np.where(x == x.max(), np.nan, x / 255))),
        "training images .*; test .* have NaN",
    ),
    "tiny pixels": (arrays(pixels(lambda x: x * 1e-43)), "too large for float32; rescale"),
    "huge pixels": (arrays(pixels(lambda x: x * 1e35)), "pixels from 0 to 2.55e.37"),
    "std": (arrays(dict, mean=0.5, std=1e-50), "std .1e-50.*too large"),
    "text for mean": (arrays(dict, mean="a", std="b"), "mean 'a' and std 'b' must be numbers"),
    "resize": (arrays(dict, resize=10**6), "TB of memory.* Set config.data.resize lower"),
    "sorted, train_limit": (
        arrays(labels(np.sort), train_limit=12),
        "are of 3 of the 10 classes.*at least 37",
    ),
    "sorted, test_limit": (arrays(labels(np.sort), test_limit=12), "are of 6 of the 10 classes.*at least 19"),
    "folder": (_folder, "mine.npz is a folder"),
    "no name": (named(""), "config.data.name is empty"),
    "case": (named("MNIST"), "did you mean mnist"),
    "spelling": (named("cifar-10"), "did you mean cifar10"),
    "long name": (named("x" * 300), "cannot be a path"),
    "unknown home": (named("~nobody_here/x.npz"), "no such home folder"),
    "unknown data_dir": (named("mnist", data_dir="~nobody_here"), "no such home folder"),
    "no text": (named(5), "config.data.name is 5; give a path"),  # type: ignore[arg-type]
    "no whole number": (lambda _: data.load("digits", crop=3.5), "config.data.crop is 3.5; give a whole number"),  # type: ignore[arg-type]
    "empty data_dir": (named("mnist", data_dir=""), "data_dir is empty"),
    "other content": (_content, "mine holds cat"),
    "cart-pole, too many": (lambda _: data.load("cartpole", test_limit=5000), "256 states"),
    "cart-pole, negative": (lambda _: data.load("cartpole", train_limit=-5), "train_limit is -5"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_misuse_of_arrays_is_one_sentence(tmp_path, case):
    misuse, message = ARRAYS[case]
    with pytest.raises(UserError, match=message) as error:
        misuse(tmp_path)
    check_sentence(error.value)


# ---- going on without bad images ----


def test_bad_images_are_left_out_with_their_labels(tmp_path):
    held = make((4, 4, 1))
    held = pixels(lambda x: x / 255.0)(held)
    held["train_images"][[3, 7, 8]] = np.nan
    held["test_images"][0, 1] = np.inf
    path = str(save_npz(tmp_path / "mine.npz", held))
    loaded = data.load(path, skip_bad=True)
    np.testing.assert_array_equal(loaded.train_labels, np.delete(held["train_labels"], [3, 7, 8]))
    np.testing.assert_array_equal(loaded.test_images, held["test_images"][1:].astype(np.float32))
    assert loaded.skipped == (
        "training images 3, 7, 8 have NaN or infinite pixels",
        "test images 0 have NaN or infinite pixels",
    )
    assert "npz mine.npz, bad items left out; blake2b" in loaded.source


def test_experiments_list_what_they_leave_out(tmp_path, capsys):
    import mini

    from jaxweights.experiment import Experiment

    held = pixels(lambda x: x / 255.0)(make((4, 4, 1)))
    held["train_images"][3] = np.nan
    config = mini.get_config().to_dict()
    config["data"] = {"name": str(save_npz(tmp_path / "mine.npz", held))}
    with pytest.raises(UserError, match="training images 3 have NaN.*--skip_bad"):
        _ = Experiment(config, tmp_path / "run").dataset
    config["data"]["skip_bad"] = True
    assert len(Experiment(config, tmp_path / "run").dataset.train_images) == 39
    listed = tmp_path / "run" / "skipped_data.txt"
    assert listed.read_text() == "training images 3 have NaN or infinite pixels\n"
    assert f"bad items were left out; {listed} lists them" in capsys.readouterr().err


def test_cures_work(tmp_path):
    held = make((4, 4, 1))
    held = {key: value + 5 if key.endswith("labels") else value for key, value in held.items()}
    path = str(save_npz(tmp_path / "mine.npz", held))
    with pytest.raises(UserError, match="number the classes anew: ") as error:
        data.load(path)
    code = str(error.value).partition("anew: ")[2].rstrip(".").replace("numpy.", "np.")
    exec(code, {"np": np}, held)
    held = {key: held[key] for key in KEYS}
    assert data.load(str(save_npz(tmp_path / "mine.npz", held))).num_classes == 10

    save_npz(tmp_path / "mine.npz", {key: np.sort(v) if key.endswith("labels") else v for key, v in held.items()})
    for part in ("train_limit", "test_limit"):
        with pytest.raises(UserError, match="at least") as error:
            data.load(path, **{part: 11})
        least = int(str(error.value).partition("at least ")[2].partition(",")[0])
        assert data.load(path, **{part: least}).num_classes == 10
        with pytest.raises(UserError, match=f"at least {least}"):
            data.load(path, **{part: least - 1})
