"""Runs from a base network: they equal a plain loop in every mode of batch normalisation, whole or in part; what is
computed ahead changes nothing; consecutive checkpoints are those of consecutive steps; frozen leaves stay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoos

from jaxweights import data, nets, parallel, tasks, zoo
from jaxweights.errors import UserError
from jaxweights.nn import normalization
from jaxweights.zoo import bulk, partial
from jaxweights.zoo.supervised import pack, put

CONFIG = {
    "steps": 6,
    "batch_size": 16,
    "optimizer": "adamw",
    "nesterov": False,
    "schedule": "constant",
    "start": "base",
    "snapshot_range": (2, 6),
    "learning_rate": 0.03,
    "momentum": 0.0,
    "weight_decay": 5e-2,
    "statistics": "frozen",
}
LAYERS = ("layer1/1/bn1/*", "layer1/1/bn2/*")
OPTIMIZER = optax.chain(optax.add_decayed_weights(5e-2), optax.sgd(0.1, 0.9))
EXAMPLES = 40  # so that six steps are three epochs


@functools.cache
def digits():
    return data.load("digits", train_limit=EXAMPLES, test_limit=24)


@functools.cache
def whole():
    config = {"name": "resnet18", "widths": (6,), "depths": (2,), "stem": "cifar", "init": "torch"}
    return tasks.build(config, (8, 8, 1), 10)


@functools.cache
def base():
    vector = np.array(jax.jit(whole().init)(jax.random.key(5)))
    statistics = ~normalization.trainable(whole().spec)
    vector[statistics] += np.random.default_rng(0).uniform(0.0, 0.3, statistics.sum()).astype(np.float32)
    return vector


def network(layers=LAYERS):
    return nets.partial(whole(), base(), layers)


def recipe(**changes):
    return zoos.recipe("classification", EXAMPLES, **CONFIG | changes)


def train(path, devices=1, layers=LAYERS, **options):
    settings = {"seed": 3, "num_runs": 1, "num_heldout": 2, "provenance": {}, **options}
    the_recipe = settings.pop("recipe", recipe())
    return zoo.train_zoo(network(layers), the_recipe, digits(), parallel.make_mesh(devices), path=path, **settings)


def every_step(layers, **changes):
    """Weights `[2, 6, P]` of two runs after every step, and the keys of their batches."""
    trainer = zoos.trainer(network(layers), recipe(**changes), EXAMPLES, parallel.make_mesh(1), 1)
    start = trainer.init(3, np.arange(2))
    words = np.asarray(start.words)
    return np.asarray(trainer.advance(start, trainer.load(digits()), np.arange(7))[1]), words


def chosen_entries(layers):
    """Where the leaves that vary stand in a vector of the whole network."""
    names = network(layers).names
    return np.concatenate([np.arange(s.start, s.stop) for leaf, s in whole().spec.spans() if leaf.name in names])


@functools.partial(jax.jit, static_argnums=5)
def plain_step(vector, opt_state, chosen, images, labels, training):
    """One step of the whole network, of which the chosen entries are trained."""
    net = whole()

    def loss(vector):
        params = net.spec.unflatten(vector)
        if training:
            logits, params = normalization.apply_in_training(net.module, params, images)
        else:
            logits = net.module.apply({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), net.spec.flatten(params)

    gradient, after = jax.grad(loss, has_aux=True)(vector)
    updates, opt_state = OPTIMIZER.update(gradient, opt_state, vector)
    return jnp.where(chosen, vector + updates, after), opt_state


@pytest.mark.parametrize(
    ("mode", "layers"),
    [("frozen", LAYERS), ("published", LAYERS), ("batch", ()), ("batch", ("*running_*", "fc/*"))],
    ids=["frozen", "published", "batch_all_leaves", "batch_with_statistics"],
)
def test_runs_are_those_of_a_plain_loop(mode, layers):
    """Weights of two runs after every one of six steps, three epochs.

    Float32 sums in another order, which SGD does not amplify as the signs of gradients in Adam's first steps would.
    """
    mine, words = every_step(layers, statistics=mode, optimizer="sgd", learning_rate=0.1, momentum=0.9)

    batches = zoos.trainer(whole(), recipe(start="own"), EXAMPLES, parallel.make_mesh(1), 1)
    dataset, entries, batch = digits(), chosen_entries(layers), jax.jit(batches.program.batch)
    packed = put(pack(dataset.train_images, dataset.train_labels, dataset.scale, dataset.shift), batches.mesh)
    chosen = np.isin(np.arange(len(base())), entries) & normalization.trainable(whole().spec)
    for run in range(2):
        vector, opt_state = base(), jax.jit(OPTIMIZER.init)(base())
        for i in range(6):
            images, labels = batch(packed, words[run], jnp.int32(i))
            training = mode == "batch" or (mode == "published" and i < 2)
            vector, opt_state = plain_step(vector, opt_state, chosen, images, labels, training)
            np.testing.assert_allclose(mine[run, i], np.asarray(vector)[entries], atol=2e-6)
        assert np.abs(mine[run, -1] - base()[entries]).max() > 0.05


def test_what_is_computed_ahead_changes_nothing(monkeypatch):
    ahead, _ = every_step(LAYERS)
    monkeypatch.setattr(partial, "_PREPARED_BYTES", 0)
    at_every_step, _ = every_step(LAYERS)
    # Sums of at most 144 products in another order, through six steps of Adam.
    np.testing.assert_allclose(ahead, at_every_step, atol=1e-5)


def test_only_what_is_the_same_at_every_step_is_computed_ahead():
    def ahead(layers=LAYERS, **changes):
        net = network(layers)
        return net.task.program(net, recipe(**changes), EXAMPLES).prepares

    assert ahead()
    assert not ahead(statistics="batch") and not ahead(statistics="published")
    assert not ahead(augment="flip_crop") and not ahead(layers=())


def test_the_last_of_consecutive_checkpoints_is_that_of_a_run_without(tmp_path):
    """Over more snapshots than one dispatch keeps, on other devices, in other company, with held-out runs cut short."""
    settings = {"steps": 2 * bulk._SLOTS + 3, "schedule": "cosine", "final_learning_rate": 0.007}
    last = settings["steps"]
    every = train(tmp_path / "every", recipe=recipe(**settings, snapshot_range=(1, last), heldout_snapshots="last"))
    one = train(tmp_path / "one", 8, num_runs=2, num_heldout=0, recipe=recipe(**settings, snapshot_range=()))
    assert every.records["step"].tolist() == [*range(1, last + 1), last, last]
    assert every.records["split"].tolist() == ["train"] * last + ["heldout"] * 2
    assert np.array_equal(every.weights[last - 1 : last + 1], one.weights[:])
    moves = np.abs(np.diff(every.weights[:last], axis=0)).max(axis=1)
    assert (moves > 0).all() and (moves < 0.12).all()  # of Adam at a rate of 0.03, by single steps


def test_the_store_remembers_the_base_which_stays(tmp_path):
    before = base().copy()
    store = train(tmp_path / "zoo")
    net = nets.load_partial(store.path / bulk.BASE, whole())
    assert net == network() and np.array_equal(net.base, before) and np.array_equal(base(), before)
    inserted = np.asarray(net.insert(jnp.asarray(store.weights[-1])))
    assert set(np.flatnonzero(inserted != before)) <= set(chosen_entries(LAYERS))


def test_frozen_statistics_stay_in_whole_networks_too():
    net = tasks.build({"name": "resnet18", "widths": (2,), "depths": (1,), "stem": "cifar"}, (8, 8, 1), 10)
    trainer = zoos.trainer(net, recipe(start="own"), EXAMPLES, parallel.make_mesh(1), 1)
    state = trainer.init(3, np.arange(1))
    before, after = np.asarray(trainer.advance(state, trainer.load(digits()), np.array([0, 0, 2]))[1])[0]
    trainable = normalization.trainable(net.spec)
    assert np.array_equal(after[~trainable], before[~trainable])
    assert (after[trainable] != before[trainable]).mean() > 0.9


def test_cosine_falls_to_the_final_rate():
    """P-diff's `mnist_cnnmedium`: 0.01 to 0.007 over an epoch of 469 steps."""
    published = recipe(steps=469, snapshot_range=(1, 321), schedule="cosine", final_learning_rate=0.007)
    rates = jax.vmap(lambda s: published.learning_rate(jnp.float32(0.01), s, EXAMPLES))(jnp.array([0, 200, 469]))
    expected = [0.01, 0.007 + 0.003 * (1 + np.cos(np.pi * 200 / 469)) / 2, 0.007]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert published.snapshots == tuple(range(1, 322))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"snapshot_range": (3,)}, "first and the last of consecutive"),
        ({"snapshot_range": (3, 7)}, "between 0 and 6"),
        ({"snapshots": (2, 4)}, "snapshot_range excludes"),
        ({"statistics": "running"}, "one of batch, frozen, published"),
        ({"heldout_snapshots": "first"}, "one of all, last, one"),
        ({"subset": LAYERS}, "there is no base"),
    ],
)
def test_impossible_recipes_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        recipe(**change)


def test_starts_that_do_not_fit_the_network_are_refused(tmp_path):
    with pytest.raises(UserError, match="zoo.start is 'own'"):
        train(tmp_path / "a", recipe=recipe(start="own"))
    with pytest.raises(UserError, match="init_scale"):
        train(tmp_path / "b", recipe=recipe(init_scale=2.0))
    with pytest.raises(UserError, match="there is none"):
        zoo.train_zoo(whole(), recipe(), digits(), parallel.make_mesh(1), num_runs=1, num_heldout=0)
