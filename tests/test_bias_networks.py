"""The comparison of zoos of networks in miniature, and what collections of networks may not be."""

import numpy as np
import pytest

from configs import bias_weights
from jaxweights.bias import study
from jaxweights.bias.weights import networks
from jaxweights.errors import UserError
from jaxweights.population import Population
from jaxweights.store import PopulationStore


def mini(**bias):
    """The config with 16 runs of small networks in two zoos."""
    config = bias_weights.get_config("linear").to_dict()
    config["data"] |= {"train_limit": 200, "test_limit": 60}
    config["net"]["hidden"] = (3,)
    config["zoo"] |= {"num_runs": 16, "steps": 25}
    chosen = {name: config["bias"]["transformations"][name] for name in ("raw", "magnitude")}
    zoos = {name: bias_weights.ZOOS[name] for name in ("plain", "permuted_pixels")}  # each compiles its training
    config["bias"]["sets"] = {"zoos": {"collections": zoos}}
    config["bias"] |= {"transformations": chosen, "num_train": 10, "num_validation": 5, **bias}
    config["bias"]["classifier"] |= {"epochs": 30, "batch_size": 10, "learning_rate": 0.03}
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("networks") / "w"


@pytest.fixture(scope="module")
def found(workdir):
    return study.run(mini(), workdir)


def test_zoos_are_told_apart(found, workdir):
    assert found["kind"] == "weights" and found["chance"] == 0.5
    assert list(found["transformations"]) == ["raw", "magnitude"]
    magnitude = found["transformations"]["magnitude"]
    assert magnitude["accuracy"]["value"] > 0.8 and magnitude["accuracy"]["n"] == 30
    assert abs(magnitude["control"]["value"] - 0.5) < 0.4
    zoos = found["collections"]
    assert {name: one["examples"] for name, one in zoos.items()} == {"plain": 16, "permuted_pixels": 16}
    assert "pixels in random order 1" in zoos["permuted_pixels"]["source"] and zoos["plain"]["accuracy"] > 0.2
    names = {entry["feature"] for entry in found["named"]["majority"]}
    assert {"training loss", "test loss", "recall of class 3", "stable rank of fc1/weight"} <= names
    assert "dead units of fc1" in names or "kurtosis of fc1/weight" in names
    page = (workdir / "report.html").read_text()
    assert "Named features" in page and "The published table" not in page


def test_running_again_redoes_nothing(found, workdir):
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.npy")}
    page = (workdir / "report.html").read_bytes()
    assert before and study.run(mini(), workdir) == found
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*.npy")} == before
    assert (workdir / "report.html").read_bytes() == page


def test_classifiers_of_zoos_are_asked_about_samples(found, workdir, tmp_path):
    """Two stored zoos of the workdir, and samples of a generator that is fitted to each."""
    paths = dict(zip("ab", map(str, sorted((workdir / "zoos").iterdir())), strict=True))
    drawn = {"generator": {"kind": "noise", "sigma": 0.01}, "samples": 64}
    sets = {
        "real": {"collections": {name: {"path": path} for name, path in paths.items()}},
        "drawn": {"collections": {name: {"path": path, **drawn} for name, path in reversed(paths.items())}},
        "inherited": {"learn": "real", "ask": "drawn"},
    }
    chosen = {"magnitude": {"kind": "magnitude"}}
    config = mini(sets=sets, main="inherited", transformations=chosen, num_train=6, repeats=1, controls=1)
    made = study.run(config, tmp_path / "w")
    assert list(made["collections"]) == ["a", "b"] and set(made["sets"]) == {"real", "drawn"}
    assert made["transformations"]["magnitude"]["accuracy"]["value"] > 0.7 and "named" in made
    assert made["sets"]["real"]["collections"]["a"]["source"] == f"networks of {paths['a']}"
    near = made["sets"]["drawn"]["collections"]["a"]
    assert 0 < near["nearest_ratio"] < 0.1 and 0 < near["aligned_nearest_ratio"] < 0.1
    assert "over that of other runs" in (tmp_path / "w" / "report.html").read_text()


def other_store(folder, runs):
    """A store of networks with other layers than those of the config."""
    from jaxweights import tasks

    spec = tasks.build({"name": "mlp", "hidden": (2,)}, (8, 8, 1), 10).spec
    rows = np.random.default_rng(0).normal(size=(runs, spec.num_params)).astype(np.float32)
    opened = PopulationStore.create(folder, spec, {})
    opened.append(0, Population.create(rows, spec, run=np.arange(runs)))
    opened.finish()
    return str(folder)


def test_what_cannot_be_compared_is_refused(found, workdir, tmp_path):
    (path, *_) = sorted((workdir / "zoos").iterdir())
    for collections, changes, message in (
        ({"a": {"path": str(path)}, "b": {"path": other_store(tmp_path / "s", 16)}}, {}, "Only networks of one archit"),
        ({"a": {"path": str(path)}}, {}, "compares 1 collections"),
        (
            {"a": {"path": str(path)}, "b": {}},
            {"classifier": {"kind": "recipe"}},
            "is for images, but bias.kind is weights",
        ),
        ({"a": {"path": str(path)}, "b": {"path": "nowhere"}}, {}, "nowhere, which is no folder of a population"),
        (
            {"a": {"path": str(path)}, "b": {"path": str(path), "split": "heldout"}},
            {},
            "no networks of the split 'held",
        ),
        ({"a": {"path": str(path)}, "b": {"zoo": {"num_run": 3}}}, {}, "no setting zoo of b.num_run"),
        ({"a": {"path": str(path)}, "b": {"pth": ""}}, {}, "no setting bias.sets.s.collections.b.pth"),
        (
            {"a": {"path": str(path)}, "b": {"path": str(path)}},
            {"classifier": {"kind": "units"}, "transformations": {"x": {"kind": "sorted"}}},
            "units takes networks, and bias.transformations.x makes something else",
        ),
    ):
        config = mini(sets={"s": {"collections": collections}}, main="s", **changes)
        config["bias"]["classifier"] = changes.get("classifier", config["bias"]["classifier"])
        with pytest.raises(UserError, match=message):
            study.run(config, tmp_path / f"w{message[:9]}")


def test_what_cannot_be_transferred_is_refused():
    zoos = {"real": {"collections": {"a": {}, "b": {}}}, "other": {"collections": {"a": {}, "c": {}}}}
    for pair, message in (
        ({"learn": "real", "ask": "reel"}, "ask is 'reel'; give the name of a set with collections; did you mean real"),
        ({"learn": "real"}, "ask is ''"),
        ({"learn": "real", "ask": "other"}, "learns from the collections a, b and asks about a, c"),
        ({"learn": "real", "ask": "real", "asks": 1}, "no setting bias.sets.t.asks"),
    ):
        with pytest.raises(UserError, match=message):
            networks.transfers_of({**zoos, "t": pair})
