"""Exports: what comes back is what was written, bit for bit, and a folder is whole or absent."""

import csv
import json
import pathlib
import shutil
import zipfile

import numpy as np
import pytest

import jaxweights as jw
from jaxweights import data, evaluation, exporting, formats, layouts, provenance, tasks
from jaxweights.api import export, sources
from jaxweights.errors import UserError
from jaxweights.exporting import checksums, model_zoos, networks, readme
from jaxweights.layouts import importing, plans, specs
from jaxweights.population import COLUMNS, Population
from jaxweights.store import PopulationStore

STEPS = (0, 4, 8)
CONFIG = {
    "seed": 3,
    "net": {"name": "cnn", "activation": "tanh"},
    "data": {"name": "digits"},
    "zoo": {"epochs": 2, "batch_size": 359},
}


def spec():
    """A convolution, named as Flax does, and a dense layer on its map: 2 x 1 x 3 x 3 + 2 + 3 x 8 + 3 numbers."""
    leaves = jw.Leaves()
    channels = leaves.group(2, "positive")
    leaves.conv("conv", 3, 1, 2, writes=channels, convention="flax")
    leaves.dense("fc", (2, 2, 2), 3, reads=channels)
    return leaves.spec()


SPEC = spec()


def zoo(runs=6):
    """Networks of nearly all bit patterns that are weights, and records of all types."""
    run, step = np.repeat(np.arange(runs), len(STEPS)), np.tile(STEPS, runs)
    bits = np.random.default_rng(0).integers(0, 2**32, size=(len(run), SPEC.num_params), dtype=np.uint32)
    weights = bits.view(np.float32)
    weights[~(np.abs(weights) < 1e15)] = -0.0
    split = np.select([run < 3, run < runs - 1], ["train", "heldout"], "diverged")
    rng = np.random.default_rng(1)
    accuracy = np.where(step == 0, np.nan, rng.uniform(size=len(run)))
    rate = rng.uniform(size=len(run)).astype(np.float32)
    columns = {"run": run, "step": step, "seed": 3, "split": split, "accuracy": accuracy, "hyper/learning_rate": rate}
    return Population.create(weights, SPEC, transform="trained", **columns)


ZOO = zoo()
KEPT = ZOO.select(np.arange(len(ZOO) - len(STEPS)))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The folder of an experiment with a zoo in two chunks and samples of one generator."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    parts = {"zoo": (ZOO.select(np.arange(5)), ZOO.select(np.arange(5, len(ZOO))))}
    parts["samples/mine"] = (KEPT.derive(KEPT.weights[:4], np.array([0, 3, -1, 0]), "mine"),)
    for name, chunks in parts.items():
        made = {"config": {**CONFIG, "generators": {"mine": {"kind": "copy"}}}, "data": "some digits", "versions": None}
        made["inputs"] = {"full_scale": 16.0, "mean": [0.25], "std": [0.5]}
        opened = PopulationStore.create(folder / name, SPEC, made)
        for number, chunk in enumerate(chunks):
            opened.append(number, chunk)
        opened.finish()
    (folder / "metrics.json").write_text(json.dumps({"series": {"mine": {"verdict": {"label": "copies"}}}}))
    return folder


@pytest.fixture(autouse=True)
def revision(monkeypatch):
    """No call of git per export."""
    monkeypatch.setattr(provenance, "git_revision", lambda: "none")


@pytest.fixture(params=[1 << 20, 300], ids=["one_block", "blocks"])
def block(request, monkeypatch):
    """Weights are read in pieces of so many bytes."""
    monkeypatch.setattr(networks, "_BLOCK", request.param)


def same_records(found, expected=KEPT):
    for name, column in expected.records.items():
        if name in found:
            assert np.array_equal(
                np.asarray(found[name]).astype(column.dtype), column, equal_nan=column.dtype.kind == "f"
            )


def table(folder):
    """The columns of records.csv."""
    with open(folder / "records.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def read(path):
    return formats.read(path, "the file").value


def rows_of(format, folder):
    """The weights `[N, P]` and records that a format's files hold."""
    if format == "npz":
        found = read(folder / "networks.npz")
        return found.pop("weights"), found
    if format == "hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(folder / "networks.h5") as file:
            found = {n: file[n][:] for n in (*COLUMNS, "weights", "hyper/learning_rate")}
        return found.pop("weights"), found
    parts = [read(folder / f"{split}.safetensors") for split in ("train", "heldout")]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return found.pop("weights"), found


@pytest.mark.parametrize("format", ["npz", "safetensors", "hdf5"])
def test_files_of_rows_come_back(format, workdir, tmp_path, block):
    if format == "hdf5":
        pytest.importorskip("h5py")
    folder = jw.export(workdir, tmp_path / "out", format)
    weights, records = rows_of(format, folder)
    assert weights.tobytes() == KEPT.weights.tobytes() and weights.dtype == np.float32
    assert len(records) >= len(KEPT.records) - 2
    same_records(records)
    same_records(table(folder))
    assert set(table(folder)) == {"file", "row", *KEPT.records}
    assert checksums.damaged(folder) == []


@pytest.mark.parametrize("format", ["state_dicts", "safetensors_each", "npz_each", "model_zoos"])
def test_files_of_networks_come_back(format, workdir, tmp_path, block):
    folder = jw.export(workdir, tmp_path / "out", format)
    found = [read(folder / name) for name in table(folder)["file"]]
    assert np.stack([np.concatenate([t.ravel() for t in one.values()]) for one in found]).tobytes() == (
        KEPT.weights.tobytes()
    )
    if format == "model_zoos":
        layers = {"conv.weight": "module_list.0.weight", "fc.bias": "module_list.2.bias"}
        assert [found[0][new].shape for new in layers.values()] == [(2, 1, 3, 3), (3,)]
    else:
        assert list(found[0]) == ["conv.weight", "conv.bias", "fc.weight", "fc.bias"]
        assert jw.from_state_dicts(found, SPEC).tobytes() == KEPT.weights.tobytes()
    same_records(table(folder))
    assert checksums.damaged(folder) == []


def test_storages_are_aligned_and_members_are_plain(workdir, tmp_path):
    folder = jw.export(workdir, tmp_path / "out", "state_dicts")
    path = folder / table(folder)["file"][0]
    with zipfile.ZipFile(path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        for info in archive.infolist():
            content = archive.read(info)
            place = info.header_offset + 30 + len(info.filename) + len(info.extra)
            assert place % 64 == 0 and path.read_bytes()[place : place + len(content)] == content
        assert archive.read("archive/version") == b"3\n" and archive.read("archive/byteorder") == b"little"


def test_runs_are_as_ray_tune_leaves_them(workdir, tmp_path):
    """What ModelZoos' loader relies on: folders are runs, and a line's number is that of its iteration."""
    folder = jw.export(workdir, tmp_path / "out", "model_zoos", what="heldout")
    runs = sorted(path for path in folder.iterdir() if path.is_dir())
    assert len(runs) == 2 and all("_tune_trainable_" in run.name for run in runs)
    records = KEPT.where(split="heldout", run=4).records
    lines = [json.loads(line) for line in (runs[1] / "result.json").read_text().splitlines()]
    assert [line["training_iteration"] for line in lines] == [0, 1, 2]  # 1,437 images in batches of 359: 4 steps
    assert [line["timesteps_total"] for line in lines] == list(STEPS)
    assert [line.get("test_acc") for line in lines] == [None, *records["accuracy"][1:].tolist()]
    config = json.loads((runs[1] / "params.json").read_text())
    assert config == lines[0]["config"] and (config["run"], config["split"], config["seed"]) == (4, "heldout", 3)
    assert config["optim::lr"] == records["hyper/learning_rate"][0]
    with open(runs[1] / "progress.csv", newline="") as file:
        assert [row["training_iteration"] for row in csv.DictReader(file)] == ["0", "1", "2"]


def test_epochs_without_checkpoints_have_lines_too():
    last = KEPT.where(run=0).last()
    (run,) = model_zoos.runs(last, 4)
    assert run.iterations == [2] and [r["training_iteration"] for r in model_zoos._results(last, run, {})] == [1, 2]
    (run,) = model_zoos.runs(last, None)
    assert run.iterations == [1]
    twice = KEPT.select(np.array([0, 0]))
    with pytest.raises(UserError, match="Run 0 has several networks at step 0"):
        model_zoos.runs(twice, None)


def test_published_networks_have_the_published_names():
    from jaxweights import tasks

    for name, places in {"cnn": (0, 3, 6, 9, 11), "cnn_medium": (0, 4, 8, 13, 16)}.items():
        net = tasks.build({"name": name}, (28, 28, 1), 10)
        assert [place for place, _ in model_zoos.layer_list(net.spec)] == list(places)
    normed = tasks.build({"name": "resnet18", "widths": (2,), "depths": (1,), "stem": "cifar"}, (8, 8, 1), 2).spec
    assert model_zoos.layer_list(normed) == [] and "bn1.weight" in model_zoos.layer_names(normed).values()


def test_the_card_says_what_the_networks_are(workdir, tmp_path):
    folder = jw.export(workdir, tmp_path / "zoo", "npz")
    card = json.loads((folder / "card.json").read_text())
    heldout, known = card["splits"]["heldout"], KEPT.heldout.records["accuracy"]
    known = known[np.isfinite(known)]
    assert (card["networks"], card["runs"], heldout["runs"]) == (15, 5, 2)
    assert heldout["accuracy"]["mean"] == known.mean() and heldout["accuracy"]["sd"] == known.std(ddof=1)
    assert heldout["accuracy"]["quantiles"]["50%"] == np.median(known)
    assert card["recipe"]["zoo.batch_size"] == 359 and card["seeds"]["experiment"] == 3
    assert card["provenance"]["exported_with"]["jaxweights"] == jw.__version__ and card["provenance"]["source"]
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nlicense: unknown\n") and "some digits" in text and "conv.weight" in text
    assert "(value / 16 − [0.25]) / [0.5]" in text
    meaning = specs.read(folder / "spec.json")
    assert (meaning.activation, meaning.normalisation.std, meaning.data) == ("tanh", (0.5,), "digits")
    assert meaning.symmetries == SPEC == sources.spec(folder / "spec.json")
    drawn = json.loads((jw.export(workdir, tmp_path / "mine", "npz", what="generated:mine") / "card.json").read_text())
    assert drawn["generator"] == {"name": "mine", "settings": {"kind": "copy"}, "verdict": {"label": "copies"}}
    assert drawn["splits"]["generated"]["networks"] == drawn["runs"] == 4


@pytest.mark.parametrize(
    ("what", "select", "rows"),
    [
        ("train", {"checkpoints": "last"}, [2, 5, 8]),
        ("all", {"checkpoints": "first", "max_runs": 1}, [0, 9]),
        ("heldout", {"max_runs": 1, "min_accuracy": 1e-9}, [10, 11]),
    ],
)
def test_selections(what, select, rows):
    chosen = exporting.Selection(**select).of(ZOO, what)
    assert np.array_equal(chosen.weights[:], ZOO.weights[rows]) and np.array_equal(
        chosen.records["step"], ZOO.records["step"][rows]
    )


def test_the_same_call_again_checks_and_another_is_refused(workdir, tmp_path):
    folder = jw.export(workdir, tmp_path / "out", "npz")
    before = (folder / "card.json").stat().st_mtime_ns
    assert jw.export(workdir, folder, "npz") == folder and (folder / "card.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="is another export"):
        jw.export(workdir, folder, "npz", what="train")
    (folder / "records.csv").write_text("")
    with pytest.raises(UserError, match=r"was damaged since it was written: records\.csv"):
        jw.export(workdir, folder, "npz")
    (folder / "card.json").unlink()
    with pytest.raises(UserError, match=r"no card\.json: it is no export"):
        jw.export(workdir, folder, "npz")


def test_a_killed_export_leaves_nothing_that_looks_whole(workdir, tmp_path, monkeypatch):
    to = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(readme, "text", lambda *_: 1 / 0)
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if there had been no time
        with pytest.raises(ZeroDivisionError):
            jw.export(workdir, to, "state_dicts")
    assert not to.exists() and (tmp_path / ".out.part").exists()
    jw.export(workdir, to, "npz")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and checksums.damaged(to) == []


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("zoo", {"format": "npy"}, r"no format 'npy'; .*did you mean npz\?"),
        ("zoo", {"what": "test"}, r"nothing called 'test'"),
        ("", {"what": "generated:his"}, r"no samples of 'his'; there are those of mine"),
        ("", {"select": {"checkpoint": "last"}}, r"no setting select\.checkpoint; did you mean checkpoints\?"),
        ("samples/mine", {"what": "train"}, r"no networks of the split 'train': all are generated"),
        ("zoo", {"select": {"min_accuracy": 1.0}}, r"No network has select\.min_accuracy = 1 or more"),
        ("nowhere", {}, "does not exist"),
    ],
)
def test_impossible_exports_leave_nothing(source, options, message, workdir, tmp_path):
    with pytest.raises(UserError, match=message):
        jw.export(workdir / source, tmp_path / "out", **{"format": "npz", **options})
    assert list(tmp_path.iterdir()) == []


def test_partial_networks_come_with_their_base(workdir, tmp_path):
    place = shutil.copytree(workdir, tmp_path / "runs")
    np.savez(place / "zoo" / "base.npz", base=np.arange(3.0), names=["conv/kernel"])
    for what in ("all", "generated:mine"):
        folder = jw.export(place, tmp_path / what, "npz", what=what)
        assert (folder / "base.npz").read_bytes() == (place / "zoo" / "base.npz").read_bytes()
        assert "those of one base, `base.npz`" in (folder / "README.md").read_text()
        assert checksums.damaged(folder) == []


def test_networks_in_memory_and_of_files(tmp_path):
    np.savez(tmp_path / "mine.npz", weights=KEPT.weights)
    one = jw.export(KEPT, tmp_path / "one", "npz", name="mine", recipe={"zoo": {"epochs": 7}})
    other = jw.export(tmp_path / "mine.npz", tmp_path / "other", "safetensors_each", spec=SPEC)
    assert json.loads((one / "card.json").read_text())["recipe"] == {"zoo.epochs": 7}
    assert pathlib.Path(other / "networks/train/000014.safetensors").read_bytes().endswith(KEPT.weights[-1].tobytes())


def imported(source, to):
    """The networks that an import makes of an export, and its plan."""
    plan = plans.make(layouts.recognise(source), source, layouts.Options())
    return importing.write(plan, to).read(), plan


@pytest.mark.parametrize("format", exporting.FORMATS)
def test_an_import_reads_every_export(format, workdir, tmp_path):
    zoo, plan = imported(jw.export(workdir, tmp_path / "out", format), tmp_path / "in")
    assert zoo.weights.tobytes() == KEPT.weights.tobytes() and zoo.spec == SPEC
    same_records({name: zoo.records[name] for name in (*COLUMNS, "hyper/learning_rate") if name != "transform"})
    assert (plan.recipe.activation, plan.recipe.normalisation.mean) == ("tanh", (0.25,))


def test_an_import_reads_generated_networks(workdir, tmp_path):
    source = jw.export(workdir, tmp_path / "out", "safetensors", what="generated:mine")
    zoo, _ = imported(source, tmp_path / "in")
    assert zoo.weights.tobytes() == KEPT.weights[:4].tobytes() and set(zoo.records["split"]) == {"generated"}


def test_modelzoos_have_images_and_what_networks_make_of_them(tmp_path, capsys, monkeypatch):
    """What ModelZoos' loader computes `ggap` of, and the images as the networks take them."""
    settings = {"name": "digits", "train_limit": 200, "test_limit": 50}
    task, net = tasks.get("classification"), {"name": "mlp", "hidden": (2,)}
    dataset = task.load(task.data_settings(**settings), net=net, runs=8)
    built = task.build(net, (8, 8, 1), 10)
    inputs = np.asarray(data.standardise(dataset.train_images, dataset.scale, dataset.shift))
    weights = np.random.default_rng(0).normal(size=(8, built.spec.num_params)).astype(np.float32)
    expected, asked = evaluation.Evaluation(np.arange(8) / 16, np.arange(8) + 0.25, np.zeros((8, 25), np.uint8)), []

    def evaluate(*arguments):
        asked.extend(np.asarray(given) for given in (arguments[1][:], *arguments[2:]))
        return expected

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    split, config = np.repeat(["train", "heldout"], 4), {"task": "classification", "net": net, "data": settings}
    records = {"run": np.arange(8), "step": 3, "split": split, "accuracy": np.linspace(0.1, 0.8, 8), "loss": 2.5}
    zoo = Population.create(weights, built.spec, **records)
    made = {"config": {**config, "zoo": {"num_runs": 4, "num_heldout": 4}}, "data": dataset.source, "versions": None}
    opened = PopulationStore.create(tmp_path / "work" / "zoo", built.spec, made)
    opened.append(0, zoo)
    opened.finish()
    folder = jw.export(tmp_path / "work", tmp_path / "out", "model_zoos")
    runs = sorted(path for path in folder.iterdir() if path.is_dir())
    last = [json.loads((run / "result.json").read_text().splitlines()[-1]) for run in runs]
    assert all(np.array_equal(*pair) for pair in zip(asked, (weights, inputs, dataset.train_labels), strict=True))
    assert [line["train_acc"] for line in last] == expected.accuracy.tolist()
    assert [line["train_loss"] for line in last] == expected.loss.tolist()
    images, labels = read(folder / "dataset.pt")["trainset"].attributes["tensors"]
    assert np.array_equal(images, inputs.transpose(0, 3, 1, 2)) and np.array_equal(labels, dataset.train_labels)
    assert len(read(folder / "dataset.pt")["testset"].attributes["tensors"][1]) == 50
    (tmp_path / "spec.json").write_text(json.dumps({"activation": "relu", "normalisation": "none"}))
    layout, spec = layouts.recognise(folder, "modelzoos"), specs.read(tmp_path / "spec.json")
    plan = plans.make(layout, folder, layouts.Options(), spec=spec)
    again = importing.write(plan, tmp_path / "again").read()
    assert again.weights.tobytes() == weights.tobytes()
    same_records({name: again.records[name] for name in ("run", "split", "accuracy", "loss")}, zoo)
    assert capsys.readouterr().err.count("without images") == 0
    jw.export(zoo, tmp_path / "other", "model_zoos")
    assert "without images" in capsys.readouterr().err and not (tmp_path / "other" / "dataset.pt").exists()
    made["data"] = "digits; blake2b other"
    with pytest.raises(UserError, match="trained on another data set"):
        export._loaded(exporting.Origin("zoo", made["config"], made), None)
