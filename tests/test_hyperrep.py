"""Hyper-Representations' autoencoder against the published modules, its published sizes, and the laws of its losses."""

import dataclasses
import functools
import json

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from goldens import agree, draw
from scipy import stats
from trees import length

from configs.paper import hyperrep_svhn
from jaxweights import parallel, sharding, tasks
from jaxweights.errors import UserError
from jaxweights.generators.hyperrep import HyperRep, importer, loss, network
from jaxweights.generators.hyperrep.layout import UnitLayout
from jaxweights.nn.parameters import initialise
from jaxweights.population import Population

NETS = {
    "cnn": tasks.build(
        {"name": "cnn", "channels": (3, 2), "windows": (3, 2), "pools": (True, False), "hidden": 4}, (10, 10, 1), 3
    ),
    "mlp": tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2),
}
NET = NETS["cnn"]
# The published code's own defaults, where those of the class are of another setting.
DEFAULTS = {
    "dropout": 0.0,
    "projection_layers": 2,
    "projection_hidden": None,
    "projection_features": None,
    "gamma": 0.5,
    "normalize_loss": False,
    "erase": "none",
    "batch_size": 64,
    "optimizer": "adamw",
    "learning_rate": 3e-4,
    "weight_decay": 3e-5,
    "scheduler": None,
}
ONES = "alpha$"  # tensors that are drawn around 1
SMALL = {"width": 8, "feed_forward": 6, "blocks": 2, "heads": 2, "latent_dim": 5, "permutations_number": 16}


def hyperrep(**settings):
    return HyperRep(**{**DEFAULTS, **settings})


@pytest.fixture(scope="module")
def golden():
    return goldens.load("hyperrep")


def population(rows, net=NET):
    return Population.create(rows, net.spec)


def random_rows(count, net=NET, seed=0):
    return np.random.default_rng(seed).normal(size=(count, net.spec.num_params)).astype(np.float32)


@pytest.mark.parametrize("number, name", enumerate(["plain", "token", "mlp", "weight", "in_out"]))
def test_encoder_and_decoder_agree_with_the_published_ones(golden, number, name):
    settings = json.loads(str(golden[f"{name}/settings"]))
    net = NETS[settings.pop("net")]
    shapes = json.loads(str(golden[f"{name}/shapes"]))
    drawn = draw({**shapes, "x": (6, net.spec.num_params)}, number, ONES)
    x = drawn.pop("x")
    generator = hyperrep(**settings)
    params = importer.from_torch(drawn, UnitLayout(net.spec), generator.architecture)
    state = {"constants": {"layout": UnitLayout(net.spec)}, "autoencoder": {"params": {"autoencoder": params}}}
    z, y = jax.jit(lambda state: (generator.encode(state, x), generator.decode(state, golden[f"{name}/z"])))(state)
    agree(z, golden[f"{name}/z"])
    agree(y, golden[f"{name}/y"])


TRAINING = {
    "gamma": 0.3,
    "temperature": 0.2,
    "normalize_loss": True,
    "latent_variance_penalty": 0.05,
    "decoder_bias": True,
    "projection_hidden": 7,
    "projection_features": 4,
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
}


@pytest.fixture(scope="module")
def published(golden):
    """Parameters, views and constants of the golden training run."""
    layout = UnitLayout(NET.spec)
    shapes = json.loads(str(golden["plain/shapes"]))
    head = json.loads(str(golden["head_shapes"]))
    p = NET.spec.num_params
    given = {**{f"head.{k}": s for k, s in head.items()}, "x_i": (6, p), "x_j": (6, p), "training": (9, p)}
    drawn = draw({**shapes, **given}, 100, ONES)
    generator = hyperrep(**SMALL, **TRAINING)
    params = {
        "autoencoder": importer.from_torch({k: drawn[k] for k in shapes}, layout, generator.architecture),
        "projection": head_from_torch({k: drawn[f"head.{k}"] for k in head}),
    }
    rows = drawn["training"]
    rows[:, 30:56] *= np.float32(1e-6)
    return params, jnp.stack([drawn["x_i"], drawn["x_j"]]), rows


def head_from_torch(state):
    """The projection head's parameters: dense layers and normalisations alternate with rectifiers."""
    params = {}
    for i in range(3):
        params[f"dense_{i}"] = {
            "kernel": state[f"layers.{3 * i}.weight"].T,
            "bias": state[f"layers.{3 * i}.bias"],
        }
        params[f"norm_{i}"] = {"scale": state[f"layers.{3 * i + 1}.weight"], "bias": state[f"layers.{3 * i + 1}.bias"]}
    return params


def constants_of(golden, rows, generator):
    """The golden run's constants; it sets the second layer's deviation to 0.5 after measuring it."""
    _, constants = generator.prepare(population(rows))
    std = golden["std"].copy()
    std[30:56] = 0.5
    return {**constants, "std": std}


@pytest.mark.usefixtures("eight_devices")
def test_training_on_six_devices_agrees_with_the_published_one(golden, published):
    """Each term of the loss, the gradient, running statistics, and the losses after three steps of AdamW; the
    negatives, the batch statistics and the variance are those of the whole batch, of which two devices each see the
    same third and have one half of the parameters."""
    params, x, rows = published
    generator = hyperrep(**SMALL, **TRAINING, remat=True)
    constants = constants_of(golden, rows, generator)
    sizes = enumerate((7, 7, 4))
    model_state = {f"norm_{i}": {"mean": np.zeros(n, np.float32), "var": np.ones(n, np.float32)} for i, n in sizes}
    optimizer = generator.stages()[0].optimizer
    whole, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(None, parallel.AXIS)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:6]).reshape(3, 2), (parallel.AXIS, sharding.MODEL))
    axes = sharding.split_axes(params, 2, generator.stages()[0].stacked)
    specs = jax.tree.map(sharding.spec, params, axes)
    assert axes["autoencoder"]["encoder"]["blocks"]["up_kernel"] == -2

    def gradient(params, model_state, x):
        def value(params):
            params, rows = sharding.parts(params, axes), (parallel.AXIS,)
            value, (state, metrics) = generator._loss_of_views(params, model_state, constants, x, x, None, rows)
            metrics = sharding.mean({"loss": value, **metrics})
            return metrics["loss"], (state, metrics)

        gradient, (state, metrics) = jax.grad(value, has_aux=True)(params)
        return gradient, jax.lax.pmax(state, sharding.MODEL), metrics

    gradient_of = jax.shard_map(gradient, mesh=mesh, in_specs=(specs, whole, split), out_specs=(specs, whole, whole))

    @jax.jit
    def step(params, model_state, opt_state, x):
        gradient, model_state, metrics = gradient_of(params, model_state, x)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), model_state, opt_state, metrics, gradient

    opt_state = jax.jit(optimizer.init)(params)
    losses = []
    for i in range(4):
        params, model_state, opt_state, metrics, gradient = step(params, model_state, opt_state, x)
        losses.append(jax.tree.map(np.asarray, metrics))
        if i == 0:
            expected = published_gradient(golden, generator)
            # The gradient of a bias before a normalisation or of a key is zero but for rounding: one scale for all.
            scale = length(expected)
            jax.tree.map(functools.partial(agree, scale=scale), gradient, expected)
            found = [model_state[f"norm_{n}"][k] for n in range(3) for k in ("mean", "var")]
            agree(np.concatenate(found), golden["running"])
    for column, name in enumerate(("loss", "contrast", "reconstruction", "latent_variance")):
        # Adam magnifies rounding where the true gradient is zero, which then moves the later losses.
        np.testing.assert_allclose([m[name] for m in losses], golden["losses"][:, column], rtol=1e-4)
    shares = [1 - losses[0][f"r2_{layer.name}"] for layer in UnitLayout(NET.spec).layers]
    agree(np.array(shares) * constants["mean_loss"][1:], golden["losses"][0, 4:])


def published_gradient(golden, generator):
    names = [name.removeprefix("gradient/") for name in golden if name.startswith("gradient/")]
    state = {name: golden[f"gradient/{name}"] for name in names}
    head = {name.removeprefix("head."): state.pop(name) for name in names if name.startswith("head.")}
    return {
        "autoencoder": importer.from_torch(state, UnitLayout(NET.spec), generator.architecture),
        "projection": head_from_torch(head),
    }


@pytest.mark.parametrize("name", ["weighted", "positive", "simclr"])
def test_other_losses_agree_with_the_published_ones(golden, published, name):
    settings = {
        "weighted": {
            "gamma": 0.0,
            "reduction": "layer_mean",
            "error_threshold": 0.8,
            "layer_weights": (1.0, 0.5, 2.0, 0.25),
            "normalize_loss": True,
        },
        "positive": {"gamma": 1.0, "contrast": "positive"},
        "simclr": {"gamma": 1.0},
    }[name]
    params, x, rows = published
    generator = hyperrep(**SMALL, decoder_bias=True, projection_layers=0, temperature=0.2, **settings)
    constants = constants_of(golden, rows, generator)
    params = {"autoencoder": params["autoencoder"]}
    value, (_, metrics) = jax.jit(lambda params: generator._loss_of_views(params, {}, constants, x, x, None, None))(
        params
    )
    expected = golden[f"loss_{name}"]
    agree(value, expected[0])
    assert ("reconstruction" in metrics) == (name == "weighted") and ("contrast" in metrics) == (name != "weighted")
    if name == "weighted":
        # The published measurement of the mean vector's loss uses the measured deviations, floor included.
        np.testing.assert_allclose(constants["mean_loss"], golden["mean_loss"], rtol=1e-5)
        explained = [metrics["r2"]] + [metrics[f"r2_{layer.name}"] for layer in UnitLayout(NET.spec).layers]
        wanted = 1 - np.array([expected[0], *expected[4:]]) / golden["mean_loss"]
        np.testing.assert_allclose(explained, wanted, rtol=1e-4)


def test_moments_equal_those_of_all_entries():
    rows = random_rows(7) * np.linspace(0.5, 2, NET.spec.num_params, dtype=np.float32) + 3
    layout = UnitLayout(NET.spec)
    found = loss.moments(layout, rows)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-6)
    for start, stop in ((0, 30), (30, 56), (56, 132), (132, 147)):
        np.testing.assert_allclose(found.std[start:stop], rows[:, start:stop].std(ddof=1, dtype=np.float64), rtol=1e-5)


def test_plateau_is_pytorchs(golden):
    """Each value is the mean of two steps; the rate changes with the step after the look."""
    generator = hyperrep(
        **SMALL,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        learning_rate=1.0,
        scheduler="plateau",
        scheduler_every=2,
        scheduler_factor=0.5,
        scheduler_patience=2,
        scheduler_cooldown=1,
        scheduler_min_learning_rate=0.2,
    )
    optimizer = generator.stages()[0].optimizer
    params = jnp.zeros(())

    @jax.jit
    def run(values):
        def body(state, value):
            update, state = optimizer.update(jnp.float32(-1), state, params, value=value)
            return state, update

        return jax.lax.scan(body, optimizer.init(params), values)[1]

    values = golden["plateau_values"]
    rates = run(np.stack([values - 0.5, values + 0.5], axis=1).ravel()).reshape(-1, 2)
    np.testing.assert_allclose(rates, np.stack([golden["plateau_rates"]] * 2, axis=1), rtol=1e-6)
    assert len(np.unique(golden["plateau_rates"])) == 4


@pytest.mark.parametrize(
    "settings, gradients, updates",
    [
        ({"optimizer": "adamw"}, [(0, 0)], (-0.2, 0.3)),
        ({"optimizer": "adam"}, [(0, 0)], (-1, 1)),
        ({"optimizer": "sgd"}, [(3, 4), (3, 4)], (-0.2 * 1.9 - 3 * 1.9, 0.3 * 1.9 - 4 * 1.9)),
        ({"optimizer": "sgd", "gradient_clipping": "norm", "gradient_clip": 1.0}, [(3, 4)], (-0.2 - 0.6, 0.3 - 0.8)),
        ({"optimizer": "sgd", "gradient_clipping": "value", "gradient_clip": 3.5}, [(3, 4)], (-0.2 - 3, 0.3 - 3.5)),
    ],
)
def test_optimizers_decay_and_clip_as_pytorchs(settings, gradients, updates):
    """Weights 2 and -3, decay 0.1, rate 1e-2, momentum 0.9: AdamW decays weights; the others add the decay to the
    gradient, after it was clipped."""
    stage = hyperrep(**SMALL, weight_decay=0.1, learning_rate=1e-2, **settings).stages()[0]
    optimizer = stage.optimizer
    params = jnp.array([2.0, -3.0])
    state = optimizer.init(params)
    for gradient in gradients:
        gradient = jnp.array(gradient, jnp.float32)
        if stage.gradient_clip:
            gradient = sharding.clip(gradient, stage.gradient_clip)
        found, state = optimizer.update(gradient, state, params)
    # Adam's correction divides by 1 - 0.999 in float32.
    np.testing.assert_allclose(found, 1e-2 * np.array(updates), rtol=1e-4)


@pytest.mark.parametrize(
    "factor, level, count",
    [
        ("", "", 223_316_838),
        ("width", "wide", 359_186_038),
        ("depth", "deep", 361_748_838),
        ("width", "narrow", 118_167_638),
        ("depth", "shallow", 154_100_838),
    ],
)
def test_published_parameter_counts(factor, level, count):
    """The SVHN zoo's network has 2,464 weights and 48 neurons; the five published totals, in millions, are met."""
    net = tasks.build({"name": "cnn"}, (28, 28, 1), 10)
    settings = HyperRep.FACTORS[factor][level](HyperRep()) if factor else {}
    assert settings == hyperrep_svhn.VARIANTS[level]
    generator = hyperrep(**settings, permutations="fresh")
    _, constants = generator.prepare(population(np.zeros((2, 2464), np.float32), net))
    assert generator.architecture.num_tokens(constants["layout"]) == 48
    params, _ = jax.eval_shape(generator.stages()[0].init, jax.random.key(0), {"constants": constants})
    assert sum(x.size for x in jax.tree.leaves(params["autoencoder"])) == count


@pytest.fixture(scope="module")
def initialised():
    """A generator with dropout and a contrast, its constants, parameters and statistics."""
    generator = hyperrep(
        **{**SMALL, "width": 12},
        dropout=0.3,
        decoder_bias=True,
        compression="token",
        permutations="none",
        latent_variance_penalty=0.1,
    )
    rows = random_rows(8)
    _, constants = generator.prepare(population(rows))
    made = jax.jit(generator.stages()[0].init)(jax.random.key(3), {"constants": constants})
    return generator, constants, *jax.tree.map(np.asarray, made), rows


def test_initial_parameters_have_pytorchs_distributions(initialised):
    _, _, params, model_state, _ = initialised
    encoder, blocks = params["autoencoder"]["encoder"], params["autoencoder"]["encoder"]["blocks"]
    for values, bound in (
        (blocks["qkv_kernel"], 12**-0.5),
        (blocks["down_kernel"], 6**-0.5),
        (params["autoencoder"]["decoder"]["from_latent"]["kernel"], 5**-0.5),
    ):
        assert stats.kstest(np.ravel(values), stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
    assert stats.kstest(np.ravel(encoder["positions"]), stats.norm.cdf).pvalue > 1e-3
    kaiming = np.ravel(params["projection"]["dense_0"]["kernel"])
    assert stats.kstest(kaiming, stats.norm(scale=(2 / 5) ** 0.5).cdf).pvalue > 1e-3
    assert (params["projection"]["dense_1"]["bias"] == np.float32(0.01)).all()
    assert (blocks["norm_1_scale"] == 1).all() and (blocks["norm_1_bias"] == 0).all()
    assert not np.array_equal(blocks["qkv_kernel"][0], blocks["qkv_kernel"][1])
    assert (model_state["norm_0"]["mean"] == 0).all() and (model_state["norm_0"]["var"] == 1).all()


def test_identical_blocks_start_identical():
    blocks = network.Blocks(hyperrep(**SMALL, identical_blocks=True).architecture)
    params = jax.jit(lambda key: initialise(blocks, key, jnp.zeros((1, 2, 8)), None))(jax.random.key(3))["params"]
    for value in map(np.asarray, jax.tree.leaves(params)):
        np.testing.assert_array_equal(value[0], value[1])


def test_dropout_depends_on_the_examples_keys_alone(initialised):
    """However a batch is put together or split over devices, an example drops the same."""
    generator, constants, params, _, rows = initialised
    module = generator._module(constants)
    keys = jax.random.split(jax.random.key(1), 8)
    run = jax.jit(lambda x, k: module.apply({"params": params["autoencoder"]}, x, k))
    part = np.array([5, 1, 1, 7, 0, 2, 3, 3])
    whole = jax.tree.map(np.asarray, run(rows, keys))
    jax.tree.map(lambda a, b: agree(a, b[part]), run(rows[part], keys[part]), whole)
    assert np.abs(np.asarray(run(rows, keys[part])[1]) - whole[1]).max() > 0.1


def test_dropout_keeps_the_share_that_was_asked_for():
    keys = jax.random.split(jax.random.key(1), 8)
    draw = jax.jit(lambda index: network.keep_mask(keys, index, 4001, 0.3))
    keep = np.asarray(draw(0))
    assert abs(keep.mean() - 0.7) < 4 * (0.21 / keep.size) ** 0.5
    for other in (np.asarray(draw(1)), keep[::-1]):
        # Two independent masks agree where both keep or both drop.
        assert abs(np.mean(keep == other) - 0.58) < 0.02


def test_features_are_normalised_on_both_sides(initialised):
    generator, constants, params, *_ = initialised
    std = np.linspace(0.5, 2, NET.spec.num_params, dtype=np.float32)
    state = {"constants": {**constants, "std": std}, "autoencoder": {"params": params}}
    normalised = dataclasses.replace(generator, feature_normalization=True)
    rows = random_rows(3)
    encode, decode = jax.jit(generator.encode), jax.jit(generator.decode)
    z = jax.jit(normalised.encode)(state, rows)
    agree(z, encode(state, rows / std))
    agree(jax.jit(normalised.decode)(state, z), np.asarray(decode(state, z)) * std[None, :])


def test_half_precision_products_stay_close(initialised):
    generator, constants, params, *_ = initialised
    state = {"constants": constants, "autoencoder": {"params": params}}
    full, half = (
        np.asarray(jax.jit(dataclasses.replace(generator, dtype=dtype).encode)(state, random_rows(3)))
        for dtype in ("float32", "bfloat16")
    )
    assert full.dtype == half.dtype == np.float32
    difference = np.abs(full - half).max() / np.abs(full).max()
    # bfloat16 has 8 bits; some twenty products lie one after the other.
    assert 1e-5 < difference < 20 * 2**-8


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"heads": 3}, "not a multiple"),
        ({"encoding": "layer"}, "encoding is 'layer'"),
        ({"bottleneck": "mlp", "decompression": "repeat"}, "does not go with"),
        ({"gamma": 1.5}, "between 0 and 1"),
        ({"erase_range": (0.5, 0.2)}, "put the smaller share first"),
        ({"erase_value": "noise"}, "a number or one of random"),
        ({"batch_size": 1}, "at least 2"),
        ({"scheduler": "exponential"}, "one of plateau, cosine"),
        ({"sampler": "gan"}, "sampler is 'gan'; set it to one of kde"),
        ({"mode": "ordered"}, r"generators\.hyperrep\.mode is 'ordered'; .* set it to one of independent, faithful"),
        ({"bandwidth": 0.0}, "bandwidth is 0.0; set it above 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        hyperrep(**{**SMALL, **settings})


def test_settings_that_do_not_fit_the_task_network_are_refused(golden):
    with pytest.raises(UserError, match=r"4 layers \(conv1, conv2, fc1, fc2\)"):
        hyperrep(layer_weights=(1.0, 2.0)).prepare(population(random_rows(2)))
    drawn = draw(json.loads(str(golden["plain/shapes"])), 0, ONES)
    for settings, message in (
        ({}, "does not have: decoder.decoder_bias"),
        ({"decoder_bias": True, "blocks": 3}, r"no tensor 'encoder.layers.2"),
        ({"decoder_bias": True, "latent_dim": 6}, "has shape"),
    ):
        with pytest.raises(UserError, match=message):
            importer.from_torch(drawn, UnitLayout(NET.spec), hyperrep(**{**SMALL, **settings}).architecture)
