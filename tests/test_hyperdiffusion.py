"""HyperDiffusion against the published modules, its published sizes, and the laws of its vectors, orders and shards."""

import dataclasses
import itertools
import json

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from goldens import RELATIVE, agree, draw
from trees import length

from configs.paper import hyperdiffusion_plane
from jaxweights import diffusion as dif
from jaxweights import generators, parallel, tasks
from jaxweights.errors import UserError
from jaxweights.generators.hyperdiffusion import HyperDiffusion, importer, network
from jaxweights.nn import dropout, transformer
from jaxweights.nn.leaves import Leaves
from jaxweights.population import Population
from jaxweights.spec import FIXED
from jaxweights.training import StageTrainer

NET = tasks.build({"name": "mlp", "hidden": (8, 8)}, (2, 2, 2), 2)


def field_spec(features, width, layers):
    """Of a field with one output, in the order of the published state dicts."""
    sizes = [features, *[width] * layers, 1]
    leaves, reads = Leaves(), FIXED
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        writes = leaves.group(width, "positive") if i < layers else FIXED
        leaves.dense(f"layers_{i}", inputs, outputs, reads, writes)
        reads = writes
    return leaves.spec()


SPEC = field_spec(9, 4, 2)
P = SPEC.num_params


@pytest.fixture(scope="module")
def golden():
    return goldens.load("hyperdiffusion")


def golden_model(golden, seed, extra, **settings):
    """Generator and state with the drawn weights, and the drawn inputs named in `extra`."""
    built = HyperDiffusion(**json.loads(str(golden["settings"])), **settings)
    drawn = draw({**json.loads(str(golden["shapes"])), **dict.fromkeys(extra, (6, P))}, seed)
    inputs = {key: drawn.pop(key) for key in extra}
    drawn["model.scalar_embedder.frequencies"] = golden["frequencies"]
    drawn["betas"] = np.zeros(500)  # one of the buffers beside the transformer
    return built, built.state_from_torch(drawn, SPEC), inputs


def apply(built, state, params, x_t, timesteps):
    module = network.Transformer(state["constants"]["layout"], built.architecture)
    return module.apply({"params": params}, x_t, state["constants"]["time_features"][timesteps])


# Products of bfloat16 have 8 bits; errors add up over some ten products in a row.
@pytest.mark.parametrize("dtype, relative", [("float32", RELATIVE), ("bfloat16", 0.05)])
def test_transformer_agrees_with_the_published_one(golden, dtype, relative):
    built, state, x = golden_model(golden, 0, ("x",), dtype=dtype)
    found = jax.jit(lambda params: apply(built, state, params, x["x"], golden["t"]))(state["transformer"]["params"])
    assert found.dtype == jnp.float32
    agree(found, golden["y"], relative)


def test_timesteps_are_embedded_as_published(golden):
    """Phases reach 5e8, where float32 numbers are 32 apart: only the published rounding gives the published features.

    PyTorch rounds the exponents, to 2 ** -20 near 20, so its powers of two are some units of the last place off.
    """
    table = golden["published_frequencies"]
    np.testing.assert_allclose(transformer.frequencies(128, 20.0), table, rtol=8 * 2.0**-23)
    # Sine and cosine, each rounded to within one unit of the last place below 1; the timestep itself is exact.
    features = transformer.time_features(500, table)
    assert features.shape == (500, 257)
    np.testing.assert_allclose(features[golden["t"]], golden["embedded_t"], rtol=0, atol=1.2e-7)


def test_loss_and_gradient_agree_with_the_published_ones(golden):
    built, state, x = golden_model(golden, 101, ("target", "noise"), num_timesteps=60)
    t, diffusion = golden["training_t"], built.diffusion
    assert diffusion.betas[-1] == 0.02

    def loss(params):
        found = apply(built, state, params, diffusion.add_noise(x["target"], x["noise"], t), t)
        return jnp.mean((found - diffusion.target(x["target"], x["noise"], t)) ** 2)

    value, gradient = jax.jit(jax.value_and_grad(loss))(state["transformer"]["params"])
    agree(value, golden["loss"])
    theirs = {key.removeprefix("gradient/"): g for key, g in golden.items() if key.startswith("gradient/")}
    theirs["model.scalar_embedder.frequencies"] = golden["frequencies"]
    expected = importer.from_torch(theirs, state["constants"]["layout"], built.architecture)[0]
    # The keys' biases have a gradient of zero but for rounding: compare on the scale of the whole gradient.
    agree(gradient, expected, scale=length(expected))


def test_sampling_agrees_with_the_published_one(golden):
    built, state, _ = golden_model(golden, 0, ("x",), num_timesteps=60)
    initial = draw({"initial": (3, P)}, 100)["initial"] / np.float32(0.3)
    keys = jax.random.split(jax.random.key(0), 3)
    found = jax.jit(lambda state: built.draw(state, keys, initial=initial))(state)
    # Sixty steps, each of which may add a rounding of the transformer's output.
    agree(found, golden["ddim"], 60 * 2e-6)


def test_optimizer_agrees_with_the_published_one(golden):
    """Weight decay of everything, biases too, and a learning rate that falls in steps."""
    drawn = draw({"weight": (2, 3), "bias": (2,), "gradient_weight": (6, 2, 3), "gradient_bias": (6, 2)}, 102)
    optimizer = HyperDiffusion(learning_rate=1e-2, decay_every=2).stages()[0].optimizer

    def step(carry, gradient):
        updates, opt_state = optimizer.update(gradient, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), opt_state), None

    params = {name: jnp.asarray(drawn[name]) for name in ("weight", "bias")}
    given = {name: jnp.asarray(drawn[f"gradient_{name}"]) for name in params}
    (found, _), _ = jax.jit(lambda p, g: jax.lax.scan(step, (p, optimizer.init(p)), g))(params, given)
    agree(found, {name: golden[f"stepped/{name}"] for name in params}, 2e-6)


@pytest.mark.parametrize(
    "factor, level, count",
    [
        ("", "", 1_407_225_600),
        ("width", "wide", 2_132_280_000),
        ("depth", "deep", 2_004_647_040),
        ("width", "narrow", 831_470_400),
        ("depth", "shallow", 1_008_944_640),
    ],
)
def test_published_parameter_counts(factor, level, count):
    """The first as the published code counts, the others to the 0.1 billion of the published table."""
    spec = field_spec(27, 128, 3)
    assert spec.num_params == 36_737
    config = hyperdiffusion_plane.get_config(level).generators.hyperdiffusion
    settings = HyperDiffusion.FACTORS[factor][level](HyperDiffusion()) if factor else {}
    assert settings == hyperdiffusion_plane.VARIANTS[level]
    built = generators.build("hyperdiffusion", config)
    assert built.steps == 516_000 and built.decay_every == 200 * 86
    layout = transformer.TokenLayout(spec, "tensor", 0)
    params, _ = jax.eval_shape(built.stages()[0].init, jax.random.key(0), {"constants": {"layout": layout}})
    assert sum(x.size for x in jax.tree.leaves(params)) == count


TINY = {
    "width": 8,
    "blocks": 1,
    "heads": 2,
    "num_frequencies": 3,
    "num_timesteps": 12,
    "beta_end": 0.5,
    "batch_size": 16,
    "steps": 4,
}


@pytest.fixture(scope="module")
def zoo():
    """Twenty networks of 162 weights, the last of which is the same in all of them."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0.5, 0.3, size=(20, NET.spec.num_params)).astype(np.float32)
    weights[:, -1] = 0.25
    return Population.create(weights, NET.spec)


def trainer(zoo, devices, **changes):
    """With an epsilon under which AdamW's steps are as exact as the gradient."""
    built = HyperDiffusion(**TINY, normalise="per_parameter", augment=3, dropout=0.2)
    data, constants = built.prepare(zoo)
    optimizer = optax.adamw(1e-2, eps=1e-3)
    stage = dataclasses.replace(built.stages()[0], optimizer=optimizer, ema_decay=0.5, **changes)
    return StageTrainer(stage, data, {"constants": constants}, parallel.make_mesh(devices), jax.random.key(0), "x")


CLIP = 0.02


@pytest.fixture(scope="module")
def replicated(zoo):
    """One device: the state before training, after four steps, and their losses."""
    one = trainer(zoo, 1, gradient_clip=CLIP)
    start = jax.tree.map(np.asarray, one.init())
    state, metrics = one.advance(one.init(), 4)
    return start, jax.tree.map(np.asarray, state), np.asarray(metrics["loss"][:4])


@pytest.mark.usefixtures("eight_devices")
def test_sharded_parameters_train_as_replicated_ones(zoo, replicated):
    """With global-norm clipping, moments, an average, and every kind of noise; some arrays do not divide by 8."""
    eight = trainer(zoo, 8, gradient_clip=CLIP, parameter_shards=0)
    start, after, losses = replicated
    first = eight.init()
    agree(jax.tree.map(np.asarray, first), start, 1e-7)
    for tree in (first.params, first.ema, first.opt_state[0].mu, first.opt_state[0].nu):
        leaves = jax.tree.leaves(tree)
        here = sum(x.addressable_shards[0].data.size for x in leaves)
        assert here < 1.3 / 8 * sum(x.size for x in leaves)  # vectors stay whole
    state, one = eight.advance(first, 1)
    # The first moment after one step is a tenth of the gradient, and the gradient is longer than allowed.
    assert length(state.opt_state[0].mu) == pytest.approx(CLIP / 10, rel=1e-5)
    state, rest = eight.advance(state, 3)
    np.testing.assert_allclose([one["loss"][0], *rest["loss"][:3]], losses, rtol=1e-5)
    moved = length(jax.tree.map(np.subtract, after.params, start.params))
    assert moved > 0.1
    for found, expected in [(state.params, after.params), (state.ema, after.ema)]:
        agree(found, expected, 1e-4, scale=moved)
    agree(state.opt_state, after.opt_state, 1e-4, scale=1.0)


def test_sharded_checkpoints_are_restored_on_other_devices(tmp_path, zoo, replicated):
    options = {"gradient_clip": CLIP, "parameter_shards": 0, "steps": 2}
    trainer(zoo, 8, **options).run(tmp_path, lambda row: None)
    rows = []
    options["steps"] = 4
    found = trainer(zoo, 1, **options).run(tmp_path, rows.append)
    assert [row["step"] for row in rows] == [3, 4]
    start, after, _ = replicated
    moved = length(jax.tree.map(np.subtract, after.params, start.params))
    agree(found["params"], after.ema, 1e-4, scale=moved)


@pytest.mark.parametrize("normalise", ["none", "std", "per_parameter"])
def test_a_transformer_that_predicts_nothing_draws_the_mean(zoo, normalise):
    built = HyperDiffusion(**TINY, normalise=normalise, augment=4, scale=2.0)
    data, constants = built.prepare(zoo)
    np.testing.assert_array_equal(data, zoo.weights)
    orders = constants["orders"]
    everything = zoo.weights[:, orders].reshape(-1, NET.spec.num_params).astype(np.float64)
    seen = (everything - constants["mean"]) / constants["std"]
    std = everything.std()
    expected = {"none": (everything * 2).std(axis=0), "std": everything.std(axis=0) / std * 2, "per_parameter": 2.0}
    varied = everything.std(axis=0) > 0
    assert varied.sum() == NET.spec.num_params - 1
    np.testing.assert_allclose(
        seen.std(axis=0)[varied], np.broadcast_to(expected[normalise], varied.shape)[varied], rtol=1e-5
    )
    params = jax.jit(built.stages()[0].init)(jax.random.key(0), {"constants": constants})[0]
    params["unembedding"] = jax.tree.map(jnp.zeros_like, params["unembedding"])
    state = {"constants": constants, "transformer": {"params": params}}
    found = jax.jit(built.sample)(state, jax.random.split(jax.random.key(1), 2))
    mean = everything.mean(axis=0) if normalise == "per_parameter" else np.zeros(NET.spec.num_params)
    np.testing.assert_allclose(found.weights, np.broadcast_to(mean, (2, len(mean))), atol=1e-6)
    assert (np.asarray(found.parents) == -1).all()


def test_samples_depend_on_their_own_key_alone(zoo, replicated):
    built = HyperDiffusion(**TINY, normalise="per_parameter", sampling_steps=3, eta=0.5, dtype="bfloat16")
    state = {"constants": built.prepare(zoo)[1], "transformer": {"params": replicated[1].params}}
    program = parallel.map_rows(built.sample, parallel.make_mesh(8))
    keys = jax.random.split(jax.random.key(5), 8)
    whole = np.asarray(program(state, keys).weights)
    part = np.asarray(program(state, keys[np.array([7, 2, 3])]).weights)
    np.testing.assert_array_equal(part, whole[[7, 2, 3]])
    assert np.abs(part[0] - part[1]).max() > 1e-2


def test_orders_of_hidden_units_keep_the_function_and_are_nested(zoo):
    orders = {k: HyperDiffusion(**TINY, augment=k).prepare(zoo)[1]["orders"] for k in (1, 2, 8)}
    np.testing.assert_array_equal(orders[8][0], np.arange(NET.spec.num_params))
    for few in (1, 2):
        np.testing.assert_array_equal(orders[few], orders[8][:few])
    assert len(np.unique(orders[8], axis=0)) == 8
    images = np.random.default_rng(1).normal(size=(5, 2, 2, 2)).astype(np.float32)
    logits = jax.jit(jax.vmap(lambda vector: NET.apply(vector, images)))(zoo.weights[0][orders[8]])
    # Sums over the hidden units in another order.
    agree(logits, np.broadcast_to(logits[:1], logits.shape), 1e-6)


def test_every_access_draws_an_order_and_noise(zoo, monkeypatch):
    """The vectors that the diffusion gets."""
    monkeypatch.setattr(dif, "loss", lambda diffusion, predict, x0, keys: x0)
    keys = jax.random.split(jax.random.key(3), 400)
    batch = jnp.asarray(zoo.weights[:1].repeat(400, axis=0))

    def seen(**settings):
        built = HyperDiffusion(**TINY, **settings)
        done = {"constants": built.prepare(zoo)[1]}
        return np.asarray(built.stages()[0].loss({}, {}, done, batch, keys, None)[0]), done["constants"]["orders"]

    rows, orders = seen(augment=4)
    counts = [np.sum((rows == zoo.weights[0][order]).all(axis=1)) for order in orders]
    # Four standard deviations of a binomial of 400 and 1/4.
    assert sum(counts) == 400 and all(abs(count - 100) < 35 for count in counts)
    added = seen(noise=0.2)[0] - zoo.weights[0]
    np.testing.assert_allclose([added.mean(), added.std()], [0.0, 0.2], atol=4 * 0.2 / np.sqrt(added.size))
    assert len(np.unique(added[:, 0])) == 400


def test_dropout_keeps_the_mean_and_depends_on_the_rows_key():
    keys = jax.random.split(jax.random.key(0), 200)
    kept = np.asarray(dropout.keep(keys, (5, 20), 0.25))
    # Four standard deviations of a binomial.
    assert abs(np.mean(~kept) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / kept.size)
    np.testing.assert_array_equal(dropout.keep(keys[7:10], (5, 20), 0.25), kept[7:10])
    assert (kept[0] != kept[1]).any()
    np.testing.assert_array_equal(dropout.drop(jnp.full(kept.shape, 3.0), kept, 0.25), np.where(kept, 4.0, 0.0))


def test_dropout_is_part_of_training_alone(zoo, replicated):
    values = []
    for rate in (0.0, 0.5):
        built = HyperDiffusion(**TINY, dropout=rate)
        done = {"constants": built.prepare(zoo)[1]}
        loss = jax.jit(built.stages()[0].loss, static_argnums=5)
        sets = [jax.random.split(jax.random.key(seed), 4) for seed in range(8)]
        values.append([float(loss(replicated[1].params, {}, done, zoo.weights[:4], keys, None)[0]) for keys in sets])
    # One set of masks may leave the loss as it is by chance.
    assert np.abs(np.subtract(*values)).max() > 1e-3 * values[0][0]


def test_published_networks_become_vectors():
    rng = np.random.default_rng(0)
    files = [{leaf.name: rng.normal(size=leaf.shape).astype(np.float32) for leaf in SPEC.leaves} for _ in range(2)]
    found = importer.vectors_from_torch(files, SPEC)
    assert found.shape == (2, P)
    params = SPEC.unflatten(found[1])
    for name, tensor in files[1].items():
        layer, kind = name.split("/")
        np.testing.assert_array_equal(params[layer][kind], tensor)
    with pytest.raises(UserError, match="State dict 0 has tensors of shapes"):
        importer.vectors_from_torch([dict(list(files[0].items())[:-1])], SPEC)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"heads": 7}, "not a multiple"),
        ({"normalise": "whiten"}, "one of none, std, per_parameter"),
        ({"sampling_steps": 501}, "between 1 and num_timesteps"),
        ({"sampling_steps": 0}, "sampling_steps is 0; set it to at least 1"),
        ({"augment": 0}, "augment is 0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"scale": 0.0}, "scale is 0.0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"eta": 2.0}, "eta is 2.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        HyperDiffusion(**settings)


def test_checkpoints_that_do_not_fit_are_refused(golden):
    built, _, _ = golden_model(golden, 0, ())
    checkpoint = draw(json.loads(str(golden["shapes"])), 0)
    checkpoint["model.scalar_embedder.frequencies"] = golden["frequencies"]
    for changed, message in [
        ({"blocks": 3}, "no tensor 'model.decoder.blocks.2"),
        ({"blocks": 1}, "does not have: model.decoder.blocks.1"),
        ({"width": 4}, "has shape"),
        ({"num_frequencies": 6}, "has shape|frequencies"),
    ]:
        with pytest.raises(UserError, match=message):
            dataclasses.replace(built, **changed).state_from_torch(checkpoint, SPEC)
