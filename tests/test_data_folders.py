"""Misuse of folders of data: one sentence names all that is bad, --skip_bad goes on without it, and data are found
where others have them."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trimesh
from image_sets import assert_holds, check_sentence, make, raw_of, write_idx
from test_data_prepared import example, write_tfrecords

from jaxweights import data
from jaxweights.data import checks, inspection, prepare, shapes
from jaxweights.data.shapes.clouds import unseen_clouds
from jaxweights.data.shapes.meshes import Meshes
from jaxweights.data.shapes.voxels import Voxels
from jaxweights.errors import UserError

SIZES = {"runs": 5, "unseen": 1, "samples": 64, "surface": 8, "probes": 16}
Misuse = tuple[Callable[[Any], Any], str]


# ---- folders of files ----


def idx(damage: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def load(folder):
        write_idx(folder, make(train=12, test=12), "")
        damage(folder)
        return data.load("mnist", folder)

    return load


def _all_idx(folder):
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-3])


def _swapped(folder):
    first, second = sorted(folder.glob("train*"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def prepared(info: Callable[[dict], Any] = dict, damage: Callable[[Any], Any] = id, **options: Any):
    def load(folder):
        version = write_tfrecords(folder / "mnist" / "3.0.1", make(train=12, test=12), **options)
        path = version / "dataset_info.json"
        path.write_text(json.dumps(info(json.loads(path.read_text()))))
        damage(version)
        return data.load("mnist", folder)

    return load


def splits(**changes: Any) -> Callable[[dict], dict]:
    return lambda info: {**info, "splits": [{**split, **changes} for split in info["splits"]]}


def array_record(change: Callable[[dict], dict]) -> Callable[[Any], Any]:
    def load(folder):
        source = checks.check(raw_of(make(train=30)), "mnist")
        path = prepare.prepare("mnist", source, folder) / "dataset_info.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        return data.load("mnist", folder)

    return load


def _shorten(version):
    for path in version.glob("*train*"):
        path.write_bytes(path.read_bytes()[:-3])


def _configurations(folder):
    for name in "ab":
        write_tfrecords(folder / "mnist" / name / "3.0.1", make(train=12, test=12))
    data.load("mnist", folder)


def batches(folder):
    """CIFAR-10 as unpacked for Python."""
    held = make((32, 32, 3), train=50, test=10)
    below = folder / "cifar-10-batches-py"
    below.mkdir(parents=True)
    rows = {f"data_batch_{i + 1}": ("train", slice(10 * i, 10 * i + 10)) for i in range(5)}
    for name, (part, chosen) in {**rows, "test_batch": ("test", slice(10))}.items():
        images = held[f"{part}_images"][chosen].transpose(0, 3, 1, 2).reshape(-1, 3072)
        batch = {b"data": images, b"labels": held[f"{part}_labels"][chosen].tolist()}
        (below / name).write_bytes(pickle.dumps(batch, 2))
    return below


class Attack:
    def __reduce__(self):
        return print, ("an attack",)


def _bad_batches(folder):
    below = batches(folder)
    (below / "data_batch_1").write_bytes(pickle.dumps(Attack()))
    (below / "data_batch_3").unlink()
    (below / "data_batch_4").write_bytes((below / "data_batch_4").read_bytes()[:-500])


def _matrices(folder):
    (folder / "train_32x32.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM\x89HDF\r\n" + bytes(400))
    data.load("svhn", folder)


def _six_meshes(folder):
    """Six good and six bad meshes."""
    for i in range(6):
        trimesh.creation.box(extents=(1, 2, 3 + i)).export(folder / f"good{i}.off")
    half = trimesh.creation.icosphere(subdivisions=1)
    half.update_faces(half.triangles_center[:, 2] < 0)
    half.export(folder / "a_half.off")
    text = (folder / "good0.off").read_text().splitlines()
    (folder / "b_nan.off").write_text("\n".join([*text[:2], "nan nan nan", *text[3:]]))
    (folder / "c_text.obj").write_text("hello")
    (folder / "d_torn.ply").write_bytes(b"ply\n")
    (folder / "e_folder.obj").mkdir()
    (folder / "f_index.obj").write_text("v 0 0 0\nv 1 0 0\nf 1 2 9\n")


def meshes(change: Callable[[Any], Any] = id, **settings: Any) -> Callable[[Any], Any]:
    def load(folder):
        (folder / "m").mkdir()
        _six_meshes(folder / "m")
        change(folder / "m")
        return shapes.load("m", folder, **{**SIZES, **settings})

    return load


def _large(folder):
    for path in folder.glob("good*"):
        box = trimesh.load(path)
        trimesh.Trimesh(box.vertices * 2e200, box.faces, process=False).export(path)
    for path in folder.glob("[a-f]_*"):
        path.rmdir() if path.is_dir() else path.unlink()


def lists(train: bytes, test: bytes) -> Callable[[Any], Any]:
    def write(folder):
        (folder / "train_split.lst").write_bytes(train)
        (folder / "test_split.lst").write_bytes(test)

    return meshes(write, runs=1)


def _six_clouds(folder):
    rng = np.random.default_rng(0)
    for i in range(6):
        np.save(folder / f"good{i}.npy", rng.normal(size=(20, 3)).astype(np.float32))
    bad = {
        "a_few": np.zeros((5, 3)) + np.arange(5)[:, None],
        "b_nan": np.full((20, 3), np.nan),
        "c_whole": np.zeros((20, 3), int),
        "d_large": np.full((20, 3), 1e60),
        "e_point": np.zeros((20, 3)),
        "f_objects": np.array([[1, 2, 3]] * 20, object),
        "g_flat": np.zeros(3),
    }
    for name, cloud in bad.items():
        np.save(folder / f"{name}.npy", cloud)


def clouds(folder):
    _six_clouds(folder)
    return shapes.read_clouds(folder)


def voxels(**held: Any) -> Callable[[Any], Any]:
    def load(folder):
        np.savez(folder / "voxels.npz", **held)
        return shapes.load("voxels", folder, **SIZES)

    return load


GRIDS = np.ones((8, 3, 3, 3), np.uint8)
EMPTY = GRIDS * (np.arange(8) < 6)[:, None, None, None]
BITS = np.packbits(GRIDS.reshape(8, -1), axis=1)
MESHES = "a_half.off is not closed.*b_nan.off has NaN.*c_text.*d_torn.*e_folder.obj is a folder.*f_index.*--skip_bad"
FOLDERS: dict[str, Misuse] = {
    "idx, some missing": (
        idx(lambda f: (f / "t10k-images-idx3-ubyte").unlink()),
        r"but not t10k-images-idx3-ubyte\[.gz\]",
    ),
    "idx, all short": (
        idx(_all_idx),
        "train-images.* trunc.*train-labels.* trunc.*t10k-images.* trunc.*t10k-labels.* trunc",
    ),
    "idx, swapped": (idx(_swapped), r"train-images.* shape \(12,\), but images.*train-labels.* but labels"),
    "description: list": (prepared(lambda _: []), "is not a description of a data set"),
    "description: no splits": (prepared(lambda _: {}), "does not describe its splits"),
    "description: format": (prepared(lambda i: {**i, "fileFormat": None}), r"file formats \[None\]"),
    "description: negative": (prepared(splits(shardLengths=["-5", "3"])), "does not describe its splits"),
    "description: endless": (prepared(splits(shardLengths=["9" * 13, "6"])), "has 6 examples.* states 9999999999999"),
    "description: elsewhere": (prepared(lambda i: {**i, "name": "../x"}), "does not describe its splits"),
    "description: counts": (
        array_record(splits(shardLengths=["7"])),
        "has 30 .* states 7; .* has 20 .* states 7",
    ),
    "files missing": (
        prepared(damage=lambda v: [p.unlink() for p in v.glob("*tfrecord*")]),
        "(.* is missing;){3}",
    ),
    "files short": (prepared(damage=_shorten), "00000-of-00002 is truncated.*00001-of-00002 is truncated"),
    "no pictures": (
        prepared(example=lambda x: example({**x, "image": b"x"})),
        "train images 0 to 11 .*test images 0 to 11 ",
    ),
    "configurations": (_configurations, "configurations a, b; choose one by --data_dir="),
    "CIFAR": (
        lambda f: (_bad_batches(f), data.load("cifar10", f)),
        "data_batch_1 .*builtins.print, which is not read.*data_batch_3 is missing; data_batch_4 .*--skip_bad",
    ),
    "SVHN": (_matrices, "train_32x32.mat .* v7.3.*test_32x32.mat is missing"),
    "meshes": (meshes(), MESHES),
    "meshes, one file": (
        meshes(lambda f: shapes.load(str(f / "good0.off"), **SIZES)),
        "one mesh; give the folder",
    ),
    "meshes, in two lists": (
        lists(b"good1.off", b"good2.off good1.off"),
        "test_split.lst names good1.off, and train_",
    ),
    "meshes, no text": (lists(b"\xff\xfe\0", b"good0.off"), "train_split.lst cannot be read as text"),
    "meshes, too large": (meshes(_large), "good0.off has coordinates too small or too large.*good1.off"),
    "clouds": (
        clouds,
        "a_few.npy has 5 points, but most clouds have 20.*b_nan.npy has NaN.*c_whole.npy has int64.*d_large.npy has"
        r".*e_point.npy .* all equal.*f_objects.npy .*Python objects.*g_flat.npy has float64 \(3,\).*--skip_bad",
    ),
    "voxels: bytes": (voxels(a=GRIDS * 255), "write grids > 127.5"),
    "voxels: floats": (voxels(a=GRIDS / 2), "write grids > 0.25"),
    "voxels: objects": (voxels(a=GRIDS.astype(object)), "a holds Python objects"),
    "voxels: sides": (
        voxels(packed=BITS, shape=[3.5, 3, 3]),
        "shape is .3.5, 3.0, 3.0.; .* integers",
    ),
    "voxels: text": (voxels(packed=BITS, shape=["a", "b", "c"]), "it must be three positive integers"),
    "voxels: endless": (voxels(packed=BITS, shape=[2**40] * 3), "packed is uint8"),
    "voxels: empty": (voxels(a=EMPTY), "grids 6, 7 have no occupied voxel.*--skip_bad"),
    "shapes: no name": (lambda f: shapes.load("", f, **SIZES), "config.data.name is empty"),
    "shapes: spelling": (lambda f: shapes.load("plane", f, **SIZES), "did you mean planes"),
    "shapes: data_dir": (lambda f: shapes.load("x", f / "absent", **SIZES), "absent does not exist"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_misuse_of_folders_is_one_sentence(tmp_path, case):
    misuse, message = FOLDERS[case]
    with pytest.raises(UserError, match=message) as error:
        misuse(tmp_path)
    check_sentence(error.value)


# ---- what used to be refused, and is read ----


def _idx_at(*place: str, name: str = "mnist", below: str = "") -> Callable[[Any], Any]:
    def load(folder):
        write_idx(folder.joinpath(*place), make(train=12, test=12), "")
        return data.load(name, folder / below)

    return load


def _renamed(folder):
    for path, content in ((p, p.read_bytes()) for p in sorted(folder.glob("*labels*"))):
        path.write_bytes(gzip.compress(content))
    for path in folder.glob("*images*"):
        path.rename(path.with_name(f"{path.name}.gz"))


def _prepared_at(*place: str, below: str = "") -> Callable[[Any], Any]:
    def load(folder):
        write_tfrecords(folder.joinpath(*place), make(train=12, test=12))
        return data.load("mnist", folder / below)

    return load


READ: dict[str, Callable[[Any], Any]] = {
    "as torchvision has it": _idx_at("MNIST", "raw"),
    "one level lower": _idx_at("MNIST", "raw", below="MNIST"),
    "another set of torchvision": _idx_at("FashionMNIST", "raw", name="fashion_mnist"),
    "own set": _idx_at("kmnist", "raw", name="kmnist"),
    "gzip without its ending, and the other way round": idx(_renamed),
    "with a configuration": _prepared_at("mnist", "default", "1.0.0"),
    "the folder of the set": _prepared_at("mnist", "3.0.1", below="mnist"),
    "fields of a newer version": array_record(lambda info: {**info, "surprise": [1]}),
}


@pytest.mark.parametrize("case", READ)
def test_data_are_found_where_others_have_them(tmp_path, case):
    loaded = READ[case](tmp_path)
    assert loaded.num_classes == 10 and len(loaded.test_labels) in (12, 20)


# ---- going on without bad files ----


def test_bad_files_are_left_out(tmp_path):
    held = make(train=40, test=20)
    version = write_tfrecords(tmp_path / "mnist" / "3.0.1", held)
    path = version / "mnist-train.tfrecord-00000-of-00002"
    path.write_bytes(path.read_bytes()[:-1])
    loaded = data.load("mnist", tmp_path, skip_bad=True)
    assert_holds(loaded, {key: value[20:] if key.startswith("train") else value for key, value in held.items()})
    assert len(loaded.skipped) == 1 and loaded.skipped[0].startswith(path.name)
    (version / "mnist-train.tfrecord-00001-of-00002").unlink()
    with pytest.raises(UserError, match="00000-of-00002 is truncated.*00001-of-00002 is missing.* again.$"):
        data.load("mnist", tmp_path, skip_bad=True)
    _bad_batches(tmp_path)
    some = data.load("cifar10", tmp_path, skip_bad=True)
    assert len(some.train_images) == 20 and len(some.skipped) == 3


def test_bad_shapes_and_clouds_are_left_out_without_changing_the_others(tmp_path):
    (tmp_path / "m").mkdir()
    _six_meshes(tmp_path / "m")
    source = Meshes(tmp_path / "m", 0, skip_bad=True)
    chosen, others = source.split(5, 1)
    assert {source.names[row] for row in [*chosen, *others]} == {f"good{i}" for i in range(6)}
    assert 1 <= len(source.skipped) <= 6
    fewer = Meshes(tmp_path / "m", 0, skip_bad=True).split(2, 1)
    np.testing.assert_array_equal(fewer[0], chosen[:2])
    np.testing.assert_array_equal(fewer[1], others)
    with pytest.raises(UserError, match="a_half.off is not closed.* 1 are missing; set fewer runs"):
        Meshes(tmp_path / "m", 0, skip_bad=True).split(6, 1)

    np.save(tmp_path / "voxels.npy", EMPTY)
    loaded = shapes.load("voxels", tmp_path, **SIZES, skip_bad=True)
    assert loaded.skipped == ("grids 6, 7 have no occupied voxel",) and loaded.source.endswith(
        "seed 0, bad items left out"
    )
    several, few = Voxels(EMPTY[[6, 0, 1]] > 0, "v", 0, True), Voxels(GRIDS[:3] > 0, "v", 0)
    np.testing.assert_array_equal(several.surface(np.arange(2), 9, False), few.surface(np.arange(1, 3), 9, False))
    assert several.names == ("v-1", "v-2")

    (tmp_path / "c").mkdir()
    _six_clouds(tmp_path / "c")
    taken = inspection.Inspection(tmp_path / "c", "clouds", skip=True)
    assert unseen_clouds(tmp_path / "c", 6, [], taken).shape == (6, 20, 3) and len(taken.skipped) == 7
    with pytest.raises(UserError, match="has 6 clouds of unseen shapes, but 7"):
        unseen_clouds(tmp_path / "c", 7, [], inspection.Inspection(tmp_path / "c", "clouds", skip=True))
