"""Files of every other kind, and networks from all of them in every path on which networks come in."""

import json
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from audited import write_safetensors
from containers import old, pickled, tensor, zipped
from flax import serialization
from foreign import READERS, ROWS, SPEC, TENSORS, npy

import jaxweights as jw
from jaxweights import checkpoints, formats, layouts, population_files, store
from jaxweights.errors import UserError
from jaxweights.formats import hdf5
from jaxweights.layouts import importing, plans, specs
from jaxweights.population import Population

ZOO, BASE = "zoo.import_npz", "zoo.base.import_npz"
TREE = {"params": {"dense": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(3)}}, "step": 3}


def of_torch(arrays, wrap=lambda made: made):
    """A file of tensors by name, each a storage of its own."""
    tensors, storages = {}, {}
    for key, array in arrays.items():
        strides = [step // array.itemsize for step in array.strides]
        storages[key] = array.tobytes()
        tensors[key] = tensor(key, array.size, array.shape, tuple(strides))
    return zipped(wrap(tensors), storages)


def nested():
    found = {}
    for name, array in TENSORS.items():
        layer, _, inner = name.partition(".")
        found.setdefault(layer, {})[inner] = array
    return found


# Files of all rows of a zoo, and of one network; each with what writes it.
ROWS_OF = {
    "rows.npy": lambda path: path.write_bytes(npy(ROWS)),
    "rows.pt": lambda path: path.write_bytes(of_torch({"weights": ROWS}, lambda d: d["weights"])),
    "named.pt": lambda path: path.write_bytes(of_torch({"weights": ROWS}, lambda d: {**d, "epoch": 3})),
    "list.pt": lambda path: path.write_bytes(
        of_torch({str(i): row for i, row in enumerate(ROWS)}, lambda d: list(d.values()))
    ),
    "rows.safetensors": lambda path: write_safetensors(path, {"weights": ROWS}),
    "rows.msgpack": lambda path: path.write_bytes(serialization.msgpack_serialize({"weights": ROWS})),
}
TENSORS_OF = {
    "base.npy": lambda path: path.write_bytes(npy(ROWS[0])),
    "base.pt": lambda path: path.write_bytes(of_torch(TENSORS, lambda d: {"state_dict": d, "epoch": 3})),
    "base.safetensors": lambda path: write_safetensors(path, TENSORS),
    "base.msgpack": lambda path: path.write_bytes(serialization.msgpack_serialize(nested())),
}


@pytest.mark.parametrize("name", [*ROWS_OF, *TENSORS_OF])
def test_networks_come_from_files_of_every_kind(name, tmp_path):
    {**ROWS_OF, **TENSORS_OF}[name](tmp_path / name)
    if name in TENSORS_OF:
        assert np.array_equal(READERS[BASE](tmp_path / name), ROWS[0])
    else:
        assert np.array_equal(READERS[ZOO](tmp_path / name), ROWS)
        assert np.array_equal(population_files.read(tmp_path / name, None)[0].weights, ROWS)


@pytest.mark.parametrize("turned", [False, True])
def test_hdf5_is_read_with_its_groups(turned, tmp_path):
    h5py = pytest.importorskip("h5py", reason="the extra formats is not installed")
    path = tmp_path / "net.h5"
    with h5py.File(path, "w", userblock_size=512 if turned else 0) as file:
        file.attrs["made"] = "by hand"
        for key, array in TENSORS.items():
            file[key.replace(".", "/")] = np.atleast_2d(array).T if turned else array
        file["words"] = ["a", "b"]
    if turned:
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    content = formats.read(path, "The file")
    assert content.metadata == {"made": "by hand"} and content.value["words"] == ["a", "b"]
    assert np.array_equal(READERS[BASE](path), ROWS[0])
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["other"] = h5py.ExternalLink("net.h5", "/words")
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file.create_dataset("zeros", (1 << 20, 1 << 20), "f4", chunks=(1, 1 << 10))
    for name, message in (("linked", "links to data elsewhere"), ("large", "said to have 4,398,046,511,104 bytes")):
        with pytest.raises(UserError, match=message):
            formats.read(tmp_path / f"{name}.h5", "The file")


def large(path, rows):
    """Writes a file of rows by the ending of its name; the HDF5 file is packed."""
    if path.suffix == ".npz":
        np.savez(path, weights=rows)
    elif path.suffix == ".safetensors":
        write_safetensors(path, {"weights": rows})
    elif path.suffix == ".npy":
        path.write_bytes(npy(rows))
    elif path.suffix == ".pt":
        path.write_bytes(of_torch({"weights": rows}))
    elif path.suffix == ".h5":
        h5py = pytest.importorskip("h5py", reason="the extra formats is not installed")
        with h5py.File(path, "w") as file:
            file.create_dataset("weights", data=rows, chunks=(16, 100), compression="gzip", compression_opts=1)
    else:  # the container of PyTorch before 1.6
        weights = tensor("0", rows.size, rows.shape, (rows.shape[1], 1))
        path.write_bytes(old({"weights": weights}, {"0": rows.tobytes()}))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt", ".pth", ".h5"])
def test_imports_of_rows_take_little_memory(suffix, tmp_path, monkeypatch):
    """Files of many networks are not read whole."""
    rows = np.random.default_rng(0).normal(size=(200, 5000)).astype(np.float32)
    path = tmp_path / f"rows{suffix}"
    large(path, rows)
    shapes = [{"name": "fc1.weight", "shape": [50, 99]}, {"name": "fc1.bias", "shape": [50]}]
    (tmp_path / "spec.json").write_text(json.dumps({"activation": "relu", "normalisation": "none", "leaves": shapes}))
    monkeypatch.setattr(importing, "_CHUNK_ROWS", 16)
    monkeypatch.setattr(hdf5, "_BLOCK", 1 << 18)
    spec = specs.read(tmp_path / "spec.json")
    tracemalloc.start()
    try:
        plan = plans.make(layouts.recognise(path, "vectors"), path, layouts.Options(), spec=spec)
        opened = importing.write(plan, tmp_path / "work")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(opened.read().weights, rows)
    assert peak < rows.nbytes / 3, f"{peak:,} of {rows.nbytes:,} bytes"


def test_trees_of_flax_and_orbax_are_read(tmp_path):
    import orbax.checkpoint as ocp

    brain = {**TREE, "brain": np.ones(2, ml_dtypes.bfloat16)}
    (tmp_path / "net.msgpack").write_bytes(serialization.msgpack_serialize(brain))
    ocp.PyTreeCheckpointer().save(tmp_path / "folder" / "default", brain)
    for path in (tmp_path / "net.msgpack", tmp_path / "folder", tmp_path / "folder" / "default"):
        value = formats.read(path, "The file").value
        assert value["step"] == 3 and value["brain"].dtype == ml_dtypes.bfloat16
        tensors, notes = formats.state_dict(value, "The file")
        assert list(tensors) == ["dense.bias", "dense.kernel"] or list(tensors) == ["dense.kernel", "dense.bias"]
        assert np.array_equal(tensors["dense.kernel"], TREE["params"]["dense"]["kernel"])
    with pytest.raises(UserError, match="is a folder, and not one of Orbax"):
        formats.read(tmp_path, "The file")
    assert not checkpoints.holds_tree(tmp_path)


def test_pieces_of_large_arrays_are_joined_and_strange_extensions_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 16)
    path = tmp_path / "net.msgpack"
    path.write_bytes(serialization.msgpack_serialize({"a": {"b": np.arange(12.0).reshape(3, 4)}}))
    assert np.array_equal(formats.read(path, "The file").value["a"]["b"], np.arange(12.0).reshape(3, 4))
    for content, message in (
        (b"\x81\xa1a\xd4\x07x", "an extension 7 that Flax does not write"),
        (b"\x81\xa1a\xc7\x0a\x01\x93\x91\xce\xff\xff\xff\xff\xa1O\xc4\x00"[:16], "truncated or damaged"),
        (b"\x81\xa1a\xc7\x08\x01\x93\x91\x02\xa5uint8"[:14], "truncated or damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            formats.read(path, "The file")


def test_lists_of_state_dicts_are_zoos(tmp_path):
    path = tmp_path / "zoo.pt"
    dicts = [jw.to_state_dict(row, SPEC) for row in ROWS]
    flat = {f"{i}/{name}": array for i, tensors in enumerate(dicts) for name, array in tensors.items()}

    def grouped(tensors):
        return [{k.partition("/")[2]: v for k, v in tensors.items() if k.startswith(f"{i}/")} for i in range(len(ROWS))]

    for wrap, splits in ((grouped, False), (lambda d: {"weights": grouped(d), "split": ["train"] * 4}, True)):
        path.write_bytes(of_torch(flat, wrap))
        for spec in (SPEC, None):
            found, given = population_files.read(path, spec)
            assert np.array_equal(found.weights, ROWS) and given == splits
    path.write_bytes(of_torch({"a.w": ROWS[0], "b.w": ROWS[1][:2]}, lambda d: [{"x.w": v} for v in d.values()]))
    with pytest.raises(UserError, match=r"several kinds: x.w has shape .* in network 0, and \(2,\) in network 1"):
        population_files.read(path, None)
    path.write_bytes(pickled(["a", 1]))
    with pytest.raises(UserError, match="is a list of int, str. Give an array"):
        population_files.read(path, None)


def test_a_stored_population_is_a_zoo(tmp_path):
    stored = store.PopulationStore.create(tmp_path / "zoo", SPEC, {})
    stored.append(0, Population.create(ROWS, SPEC))
    stored.finish()
    assert np.array_equal(READERS[ZOO](tmp_path / "zoo"), ROWS)
