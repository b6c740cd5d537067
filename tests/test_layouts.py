"""Checkpoints of others on disk: what is recognised, what is assumed, and the store that they become."""

import csv
import json
import pathlib

import numpy as np
import pytest
import sources
from absl import flags
from absl.testing import flagsaver

from jaxweights import layouts, store
from jaxweights.api import sources as given
from jaxweights.errors import UserError
from jaxweights.experiment import imports
from jaxweights.layouts import importing, plans, specs
from jaxweights.zoo.supervised import SupervisedSettings
from launch import common, import_zoo

RELU = {"activation": "relu", "normalisation": "none"}


def plain(folder, seeds=range(20), steps=(1, 2)):
    """A folder of checkpoints, the seed and the epoch in their names."""
    for seed in seeds:
        for step in steps:
            sources.save(
                folder / f"net_seed{seed}_epoch{step}_acc0.{seed + 10}.safetensors", sources.mlp(100 * step + seed)
            )
    return folder


def plan_of(folder, spec=None, options=None, **given):
    """The plan of an import."""
    if spec is not None:
        folder.with_suffix(".json").write_text(json.dumps(spec))
        spec = specs.read(folder.with_suffix(".json"))
    return plans.make(layouts.recognise(folder), folder, options or layouts.Options(), spec=spec, **given)


def imported(folder, workdir, spec=None, **given):
    """All rows of an import."""
    return importing.write(plan_of(folder, spec, **given), workdir).read()


def test_the_program_makes_a_zoo_that_experiments_and_audits_take(tmp_path, monkeypatch, capsys):
    folder, work = plain(tmp_path / "theirs"), tmp_path / "work"
    monkeypatch.setattr(common, "setup_jax", lambda **_: None)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["program"])
    with flagsaver.as_parsed(**{"from": str(folder)}), pytest.raises(UserError, match="nothing|--spec=FILE"):
        import_zoo.import_networks(folder, str(work))
    assert "20: 12 train, 8 heldout" in capsys.readouterr().out and not work.exists()
    (tmp_path / "spec.json").write_text(json.dumps(RELU))
    with flagsaver.as_parsed(**{"from": str(folder), "spec": str(tmp_path / "spec.json"), "workdir": str(work)}):
        import_zoo.main([])
    opened = store.PopulationStore.open(work / "zoo")
    zoo = opened.read()
    identities = [row["identity"] for row in csv.DictReader((work / "runs.csv").read_text().splitlines())]
    assert identities == [f"net_seed{seed}" for seed in range(20)]
    assert zoo.records["seed"].tolist() == np.repeat(np.arange(20), 2).tolist()
    assert zoo.records["accuracy"][[0, -1]].tolist() == [0.1, 0.29]
    np.testing.assert_array_equal(zoo.weights[5], sources.flat(sources.mlp(202)))
    assert given.spec(work / "spec.json") == opened.spec
    heldout = given.networks(work / "zoo", "held-out networks", None, "heldout")
    assert set(heldout.records["run"]).isdisjoint(zoo.train.records["run"]) and len(heldout) == 16
    settings = SupervisedSettings(import_npz=str(work / "zoo"))
    taken, notes = imports.read_zoo(settings, opened.spec)
    np.testing.assert_array_equal(taken.records["split"], zoo.records["split"])
    assert notes == ["runs are held out by its column split"]


def test_an_import_is_resumed_and_bound_to_its_source(tmp_path, monkeypatch):
    folder, work = plain(tmp_path / "theirs"), tmp_path / "work"
    monkeypatch.setattr(importing, "_CHUNK_ROWS", 16)
    plan, read = plan_of(folder, RELU), []
    whole = importing.write(plan, tmp_path / "whole")

    def stopping(self, tensors, flatten=importing.Flattener.__call__):
        read.append(1)
        if len(read) == 20:
            raise KeyboardInterrupt
        return flatten(self, tensors)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(importing.Flattener, "__call__", stopping)
        patch.setattr(importing, "_THREADS", 1)
        importing.write(plan, work)
    assert not store.PopulationStore.open(work / "zoo").complete
    assert importing.write(plan, work).digest == whole.digest
    with pytest.raises(UserError, match="holds another zoo"):
        importing.write(plan_of(folder, RELU, steps="last"), work)


def test_networks_that_cannot_be_used_are_all_named(tmp_path, monkeypatch):
    folder, work = plain(tmp_path / "theirs", steps=(1,)), tmp_path / "work"
    other, wrong = sources.mlp(0, (6, 5, 3)), sources.mlp(1)
    wrong["fc1.bias"][2] = np.nan
    sources.save(folder / "net_seed3_epoch1_acc0.13.safetensors", other)
    sources.save(folder / "net_seed4_epoch1_acc0.14.safetensors", wrong)
    (folder / "net_seed5_epoch1_acc0.15.safetensors").write_bytes(b"PK\3\4")
    plan = plan_of(folder, RELU)
    with pytest.raises(UserError, match=r"(?s)3 of 20 .*seed3.*\(5, 6\) instead of \(4, 6\).*NaN .* fc1.bias.*damaged"):
        importing.write(plan, work)
    assert not (work / "zoo").exists()
    found = importing.write(plan, work, skip_bad=True)
    assert len(found) == 17 and set(range(20)) - set(found.records["run"]) == {3, 4, 5}
    assert len((work / "skipped_files.txt").read_text().splitlines()) == 3
    monkeypatch.setattr(importing, "_CHUNK_ROWS", 5)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(importing, "_runs", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        importing.write(plan, tmp_path / "again", skip_bad=True)
    importing.write(plan, tmp_path / "again", skip_bad=True)
    lines = (tmp_path / "again" / "skipped_files.txt").read_text().splitlines()
    assert [line.partition("_epoch")[0] for line in lines] == ["net_seed3", "net_seed4", "net_seed5"]


def test_names_say_run_step_seed_and_accuracy():
    assert layouts.names.parse("seed0003_epoch12_acc0.9310") == ("seed0003", 12, 3, 0.931)
    assert layouts.names.parse("0004_acc76.55_seed0040_cifar100_resnet18")[:3] == (
        "0004_seed0040_cifar100_resnet18",
        -1,
        40,
    )
    assert layouts.names.parse("ep003_it00468").step == 300_468
    assert layouts.names.parse("resnet18-step").step == -1


@pytest.mark.parametrize("runs, count", [("files", 6), ("folders", 3)])
def test_runs_of_numbered_files_are_told(tmp_path, runs, count):
    for name in ("a/1", "a/2", "a/1b/1", "a/1b/2", "b/1", "b/2"):
        sources.save(tmp_path / "theirs" / f"{name}.safetensors", sources.mlp(len(name)))
    plan = plan_of(tmp_path / "theirs", RELU, layouts.Options(runs=runs))
    assert len(plan.split.runs) == count and len({(e.run, e.step) for e in plan.entries}) == 6


def test_a_spec_file_is_checked(tmp_path):
    folder = plain(tmp_path / "theirs", range(3))
    for spec, problem in (
        ({"activation": "relu"}, "has no normalisation"),
        ({**RELU, "activation": "rely"}, "there are relu"),
        ({**RELU, "normalisation": {"mean": [0.1], "std": [0]}}, "one positive std per mean"),
        ({**RELU, "leaves": [{"name": "fc1.weight", "shape": [4, 6]}]}, "only it or only the source has fc1.bias"),
        ({**RELU, "learning_rate": 1}, "it has learning_rate"),
    ):
        with pytest.raises(UserError, match=problem):
            plan_of(folder, spec)
    leaves = [{"name": name, "shape": tensor.shape} for name, tensor in reversed(sources.mlp(0).items())]
    plan = plan_of(folder, {**RELU, "leaves": leaves})
    assert [leaf.name for leaf in plan.architecture.spec.leaves] == ["fc2/bias", "fc2/weight", "fc1/bias", "fc1/weight"]


def test_a_path_that_fits_nothing_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(UserError) as error:
        layouts.recognise(tmp_path)
    assert all(f"    {name}: {layout.looks_for}" in str(error.value) for name, layout in layouts.LAYOUTS.items())
    with pytest.raises(UserError, match="There is no layout 'modelzoo'"):
        layouts.recognise(tmp_path, "modelzoo")
    assert pathlib.Path(layouts.__file__).parent.joinpath("plain.py").exists()
