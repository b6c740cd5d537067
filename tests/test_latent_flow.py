"""The conditional latent flow: what is known of networks, examples of data sets, samples that follow what is asked."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxweights import tasks
from jaxweights.data import Dataset
from jaxweights.errors import UserError
from jaxweights.generators import conditions
from jaxweights.generators.base import Training
from jaxweights.generators.conditions import Conditions
from jaxweights.generators.latent_flow import LatentFlow, context
from jaxweights.generators.latent_flow.network import SetEncoder
from jaxweights.population import Population, TaskExamples

NET = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)
P = NET.spec.num_params
RNG = np.random.default_rng(0)
LABELS = np.arange(20, dtype=np.int32) % 2
IMAGES = (LABELS[:, None, None, None] + 0.1 * RNG.normal(size=(20, 2, 2, 1))).astype(np.float32)
ONE = np.ones(1, np.float32)
EXAMPLES = TaskExamples(NET, Dataset("", IMAGES, LABELS, IMAGES, LABELS, 2, ONE, 0 * ONE, ""))
TINY = LatentFlow(**{**LatentFlow.TINY, "asked": (), "select": "last", "order": "none", "scale": "none"})


def clusters(count=64):
    """Networks on both sides of their mean: accuracy 0.2 and class 0, or accuracy 0.8 and class 1."""
    side = np.arange(count) % 2
    weights = (2 * side[:, None] - 1) * np.ones((1, P)) + 0.1 * RNG.normal(size=(count, P))
    columns = {"accuracy": 0.2 + 0.6 * side, "taught": 1 + side, "run": np.arange(count), "step": 0}
    return dataclasses.replace(Population.create(weights.astype(np.float32), NET.spec, **columns), examples=EXAMPLES)


def test_facts_are_standardised_and_the_unknown_is_zero():
    names = ("hyper/learning_rate", "accuracy", "taught")
    rates, accuracy, taught = np.array([0.01, 0.1, 1.0]), np.array([0.5, np.nan, 0.7]), np.array([5, 0, 8])
    records = dict(zip(names, (rates, accuracy, taught), strict=True)) | {
        "run": np.arange(3),
        "note": np.array(["a"] * 3),
    }
    made = Conditions(names, "here")
    facts, scales = made.read(records, 3)
    assert facts.values.shape == (3, 6) and scales["log"].tolist() == [True] + 5 * [False]
    np.testing.assert_allclose(facts.values[:, 0], [-(1.5**0.5), 0, 1.5**0.5], atol=1e-6)  # of logarithms
    np.testing.assert_allclose(facts.values[:, 1], [-1, 0, 1], atol=1e-6)
    np.testing.assert_array_equal(facts.values[:, 2:] > 0, [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(facts.known, [[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    asked = made.facts(scales, [[np.nan, 0.7, 5]])
    np.testing.assert_array_equal(asked.values[0], np.append(0, facts.values[2, 1:2].tolist() + [1, -1, 1, -1]))
    for name, match in (("loss", "do not have"), ("note", "no numbers"), ("blank", "of no training network")):
        with pytest.raises(UserError, match=match):
            Conditions((name,), "here").read({**records, "blank": np.full(3, np.nan)}, 0)
    with pytest.raises(UserError, match="no training network was taught"):
        made.facts(scales, [[0.1, 0.5, 16]])


def test_shares_of_what_is_known_are_forgotten():
    """Everything by a share, and of the others each condition by a share; a single condition only once."""
    keys = jax.random.split(jax.random.key(0), 4000)
    for count, each in ((1, 1.0), (2, 0.7)):
        left = np.asarray(conditions.remembered(jnp.ones((4000, count), bool), keys, 0.3))
        assert left.all(axis=1).mean() == pytest.approx(0.7 * each**count, abs=0.03)
        assert left.mean() == pytest.approx(0.7 * each, abs=0.03)


def test_examples_are_those_of_the_classes_that_were_taught():
    """In any order they have one embedding; without classes there is none."""
    taught = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]], bool)
    labels = np.sort(RNG.integers(0, 2, 30))[::-1].astype(np.int32)
    given = {"inputs": np.arange(30, dtype=np.float32)[:, None, None, None], "labels": labels}
    module: SetEncoder = SetEncoder(4, 5, 3)

    @jax.jit
    def everything(given, taught, key):
        found = context.drawn(given, taught, jax.random.split(key, 5), 40)
        params = module.init(key, found)
        moved = found._replace(images=found.images[:, ::-1], labels=found.labels[:, ::-1])
        return found, module.apply(params, found), module.apply(params, moved)

    found, embedded, moved = everything(given | context.constants(labels, 3), taught, jax.random.key(0))
    np.testing.assert_array_equal(found.labels, labels[np.asarray(found.images)[..., 0].astype(int)])
    assert (found.labels[0] == 0).all() and (found.labels[1] == 1).all() and set(np.asarray(found.labels[2])) == {0, 1}
    assert 0.2 < np.asarray(found.labels[2]).mean() < 0.8
    np.testing.assert_array_equal(found.shown, [1, 1, 1, 0, 0])  # there are no examples of the third class
    np.testing.assert_allclose(moved, embedded, atol=1e-6)
    assert not np.asarray(embedded)[3:].any() and np.asarray(embedded)[:3].any(axis=1).all()


def test_samples_follow_what_they_are_asked_for_or_shown():
    """Before training the autoencoder is principal components; the flow is trained on networks of two kinds."""
    generator = TINY.replace(context=6, context_width=8, sampling_steps=8, width=32, forget=0.3, guidance=1.0)
    data, constants = generator.prepare(clusters())
    codec, stage = generator.stages()
    optimizer = optax.adam(1e-2)

    asked = np.repeat([0.2, 0.8, np.nan, np.nan, np.nan], 40)[:, None]
    shown = [()] * 80 + [(0,)] * 40 + [(1,)] * 40 + [()] * 40

    @jax.jit
    def everything(key):
        done = {"constants": constants}
        done["autoencoder"] = dict(zip(("params", "model_state"), codec.init(key, done), strict=True))
        params, model_state = stage.init(key, done)

        def step(carry, number):
            params, model_state, state = carry
            keys = jax.random.split(jax.random.fold_in(key, number), len(data.networks))
            gradient = jax.grad(lambda p: stage.loss(p, model_state, done, data, keys, None), has_aux=True)
            gradient, (model_state, _) = gradient(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), model_state, state), None

        carry = params, model_state, optimizer.init(params)
        params, model_state, _ = jax.lax.scan(step, carry, jnp.arange(300))[0]
        state = {**done, "flow": {"params": params, "model_state": model_state}}
        latents = generator.encode(state, data.networks)
        inputs = generator.asking(state, jax.random.split(key, 200), asked, shown)
        return latents, generator.decode(state, latents), generator.sample(state, inputs).weights

    latents, decoded, samples = everything(jax.random.key(0))
    np.testing.assert_allclose(np.var(latents, axis=0, ddof=1), 1, rtol=1e-4)
    centre = data.networks.mean(axis=0)
    values = np.linalg.svd(data.networks - centre, compute_uv=False)
    assert np.square(decoded - data.networks).sum() == pytest.approx(np.square(values[4:]).sum(), rel=1e-3)
    side = (((np.asarray(samples) - centre).mean(axis=1)) > 0).reshape(5, 40).mean(axis=1)
    np.testing.assert_allclose(side[:4], [0, 1, 0, 1], atol=0.2)
    assert 0.2 < side[4] < 0.8  # of those that nothing is asked of


def test_what_cannot_be_asked_is_refused():
    networks = clusters(12)
    for changes in ({"asked": (0.1, 0.2)}, {"shown": (0,)}, {"conditions": ("taught", "property/taught")}):
        with pytest.raises(UserError):
            TINY.replace(**changes)
    for generator, given, match in (
        (TINY.replace(behaviour=1.0), dataclasses.replace(networks, examples=None), "at hand"),
        (TINY.replace(context=2), Population.create(networks.weights, NET.spec, accuracy=0.5), "at hand"),
        (TINY.replace(conditions=("width",)), networks, "'width'"),
    ):
        with pytest.raises(UserError, match=match):
            generator.prepare(given)
    plain = TINY.replace(select="heldout")
    state = {"constants": plain.prepare(networks)[1]}
    keys = jax.random.split(jax.random.key(0), 2)
    given = plain.asking(state, keys, np.array([[0.2], [np.nan]]))
    np.testing.assert_array_equal(given["facts"].known, [[True], [False]])
    generator = TINY.replace(context=2, shown=(5,))
    state = {"constants": generator.prepare(networks)[1]}
    with pytest.raises(UserError, match="no examples of class 5"):
        generator.inputs(state, keys, networks)
    with pytest.raises(UserError, match="latent_dim"):
        TINY.replace(latent_dim=12).check(Training.of(networks))
