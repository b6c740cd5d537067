"""Dry runs and planning: what is said before anything is done."""

import pathlib
import types

import mini
import numpy as np
import pytest

from jaxweights import population, store, tasks
from jaxweights.division import divide
from launch import common, dry_run, stages
from launch.benchmarks import planning

CONFIG = mini.changed(mini.get_config().to_dict(), {"zoo.chunk_size": 8, "zoo.lanes": 1, "num_samples": 10})
RUNS = CONFIG["zoo"]["num_runs"] + CONFIG["zoo"]["num_heldout"]


def test_work_is_divided_over_processes_that_there_are_not(tmp_path):
    parts = divide(CONFIG, str(tmp_path / "absent" / "w"), 3)
    zoo, samples = parts["zoo"], parts["samples"]
    assert parts["devices"] == {"kind": "cpu", "per_process": 8, "processes": 3}
    assert (zoo["chunk_size"], zoo["lanes"], zoo["chunks"], zoo["done"]) == (8, 1, -(-RUNS // 8), 0)
    assert sum(zoo["per_process"]) == zoo["chunks"] and max(zoo["per_process"]) - min(zoo["per_process"]) <= 1
    assert samples["per_process"] == [3, 3, 4]
    for stage in parts["generators"]["pdiff"].values():
        assert stage["data"] * stage["model"] <= 24 and stage["shards"] == 1
    assert parts["seconds"] == {} and not list(tmp_path.iterdir())


def test_parameters_are_in_parts_where_the_config_says_so(tmp_path):
    config = mini.changed(CONFIG, {"generators.pdiff.parameter_shards": 4})
    parts = divide(config, str(tmp_path), 2)
    for stage in parts["generators"]["pdiff"].values():
        assert stage["model"] == stage["shards"] == 4 and stage["data"] * 4 <= 16
    assert "parameters in 4 parts" in dict(dry_run.division_rows(parts))["pdiff diffusion"]


def test_chunks_in_the_workdir_are_counted(tmp_path):
    spec = tasks.build(CONFIG["net"], (8, 8, 1), 10).spec
    there = store.PopulationStore.create(tmp_path / "zoo", spec, {"chunk_size": 16, "lanes": 2})
    rows = np.zeros((16, spec.num_params), np.float32)
    there.append(1, population.Population.create(rows, spec, run=np.arange(16)))
    zoo = divide(CONFIG, str(tmp_path), 2)["zoo"]
    assert (zoo["chunk_size"], zoo["lanes"], zoo["done"]) == (16, 2, 1)
    assert sum(zoo["per_process"]) == -(-RUNS // 16) - 1


def test_a_dry_run_prints_and_ends_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages, "_DRY_RUN", types.SimpleNamespace(value=True))
    monkeypatch.setattr(stages, "_DATA_DIR", types.SimpleNamespace(value=None))
    few = {"noise_low": CONFIG["generators"]["noise_low"]}
    monkeypatch.setattr(stages, "config", lambda: {**CONFIG, "generators": few})
    monkeypatch.setattr(stages, "workdir", lambda: str(tmp_path / "w"))
    monkeypatch.setattr(common, "assumed_processes", lambda: 2)
    monkeypatch.setattr(common, "setup_jax", lambda alone: None)
    monkeypatch.setattr(planning, "zoo_seconds", lambda operations, devices: None)
    with pytest.raises(SystemExit) as ended:
        stages.experiment()
    assert not ended.value.code and not list(tmp_path.iterdir())
    text = " ".join(capsys.readouterr().out.split())
    assert "devices 2 x 8 cpu" in text and f"{-(-RUNS // 8)} chunks of 8 runs, 1 together" in text
    assert "samples of a series 10, 5 per process" in text and "time of the zoo not known" in text


ZOO = {"chunks": 8, "done": 0}
TIMES = [
    (None, {}, "none, it is imported"),
    ({**ZOO, "done": 8}, {"zoo": 3.0}, "none, it is done"),
    ({**ZOO, "done": 2}, {"zoo": 30.0, "sample a": 1.0, "sample b": 2.0}, "90 s, as the chunks that are done took"),
    (ZOO, {}, "10 s to 20 s, computed: its operations at 10 to 20 % of the peak, as in x.json"),
]


@pytest.mark.parametrize(("zoo", "seconds", "words"), TIMES)
def test_times_are_those_of_the_workdir_or_of_measurements(zoo, seconds, words):
    estimate = planning.Estimate((10.0, 20.0), (0.1, 0.2), "x.json")
    rows = dict(dry_run.time_rows({"zoo": zoo, "seconds": seconds}, estimate))
    assert rows["time of the zoo"].startswith(words)
    assert ("spent so far" in rows) == bool(seconds)


def test_zoos_are_timed_by_measurements_on_such_devices(monkeypatch):
    devices = {"kind": "cpu", "per_process": 1, "processes": 4}
    monkeypatch.setattr(planning.measure, "processor", lambda: "AMD EPYC")
    found = planning.zoo_seconds(430e9, devices)
    assert found.source == "benchmarks/cpu_2_cores.json"
    np.testing.assert_allclose(found.seconds, [0.5 / found.shares[1], 0.5 / found.shares[0]])
    monkeypatch.setattr(planning.measure, "processor", lambda: "another")
    assert planning.zoo_seconds(1.0, devices) is None


def test_the_planning_tables_of_the_docs_are_those_of_the_measurements():
    assert planning.tables() in pathlib.Path("docs/scale.md").read_text()
