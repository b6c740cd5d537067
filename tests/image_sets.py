"""Small image sets for the tests of the readers."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable

import numpy as np

from jaxweights.data.raw import Raw
from jaxweights.errors import UserError

KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def make(shape=(28, 28, 1), train=40, test=20, classes=10, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "train_images": rng.integers(0, 256, (train, *shape), np.uint8),
        "train_labels": np.arange(train) % classes,
        "test_images": rng.integers(0, 256, (test, *shape), np.uint8),
        "test_labels": np.arange(test) % classes,
    }


def save_npz(path, arrays):
    np.savez(path, **arrays)
    return path


def raw_of(arrays, where="arrays"):
    return Raw(*(arrays[key] for key in KEYS), files="made up", where=where)


def assert_holds(loaded, arrays):
    for key in KEYS:
        np.testing.assert_array_equal(getattr(loaded, key), arrays[key].reshape(getattr(loaded, key).shape), key)
        assert getattr(loaded, key).dtype == (np.uint8 if key.endswith("images") else np.int32)


def idx_bytes(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder, arrays, suffix=".gz", dot="-"):
    folder.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if suffix else open
    for key, stem in zip(KEYS, ("train-images", "train-labels", "t10k-images", "t10k-labels"), strict=True):
        array = arrays[key].squeeze(-1) if key.endswith("images") else arrays[key]
        with opener(folder / f"{stem}{dot}idx{array.ndim}-ubyte{suffix}", "wb") as file:
            file.write(idx_bytes(array))


def pixels(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict], dict]:
    return lambda held: {key: change(value) if key.endswith("images") else value for key, value in held.items()}


def check_sentence(error: UserError) -> None:
    """A message is one paragraph that is no Python exception."""
    message = str(error)
    assert "\n" not in message and "Error" not in message.split("(")[0] and message.endswith((".", "npz"))
