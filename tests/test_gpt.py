"""G.pt against the published modules, its published sizes, and the laws of its pairs, its start and its sampling."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special, stats
from trees import length

from configs.paper import gpt_mnist
from jaxweights import diffusion as dif
from jaxweights import generators, parallel, tasks
from jaxweights.errors import UserError
from jaxweights.generators.gpt import GPT, importer, network, pairs
from jaxweights.nn import activations, transformer
from jaxweights.population import Population
from jaxweights.training import StageTrainer

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden" / "gpt_reference.npz"
NET = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)
P = NET.spec.num_params
# Float32 sums in another order: a few units of the last place of the largest entry per operation, some hundred
# operations deep.
RELATIVE = 2e-5
# Sine and cosine of float32 arguments, each rounded to within one unit of the last place below 1.
SINE = 1.2e-7


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as archive:
        return {name: archive[name] for name in archive.files}


def draw(shapes, seed):
    """The weights and inputs of the golden runs, in the order that tests/golden/README.md documents."""
    rng = np.random.RandomState(seed)
    return {
        name: ((1.0 if "ln" in name and name.endswith("weight") else 0.0) + 0.3 * rng.normal(size=shapes[name])).astype(
            np.float32
        )
        for name in sorted(shapes)
    }


def agree(found, expected, relative=RELATIVE, scale=None):
    """All leaves agree relative to the largest entry (of each leaf, or `scale`)."""
    found, expected = (dict(jax.tree_util.tree_leaves_with_path(t)) for t in (found, expected))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        size = scale or np.abs(value).max()
        np.testing.assert_allclose(found[path], value, rtol=0, atol=relative * size, err_msg=jax.tree_util.keystr(path))


def golden_model(golden, name, seed, extra, **settings):
    """Generator and state with the drawn weights, and the drawn inputs named in `extra`."""
    built = GPT(**json.loads(str(golden[f"{name}/settings"])), scale=1.0, **settings)
    shapes = json.loads(str(golden[f"{name}/shapes"]))
    drawn = draw({**shapes, **dict.fromkeys(extra, (6, P))}, seed)
    inputs = {key: drawn.pop(key) for key in extra}
    drawn["scalar_embedder.frequencies"] = golden[f"{name}/frequencies"]
    return built, built.state_from_torch(drawn, NET.spec), inputs


def apply(built, state, x_t, start, timesteps, asked, metric):
    table = state["constants"]["frequencies"]
    times = transformer.time_features(1000, table)[timesteps]
    metrics = network.metric_features(jnp.asarray(asked), jnp.asarray(metric), table)
    module = network.Transformer(state["constants"]["layout"], built.architecture)
    return module.apply({"params": state["transformer"]["params"]}, x_t, start, times, metrics)


# Products of bfloat16 have 8 bits; errors add up over some ten products in a row.
@pytest.mark.parametrize(
    "number, name, dtype, relative",
    [(1, "tensor", "float32", RELATIVE), (0, "chunk", "bfloat16", 0.05)],
)
def test_transformer_agrees_with_the_published_one(golden, number, name, dtype, relative):
    built, state, x = golden_model(golden, name, number, ("x", "x_prev"), dtype=dtype)
    params = state["transformer"]["params"]
    inputs = x["x"], x["x_prev"], golden["t"], golden["asked"], golden["start_metric"]
    found = jax.jit(lambda p: apply(built, {**state, "transformer": {"params": p}}, *inputs))(params)
    assert found.dtype == jnp.float32
    agree(found, golden[f"{name}/y"], relative)


def test_scalars_are_embedded_as_published(golden):
    """Up to the largest timestep at the highest frequency, on the host and on the device."""
    table, t = golden["tensor/frequencies"], golden["t"]
    np.testing.assert_allclose(transformer.time_features(1000, table)[t], golden["embedded_t"], atol=SINE)
    embed = jax.jit(transformer.scalar_features)
    np.testing.assert_allclose(embed(t.astype(np.float32), table), golden["embedded_t"], atol=SINE)
    np.testing.assert_allclose(embed(golden["start_metric"], table), golden["embedded_metric"], atol=SINE)
    # PyTorch's powers and spacings are off by some units of the last place.
    np.testing.assert_allclose(transformer.frequencies(128, 14.0), table, rtol=5 * 2.0**-23)


def test_loss_and_gradient_agree_with_the_published_ones(golden):
    built, state, x = golden_model(golden, "chunk", 101, ("start", "target", "noise"))
    t, target = golden["training_t"], x["target"]
    diffusion = dif.Diffusion(dif.linear_schedule(60, 1000 / 60 * 1e-4, 1000 / 60 * 0.02), prediction="x0")

    def loss(params):
        inputs = diffusion.add_noise(target, x["noise"], t), x["start"], t, golden["asked"], golden["start_metric"]
        found = apply(built, {**state, "transformer": {"params": params}}, *inputs)
        return jnp.mean((found - diffusion.target(target, x["noise"], t)) ** 2)

    value, gradient = jax.jit(jax.value_and_grad(loss))(state["transformer"]["params"])
    agree(value, golden["loss"])
    theirs = {key.removeprefix("gradient/"): g for key, g in golden.items() if key.startswith("gradient/")}
    theirs["scalar_embedder.frequencies"] = golden["chunk/frequencies"]
    expected = importer.from_torch(theirs, state["constants"]["layout"], built.architecture)[0]
    # The keys' biases have a gradient of zero but for rounding: compare on the scale of the whole gradient.
    agree(gradient, expected, scale=length(expected))
    # Weight decay: the same parameters.
    decayed = json.loads(str(golden["decayed"]))
    theirs = {name: np.full_like(value, name in decayed) for name, value in theirs.items()}
    expected = importer.from_torch(theirs, state["constants"]["layout"], built.architecture)[0]
    jax.tree.map(
        np.testing.assert_array_equal, expected, jax.tree.map(np.full_like, expected, transformer.is_matrix(expected))
    )


def test_the_error_function_is_accurate_to_float32():
    x = np.concatenate([np.linspace(-6, 6, 200_001), np.logspace(-30, 0, 1001), [np.inf]]).astype(np.float32)
    x = x[x != 0]
    # Two sums of six terms, a quotient and a product.
    np.testing.assert_allclose(jax.jit(activations.erf)(x), special.erf(x.astype(np.float64)), rtol=4 * 2.0**-23)
    x = x[np.abs(x) < 6]
    value, derivative = jax.jit(lambda x: jax.jvp(activations.gelu, (x,), (jnp.ones_like(x),)))(x)
    below, density = stats.norm.cdf(x.astype(np.float64)), stats.norm.pdf(x.astype(np.float64))
    np.testing.assert_allclose(value / x, below, atol=4 * 2.0**-23)
    np.testing.assert_allclose(derivative, below + x * density, atol=4 * 2.0**-23)


def test_blocks_computed_again_need_less_memory_and_give_the_same():
    sizes = transformer.Architecture(width=16, blocks=6, heads=2, num_frequencies=1, dtype="float32")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 10, 16)).astype(np.float32)
    shapes = jax.eval_shape(transformer.Blocks(sizes, 4).init, jax.random.key(1), x)
    params = jax.tree.map(lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype(np.float32), shapes)
    found, memory = [], []
    for remat in (False, True):
        blocks = transformer.Blocks(dataclasses.replace(sizes, remat=remat), 4)
        gradient = jax.jit(jax.grad(lambda p, blocks=blocks: jnp.mean(jnp.square(blocks.apply(p, x)))))
        program = gradient.lower(params).compile()
        found.append(program(params))
        memory.append(program.memory_analysis().temp_size_in_bytes)
    agree(found[1], found[0], 1e-5, scale=length(found[0]))
    assert memory[1] < 0.5 * memory[0]


def test_optimizer_agrees_with_the_published_one(golden):
    """Clipping (five of six gradients are too long), warm-up, cosine, weight decay and average."""
    drawn = draw({"weight": (2, 3), "bias": (2,), "gradient_weight": (6, 2, 3), "gradient_bias": (6, 2)}, 102)
    optimizer = GPT(learning_rate=1e-2, steps=20, warmup_steps=4).stages()[0].optimizer

    def step(carry, gradient):
        params, opt_state, average = carry
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, optax.incremental_update(params, average, 0.1)), None

    def dense(prefix, arrays):
        return {"kernel": jnp.asarray(arrays[f"{prefix}weight"]), "bias": jnp.asarray(arrays[f"{prefix}bias"])}

    @jax.jit
    def train(params, gradients):
        return jax.lax.scan(step, (params, optimizer.init(params), params), gradients)[0]

    params, _, average = train(dense("", drawn), dense("gradient_", drawn))
    # The published norm is a millionth longer before the division.
    agree(params, dense("stepped/", golden), 2e-6)
    agree(average, dense("averaged/", golden), 2e-6)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_sampling_agrees_with_the_published_one(golden, sampler):
    settings = {"num_timesteps": 60, "beta_start": 1000 / 60 * 1e-4, "beta_end": 1000 / 60 * 0.02}
    built, state, x = golden_model(golden, "chunk", 0, ("x", "x_prev"), sampler=sampler, **settings)
    given = {key: value / np.float32(0.3) for key, value in draw({"initial": (3, P), "noise": (60, 3, P)}, 100).items()}
    given["noise"] = given["noise"] if sampler == "ddpm" else None
    keys = jax.random.split(jax.random.key(0), 3)
    start, metric, asked = x["x_prev"][:3], golden["start_metric"][:3], golden["asked"][:3]
    found = jax.jit(lambda state: built.improve(state, start, metric, asked, keys, **given))(state)
    # Sixty steps, each of which may add a rounding of the transformer's output.
    agree(found, golden[sampler], 60 * 2e-6)


def test_learning_rate_agrees_with_the_published_one(golden):
    found = jax.vmap(GPT().schedule)(golden["schedule_steps"])
    np.testing.assert_allclose(found, golden["schedule"], rtol=1e-6, atol=1e-7 * 4e-4)


@pytest.mark.parametrize(
    "factor, level, count",
    [
        ("", "", 378_283_008),
        ("width", "wide", 579_022_080),
        ("depth", "deep", 604_935_168),
        ("width", "narrow", 220_011_264),
        ("depth", "shallow", 208_293_888),
    ],
)
def test_published_parameter_counts(factor, level, count):
    """The first as the published code counts, the others to the 0.1 million that the project page gives."""
    spec = tasks.build({"name": "mlp", "hidden": (10,)}, (28, 28, 1), 10).spec
    layout = transformer.TokenLayout(spec, "chunk", 1000)
    assert layout.sizes == (1000,) * 7 + (840, 10, 100, 10)
    settings = GPT.FACTORS[factor][level](GPT()) if factor else {}
    assert settings == gpt_mnist.VARIANTS[level]
    init = GPT(**settings).stages()[0].init
    params, _ = jax.eval_shape(init, jax.random.key(0), {"constants": {"layout": layout}})
    assert sum(x.size for x in jax.tree.leaves(params)) == count


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
    """With plain gradient descent, whose steps are as exact as the gradient."""
    built = GPT(**TINY)
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


def test_checkpoints_that_do_not_fit_are_refused(golden):
    built, _, _ = golden_model(golden, "chunk", 0, ())
    checkpoint = draw(json.loads(str(golden["chunk/shapes"])), 0)
    checkpoint["scalar_embedder.frequencies"] = golden["chunk/frequencies"]
    for changed, message in [
        ({"blocks": 3}, "no tensor 'decoder.blocks.2"),
        ({"blocks": 1}, "does not have: decoder.blocks.1"),
        ({"chunk": 8}, "where one is expected|has shape|does not have|no tensor"),
        ({"width": 4}, "has shape"),
        ({"scale": 0.0}, "scale is 0.0; set it to the factor"),
    ]:
        with pytest.raises(UserError, match=message):
            dataclasses.replace(built, **changed).state_from_torch(checkpoint, NET.spec)
