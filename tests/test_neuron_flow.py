"""The flow over neurons: whitening, tokens, alignment, the flow of a Gaussian, and what networks do."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import covariance

from jaxweights import generators, parallel, tasks
from jaxweights.data import Dataset
from jaxweights.errors import UserError
from jaxweights.generators import behaviour
from jaxweights.generators.base import Known
from jaxweights.generators.neuron_flow import NeuronFlow, alignment, whitening
from jaxweights.generators.neuron_flow.network import Transformer
from jaxweights.generators.neuron_flow.tokens import NeuronTokens
from jaxweights.population import Population, TaskExamples

NET = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)
DEEP = tasks.build({"name": "mlp", "hidden": (3, 2)}, (2, 2, 1), 2)
SPEC, P = NET.spec, NET.spec.num_params
RNG = np.random.default_rng(0)
WEIGHTS = (RNG.normal(size=(200, P)) @ RNG.normal(size=(P, P)) / 4 + RNG.normal(size=P)).astype(np.float32)
INPUTS = RNG.normal(size=(12, 2, 2, 1)).astype(np.float32)
LABELS = (INPUTS[:, 0, 0, 0] > 0).astype(np.int32)
ONE = np.ones(1, np.float32)
EXAMPLES = TaskExamples(NET, Dataset("", INPUTS, LABELS, INPUTS, LABELS, 2, ONE, 0 * ONE, ""))
TINY = NeuronFlow(**NeuronFlow.TINY)
ORDERS = [np.asarray(SPEC.permutation_index([jnp.array(order)])) for order in itertools.permutations(range(3))]


def random_params(generator, constants):
    """Parameters none of which are zero."""
    params, _ = jax.eval_shape(generator.stages()[0].init, jax.random.key(0), {"constants": constants})
    return jax.tree.map(lambda x: (0.3 * RNG.normal(size=x.shape)).astype(np.float32), params)


def test_whitened_networks_have_unit_covariance_and_come_back():
    found = whitening.fit(WEIGHTS)
    whitened = found.whiten(WEIGHTS)
    np.testing.assert_allclose(whitened.T @ whitened / len(whitened), np.eye(P), atol=1e-3)
    np.testing.assert_allclose(whitened @ found.root + found.mean, WEIGHTS, atol=1e-3)
    few = whitening.fit(WEIGHTS[:6])
    np.testing.assert_allclose(few.whiten(WEIGHTS[:6]) @ few.root + few.mean, WEIGHTS[:6], atol=1e-3)
    assert np.linalg.matrix_rank(few.root, tol=1e-3) == 5
    same = whitening.fit(np.tile(WEIGHTS[:1], (3, 1)))  # nothing varies
    np.testing.assert_array_equal(same.root, 0)


def test_the_low_rank_whitening_has_the_covariance_of_ledoit_and_wolf_and_comes_back():
    networks = np.concatenate([WEIGHTS, np.ones((len(WEIGHTS), 1), np.float32)], axis=1)  # the last one does not vary
    found = whitening.fit_low_rank(networks, P)
    np.testing.assert_allclose(whitening.unwhitened(found.constants(), found.whiten(networks)), networks, atol=1e-3)
    std = WEIGHTS.std(axis=0)
    expected, share = covariance.ledoit_wolf((WEIGHTS - WEIGHTS.mean(axis=0)) / std, assume_centered=True)
    assert 0.005 < share < 0.5
    directions = np.asarray(whitening.unwhitened(found.constants(), np.eye(P + 1, dtype=np.float32))) - found.mean
    np.testing.assert_allclose((directions.T @ directions)[:P, :P], expected * np.outer(std, std), atol=2e-3)
    np.testing.assert_array_equal(directions[:, P], 0)
    few = whitening.fit_low_rank(networks, 4)
    np.testing.assert_allclose(whitening.unwhitened(few.constants(), few.whiten(networks)), networks, atol=1e-3)
    np.testing.assert_allclose(few.variance, networks.var(axis=0).sum(), rtol=1e-4)


def test_the_exchangeable_whitening_is_that_of_all_orders_together():
    expected = whitening.fit(np.concatenate([WEIGHTS[:, order] for order in ORDERS]))
    found = whitening.fit(WEIGHTS, SPEC)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-5)
    np.testing.assert_allclose(found.root, expected.root, atol=1e-4)


@pytest.mark.parametrize("net", [NET, DEEP], ids=["one layer", "two layers"])
def test_every_number_is_in_one_token(net):
    tokens = NeuronTokens(net.spec)
    x = np.arange(2.0 * net.spec.num_params).reshape(2, -1).astype(np.float32)
    np.testing.assert_array_equal(tokens.join(tokens.split(x)), x)
    assert tokens.num_tokens == sum(group.size for group in net.spec.groups) + 1
    assert sum(kind.index.size for kind in tokens.kinds) == net.spec.num_params


def test_copies_in_any_order_and_scale_align_to_one_network():
    networks = WEIGHTS[:4]
    keys = jax.random.split(jax.random.key(1), 2)
    scales = SPEC.random_scales(keys[0])
    copies = np.asarray(SPEC.rescale(SPEC.permute(jnp.asarray(networks), SPEC.random_permutation(keys[1])), scales))
    both = alignment.aligned(SPEC, np.concatenate([networks, copies]), 8, order="mean", scale="balanced")
    np.testing.assert_allclose(both[:4], both[4:], atol=1e-5)
    unscaled = alignment.aligned(SPEC, networks, 8, order="mean", scale="none")
    np.testing.assert_allclose(np.sort(unscaled), np.sort(networks))  # the same numbers in another order


def test_without_the_transformer_the_flow_gives_the_gaussian_of_the_training_networks():
    data, constants = TINY.prepare(Population.create(WEIGHTS, SPEC))
    params, _ = jax.jit(TINY.stages()[0].init)(jax.random.key(0), {"constants": constants})
    noise = RNG.normal(size=(5, P)).astype(np.float32)
    state = {"constants": constants, "transformer": {"params": params}}
    found = jax.jit(TINY.replace(sampling_steps=31).transport)(state, noise)
    expected = noise @ constants["root"] + constants["mean"]
    # Heun's error of 31 steps, and the last prediction at 31/32: within 0.3 % of the deviation from the mean.
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected - constants["mean"], axis=1)
    assert error.max() < 3e-3
    sample = jax.jit(TINY.replace(source="gaussian", temperature=2.0).sample)
    hot = np.asarray(sample(state, jax.random.split(jax.random.key(2), 4000)).weights)
    gaussian = constants["mean"] + (hot - constants["mean"]) / 2
    aligned = data @ constants["root"] + constants["mean"]
    scale = aligned.std()
    np.testing.assert_allclose(gaussian.mean(axis=0), aligned.mean(axis=0), atol=0.15 * scale)
    np.testing.assert_allclose(np.cov(gaussian.T), np.cov(aligned.T), atol=0.15 * np.cov(aligned.T).max())


def test_without_positions_units_are_exchangeable():
    generator = TINY.replace(positions=False, order="none")
    _, constants = generator.prepare(Population.create(WEIGHTS, SPEC))
    params, root = random_params(generator, constants), constants["root"]
    order = ORDERS[4]
    np.testing.assert_allclose(root[np.ix_(order, order)], root, atol=1e-5)
    views, times = RNG.normal(size=(2, 2, P)).astype(np.float32), np.array([0.1, -1.0], np.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def outputs(positions, params, views):
        module = Transformer(constants["tokens"], generator.architecture, positions)
        return module.apply({"params": params}, views, times, constants["frequencies"])

    moved, without = [view[:, order] for view in views], functools.partial(outputs, False, params)
    np.testing.assert_allclose(without(moved), without(views)[:, order], atol=1e-5)
    placed = {**params, "positions": RNG.normal(size=(4, generator.width)).astype(np.float32)}
    assert np.abs(outputs(True, placed, moved) - outputs(True, placed, views)[:, order]).max() > 0.01


def test_behaviour_is_learned_from_training_examples():
    population = dataclasses.replace(Population.create(WEIGHTS, SPEC), examples=EXAMPLES)
    generator = TINY.replace(behaviour=1.0, source="gaussian", candidates=3, examples=10)
    data, constants = generator.prepare(population)
    assert constants["inputs"].shape == (10, 2, 2, 1)
    done, keys = {"constants": constants}, jax.random.split(jax.random.key(0), 8)
    stage = generator.stages()[0]
    params = random_params(generator, constants)

    @jax.jit
    def everything(done, params, data, keys):
        """The parts of the loss; losses of the best of three and of one; those before and after further steps."""
        _, (_, parts) = stage.loss(params, {}, done, data, keys, None)
        state = {**done, "transformer": {"params": params}}
        ways = generator, generator.replace(candidates=1)
        initial = generator.replace(candidates=1, source="initialisation")
        ways += initial, initial.replace(finetune_steps=40, finetune_learning_rate=0.1, finetune_batch=10)
        losses = [behaviour.total_loss(done["constants"], way.sample(state, keys).weights).mean() for way in ways]
        return parts, losses

    parts, (best, one, before, after) = everything(done, params, data[:8], keys)
    assert parts["behavioural"] > 0 and parts["weights"] > 0
    assert best < one and after < 0.7 * before


def test_samples_are_spread_over_devices():
    """Best of two and further training, drawn by several devices, are what one of them draws."""
    population = dataclasses.replace(Population.create(WEIGHTS, SPEC), examples=EXAMPLES)
    way = TINY.replace(source="initialisation", candidates=2, finetune_steps=2, finetune_batch=5)
    state, keys = {"constants": way.prepare(population)[1]}, jax.random.split(jax.random.key(0), 4)
    several, one = (generators.drawer(way, parallel.make_mesh(n))(state, keys, population, len).weights for n in (2, 1))
    np.testing.assert_allclose(several, one, atol=1e-6)


def test_examples_are_asked_for_where_they_are_needed():
    population = Population.create(WEIGHTS, SPEC)
    for changes in ({"behaviour": 1.0}, {"candidates": 2}, {"finetune_steps": 1}, {"source": "initialisation"}):
        with pytest.raises(UserError, match=r"generators\.neuron_flow looks at .* set behaviour"):
            TINY.replace(**changes).prepare(population)


def test_networks_with_convolutions_are_trained_further_one_by_one():
    """Against a plain loop over one network after the other, to float32 rounding of three steps."""
    net = tasks.build({"name": "cnn", "channels": (2,), "windows": (2,), "pools": (False,), "hidden": 3}, (3, 3, 1), 2)
    inputs, keys = RNG.normal(size=(9, 3, 3, 1)).astype(np.float32), jax.random.split(jax.random.key(0), 2)
    constants = {behaviour.NET: Known(net), "inputs": inputs, "labels": np.arange(9, dtype=np.int32) % 2}
    weights = 0.5 * RNG.normal(size=(2, net.spec.num_params)).astype(np.float32)
    found = jax.jit(lambda w, k: behaviour.trained(constants, w, k, 3, 0.1, 4, 1e-2))(weights, keys)
    slope = jax.jit(jax.grad(lambda w, x, y: behaviour.loss(net, w[None], x, y)[0]))
    for row, key, expected in zip(weights, keys, found, strict=True):
        momentum = np.zeros_like(row)
        for step in range(3):
            batch = behaviour.drawn(constants, jax.random.fold_in(key, step)[None], 4)
            gradient = np.asarray(slope(row, *batch)) + 1e-2 * row
            momentum = gradient + 0.9 * momentum
            row = row - 0.1 * 0.5 * (1 + np.cos(np.pi * step / 3)) * (gradient + 0.9 * momentum)
        np.testing.assert_allclose(expected, row, atol=1e-5)
