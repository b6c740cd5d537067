"""P-diff: the laws of its preparation, training, sampling and convolutions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import agree

from jaxweights import generators, parallel, tasks
from jaxweights.errors import UserError
from jaxweights.generators.pdiff import PDiff
from jaxweights.generators.pdiff import generator as pdiff
from jaxweights.nn import conv1d
from jaxweights.population import Population
from jaxweights.training import train_generator

NET = tasks.build({"name": "mlp", "hidden": (3,)}, (4, 4, 1), 4)
STEPS, RATE = 6, 1e-3
TINY = {
    "autoencoder_channels": (3, 4),
    "latent_dim": 4,
    "denoiser_channels": (3, 4),
    "num_timesteps": 10,
    "batch_size": 16,
    "autoencoder_steps": STEPS,
    "diffusion_steps": STEPS,
    "autoencoder_learning_rate": RATE,
    "diffusion_learning_rate": RATE,
}


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(24, NET.spec.num_params)) * 0.3 + rng.normal(size=NET.spec.num_params)).astype(np.float32)


def train(rows, path, devices, **settings):
    generator = PDiff(**{**TINY, **settings})
    mesh = parallel.make_mesh(devices)
    return generator, train_generator(
        generator, Population.create(rows, NET.spec), mesh, key=jax.random.key(0), path=path
    )


@pytest.fixture(scope="module")
def trained(rows, tmp_path_factory):
    """On eight devices, which keep two copies of the parameters, with every batch statistic in play."""
    return train(rows, tmp_path_factory.mktemp("eight"), 8, encode="batch", parameter_shards=4, remat=True)


def test_eight_devices_equal_one(rows, trained, tmp_path):
    """Batch statistics, latent moments and gradients are those of the whole batch."""
    (_, one), (_, eight) = train(rows, tmp_path, 1, encode="batch"), trained
    a, b = (dict(jax.tree_util.tree_leaves_with_path(s)) for s in (one, eight))
    assert a.keys() == b.keys()
    for path in a:
        name = jax.tree_util.keystr(path)
        # A bias before a normalisation has no gradient but rounding, which Adam turns into steps of the learning rate;
        # the running mean follows it. All else has moved by some 3e-3 in six steps and differs by sums in another
        # order.
        free = ("conv_" in name and "'bias'" in name) or ("norm_" in name and "'mean'" in name)
        np.testing.assert_allclose(a[path], b[path], atol=2 * STEPS * RATE if free else 2e-4, err_msg=name)


def test_blocks_of_samples_fit_the_number(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert [pdiff._block(n) for n in (1, 100, 64, 12)] == [1, 10, 8, 6]
    assert pdiff._block(97) == 97  # a prime number is not cut up


def test_samples_depend_on_their_keys_alone(trained):
    generator, state = trained
    keys = jax.random.split(jax.random.key(5), 12)
    whole = parallel.map_rows(generator.sample, parallel.make_mesh(8))(state, keys)
    part = jax.jit(generator.sample)(state, keys[jnp.array([7, 2, 3])])
    assert whole.weights.shape == (12, NET.spec.num_params) and (np.asarray(whole.parents) == -1).all()
    np.testing.assert_allclose(part.weights, whole.weights[jnp.array([7, 2, 3])], atol=1e-5)


def test_preparation_normalises_each_tensor_by_two_scalars(rows):
    data, constants = PDiff(**TINY).prepare(Population.create(rows, NET.spec))
    assert data.shape == (24, 128) and NET.spec.num_params == 67 and not data[:, 67:].any()
    for _, span in NET.spec.spans():
        part = rows[:, span].astype(np.float64)
        assert np.ptp(constants["mean"][span]) == 0 and constants["mean"][span][0] == pytest.approx(
            part.mean(), abs=1e-6
        )
        assert constants["std"][span][0] == pytest.approx(part.std(axis=1, ddof=1).mean(), rel=1e-5)
    np.testing.assert_allclose(data[:, :67] * constants["std"] + constants["mean"], rows, atol=1e-5)


def test_one_checkpoint_without_diffusion(rows):
    """Few rows fill every batch alike, and samples are decoded standard normals."""
    generator = PDiff(**{**TINY, "diffusion_steps": 0, "latent_noise": None, "kl_weight": 1.0})
    data, _ = generator.prepare(Population.create(rows[:3], NET.spec))
    assert data.shape == (18, 128) and (data.reshape(6, 3, 128) == data[None, :3]).all()
    data, constants = generator.prepare(Population.create(rows[:1], NET.spec))
    (stage,) = generator.stages()
    params, stats = jax.jit(stage.init)(jax.random.key(0), {"constants": constants})
    state = {"constants": constants, stage.name: {"params": params, "model_state": stats}}
    keys = jax.random.split(jax.random.key(5), 4)
    latents = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)
    variables = generator._autoencoder_variables(state)

    @jax.jit
    def evaluate(data):
        decoded = generator._autoencoder(67).apply(variables, latents, "running", method="decode")
        loss = stage.loss(params, stats, state, data, jax.random.split(keys[0], 16), None)
        return pdiff.restore(decoded, constants), generator.sample(state, keys).weights, loss

    expected, found, (value, (_, metrics)) = evaluate(data[:16])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert metrics["divergence"] > 0
    np.testing.assert_allclose(value, metrics["reconstruction"] + metrics["divergence"], rtol=1e-6)


def test_the_faithful_decoder_differs(trained):
    generator, state = trained
    keys = jax.random.split(jax.random.key(5), 3)
    instance = jax.jit(dataclasses.replace(generator, decode="instance").sample)(state, keys)
    running = jax.jit(generator.sample)(state, keys)
    assert not np.allclose(instance.weights, running.weights, atol=1e-3)


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="kernel_size is 4"):
        PDiff(kernel_size=4)
    with pytest.raises(UserError, match=r"generators\.p\.decode is 'batch'; set it to one of running, instance"):
        generators.build("p", {"kind": "pdiff", "decode": "batch"})


def lax_conv(x, kernel, stride):
    half = len(kernel) // 2
    return jax.lax.conv_general_dilated(x, kernel, (stride,), [(half, half)], dimension_numbers=("NHC", "HIO", "NHC"))


def lax_transpose(x, kernel):
    last = len(kernel) - 1
    after = last - last // 2
    return jax.lax.conv_general_dilated(
        x, kernel[::-1], (1,), [(after, after + 1)], lhs_dilation=(2,), dimension_numbers=("NHC", "HIO", "NHC")
    )


@pytest.mark.parametrize(
    "size, length, channels", [(7, 12, (1, 5)), (5, 10, (6, 1)), (3, 14, (3, 4)), (7, 10, (24, 32))]
)
def test_convolutions_equal_the_plain_ones_in_value_and_gradient(size, length, channels):
    """Narrow layers (banded products), single output channels, odd numbers of blocks, and wide layers (own
    derivative)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, length, channels[0])).astype(np.float32)
    kernel = rng.normal(size=(size, *channels)).astype(np.float32)
    pairs = [
        (conv1d.conv1d, lambda x, k: lax_conv(x, k, 1)),
        (lambda x, k: conv1d.conv1d(x, k, 2), lambda x, k: lax_conv(x, k, 2)),
        (conv1d.conv1d_transpose, lax_transpose),
    ]

    @jax.jit
    def both(x, kernel):
        found = []
        for function in (f for pair in pairs for f in pair):
            value, backward = jax.vjp(function, x, kernel)
            found.append((value, *backward(jnp.sin(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape))))
        return found

    found = both(x, kernel)
    for ours, plain in zip(found[::2], found[1::2], strict=True):
        agree(list(ours), list(plain))


def test_preparation_of_single_entries_and_constant_tensors():
    spec = tasks.build({"name": "mlp", "hidden": (1,)}, (1, 1, 1), 2).spec  # tensors of 1, 1, 2 and 2 entries
    rows = np.array([[1, 5, 0, 2, 3, 3], [2, 5, 1, 3, 3, 3], [6, 5, 2, 4, 3, 3]], np.float32)
    _, constants = PDiff(**TINY).prepare(Population.create(rows, spec))
    np.testing.assert_allclose(constants["mean"], [3, 5, 2, 2, 3, 3])
    np.testing.assert_allclose(constants["std"], [np.std([1, 2, 6], ddof=1), 1, 2**0.5, 2**0.5, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("channels", [(4, 5), (24, 32)], ids=["narrow", "wide"])
def test_a_replicated_kernels_gradient_is_that_of_the_whole_batch(channels):
    """Both ways of computing a convolution, the one with its own derivative above all, under `shard_map`."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 12, channels[0])).astype(np.float32)
    kernel = rng.normal(size=(7, *channels)).astype(np.float32)
    whole, rows = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(parallel.AXIS)

    def gradient(x, kernel):
        def loss(kernel):
            return jax.lax.pmean(jnp.mean(jnp.tanh(conv1d.conv1d(x, kernel, 2))), parallel.AXIS)

        return jax.grad(loss)(kernel)

    one, eight = (
        jax.jit(jax.shard_map(gradient, mesh=parallel.make_mesh(d), in_specs=(rows, whole), out_specs=whole))(x, kernel)
        for d in (1, 8)
    )
    agree(eight, np.asarray(one))
