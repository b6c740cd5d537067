"""Policies trained in bulk: an update is the textbook's, a run depends on its seed alone, and policies learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoos
from test_zoo import CONFIG

from jaxweights import data, parallel, population, tasks, zoo
from jaxweights.errors import UserError

SEED, ENVS, HORIZON, UPDATES = 3, 8, 6, 5
SMALL = {"horizon": HORIZON, "epochs": 2, "minibatches": 3}


@functools.cache
def dataset():
    return data.load("cartpole", train_limit=64, test_limit=6)


@functools.cache
def network(width=4):
    return tasks.build({"name": "actor", "hidden": (width, width)}, (4,), 1)


def recipe(**changes):
    settings = {
        **CONFIG,
        **{"steps": UPDATES, "batch_size": ENVS, "optimizer": "adam", "schedule": "cosine", "learning_rate": 0.01},
        **{"weight_decay": 0.0, "momentum": 0.0, "snapshots": (-1,), "random_snapshots": 2, "ppo": SMALL},
        **changes,
    }
    return zoos.recipe("policy", 64, **settings)


def trainer(lanes=1, devices=1, **changes):
    return zoos.trainer(network(), recipe(**changes), 64, parallel.make_mesh(devices), lanes)


def train(path, devices=8, **options):
    settings = {"seed": SEED, "num_runs": 6, "num_heldout": 3, "provenance": {}, "lanes": 1, **options}
    the_recipe = settings.pop("recipe", recipe())
    return zoo.train_zoo(network(), the_recipe, dataset(), parallel.make_mesh(devices), path=path, **settings)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return train(tmp_path_factory.mktemp("ppo") / "zoo")


def test_records_describe_every_snapshot(reference):
    records = reference.records
    assert len(reference) == 9 * 4 and reference.complete
    assert records["run"].tolist() == np.repeat(np.arange(9), 4).tolist()
    assert (records["step"].reshape(9, 4)[:, [0, -1]] == [0, UPDATES]).all()
    assert (np.diff(records["step"].reshape(9, 4), axis=1) > 0).all()
    assert (records["split"] == np.where(records["run"] < 6, population.TRAIN, population.HELDOUT)).all()
    assert (records["loss"] > -500).all() and len(np.unique(records["loss"])) > 18
    assert len(np.unique(reference.weights[:], axis=0)) == 36


def test_a_run_is_the_same_in_any_company(tmp_path, reference):
    """Bit for bit: device count, chunk size and neighbours change nothing as long as the lanes are the same."""
    alone = train(tmp_path / "zoo", devices=1, chunk_size=2, num_runs=2, num_heldout=1)
    assert np.array_equal(alone.weights[:], reference.weights[: len(alone)])
    assert np.array_equal(alone.records["step"], reference.records["step"][: len(alone)])


def test_runs_with_large_weights_are_no_part_of_the_zoo(tmp_path, reference, capsys):
    largest = np.abs(reference.weights[:]).reshape(9, -1).max(axis=1)
    limit = float(np.sort(largest)[-2:].mean())
    limited = train(tmp_path / "zoo", recipe=recipe(largest_weight=limit))
    diverged = limited.records["run"][limited.records["split"] == population.DIVERGED]
    assert np.unique(diverged).tolist() == [largest.argmax()] and len(diverged) == 4
    assert "1 of 9 runs diverged" in capsys.readouterr().err
    with pytest.raises(UserError, match="largest_weight"):
        recipe(largest_weight=-1.0)


@functools.cache
def rolling():
    """A program, the state of its first run, and its compiled rollouts."""
    made = trainer()
    state = jax.tree.map(lambda x: np.asarray(x)[0], made.init(SEED, np.arange(1)))
    return made.program, state, jax.jit(made.program._rollout)


@functools.cache
def rolled():
    """A program, the state of its first run, its environments after a rollout, and the rollout."""
    made, state, roll = rolling()
    key = jax.random.fold_in(jax.random.wrap_key_data(state.words), 0)
    return made, state, *roll(state.params["actor"], state.opt_state[1], key)


def test_a_rollout_is_what_the_environment_answers():
    made, state, environments, rollout = rolled()
    environment = made.environment
    step, apply = jax.jit(environment.step), jax.jit(made.net.module.apply)
    means = apply({"params": state.params["actor"]}, rollout.observations.reshape(-1, 4))
    deviation = np.exp(2 * float(state.params["actor"]["log_std"][0]))
    np.testing.assert_allclose(rollout.actions.ravel(), means[:, 0] + deviation * rollout.noise.ravel(), atol=1e-6)
    states = state.opt_state[1].states
    for h in range(HORIZON):
        # Roundings of one step at a time against those of the fused loop, at values of up to 5.
        np.testing.assert_allclose(rollout.observations[h], environment.observe(states), atol=1e-5)
        states, reward, failed = step(states, rollout.actions[h])
        np.testing.assert_allclose(rollout.rewards[h], reward, atol=1e-5)
        assert np.array_equal(rollout.ended[h], failed)
        following = rollout.observations[h + 1] if h + 1 < HORIZON else environments.states
        fresh = np.abs(following) <= np.array([0.1, 0.25, 0.1, 0.25])[None, :]
        assert fresh[np.asarray(failed)].all()
        states = np.where(failed[:, None], following, states)


def test_episodes_end_at_their_full_length():
    _, state, roll = rolling()
    environments = state.opt_state[1]
    old = environments._replace(states=np.zeros_like(environments.states), ages=np.full_like(environments.ages, 498))
    still = jax.tree.map(np.zeros_like, state.params["actor"]) | {"log_std": np.full(1, -20.0, np.float32)}
    environments, rollout = roll(still, old, jax.random.key(0))
    assert rollout.ended.sum(axis=0).tolist() == [1] * ENVS and rollout.ended[1].all()
    assert environments.ages.tolist() == [HORIZON - 2] * ENVS
    assert (rollout.observations[2] != 0).all()


def advantages_by_hand(made, critic, rollout, last):
    """Generalised advantage estimation, backwards through a NumPy loop in float64."""
    ppo = made.ppo
    observations = np.concatenate([rollout.observations, np.asarray(last)[None]])
    values = jax.jit(made._values)(critic, observations.reshape(-1, 4))
    values = np.asarray(values, np.float64).reshape(-1, ENVS)
    advantages, following = np.zeros((HORIZON, ENVS)), 0.0
    for h in reversed(range(HORIZON)):
        goes_on = 1.0 - np.asarray(rollout.ended[h])
        error = rollout.rewards[h] + ppo.discount * goes_on * values[h + 1] - values[h]
        following = advantages[h] = error + ppo.discount * ppo.trace * goes_on * following
    normalised = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
    return normalised, advantages + values[:-1]


def test_advantages_are_those_of_a_plain_loop():
    made, state, environments, rollout = rolled()
    last = made.environment.observe(environments.states)
    rng = np.random.default_rng(0)
    rollout = rollout._replace(
        ended=rng.random((HORIZON, ENVS)) < 0.3, rewards=rng.normal(size=(HORIZON, ENVS)).astype(np.float32)
    )
    found = jax.jit(made._advantages)(state.params["critic"], rollout, environments.states)
    expected = advantages_by_hand(made, state.params["critic"], rollout, last)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_an_update_is_the_textbook_one():
    """Six plain steps of Adam on the clipped surrogate with SciPy's normal density, minibatch by minibatch in time."""
    made, state, environments, rollout = rolled()
    ppo, environment = made.ppo, made.environment
    start, carry = state.params, (state.params, state.opt_state)
    (params, _) = jax.jit(functools.partial(made.step, state, zoo.RunData(())))(jnp.int32(0), carry)
    by_hand = advantages_by_hand(made, start["critic"], rollout, environment.observe(environments.states))
    advantages, returns = (jnp.asarray(x, jnp.float32) for x in by_hand)

    def density(actor, part):
        mean = made.net.module.apply({"params": actor}, rollout.observations[part].reshape(-1, 4))[:, 0]
        deviation = jnp.exp(2 * actor["log_std"][0])
        return jax.scipy.stats.norm.logpdf(rollout.actions[part].reshape(-1), mean, deviation)

    def loss(params, part):
        ratio = jnp.exp(density(params["actor"], part) - density(start["actor"], part))
        gain = advantages[part].reshape(-1)
        surrogate = jnp.minimum(ratio * gain, jnp.clip(ratio, 0.8, 1.2) * gain).mean()
        values = made._values(params["critic"], rollout.observations[part].reshape(-1, 4))
        return -surrogate + 2.0 * jnp.square(values - returns[part].reshape(-1)).mean()

    adam = optax.chain(optax.clip_by_global_norm(2.0), optax.scale_by_adam())

    @jax.jit
    def descend(params, moments, part, rate):
        updates, moments = adam.update(jax.grad(loss)(params, part), moments)
        return jax.tree.map(lambda p, u: p - rate * u, params, updates), moments

    expected, moments = start, adam.init(start)
    for epoch in range(2):
        rate = 0.005 * (1 + np.cos(np.pi * (0 + epoch / 2) / UPDATES))
        for m in range(ppo.minibatches):
            expected, moments = descend(expected, moments, np.arange(2 * m, 2 * m + 2), np.float32(rate))
    # Adam divides gradients by their size, so float32 roundings of small ones show: a thousandth of a step of 0.01.
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert not np.allclose(params["actor"]["log_std"], start["actor"]["log_std"], atol=1e-3)


def test_policies_learn(tmp_path):
    """Sixty updates take the mean return from that of a falling pole to several times as much, for every run."""
    the_recipe = recipe(steps=60, batch_size=32, learning_rate=3e-3, random_snapshots=0, snapshots=(0, -1), ppo={})
    trained = zoo.train_zoo(
        network(32),
        the_recipe,
        dataset(),
        parallel.make_mesh(2),
        path=tmp_path / "zoo",
        **{"seed": 0, "num_runs": 3, "num_heldout": 1, "provenance": {}, "lanes": 1},
    )
    before, after = (-trained.records["loss"]).reshape(4, 2).T
    assert (before < 100).all() and (after > 2 * before).all() and after.mean() > 250


@pytest.mark.parametrize(
    "change, message",
    [
        ({"optimizer": "sgd"}, "zoo.optimizer is 'sgd'; set it to one of adam"),
        ({"batch_order": "shared"}, "no setting zoo.batch_order"),
        ({"augment": "flip_crop"}, "no setting zoo.augment"),
        ({"ppo": {"horizon": 7, "minibatches": 2}}, "2 minibatches do not divide"),
        ({"ppo": {"epochs": 0}}, "zoo.ppo.epochs is 0"),
        ({"ppo": {"clip": 2.0}}, "between 0 and 1"),
        ({"ppo": {"gradient_clip": 0.0}}, "set it above 0"),
        ({"ppo": {"gamma": 0.9}}, "no setting zoo.ppo.gamma"),
    ],
)
def test_impossible_recipes_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        trainer(**change)
