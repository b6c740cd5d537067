"""Files of every kind, damaged at random: what reads them says so in one sentence, or cannot know it."""

from __future__ import annotations

import tarfile

import numpy as np
import trimesh
from image_sets import check_sentence, make, raw_of, save_npz, write_idx
from test_data_folders import GRIDS, batches
from test_data_prepared import write_tfrecords

from jaxweights import data
from jaxweights.data import checks, cifar, prepare, shapes
from jaxweights.data.shapes.meshes import read_mesh
from jaxweights.data.shapes.voxels import read_grids
from jaxweights.errors import UserError


def test_whatever_is_damaged_is_one_sentence_or_as_before(tmp_path):
    """Files of every kind, cut, with other bytes, or with bytes missing."""
    rng = np.random.default_rng(0)
    for name, (path, load) in whole_files(tmp_path).items():
        content = path.read_bytes()
        load()
        for damage in range(24):
            damaged, at = bytearray(content), int(rng.integers(min(len(content), 400 if damage % 2 else len(content))))
            if damage % 3 == 0:
                del damaged[at:]
            elif damage % 3 == 1:
                damaged[at] ^= 1 << int(rng.integers(8))
            else:
                del damaged[at : at + int(rng.integers(1, 20))]
            path.write_bytes(damaged)
            try:
                load()
            except UserError as error:
                check_sentence(error)
            except Exception as error:
                raise AssertionError(f"{name}, damage {damage}") from error
        path.write_bytes(content)


def whole_files(folder):
    """A file of every kind, and what reads it."""
    held, rng = make(train=12, test=12), np.random.default_rng(0)
    save_npz(folder / "mine.npz", make((4, 4, 1)))
    np.save(folder / "clouds.npy", rng.normal(size=(3, 8, 3)))
    np.save(folder / "voxels.npy", GRIDS)
    write_idx(folder / "plain", held, "")
    write_idx(folder / "packed", held)
    version = write_tfrecords(folder / "tf" / "mnist" / "3.0.1", held)
    (folder / "ar").mkdir()
    stored = prepare.prepare("mnist", checks.check(raw_of(held), "mnist"), folder / "ar")
    below = batches(folder)
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(below, below.name)
    found = cifar.LAYOUTS["cifar10"][0]
    kinds = ("obj", "off", "ply", "stl", "glb")
    for kind in kinds:
        trimesh.creation.box(extents=(1, 2, 3)).export(folder / f"box.{kind}")
    return {
        "npz": (folder / "mine.npz", lambda: data.load("mine", folder)),
        "npy": (folder / "clouds.npy", lambda: shapes.read_clouds(folder / "clouds.npy")),
        "voxels": (folder / "voxels.npy", lambda: read_grids(folder / "voxels.npy")),
        "idx": (folder / "plain" / "t10k-images-idx3-ubyte", lambda: data.load("mnist", folder / "plain")),
        "idx.gz": (folder / "packed" / "t10k-images-idx3-ubyte.gz", lambda: data.load("mnist", folder / "packed")),
        "description": (version / "dataset_info.json", lambda: data.load("mnist", folder / "tf")),
        "array_record": (next(stored.glob("*train*")), lambda: data.load("mnist", folder / "ar")),
        "CIFAR": (below / "data_batch_2", lambda: data.load("cifar10", below)),
        "archive": (folder / "cifar-10-python.tar.gz", lambda: cifar.read(folder / "cifar-10-python.tar.gz", found)),
        **{kind: (folder / f"box.{kind}", lambda kind=kind: read_mesh(folder / f"box.{kind}")) for kind in kinds},
    }
