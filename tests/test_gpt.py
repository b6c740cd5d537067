"""G.pt: the laws of its pairs, its start and its sampling."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from goldens import agree
from scipy import stats
from trees import length

from jaxweights import diffusion as dif
from jaxweights import generators, parallel, tasks
from jaxweights.errors import UserError
from jaxweights.generators.gpt import GPT, pairs
from jaxweights.population import Population
from jaxweights.training import StageTrainer

NET = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)
P = NET.spec.num_params


RUNS, CHECKPOINTS = 5, 4
TINY = {
    "chunk": 6,
    "width": 8,
    "blocks": 1,
    "heads": 2,
    "num_frequencies": 3,
    "num_timesteps": 12,
    "beta_end": 0.5,
    "batch_size": 16,
    "steps": 4,
    "warmup_steps": 2,
    "learning_rate": 1e-2,
    "ema_decay": 0.5,
    "permute": False,
}


@pytest.fixture(scope="module")
def zoo():
    """Five runs of four checkpoints, the rows in no order; the loss names run and step."""
    rng = np.random.default_rng(0)
    order = rng.permutation(RUNS * CHECKPOINTS)
    run, step = order // CHECKPOINTS + 10, order % CHECKPOINTS * 7
    weights = rng.normal(size=(len(order), P)).astype(np.float32)
    return Population.create(weights, NET.spec, run=run, step=step, loss=run + step / 100, accuracy=0.25)


def trainer(zoo, devices):
    """With plain gradient descent, whose steps are as exact as the gradient; eight devices keep two copies of the
    parameters."""
    built = GPT(**TINY, parameter_shards=4)
    data, constants = built.prepare(zoo)
    stage = dataclasses.replace(built.stages()[0], optimizer=optax.sgd(0.5))
    mesh = parallel.make_mesh(devices)
    return StageTrainer(stage, data, {"constants": constants}, mesh, jax.random.key(0), "gpt"), constants


@pytest.fixture(scope="module")
def states(zoo):
    """A generator's states before training and after four steps on eight devices."""
    eight, constants = trainer(zoo, 8)
    start = eight.init()
    # The average starts as a copy.
    jax.tree.map(np.testing.assert_array_equal, start.params, start.ema)
    before = jax.tree.map(np.asarray, start.params)
    after = jax.tree.map(np.asarray, eight.advance(start, 4)[0].params)
    return [{"constants": constants, "transformer": {"params": params}} for params in (before, after)]


@pytest.fixture(scope="module")
def sample():
    return parallel.map_rows(GPT(**TINY).sample, parallel.make_mesh(8))


def test_eight_devices_equal_one(zoo, states):
    one, _ = trainer(zoo, 1)
    params = one.advance(one.init(), 4)[0].params
    before, after = (state["transformer"]["params"] for state in states)
    moved = length(jax.tree.map(np.subtract, after, before))
    assert moved > 0.1
    agree(params, after, 1e-4, scale=moved)


def test_before_training_the_loss_is_that_of_no_change(zoo, states):
    """Whatever the timesteps, noises and orders of hidden units."""
    stage = GPT(**{**TINY, "permute": True}).stages()[0]
    keys = jax.random.split(jax.random.key(2), 6)
    batch = {name: zoo.weights[rows] for name, rows in {"start": slice(6), "target": slice(6, 12)}.items()}
    batch |= {f"{name}_metric": np.arange(6, dtype=np.float32) for name in ("start", "target")}
    value, (_, metrics) = jax.jit(stage.loss, static_argnums=5)(
        states[0]["transformer"]["params"], {}, states[0], batch, keys, None
    )
    expected = np.mean(np.square((batch["target"] - batch["start"]) * states[0]["constants"]["scale"]))
    np.testing.assert_allclose([value, metrics["unchanged"]], [expected] * 2, rtol=1e-5)


def test_before_training_every_network_stays_as_it_is(zoo, states, sample):
    inputs = GPT(**TINY).inputs(states[0], jax.random.split(jax.random.key(1), 8), zoo)
    found = sample(states[0], inputs)
    # Scaling forth and back rounds.
    np.testing.assert_allclose(found.weights, zoo.weights[:8], rtol=1e-5, atol=1e-6)
    assert (np.asarray(found.parents) == -1).all()


@pytest.mark.usefixtures("bitwise")
def test_samples_depend_on_their_own_row_alone(zoo, states, sample):
    inputs = GPT(**TINY).inputs(states[1], jax.random.split(jax.random.key(5), 8), zoo.select(np.arange(5)))
    # Fewer starts than keys are used in turn.
    np.testing.assert_array_equal(inputs["weights"], zoo.weights[np.arange(8) % 5])
    np.testing.assert_array_equal(inputs["metric"], zoo.records["loss"][np.arange(8) % 5].astype(np.float32))
    whole = np.asarray(sample(states[1], inputs).weights)
    rows = np.array([7, 2, 3])
    part = np.asarray(sample(states[1], {key: value[rows] for key, value in inputs.items()}).weights)
    np.testing.assert_array_equal(part, whole[rows])
    # Rows 2 and 7 have the same start and other keys.
    assert np.abs(part[0] - part[1]).max() > 1e-4 * np.abs(part[0]).max()


def test_bfloat16_samples_of_the_same_training_are_close_but_not_equal(zoo, states, sample):
    resolved = generators.resolve({"gpt": {"kind": "gpt", **TINY}, "fast": {"of": "gpt", "dtype": "bfloat16"}})
    fast, trained = resolved["fast"]
    assert trained == "gpt"
    inputs = fast.inputs(states[1], jax.random.split(jax.random.key(5), 8), zoo)
    exact = np.asarray(sample(states[1], inputs).weights)
    found = np.asarray(parallel.map_rows(fast.sample, parallel.make_mesh(8))(states[1], inputs).weights)
    moved = np.abs(exact - inputs["weights"]).max()
    # Products of 8 bits, over ten timesteps.
    assert 0 < np.abs(found - exact).max() < 0.05 * moved


class Shifting(GPT):
    """Moves every weight by what is asked minus what is there, and remembers its keys."""

    def improve(self, state, weights, metric, asked, keys):
        state.append(keys)
        return weights + (asked - metric)[:, None]


def test_recursion_goes_on_from_the_measured_outcome(zoo):
    seen, measured = [], []
    built = Shifting(**TINY, prompt=2.0, recursion=3)
    keys = jax.random.split(jax.random.key(5), 4)
    inputs = built.inputs({}, keys, zoo)

    def measure(weights):
        measured.append(weights)
        return Population.create(weights, zoo.spec, loss=len(measured))

    outcomes = []
    while inputs is not None:
        outcomes.append(built.sample(seen, inputs))
        inputs = built.again(inputs, outcomes[-1], measure)
    first = zoo.weights[:4] + (2 - built.inputs({}, keys, zoo)["metric"])[:, None]
    # Rounding of two sums.
    for found, expected in zip(outcomes, [first, first + 1, first + 1], strict=True):
        np.testing.assert_allclose(found.weights, expected, atol=1e-5)
    assert len(measured) == 2
    assert len({tuple(k) for used in seen for k in np.asarray(jax.random.key_data(used)).tolist()}) == 12
    once = dataclasses.replace(built, recursion=1)
    assert once.again(once.inputs({}, keys, zoo), outcomes[0], measure) is None


def test_noise_and_dropout_are_part_of_training_alone(zoo, states, monkeypatch):
    """Noise moves the later networks, and dropout what is predicted of them."""
    monkeypatch.setattr(dif, "loss", lambda diffusion, predict, x0, keys: (x0, predict(x0, jnp.zeros(300, jnp.int32))))
    keys = jax.random.split(jax.random.key(3), 300)
    batch = pairs.gather(GPT(**TINY).prepare(zoo)[0], jnp.zeros(300, jnp.int32), keys)

    def seen(**settings):
        loss = jax.jit(GPT(**TINY, **settings).stages()[0].loss, static_argnums=5)
        (target, predicted), _ = loss(states[1]["transformer"]["params"], {}, states[1], batch, keys, None)
        return np.asarray(target), np.asarray(predicted)

    (target, predicted), (noised, _), (same, dropped) = seen(), seen(noise=0.2), seen(dropout=0.5)
    added = noised - target
    np.testing.assert_allclose([added.mean(), added.std()], [0.0, 0.2], atol=4 * 0.2 / np.sqrt(added.size))
    np.testing.assert_array_equal(same, target)
    assert np.abs(dropped - predicted).max() > 1e-3 * np.abs(predicted).max()


def test_pairs_have_the_published_distribution(zoo):
    """Start before target, in the run of the row; distance uniform, then the start uniform on what is left."""
    data, _ = GPT(**TINY).prepare(zoo)
    count = 3000
    rows = np.arange(count) % len(zoo)
    keys = jax.random.split(jax.random.key(0), count)
    batch = jax.jit(pairs.gather)(jax.tree.map(jnp.asarray, data), rows, keys)
    row_of = {np.float32(loss): i for i, loss in enumerate(zoo.records["loss"])}
    start, target = ([row_of[x] for x in np.asarray(batch[f"{name}_metric"])] for name in ("start", "target"))
    np.testing.assert_array_equal(batch["start"], zoo.weights[start])
    np.testing.assert_array_equal(batch["target"], zoo.weights[target])
    run, step = zoo.records["run"], zoo.records["step"] // 7
    assert (run[start] == run[rows]).all() and (run[target] == run[rows]).all()
    assert (step[start] < step[target]).all()
    cells = [(a, b) for a in range(CHECKPOINTS) for b in range(a + 1, CHECKPOINTS)]
    found = [np.sum((step[start] == a) & (step[target] == b)) for a, b in cells]
    expected = [count / (CHECKPOINTS - 1) / (CHECKPOINTS - (b - a)) for a, b in cells]
    assert stats.chisquare(found, expected).pvalue > 1e-4


def test_permuted_pairs_compute_the_same_and_move_together(zoo):
    start, target = jnp.asarray(zoo.weights[:8]), jnp.asarray(zoo.weights[8:16])
    images = np.random.default_rng(1).normal(size=(5, 2, 2, 1)).astype(np.float32)

    @jax.jit
    def both(keys):
        logits = jax.vmap(lambda vector: NET.apply(vector, images))
        pair = pairs.permute(NET.spec, start, target, keys)
        same = pairs.permute(NET.spec, start, start, keys)
        return pair, same, [logits(x) for x in (start, target)], [logits(x) for x in pair]

    pair, same, before, after = both(jax.random.split(jax.random.key(0), 8))
    # Sums over the hidden units in another order.
    agree(after, before, 1e-6)
    np.testing.assert_array_equal(*same)
    np.testing.assert_array_equal(pair[0], same[0])
    # Each pair has its own order of the three hidden units, one of six of which changes nothing.
    moves = np.asarray(pair[0])[:, 12:15] - np.asarray(start)[:, 12:15]
    assert moves.any(axis=1).sum() >= 3


def test_preparation(zoo):
    data, constants = GPT(**TINY).prepare(zoo)
    assert constants["scale"] == pytest.approx(0.538 / zoo.weights.std(dtype=np.float64, ddof=1), rel=1e-6)
    assert GPT(**TINY, scale=4.185).prepare(zoo)[1]["scale"] == np.float32(4.185)
    np.testing.assert_array_equal(GPT(**TINY, conditioning="error").prepare(zoo)[0]["metric"], 75.0)
    returns = GPT(**TINY, conditioning="return").metric(zoo, "policies")
    np.testing.assert_array_equal(returns, -zoo.records["loss"].astype(np.float32))
    ragged = zoo.select(np.delete(np.arange(len(zoo)), [3, 8]))
    data, _ = GPT(**TINY).prepare(ragged)
    run, step = ragged.records["run"], ragged.records["step"]
    for row in range(len(ragged)):
        members = data["order"][data["first"][row] :][: data["count"][row]]
        assert set(members) == set(np.flatnonzero(run == run[row]))
        assert (np.diff(step[members]) > 0).all()


def test_training_populations_without_pairs_or_metrics_are_refused(zoo):
    with pytest.raises(UserError, match="5 of 5 training runs have a single one"):
        GPT(**TINY).prepare(zoo.select(np.flatnonzero(zoo.records["step"] == 7)))
    with pytest.raises(UserError, match="no such column"):
        GPT(**TINY, conditioning="reward").prepare(zoo)
    unmeasured = Population.create(zoo.weights, NET.spec, run=zoo.records["run"], step=zoo.records["step"])
    with pytest.raises(UserError, match="is 'loss', but the training rows do not all"):
        GPT(**TINY).prepare(unmeasured)
    with pytest.raises(UserError, match="held-out runs"):
        GPT(**TINY).inputs({}, jax.random.split(jax.random.key(0), 2), zoo.select(np.zeros(0, np.int64)))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"heads": 7}, "not a multiple"),
        ({"sampler": "euler"}, "one of ddpm, ddim"),
        ({"sampling_steps": 1001}, "between 1 and num_timesteps"),
        ({"recursion": 0}, "recursion is 0"),
        ({"scale": -1.0}, "scale is -1.0"),
        ({"eta": 2.0}, "eta is 2.0"),
        ({"beta_start": 0.5}, r"beta_end is 0.02; set it to at least beta_start \(0.5\)"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        GPT(**settings)
