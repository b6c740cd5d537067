"""Audits of networks from files: mistakes in files, predictions and flags are named."""

import pytest
from audited import COPIES, FILES, FRESH, HELDOUT, PREDICTIONS, SPEC, Y, command, predict, write

from jaxweights.api.audit import audit
from jaxweights.errors import UserError
from launch import audit as program
from launch import common


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The networks in files."""
    path = tmp_path_factory.mktemp("files")
    write(path)
    return path


def but(**changes):
    return {**PREDICTIONS, **changes}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train": "absent.npz"}, "train .*absent.npz does not exist. Give the path of a file"),
        ({"train": "."}, r"is a folder without a population; give a stored population in it \(.*theirs\)"),
        ({"train": "spec.json"}, "train .*spec.json is a text file"),
        ({"heldout": "text.npz"}, "heldout .* has no network of the split 'heldout': all are train"),
        ({"spec": "predictions.npz"}, "predictions.npz is not a spec of weights"),
        ({"train": "mine.safetensors", "spec": None}, "has no array `weights`"),
        (
            {"generated": {"mine": "predictions.npz"}},
            "none of the tensors of this network .*Give `weights`, or the tensors of spec stacked",
        ),
        ({"predictions": but(yours=Y)}, "predictions has 'yours'; give an array for each of train, heldout, mine"),
        ({"predictions": {"labels": Y}}, "predictions lacks 'train', 'heldout', 'mine'"),
        ({"predictions": but(mine=PREDICTIONS["mine"][:9])}, r'"mine"\] has shape \(9, 60, 3\).*n = 30 networks'),
        ({"predictions": but(labels=Y[:9])}, r'"train"\] has shape .* on the T = 9 examples'),
        ({"predictions": but(labels=Y + 3)}, "3 scores per example, but labels run from .*; count from 0"),
        ({"predictions": but(labels=Y / 2)}, "labels.* has the type float64; give class numbers"),
        ({"predictions": but(mine=PREDICTIONS["mine"].argmax(axis=2))}, "predictions of different kinds"),
        ({"predictions": but(mine=PREDICTIONS["mine"][..., 0])}, r"\(30, 60\) and type float32; give scores"),
        ({"predictions": PREDICTIONS, "predict": predict}, "take the place of predict and test"),
        ({"generated": {"labels": FRESH}, "predictions": PREDICTIONS}, "'labels', which is another entry"),
        ({"predictions": Y}, "predictions is of type ndarray; give arrays by name"),
    ],
)
def test_mistakes_are_named(folder, changes, message, monkeypatch):
    monkeypatch.chdir(folder)
    given = {"train": "zoo.npz", "heldout": "zoo.npz", "generated": {"mine": COPIES}, "spec": SPEC, **changes}
    with pytest.raises(UserError, match=message):
        audit(**given, baselines=False, controls=False)


DAMAGES = {
    "it ends within its header": lambda b: b[:40],
    "its tensors have": lambda b: b[:-4],
    "has 1440 bytes, which do not fit": lambda b: b.replace(b"[30, 4, 3]", b"[30, 4, 4]"),
    "there are BOOL": lambda b: b.replace(b"F32", b"F08"),
    "leave a hole|overlap": lambda b: b.replace(b"[1440, 2880]", b"[1444, 2884]"),
    "a name stands twice": lambda b: b.replace(b"fc2.weight", b"fc1.weight"),
    "header is said to have": lambda b: (1 << 30).to_bytes(8, "little") + b[8:],
}


@pytest.mark.parametrize("message", DAMAGES)
def test_damaged_safetensors_are_refused(folder, tmp_path, message):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(DAMAGES[message]((folder / "mine.safetensors").read_bytes()))
    with pytest.raises(UserError, match=f"a safetensors file that is truncated or damaged .*({message})"):
        audit(path, HELDOUT, FRESH, spec=SPEC)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"heldout": ""}, "--heldout missing. An audit of files needs --train, --heldout and --generated"),
        ({"workdir": "w"}, "--workdir is of an experiment, --train and the like of files"),
        ({"generated": "a=mine.safetensors,a=zoo.npz"}, "gives a name twice"),
        ({"settings": "bootstrap"}, "'bootstrap' is no NAME=VALUE"),
        ({"settings": "bootstraps=3"}, "no setting audit.bootstraps; did you mean bootstrap"),
        ({"baselines": "mean"}, "There is no baseline 'mean'"),
        ({"giveaway": "sgn,norms"}, "giveaway.transformations is .*did you mean sign"),
        ({"out": " "}, "--out is empty"),
        ({"out": "workdir"}, "is the workdir of an experiment"),
        ({"out": "zoo.npz"}, "The folder zoo.npz cannot be written"),
    ],
)
def test_mistakes_in_flags_are_named(folder, monkeypatch, changes, message):
    (folder / "workdir").mkdir(exist_ok=True)
    (folder / "workdir" / "config.json").touch()
    with pytest.raises(UserError, match=message):
        command(folder, monkeypatch, **{**FILES, **changes})


def test_settings_of_sections_have_dots():
    assert common.changes("--settings", "bootstrap=20,battery.halves=2") == {"bootstrap": 20, "battery": {"halves": 2}}
    assert common.changes("--settings", "") == {}


def test_a_path_with_an_equals_sign_is_a_path(tmp_path):
    (tmp_path / "a=1.npz").touch()
    assert program.series(f"{tmp_path}/a=1.npz") == f"{tmp_path}/a=1.npz"
    assert program.series("a=1.npz,b=x/y=2.npz") == {"a": "1.npz", "b": "x/y=2.npz"}
    assert program.series("runs/a.npz") == "runs/a.npz"
