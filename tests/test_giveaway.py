"""What gives generated networks away: planted differences are named, and nothing else."""

import dataclasses
import types

import mini
import numpy as np
import pytest

from jaxweights import parallel, studies, tasks
from jaxweights.bias import classifiers
from jaxweights.bias import weights as bias_weights
from jaxweights.bias.weights import generated
from jaxweights.errors import UserError
from jaxweights.experiment.config import complete, parse
from jaxweights.experiment.stages import stages
from jaxweights.population import Population
from jaxweights.report import giveaway as section
from jaxweights.report.style import Section
from jaxweights.studies import giveaway

CONFIG = mini.get_config().to_dict()


@pytest.fixture(scope="module")
def net():
    return tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)


@pytest.fixture(scope="module")
def subject(net):
    """Held-out networks, samples of another scale, copies of training networks, and some with a NaN."""
    rng, spec = np.random.default_rng(0), net.spec
    train, heldout, wide = (rng.normal(size=(48, spec.num_params)).astype(np.float32) for _ in range(3))
    train = Population.create(train, spec, run=np.arange(48))
    broken = np.where(np.arange(spec.num_params) == 5, np.nan, wide)
    generated = {"wide": 3 * wide, "broken": broken.astype(np.float32)}
    return studies.Series(
        net=net,
        dataset=types.SimpleNamespace(),  # type: ignore[arg-type]
        train=train,
        heldout=Population.create(heldout, spec, run=100 + np.arange(48)),
        generated={
            **{name: Population.create(weights, spec) for name, weights in generated.items()},
            "copy": train.derive(train.weights, np.arange(48), ""),
        },
    )


@pytest.fixture(scope="module")
def found(subject):
    chosen = giveaway.GiveawaySettings(repeats=2, transformations=("magnitude", "sign"), classifier="linear", steps=150)
    return giveaway.run(subject, chosen, studies.Estimation(20, 0, parallel.make_mesh(1)))[0]


def test_the_difference_is_named(found):
    wide, copy = (found["series"][name] for name in ("wide", "copy"))
    assert wide["given_away_by"] == ["magnitude"]
    accuracy = wide["transformations"]["magnitude"]["accuracy"]
    assert accuracy["value"] > 0.9 and accuracy["ci95"][0] > 0.7 and accuracy["n"] == 48
    assert copy["given_away_by"] == [] and copy["nearest_ratio"]["value"] == 0
    assert wide["nearest_ratio"]["value"] > 1.5
    assert set(found["control"]) == {"magnitude", "sign"} and found["chance"] == 0.5
    assert found["left_out"] == {"broken": "some of its weights are not finite"}
    assert all(abs(one["value"] - 0.5) < 0.3 for one in found["control"].values())


def test_the_section_of_the_page(found):
    series = [types.SimpleNamespace(name=name) for name in ("wide", "copy", "other")]
    aligned = {"value": 1.25, "ci95": [1.0, 1.5]}
    audited = {"wide": {"tests": {"distance": "aligned", "distance_ratio": aligned}}, "copy": {"tests": None}}
    (part,) = section.parts(found, series, audited)  # type: ignore[arg-type]
    assert isinstance(part, Section)
    assert "wide: given away by magnitude, " in part.content and "copy: nothing tells it" in part.content
    assert "(1.25 aligned)" in part.content and "1.25<small>[1.00, 1.50]</small>" in part.content
    assert part.content.count('<th scope="row">') >= 3 and "other" not in part.content


def test_above_chance_means_beyond_all_transformations():
    accuracies = {"a": {"value": 0.65, "n": 100}, "b": {"value": 0.60, "n": 100}, "c": {"value": 0.30, "n": 100}}
    assert generated.given_away_by(accuracies) == ["a"]
    assert generated.given_away_by({"b": accuracies["b"]}) == ["b"]


def test_what_does_not_fit_is_left_out_and_few_networks_are_refused(net):
    one = dataclasses.replace(net.spec, leaves=net.spec.leaves[:1]).subset(["fc1/weight"])
    rows = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    kinds = {name: bias_weights.make(name) for name in ("products",)}
    comparison = generated.Comparison(kinds, classifiers.build({"kind": "linear"}))
    samples = {"x": generated.Samples(rows, np.arange(8))}
    found = generated.compare(rows, samples, bias_weights.Architecture(one), comparison)
    assert "their layers are no chain" in found["left_out"]["products"] and not found["control"]
    with pytest.raises(UserError, match="There are 7 held-out networks"):
        generated.compare(rows[:7], samples, bias_weights.Architecture(one), comparison)


def test_it_is_part_of_an_experiment_that_asks_for_it():
    off = complete(CONFIG, parse(CONFIG))
    assert "giveaway" not in off["studies"] and "studies giveaway" not in stages(off)
    config = {**CONFIG, "studies": {**CONFIG.get("studies", {}), "giveaway": {"repeats": 3}}}
    on = complete(config, parse(config))
    stage = stages(on)["studies giveaway"]
    assert stage.settings["studies.giveaway.repeats"] == 3 and "sample pdiff" in stage.needs
    assert "studies giveaway" in stages(on)["audit"].needs
