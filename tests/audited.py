"""Networks of one hidden layer that NumPy alone evaluates, as arrays and in files, for audits in miniature."""

import json

import numpy as np
from absl import flags
from absl.testing import flagsaver

from jaxweights import files, store
from jaxweights.population import Population
from jaxweights.spec import FIXED, Group, Leaf, WeightSpec
from launch import audit as program
from launch import common

INPUTS, UNITS, CLASSES = 3, 4, 3
SIZE = UNITS * INPUTS + CLASSES * UNITS
SPEC = WeightSpec(
    (
        Leaf("fc1/weight", (UNITS, INPUTS), (UNITS, INPUTS), (0, FIXED), (1, 0), (0, 1)),
        Leaf("fc2/weight", (CLASSES, UNITS), (CLASSES, UNITS), (FIXED, 0), (0, -1), (0, 1)),
    ),
    (Group(UNITS, "positive"),),
)


def rng(seed=0):
    return np.random.default_rng(seed)


TEACHER = rng(100).normal(size=SIZE)
X = rng(101).normal(size=(60, INPUTS))


def predict(weights, inputs):
    """Scores of a network with one hidden layer, by NumPy alone."""
    first, second = np.split(weights, [UNITS * INPUTS], axis=-1)
    hidden = np.maximum(np.einsum("ti,...ui->...tu", inputs, first.reshape(*first.shape[:-1], UNITS, INPUTS)), 0)
    return np.einsum("...tu,...ku->...tk", hidden, second.reshape(*second.shape[:-1], CLASSES, UNITS))


Y = predict(TEACHER, X).argmax(axis=1)


def networks(seed, count, shuffled=False):
    """Networks around one that labels the test set; with their hidden units in random order if asked."""
    weights = TEACHER + 0.5 * rng(seed).normal(size=(count, SIZE))
    if shuffled:
        orders = [[rng(1000 * seed + i).permutation(UNITS)] for i in range(count)]
        weights = np.stack([np.asarray(SPEC.permute(w, o)) for w, o in zip(weights, orders, strict=True)])
    return weights


TRAIN, HELDOUT, FRESH = networks(1, 40), networks(2, 20), networks(3, 30)
COPIES = TRAIN[:30] + 0.01 * rng(4).normal(size=(30, SIZE))
QUICK = {"bootstrap": 50, "hull_neighbours": 8}
SMALL = {"battery": {"permutations": 9, "bootstrap": 9, "halves": 2}, "barriers": 0, **QUICK}
PREDICTIONS = {
    "labels": Y,
    **{
        name: predict(w, X).astype(np.float32) for name, w in (("train", TRAIN), ("heldout", HELDOUT), ("mine", COPIES))
    },
}


def write_safetensors(path, tensors):
    """The format by its description: the header's length, the header, the data."""
    names, header, data = {np.dtype("f4"): "F32", np.dtype("f8"): "F64", np.dtype("i8"): "I64"}, {}, b""
    for name, tensor in tensors.items():
        span = [len(data), len(data) + tensor.nbytes]
        header[name] = {"dtype": names[tensor.dtype], "shape": tensor.shape, "data_offsets": span}
        data += tensor.tobytes()
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write(path):
    """Networks in all kinds of files: a zoo with its split, stacked tensors by name, a stored population."""
    both, split = np.concatenate([HELDOUT, TRAIN]), np.repeat(["heldout", "train"], [len(HELDOUT), len(TRAIN)])
    np.savez(path / "zoo.npz", weights=both, split=split)
    first, second = np.split(COPIES, [UNITS * 3], axis=1)
    stacked = {"fc1.weight": first.reshape(-1, UNITS, 3), "fc2.weight": second.reshape(-1, 3, UNITS)}
    write_safetensors(path / "mine.safetensors", {k: np.ascontiguousarray(v, np.float32) for k, v in stacked.items()})
    stored = store.PopulationStore.create(path / "theirs", SPEC, {})
    stored.append(0, Population.create(FRESH, SPEC, split="generated"))
    stored.finish()
    files.write_json(path / "spec.json", SPEC.to_json())
    np.savez(path / "predictions.npz", **PREDICTIONS)
    np.savez(path / "text.npz", weights=TRAIN, split="train")


FILES = {"train": "zoo.npz", "heldout": "zoo.npz", "generated": "mine=mine.safetensors", "spec": "spec.json"}
"""Flags that name files of `write`."""


def command(folder, monkeypatch, **given):
    """Runs `launch.audit` with flags in this process, in the folder of the files."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(common, "setup_jax", lambda logs: None)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["program"])
    with flagsaver.as_parsed(**given):
        program.main([])
