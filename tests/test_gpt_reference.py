"""G.pt against the published modules, and its published sizes."""

import dataclasses
import json

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from goldens import RELATIVE, agree, draw
from scipy import special, stats
from trees import length

from configs.paper import gpt_mnist
from jaxweights import diffusion as dif
from jaxweights import sharding, tasks
from jaxweights.errors import UserError
from jaxweights.generators.gpt import GPT, importer, network
from jaxweights.nn import activations, transformer

NET = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)
P = NET.spec.num_params
# Sine and cosine of float32 arguments, each rounded to within one unit of the last place below 1.
SINE = 1.2e-7


@pytest.fixture(scope="module")
def golden():
    return goldens.load("gpt")


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
    stage = GPT(learning_rate=1e-2, steps=20, warmup_steps=4).stages()[0]
    optimizer = stage.optimizer

    def step(carry, gradient):
        params, opt_state, average = carry
        gradient = sharding.clip(gradient, stage.gradient_clip)
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
