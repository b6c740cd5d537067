"""Evaluation with a cache gives what evaluation without gives, and evaluates no network twice."""

import numpy as np
import pytest

from jaxweights import parallel, tasks
from jaxweights.evaluation import Evaluator, cache, evaluate

NET = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 3)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(20, 2, 2, 1)).astype(np.float32)
LABELS = RNG.integers(0, 3, 20)
WEIGHTS = RNG.normal(size=(9, NET.spec.num_params)).astype(np.float32)


@pytest.fixture
def asked(monkeypatch):
    """Numbers of networks that were really evaluated, call by call."""
    counts = []

    def counted(net, weights, *rest):
        counts.append(len(weights))
        return evaluate(net, weights, *rest)

    monkeypatch.setattr(cache, "evaluate", counted)
    return counts


def agree(found, rows):
    wanted = evaluate(NET, WEIGHTS[rows], IMAGES, LABELS, parallel.make_mesh())
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_known_networks_are_not_evaluated_again(asked):
    evaluator = Evaluator(NET, IMAGES, LABELS, parallel.make_mesh())
    for rows in ([0, 1, 2], [2, 0], [5, 1, 5, 3, 2], [6, 7, 6]):
        agree(evaluator(WEIGHTS[rows]), rows)
    assert asked == [3, 2, 2]


@pytest.mark.usefixtures("bitwise", "eight_devices")
def test_predictions_of_few_networks_are_those_among_many():
    """Few are predicted on one device."""
    rows, many = np.arange(5), np.tile(WEIGHTS, (8, 1))
    evaluator = Evaluator(NET, IMAGES, LABELS, parallel.make_mesh(8))
    np.testing.assert_array_equal(evaluator.predictions(many, rows)[:9], evaluator.predictions(WEIGHTS, rows))


def test_cache_is_bounded(asked, monkeypatch):
    monkeypatch.setattr(cache, "_BYTES", 4 * 3)  # masks of four networks
    evaluator = Evaluator(NET, IMAGES, LABELS, parallel.make_mesh())
    for rows in ([0, 1, 2], [3, 4], [3, 0], [0, 1, 2, 3, 4, 5]):
        agree(evaluator(WEIGHTS[rows]), rows)
    assert asked == [3, 2, 1, 3]
