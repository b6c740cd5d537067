"""Networks from elsewhere: whatever is wrong with a file or an array ends in one sentence with a cure that works, in
every path on which networks come in."""

import io
import pickle
import re
import zipfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from foreign import NET, READERS, ROWS, SPEC, TENSORS, P, npy

from jaxweights import arrays, generators, tasks
from jaxweights.errors import UserError
from jaxweights.experiment import imports, samples
from jaxweights.generators.hyperdiffusion.importer import vectors_from_torch
from jaxweights.generators.pdiff import PDiff
from jaxweights.generators.pdiff import importer as pdiff
from jaxweights.generators.state_dict import StateDict
from jaxweights.population import Population, from_array
from jaxweights.population_files import load
from jaxweights.spec import FIXED, Leaf, WeightSpec
from jaxweights.zoo.imported import read_weights


def npz(**content):
    buffer = io.BytesIO()
    np.savez(buffer, **(content or {"weights": ROWS[:1]}))
    return buffer.getvalue()


def archive(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def flipped(content, position):
    return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]


WHOLE = npz()
HEADER, DATA = WHOLE.index(b"NUMPY"), WHOLE.index(ROWS[:1].tobytes())
OBJECTS = np.array([[1.0], [2.0, 3.0]], dtype=object)

# Content of a file, and what the message has to say in every path.
FILES = {
    "empty": (b"", "is empty"),
    "noise": (bytes(range(128, 256)), "of an unknown kind"),
    "objects npy": (npy(OBJECTS, allow_pickle=True), "Python objects in its array"),
    "pickle": (pickle.dumps([1.0]), "is a list"),
    "program": (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", "names os.system"),
    "torch": (archive(**{"archive__data.pkl": b"\x80\x02."}), "a PyTorch file that is truncated or damaged"),
    "old torch": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02", "a PyTorch file that is truncated"),
    "safetensors": ((2).to_bytes(8, "little") + b"{}", "no tensors|none of the tensors"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "matlab": (b"MATLAB 5.0 MAT-file" + bytes(100), "a MATLAB file.*loadmat"),
    "matlab 7.3": (b"MATLAB 7.3 MAT-file" + bytes(100), "HDF5 file|MATLAB 7.3 file"),
    "msgpack": (b"\x81\xa1a", "a msgpack file that is truncated or damaged"),
    "gzip": (b"\x1f\x8b" + bytes(100), "a compressed file.*Unpack"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer.*git lfs pull"),
    "page": (b"\n<!DOCTYPE html><html>", "an HTML page.*download"),
    "table": (b"0.1,0.2\n0.3,0.4\n", "a table of text.*loadtxt"),
    "text": (b"weights follow\n", "a text file"),
    "docx": (archive(word__document=b"x"), "a zip archive that holds word/document, not arrays"),
    "no members": (archive(), "a zip archive that is empty"),
    "objects": (npz(weights=OBJECTS), "has Python objects in the array 'weights'"),
    "cut": (WHOLE[: len(WHOLE) // 2], "truncated or damaged"),
    "cut at the end": (WHOLE[:-1], "truncated or damaged"),
    "flipped data": (flipped(WHOLE, DATA + 5), "truncated or damaged"),
    "flipped header": (flipped(WHOLE, HEADER + 20), "truncated or damaged"),
    "a smaller shape": (WHOLE.replace(b"(1, %d)" % P, b"(1, %d)" % (P - 2)), "truncated or damaged"),
    "a larger shape": (WHOLE.replace(b"(1, %d)" % P, b"(9, %d)" % P), "truncated or damaged"),
    "no arrays": (npz(other=np.zeros(3)), "no array `weights`|none of the tensors"),
    "text weights": (npz(weights=np.full((1, P), "a")), "It holds text"),
    "complex": (npz(weights=ROWS[:1] * 1j), "It holds complex numbers"),
    "truth": (npz(weights=ROWS[:1] > 0), "It holds truth values"),
    "bfloat16": (npz(weights=ROWS[:1].astype(ml_dtypes.bfloat16)), r"has the type \|V2.*bfloat16.*astype"),
    "NaN": (
        npz(weights=np.where(np.arange(P) == 3, np.nan, ROWS[:1])),
        r"NaN or infinite weights.*\(first: \[[03]\]\)",
    ),
    "infinite": (npz(weights=np.where(np.arange(P) == 3, -np.inf, ROWS[:1])), "NaN or infinite weights"),
    "too large": (npz(weights=np.where(np.arange(P) == 3, 1e40, ROWS[:1].astype(float))), "too large for float32"),
    "another size": (npz(weights=ROWS[:1, 1:]), rf"shape \(1, {P - 1}\)"),
    "a scalar": (npz(weights=np.float32(3)), r"shape \(\)"),
}


@pytest.mark.parametrize("name", FILES)
def test_other_and_damaged_files_are_refused_alike_in_every_path(name, tmp_path):
    content, message = FILES[name]
    path = tmp_path / "zoo.npz"
    path.write_bytes(content)
    for setting, read in READERS.items():
        with pytest.raises(UserError) as found:
            read(path)
        assert re.search(message, " ".join(str(found.value).split())), (setting, str(found.value))
        assert str(path) in str(found.value)
        assert not re.search("diverged|learning rate|metrics.jsonl", str(found.value))


def test_a_flipped_bit_of_a_file_is_noticed_or_without_effect(tmp_path):
    path = tmp_path / "zoo.npz"
    for position in range(0, len(WHOLE), 3):
        path.write_bytes(flipped(WHOLE, position))
        try:
            assert np.array_equal(load(path, SPEC).weights, ROWS[:1])
        except UserError as error:
            assert "zoo.npz" in str(error)
        if not position % 5:
            path.write_bytes(WHOLE[:position])
            with pytest.raises(UserError, match="zoo.npz"):
                load(path, SPEC)


def test_absent_files_and_folders_are_refused(tmp_path):
    for setting, read in READERS.items():
        with pytest.raises(UserError, match=f"none.npz does not exist. Set {setting} to"):
            read(tmp_path / "none.npz")
        with pytest.raises(UserError, match="is a folder"):
            read(tmp_path)
        with pytest.raises(UserError, match=f"has no file. Set {setting} to"):
            read("")


# Values of a column, and the message.
COLUMNS = [
    ("run", np.array(["a", "b", "c", "d"]), "It holds text"),
    ("run", [0, 1, 2.5, 3], r"has 2.5 in 1 of 4 rows \(first: \[2\]\); give whole numbers"),
    ("run", [0, 1, np.nan, 3], "has nan in 1 of 4 rows"),
    ("run", [0, 1, np.inf, 3], "has inf in 1 of 4 rows"),
    ("run", [0, 1, 2, -7], "has -7 in 1 of 4 rows"),
    ("run", [0.0, 1.0, 2.0, 1e300], r"has 1e\+300"),
    ("step", np.array([0, 1, 2, 2**63 + 1], np.uint64), "has 9223372036854775809"),
    ("step", np.array([True, False, True, True]), "It holds truth values"),
    ("step", [1, 2], r"shape \(2,\); give a scalar or \[4\]"),
    ("seed", -3, "has -3"),
    ("parent", [0.5, 1, 1, 1], "has 0.5"),
    ("loss", np.array(["low"] * 4), "It holds text"),
    ("accuracy", np.ones(4) * 1j, "It holds complex numbers"),
    ("split", np.array(["train", "test", "test", "valid"]), r"unknown splits \['test', 'valid'\]"),
    ("split", np.array(["train"] * 3 + ["x" * 30]), "'x{30}' in 1 of 4 rows"),
    ("split", np.arange(4), "is not text"),
    ("transform", "x" * 70, "words of at most 64"),
    ("hyper/learning_rate", np.array(["high"] * 4), "It holds text"),
    ("colour", np.arange(4), r"unknown columns \['colour'\]"),
]


@pytest.mark.parametrize(("name", "values", "message"), COLUMNS)
def test_columns_that_would_change_their_values_are_refused(name, values, message, tmp_path):
    np.savez(tmp_path / "zoo.npz", weights=ROWS, **{name: values})
    with pytest.raises(UserError, match=message) as found:
        load(tmp_path / "zoo.npz", SPEC)
    assert name in str(found.value) and "zoo.npz" in str(found.value) and "np." not in str(found.value)


def test_columns_without_loss_are_taken(tmp_path):
    given = {"run": [0.0, 1.0, 2.0, 3.0], "step": np.uint64(7), "split": np.array([b"train"] * 4), "seed": np.int8(3)}
    np.savez(tmp_path / "zoo.npz", weights=ROWS.astype(np.float64), **given)
    records = load(tmp_path / "zoo.npz", SPEC).records
    assert records["run"].tolist() == [0, 1, 2, 3] and records["step"].tolist() == [7] * 4
    assert records["split"].tolist() == ["train"] * 4 and records["seed"].dtype == np.int64


class Unreadable:
    """As a PyTorch tensor on a GPU."""

    def __array__(self, *args, **options):
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")


ARRAYS = [
    (None, "is None; give an array"),
    ("zoo.npz", "is of type str; .*numpy.load"),
    ({"weights": ROWS}, "is of type dict"),
    (Unreadable(), r"NumPy cannot read \(can't convert cuda:0.*detach\(\).cpu\(\)"),
    ([[1.0], [2.0, 3.0]], "NumPy cannot read.*equal length"),
    (np.ma.masked_array(ROWS, ROWS > 1), "masked entries"),
    (OBJECTS, "shape"),
    (ROWS.astype(object), "Python objects"),
    (ROWS.astype(str), "It holds text"),
    (ROWS * 1j, "It holds complex numbers"),
    (ROWS > 0, "It holds truth values"),
    (ROWS.astype(ml_dtypes.bfloat16).view("V2"), r"\|V2.*bfloat16"),
    (ROWS * np.nan, r"NaN or infinite weights in 4 of 4 rows \(first: \[0, 1, 2, 3\]\)"),
    (ROWS.astype(np.float64) * 1e60, "too large for float32"),
    (ROWS * np.float32(1e20), "too large for float32"),
    (ROWS[0], "shape"),
    (ROWS[:0], "no rows|is empty"),
    (ROWS[:, :0], "shape"),
]


@pytest.mark.parametrize(("value", "message"), ARRAYS)
def test_arrays_that_are_no_weights_are_refused(value, message):
    with pytest.raises(UserError, match=message):
        from_array(value, "train")
    if not (isinstance(value, np.ndarray) and value.dtype == np.float32):  # diverged runs of a zoo are kept
        with pytest.raises(UserError):
            Population.create(value, SPEC)


def test_arrays_of_every_real_type_are_taken():
    for value in (ROWS, ROWS.astype(np.float64), jnp.asarray(ROWS), ROWS.tolist()):
        assert np.array_equal(from_array(value).weights, ROWS)
    half = jnp.asarray(ROWS, jnp.bfloat16)
    assert np.array_equal(from_array(half).weights, np.asarray(half, np.float32))
    whole = np.arange(4 * P).reshape(4, P)
    assert np.array_equal(from_array(whole).weights, whole) and from_array(whole).weights.dtype == np.float32


def test_only_finite_numbers_become_float32():
    assert arrays.narrow(np.array([1.0, np.inf, np.nan]), "x").dtype == np.float32
    with pytest.raises(UserError, match=r"x has weights beyond 3.4e\+38.*in 1 of 3 entries \(first: \[1\]\)"):
        arrays.narrow(np.array([1.0, 1e39, np.nan]), "x")


def population(count=12, **columns):
    weights = np.random.default_rng(1).normal(size=(count, P))
    return Population.create(weights, SPEC, **columns)


def split(train, heldout, other=()):
    return np.array(["train"] * train + ["heldout"] * heldout + list(other))


ZOOS = [
    (population(), 12, r"has 12 runs, of which zoo.num_heldout = 12 cannot be held out. Set it between 8 and 11"),
    (population(), 128, "has 12 runs, of which zoo.num_heldout = 128"),
    (population(), 3, "Set it between 8 and 11"),
    (population(5), 8, "Give a file of more runs: an audit needs 8 held-out runs"),
    (population(run=np.arange(12) // 2, step=np.arange(12) % 2), 8, "has 6 runs.*Give a file of more runs"),
    (population(run=np.arange(12) // 2), 8, r"two networks of run 0 at step -1 \(rows 0 and 1\).*column step"),
    (population(run=np.arange(12) // 2, step=3), 8, "two networks of run 0 at step 3"),
    (population(run=[-1, *range(11)]), 8, r"no run \(-1\) in 1 of 12 rows \(first: \[0\]\)"),
    (population(split=split(0, 12)), 8, "has 0 training and 12 held-out runs"),
    (population(split=split(9, 3)), 8, "has 9 training and 3 held-out runs.*column split"),
    (population(split=split(3, 8, ["generated"])), 8, "split 'generated'.*kind \"file\""),
    (population(run=[0, 0, *range(1, 11)], step=[0, 1] + [0] * 10, split=split(1, 11)), 8, "Zoos are split by run"),
    (population().select(np.array([0, 1, 2, 0, *range(4, 12)])), 9, r"1 held-out networks.*\(first: row 3\)"),
]


@pytest.mark.parametrize(("zoo", "heldout", "message"), ZOOS)
def test_zoos_without_runs_to_hold_out_are_refused(zoo, heldout, message):
    with pytest.raises(UserError, match=message) as found:
        imports.with_splits(imports.with_runs(zoo, "zoo.npz"), heldout, "zoo.npz")
    assert "zoo.npz" in str(found.value) and "diverged" not in str(found.value)


def test_what_a_zoo_is_taken_for_is_said():
    zoo, notes = imports.with_splits(imports.with_runs(population(), "zoo.npz"), 8, "zoo.npz")
    assert zoo.records["run"].tolist() == list(range(12)) and (zoo.records["split"] == split(4, 8)).all()
    assert notes == ["the last 8 of 12 runs are held out (zoo.num_heldout)"]
    given = population(split=split(2, 9, ["diverged"]), run=np.arange(12)[::-1])
    zoo, notes = imports.with_splits(imports.with_runs(given, "zoo.npz"), 128, "zoo.npz")
    assert zoo.records["split"].tolist() == given.records["split"].tolist()
    assert notes == ["runs are held out by its column split"]


def test_a_given_split_is_never_changed():
    zoo = imports.with_runs(population(split="train"), "zoo.npz")
    with pytest.raises(
        UserError, match=r"zoo.npz has a column split in which no row is 'heldout'.*leave the column out"
    ):
        imports.with_splits(zoo, 8, "zoo.npz", given=True)


def test_negative_variances_are_refused(tmp_path):
    names = ("bn/running_mean", "bn/running_var", "fc/weight")
    spec = WeightSpec(tuple(Leaf(name, (2,), (2,), (FIXED,), (0,), (0,)) for name in names))
    weights = np.abs(np.random.default_rng(0).normal(size=(3, 6))).astype(np.float32)
    path = tmp_path / "zoo.npz"
    np.savez(path, weights=weights * [-1, -1, 1, 1, -1, -1])
    load(path, spec)
    for row, column in ((1, 2), (2, 3)):
        bad = weights.copy()
        bad[row, column] = -1e-6
        np.savez(path, weights=bad)
        with pytest.raises(UserError, match=rf"variances in bn/running_var of 1 of 3 rows \(first: \[{row}\]\)"):
            load(path, spec)


def read_layer(checkpoint):
    """A generator's layer, as all readers of published checkpoints take theirs."""
    tensors = StateDict(checkpoint, "net.", "pdiff", ignored=["num_batches_tracked"])
    params = {"layer": tensors.dense("layer"), "var": tensors.variances("norm.running_var")}
    shapes = {"layer": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}, "var": np.zeros(2)}
    tensors.finish(params, shapes)
    return params


LAYER = {
    "net.layer.weight": np.arange(6.0).reshape(2, 3),
    "net.layer.bias": np.zeros(2),
    "net.norm.running_var": np.ones(2),
    "net.norm.num_batches_tracked": np.int64(3),
    "optimizer": np.array("adam"),
}
NAN = np.array([0.0, np.nan])
CHECKPOINTS = [
    ({"net.layer.bias": None}, "no tensor 'net.layer.bias'.*Set the fields of the generator pdiff"),
    ({"net.layer.bias": NAN}, r"tensor 'net.layer.bias' has NaN or infinite.*in 1 of 2 entries \(first: \[1\]\)"),
    ({"net.layer.bias": np.array([0, 1e39])}, "too large for float32"),
    ({"net.layer.bias": np.array(["a", "b"])}, "It holds text"),
    ({"net.layer.bias": Unreadable()}, "NumPy cannot read.*detach"),
    ({"net.layer.bias": np.zeros(2, "V2")}, r"has the type \|V2.*bfloat16"),
    ({"net.layer.weight": np.zeros(6)}, r"shape \(6,\), but needs 2 axes"),
    ({"net.layer.weight": np.zeros((3, 2))}, r"has shape \(2, 3\), this generator needs \(3, 2\)"),
    ({"net.norm.running_var": np.array([1, -0.5])}, r"'net.norm.running_var' has negative variances \(-0.5\)"),
    ({"net.more": np.zeros(2)}, "does not have: net.more"),
    ({"net": {"layer.weight": np.zeros(3)}}, r"mapping under 'net'; give that: checkpoint\['net'\]"),
]


@pytest.mark.parametrize(("changes", "message"), CHECKPOINTS)
def test_published_checkpoints_that_do_not_fit_are_refused(changes, message):
    changed = {name: value for name, value in {**LAYER, **changes}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        read_layer(changed)


def test_published_checkpoints_are_read_from_mappings_and_files(tmp_path):
    np.savez(tmp_path / "made.npz", **LAYER)
    for given in (
        LAYER,
        tmp_path / "made.npz",
        {k: jnp.asarray(v) if k != "optimizer" else v for k, v in LAYER.items()},
    ):
        found = read_layer(given)["layer"]["kernel"]
        assert found.dtype == np.float32 and np.array_equal(found, LAYER["net.layer.weight"].T)
    with pytest.raises(UserError, match="of type list; give its tensors by name"):
        read_layer([np.zeros(3)])
    (tmp_path / "made.pt").write_bytes(FILES["torch"][0])
    with pytest.raises(UserError, match="The checkpoint .*a PyTorch file that is truncated or damaged"):
        read_layer(tmp_path / "made.pt")
    with pytest.raises(UserError, match="no state dict 'vae'"):
        pdiff.from_torch({"net": LAYER}, PDiff(standardise_latents=False), population())
    with pytest.raises(UserError, match="no state dicts; give at least one"):
        vectors_from_torch([], SPEC)
    with pytest.raises(UserError, match="Tensor 'layers.0.weight' of state dict 0 has NaN"):
        vectors_from_torch([{"layers.0.weight": NAN}], SPEC)


LAST = SPEC.leaves[-1].name.replace("/", ".")
BASES = [
    ({LAST: None}, f"1 tensors are missing \\({LAST}\\), 0 are left over.*Set net"),
    ({"more": np.zeros(2)}, r"1 are left over \(more\)"),
    ({LAST: NAN}, f"The tensor {LAST} of .* has NaN or infinite"),
    ({LAST: np.zeros((2, 2))}, "has shape"),
    ({"weights": ROWS[0]}, "has `weights` and also"),
    ({"weights": ROWS}, r"It is a population; take one network of it: numpy.savez"),
    ({"weights": ROWS[0, 1:]}, "Set net as the file was made"),
]


@pytest.mark.parametrize(("changes", "message"), BASES)
def test_files_of_other_bases_are_refused(changes, message, tmp_path):
    path = tmp_path / "base.npz"
    changed = {name: value for name, value in {**TENSORS, **changes}.items() if value is not None}
    np.savez(path, **changed)
    with pytest.raises(UserError, match=message) as found:
        read_weights(path, NET, 0)
    assert str(path) in str(found.value)


def test_kernels_in_another_order_are_refused(tmp_path):
    net = tasks.build({"name": "cnn"}, (28, 28, 1), 2)
    tensors = {leaf.name.replace("/", "."): np.ones(leaf.stored_axes) for leaf in net.spec.leaves}
    first = net.spec.leaves[0]
    np.savez(tmp_path / "base.npz", **{**tensors, first.name.replace("/", "."): np.ones(first.shape)})
    with pytest.raises(UserError, match="Its axes are in Flax's order; store them in PyTorch's"):
        read_weights(tmp_path / "base.npz", net, 0)
    np.savez(tmp_path / "base.npz", **tensors)
    assert read_weights(tmp_path / "base.npz", net, 0).shape == (net.spec.num_params,)


def test_the_cause_of_samples_that_are_not_finite_is_the_generators(tmp_path):
    closed = samples._cure(generators.build("loud", {"kind": "noise", "sigma": 1e18}), tmp_path)
    assert "generators.loud" in closed and "metrics.jsonl" not in closed and "training" not in closed
    learned = samples._cure(PDiff(name="mine"), tmp_path)
    assert "metrics.jsonl" in learned and "sampling_steps" in learned and "learning rate" not in learned
