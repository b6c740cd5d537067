"""Audits of networks from files, with predictions that were made elsewhere."""

import json

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from test_api_audit import COPIES, FRESH, HELDOUT, QUICK, SPEC, TRAIN, UNITS, X, Y, predict

from jaxweights import files, store
from jaxweights.api.audit import audit
from jaxweights.errors import UserError
from jaxweights.population import Population
from launch import audit as program
from launch import common

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Networks in all kinds of files: a zoo with its split, stacked tensors by name, a stored population."""
    path = tmp_path_factory.mktemp("files")
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
    return path


@pytest.fixture(scope="module")
def found(folder):
    return audit(
        folder / "zoo.npz",
        str(folder / "zoo.npz"),
        {"mine": folder / "mine.safetensors"},
        spec=folder / "spec.json",
        predictions=folder / "predictions.npz",
        baselines=("average",),
        **SMALL,
    )


def test_files_give_the_networks_and_predictions_that_were_written(found):
    for name, networks in (("train", TRAIN), ("heldout", HELDOUT), ("mine", COPIES)):
        entry = found.metrics["series"][{"train": "training"}.get(name, name)]
        right = PREDICTIONS[name].argmax(axis=2) == Y
        assert entry["accuracy"]["mean"] == pytest.approx(right.mean()) and entry["n"] == len(networks)
        if name != "train":
            distance = np.linalg.norm(networks[:, None] - TRAIN[None], axis=2).min(axis=1)
            assert entry["min_l2"]["mean"] == pytest.approx(distance.mean(), rel=1e-5)
    series = found.metrics["series"]
    assert series["permuted_copy"]["max_error_iou"]["mean"] == 1 and series["copy"]["accuracy"]
    assert found.verdicts["mine"] == "copies"


def test_what_nobody_has_run_is_audited_by_its_weights_alone(found):
    for name in ("average", "noised_copy"):
        entry = found.metrics["series"][name]
        assert entry["accuracy"] is None and entry["max_error_iou"] is None and entry["aligned_min_l2"]
    assert found.plot.novelty().axes and found.plot.calibration().axes and "average" in repr(found)


def test_stored_populations_bring_their_spec(folder):
    one = folder / "theirs"
    alone = audit(TRAIN, HELDOUT, {"theirs": one}, spec=SPEC, baselines=False, controls=False, **SMALL)
    assert alone.metrics["series"]["theirs"]["aligned_min_l2"]["n"] == len(FRESH)
    with pytest.raises(UserError, match="no network of the split 'train': all are generated"):
        audit(one, HELDOUT, FRESH)


def but(**changes):
    return {**PREDICTIONS, **changes}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train": "absent.npz"}, "train .*absent.npz does not exist. Give the path of an .npz file"),
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
    with pytest.raises(UserError, match=f"no whole safetensors file: .*({message})"):
        audit(path, HELDOUT, FRESH, spec=SPEC)


@pytest.fixture
def command(folder, monkeypatch):
    """Runs the program in this process, in the folder of the files."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(common, "setup_jax", lambda: None)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["program"])

    def run(**given):
        with flagsaver.as_parsed(**given):
            program.main([])

    return run


FILES = {"train": "zoo.npz", "heldout": "zoo.npz", "generated": "mine=mine.safetensors", "spec": "spec.json"}


def test_the_program_writes_page_and_tables(command, folder, capsys, monkeypatch):
    monkeypatch.setattr("jaxweights.report.page.write_audit", lambda path, audited: path)
    command(
        **FILES,
        predictions="predictions.npz",
        out="new/audit",
        baselines="none",
        settings="bootstrap=20,battery.bootstrap=9",
    )
    said = capsys.readouterr().out
    assert "mine" in said and "report: new/audit/report.html" in said
    metrics = files.read_json("new/audit/metrics.json", "", "")
    lines = (folder / "new/audit/table.csv").read_text().splitlines()
    table = dict(zip(lines[0].split(","), lines[3].split(","), strict=True))
    accuracy = metrics["series"]["mine"]["accuracy"]
    assert [line.partition(",")[0] for line in lines[1:]] == list(metrics["series"])
    assert float(table["accuracy"]) == accuracy["mean"] and float(table["accuracy.upper"]) == accuracy["ci95"][1]
    tex = (folder / "new/audit/table.tex").read_text()
    assert r"accuracy (\%)" in tex and r"$Z_U$" in tex and tex.count(r"\\") == len(metrics["series"]) + 1
    assert len({line.count(" & ") for line in tex.splitlines() if line.endswith(r"\\")}) == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"heldout": ""}, "--heldout missing. An audit of files needs --train, --heldout and --generated"),
        ({"workdir": "w"}, "--workdir is of an experiment, --train and the like of files"),
        ({"generated": "a=mine.safetensors,a=zoo.npz"}, "gives a name twice"),
        ({"settings": "bootstrap"}, "'bootstrap' is no NAME=VALUE"),
        ({"settings": "bootstraps=3"}, "no setting audit.bootstraps; did you mean bootstrap"),
        ({"baselines": "mean"}, "There is no baseline 'mean'"),
        ({"out": " "}, "--out is empty"),
        ({"out": "workdir"}, "is the workdir of an experiment"),
        ({"out": "zoo.npz"}, "The folder zoo.npz cannot be written"),
    ],
)
def test_mistakes_in_flags_are_named(command, folder, changes, message):
    (folder / "workdir").mkdir(exist_ok=True)
    (folder / "workdir" / "config.json").touch()
    with pytest.raises(UserError, match=message):
        command(**{**FILES, **changes})


def test_settings_of_sections_have_dots():
    assert program.changes("bootstrap=20,battery.halves=2") == {"bootstrap": 20, "battery": {"halves": 2}}
    assert program.changes("") == {}


def test_a_path_with_an_equals_sign_is_a_path(tmp_path):
    (tmp_path / "a=1.npz").touch()
    assert program.series(f"{tmp_path}/a=1.npz") == f"{tmp_path}/a=1.npz"
    assert program.series("a=1.npz,b=x/y=2.npz") == {"a": "1.npz", "b": "x/y=2.npz"}
    assert program.series("runs/a.npz") == "runs/a.npz"
