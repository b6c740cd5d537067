"""Files of other programs are read as they were written; what would run something is refused by its name, before."""

import pathlib

import numpy as np
import pytest
from containers import binary, call, name, old, pickled, tensor, value, zipped

from jaxweights import formats
from jaxweights.errors import UserError

GOLDEN = pathlib.Path(__file__).parent / "golden"
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 8
DATA = WEIGHT.tobytes()


def read(path, content):
    path.write_bytes(content)
    return formats.read(path, "The file").value


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("file", ["torch_zip.pt", "torch_old.pt", "torch_nested.pkl"])
def test_files_of_pytorch_are_read_as_they_were_written(file, mapped):
    value = formats.read(GOLDEN / file, "The file", mapped=mapped).value
    assert value["epoch"] == 3 and value["size"] == (2, 3) and value["mask"].tolist() == [True, False]
    views = [WEIGHT[1:3, ::2], WEIGHT.T, WEIGHT[3], np.broadcast_to(WEIGHT, (2, 4, 3))]
    for found, expected in zip(value["views"], views, strict=True):
        assert found.dtype == np.float32 and np.array_equal(found, expected)
    # 3e38 rounded to eight bits of mantissa.
    brain = np.array([1.5, -2.25, float.fromhex("0x1.c4p+127")], np.float32)
    assert np.array_equal(value["brain"].astype(np.float32), brain)
    assert value["half"].dtype == np.float16 and value["half"].tolist() == [0.5, 65504]
    tensors, notes = formats.state_dict(value, "The file")
    assert list(tensors) == ["fc.weight", "fc.bias"] and np.array_equal(tensors["fc.weight"], WEIGHT)
    assert notes.aliases == {"fc.weight": ["tied.weight"]} or file == "torch_nested.pkl"
    assert notes.dropped == ["bn.num_batches_tracked"] and notes.prefixes == ["module."]
    with pytest.raises(ValueError, match="read-only"):
        value["views"][0][0] = 0


def test_both_containers_by_their_description(path):
    both = {"a": tensor("0", 12, (4, 3), (3, 1)), "b": [tensor("0", 12, (2, 2), (3, 2), 3), 2.5, None, True, -7]}
    for content in (zipped(both, {"0": DATA}), zipped(both, {"0": DATA}, byteorder="little"), old(both, {"0": DATA})):
        found = read(path, content)
        assert np.array_equal(found["a"], WEIGHT) and np.array_equal(found["b"][0], WEIGHT[1:3, ::2])
        assert found["b"][1:] == [2.5, None, True, -7] and np.shares_memory(found["a"], found["b"][0])
    big = read(path, zipped(both, {"0": WEIGHT.astype(">f4").tobytes()}, byteorder="big"))
    assert np.array_equal(big["a"], WEIGHT)


def test_classes_that_are_not_at_hand_are_their_attributes(path):
    made = name("checkpoints_to_datasets.dataset_base", "ModelDatasetBase") + b")\x81"
    folder = call(name("pathlib", "PosixPath"), "/", "zoo", "run")
    bag = read(path, pickled(made + value({"epochs": [1, 2], "root": folder}) + b"b"))
    assert bag.name == "checkpoints_to_datasets.dataset_base.ModelDatasetBase"
    assert bag.attributes == {"epochs": [1, 2], "root": "/zoo/run"}


HUGE = 1 << 40
NESTED = name("torch.storage", "_load_from_bytes")
BAG = name("SANE.models", "Model")
# What is hostile, and what the message names.
HOSTILE = {
    "system": (pickled(call(name("os", "system"), "touch touched")), "names os.system"),
    "posix system": (zipped(call(name("posix", "system"), "touch touched")), "names posix.system"),
    "eval": (pickled(call(name("builtins", "eval"), "open('touched', 'w')")), "names builtins.eval"),
    "getattr": (pickled(call(name("builtins", "getattr"), "a", "upper")), "names builtins.getattr"),
    "torch.load": (zipped(call(name("torch", "load"), "other.pt")), "names torch.load"),
    "in the old container": (old(call(name("os", "system"), "touch touched"), {}), "names os.system"),
    "within a file": (
        pickled(call(NESTED, binary(old(call(name("os", "system"), "touch touched"), {})))),
        "names os.system",
    ),
    "files without end": (
        pickled(call(NESTED, binary(pickled({})))),
        "within it is nested too deeply, or of an unknown",
    ),
    "names on the stack": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", "names os.system"),
    "names in the memo": (b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x30\x30h\x00h\x01\x93.", "names os.system"),
    "made-up names": (b"\x80\x04\x8c\x02os\x8c\x06systemN0\x93.", "made up only when it runs"),
    "dotted": (b"\x80\x04\x8c\x05torch\x8c\x0fSize.__init__.x\x93.", "names torch.Size.__init__"),
    "object": (b"\x80\x02(ios\nsystem\n.", r"makes an object of a class \(INST\)"),
    "extension": (b"\x80\x02\x82\x01.", r"names a class by a number \(an extension\) \(EXT1\)"),
    "a called bag": (pickled(call(BAG, "x")), "calls SANE.models.Model"),
    "a bag's state": (pickled(BAG + b")\x81" + value([1]) + b"b"), "gets a state"),
    "a class's state": (pickled(BAG + value({"a": 1}) + b"b"), "gets a state"),
    "a module": (pickled(value(("module", 1, 2, 3)) + b"Q"), "whole module with its source"),
    "another reference": (pickled(value(("file", "/etc/passwd")) + b"Q"), "outside of it"),
    "outside the storage": (zipped(tensor("0", 12, (4, 3), (3, 1), 1), {"0": DATA}), "reaches element 12 of"),
    "negative": (zipped(tensor("0", 12, (2,), (1,), -1), {"0": DATA}), "whole numbers from 0"),
    "stride": (zipped(tensor("0", 12, (2,), (1 << 61,)), {"0": DATA}), "reaches element"),
    "views of little": (zipped(tensor("0", 12, (HUGE >> 4, 1), (0, 1)), {"0": DATA}), "far more than it has"),
    "huge": (zipped(tensor("0", HUGE, (HUGE,), (1,)), {"0": DATA}), "has 48 bytes instead of 1,099,511,627,776"),
    "huge and old": (old(tensor("0", HUGE, (HUGE,), (1,)), {"0": DATA}), "said to have 1,099,511,627,776"),
    "TorchScript": (zipped({}, code__main="x", **{"constants.pkl": b"x"}), "TorchScript archive, which is a program"),
    "code": (zipped({}, **{"code/__torch__.py": b"x"}), "TorchScript archive"),
    "out of its folder": (zipped({}, **{"../../x": b"x"}), r"path out of its folder"),
    "deep": (pickled(b"]" * 500 + b"a" * 499), "nested more than 100 deep"),
    "itself": (b"\x80\x02]q\x00h\x00a.", "a container holds itself"),
    "laughs": (
        b"\x80\x02](]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b"e.",
        "the same containers again and again",
    ),
    "paths of paths": (
        b"\x80\x02"
        + name("pathlib", "PosixPath")
        + b"q\x00X\x01\x00\x00\x00aq\x01"
        + b"".join(b"h\x00h%ch%c\x86Rq%c" % (i, i, i + 1) for i in range(1, 40))
        + b".",
        "a very long one",
    ),
    "copies": (
        b"\x80\x02]("
        + name("_codecs", "encode")
        + b"q\x00"
        + value("x" * 60000)
        + b"q\x01"
        + b"0h\x00h\x01\x85R" * 900
        + b"e.",
        "far more than it holds",
    ),
    "files again": (
        b"\x80\x03]("
        + NESTED
        + b"q\x00"
        + binary(old(tensor("0", 12, (12,), (1,)), {"0": DATA}))
        + b"q\x01"
        + b"h\x00h\x01\x85R" * 40
        + b"e.",
        "files within it are larger",
    ),
    "slow keys": (b"\x80\x02}()\x85\x85Nu.", "a key is of the type tuple"),
    "a memo with holes": (b"\x80\x02Nr\xff\xff\xff\xffj\xfe\xff\xff\xff.", "lacks a value"),
    "cut": (zipped(tensor("0", 12, (12,), (1,)), {"0": DATA})[:-30], "truncated or damaged"),
    "trailing": (pickled([1]) + b"x", "1 bytes follow"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_by_name_and_do_nothing(kind, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    content, message = HOSTILE[kind]
    with pytest.raises(UserError, match=message) as found:
        read(path, content)
    assert str(path) in str(found.value) and [file.name for file in path.parent.iterdir()] == ["file"]


def outcome(path, mapped):
    """What a file of the test below holds, or that it is refused."""
    try:
        value = formats.read(path, "The file", mapped=mapped).value
        return repr(value)
    except UserError as error:
        assert str(path) in str(error)
        return "refused"


def test_every_truncated_and_changed_file_is_read_or_refused(path):
    both = {"a": tensor("0", 12, (4, 3), (3, 1)), "b": [tensor("0", 12, (2, 2), (3, 2), 3), "text", 2.5]}
    for content in (zipped(both, {"0": DATA}), old(both, {"0": DATA}), (GOLDEN / "torch_nested.pkl").read_bytes()):
        for at in range(0, len(content), 37):
            for damaged in (content[:at], content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]):
                path.write_bytes(damaged)
                found = [outcome(path, mapped) for mapped in (False, True)]
                assert found[0] == found[1]


# Shapes of the small CNN of published zoos, whose modules are numbered otherwise where there is dropout.
CNN = {0: (8, 1, 5, 5), 4: (6, 8, 5, 5), 8: (4, 6, 2, 2), 11: (20, 36), 14: (10, 20)}


def test_state_dicts_lose_what_wraps_them():
    tensors = {}
    for number, shape in CNN.items():
        tensors[f"{number}.weight"] = np.full(shape, number, np.float32)
        tensors[f"{number}.bias"] = np.full(shape[:1], number, np.float64)
    wrapped = {f"module.model._orig_mod.{key}": array for key, array in tensors.items()}
    wrapped["module.model._orig_mod.1.num_batches_tracked"] = np.array(3)
    found, notes = formats.state_dict({"epoch": 2, "model": {"state_dict": wrapped}, "optimizer": {}}, "The file")
    assert list(found) == list(tensors) and sum(array.size for array in found.values()) == 2464
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert notes.wrappers == ["model", "state_dict"] and notes.prefixes == ["module.", "model.", "_orig_mod."]
    assert notes.dropped == ["1.num_batches_tracked"] and notes.dtypes["0.bias"] == "float64" and len(notes.dtypes) == 5
    assert any("float64 became float32: 0.bias, 4.bias, 8.bias and 2 more" in line for line in notes.lines())


def test_state_dicts_keep_what_not_all_names_have():
    compiled = {"encoder._orig_mod.w": np.ones(2), "module.b": np.ones(3), "steps": np.arange(2), "note": "x"}
    found, notes = formats.state_dict(compiled, "The file")
    assert list(found) == ["encoder.w", "module.b"] and list(notes.integers) == ["steps"] and notes.others == ["note"]
    shared = np.ones((3, 2), np.float32)
    found, notes = formats.state_dict({"in.w": shared, "out.w": shared[:], "out.t": shared.T}, "The file")
    assert list(found) == ["in.w", "out.t"] and notes.aliases == {"in.w": ["out.w"]}
    for given, message in (
        ([1], "is a list, not tensors by name"),
        ({"a": 1}, "no tensors of real numbers"),
        ({"a._orig_mod.b": np.ones(1), "a.b": np.ones(1)}, "two tensors that are called 'a.b'"),
        ({"a": np.array([1e300])}, "beyond 3.4e"),
    ):
        with pytest.raises(UserError, match=message):
            formats.state_dict(given, "The file")
