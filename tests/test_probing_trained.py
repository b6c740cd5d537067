"""Networks that are taught some classes, for some epochs, and scaled: they have what was asked for."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxweights import evaluation, parallel
from jaxweights.data import load, standardise
from jaxweights.errors import UserError
from jaxweights.probing.features import Design
from jaxweights.probing.weights import Trained, epochs

DATA = Trained(hidden=4, classes=(2, 4), epochs=(1, 8), norms=(2, 9), batch_size=50, learning_rate=0.03, references=160)


@pytest.fixture(scope="module")
def drawn():
    """Networks of three combinations, what they should have, and their checkpoints."""
    values = np.array([[2, 1, 2], [4, 8, 2], [2, 8, 9]], np.float32)
    mesh = parallel.make_mesh(1)
    population = DATA.draw(Design(DATA.features, values), 24, 0, mesh=mesh)
    return population, values[population.records["combination"]], DATA.trajectories(population, mesh)


def test_networks_know_what_they_were_taught_alone(drawn):
    population, asked, _ = drawn
    digits, mesh = load("digits"), parallel.make_mesh(1)
    images = np.asarray(standardise(digits.test_images, digits.scale, digits.shift))
    found = evaluation.recalls(
        evaluation.evaluate(DATA._net, population.weights, images, digits.test_labels, mesh), digits.test_labels
    )
    taught = (population.records["taught"][:, None] >> np.arange(10)) % 2 == 1
    assert (taught.sum(axis=1) == asked[:, 0]).all() and len(np.unique(population.records["taught"])) > 6
    assert (found[~taught] < 0.1).all() and found[taught].mean() > 0.85
    measured = DATA.measure(population.weights, mesh)
    assert (measured[:, 0] == asked[:, 0]).mean() > 0.8
    np.testing.assert_allclose(measured[:, 2], asked[:, 2], rtol=1e-5)
    accuracy = found @ np.bincount(digits.test_labels) / len(digits.test_labels)
    np.testing.assert_allclose(population.records["accuracy"], accuracy)


def test_checkpoints_lead_to_the_networks(drawn):
    population, asked, kept = drawn
    np.testing.assert_array_equal(kept.last().weights, population.weights)
    assert (np.bincount(kept.records["run"]) == np.where(asked[:, 1] == 1, 2, 3)).all()
    first = kept.first().records
    assert (first["step"] == 0).all() and (population.records["accuracy"] > first["accuracy"]).mean() > 0.8


def test_the_epoch_is_told_whatever_the_order_of_units_and_the_scale(drawn):
    population, asked, kept = drawn
    sizes = 64, DATA.hidden, 10
    rows = epochs.invariants(population.weights, *sizes)
    order = jnp.asarray(np.random.default_rng(0).permutation(DATA.hidden))
    permuted = np.array(DATA.spec.permute(population.weights, [order]))
    permuted[:, :-10] *= 3
    permuted[:, -10:] *= 9
    np.testing.assert_allclose(epochs.invariants(permuted, *sizes), rows, atol=1e-4)
    told = DATA.measure(population.weights, parallel.make_mesh(1))[:, 1]
    early, late = (np.nanmedian(told[asked[:, 1] == epoch]) for epoch in DATA.epochs)
    assert late > 2 * early  # of other runs than it learned from
    assert np.isnan(DATA.measure(np.ones((1, DATA.spec.num_params), np.float32), parallel.make_mesh(1))[0, 1])


def test_designs_that_no_network_can_have_are_refused():
    for values, words in (([1.5, 1, 2], "numbers of classes"), ([1, 3, 2], "probing.data.epochs"), ([1, 1, 0], "norm")):
        with pytest.raises(UserError, match=words):
            DATA.draw(Design(DATA.features, np.array([values], np.float32)), 2, 0)
