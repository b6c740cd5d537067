"""Generated networks in the feature space of a zoo: copies, averages and others are told from new combinations."""

import types

import numpy as np
import pytest

from jaxweights import parallel, studies, tasks
from jaxweights.population import Population
from jaxweights.report import probing as section
from jaxweights.studies import probing


@pytest.fixture(scope="module")
def found():
    """Of networks whose scale and sign balance differ, and are tied together in half of them."""
    net = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)
    rng, size = np.random.default_rng(0), net.spec.num_params

    def drawn(scale, shift, count=200):
        noise = rng.normal(size=(count, size))
        return (scale[:, None] * (noise + shift[:, None])).astype(np.float32)

    def tied():
        side = np.arange(200) % 2
        return drawn(np.where(side, 0.2, 2.0) * rng.uniform(0.8, 1.2, 200), np.where(side, -2.0, 2.0))

    train = Population.create(tied(), net.spec, run=np.arange(200))
    untied = drawn(np.where(rng.random(200) < 0.5, 0.2, 2.0), np.where(rng.random(200) < 0.5, -2.0, 2.0))
    generated = {
        "untied": untied,
        "wide": 5 * train.weights,
        "mean": np.repeat(train.weights.mean(axis=0)[None], 50, 0),
        "broken": np.full((5, size), np.nan, np.float32),
    }
    subject = studies.Series(
        net=net,
        dataset=types.SimpleNamespace(),  # type: ignore[arg-type]
        train=train,
        heldout=Population.create(tied(), net.spec, run=200 + np.arange(200)),
        generated={
            **{name: Population.create(weights, net.spec) for name, weights in generated.items()},
            "copy": train.derive(train.weights, np.arange(200), ""),
        },
    )
    return probing.run(subject, probing.ProbingSettings(bins=2), studies.Estimation(50, 0, parallel.make_mesh(1)))[0]


def test_series_are_told_apart(found):
    answers = {name: one["answer"].partition(":")[0] for name, one in found["series"].items()}
    assert answers == {
        "untied": "new combinations of features that training networks have",
        "wide": "other networks",
        "mean": "averages",
        "copy": "copies of training networks",
    }
    assert found["series"]["copy"]["new"]["value"] == 0 and found["heldout"]["new"]["value"] < 0.1
    assert found["series"]["wide"]["spread"]["norm"]["value"] == pytest.approx(5, rel=0.01)
    assert "not finite" in found["left_out"]["broken"] and "differ" in found["left_out"]["sparsity"]


def test_the_section_says_so(found):
    series = [types.SimpleNamespace(name=name) for name in ("copy", "untied", "other")]
    (made,) = section.parts(found, series)  # type: ignore[arg-type]
    assert "copy: copies of training networks" in made.content and "held-out runs" in made.content
