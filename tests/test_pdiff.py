"""P-diff against the published modules on the same weights and inputs, its published sizes, and the protocol's laws."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxweights import diffusion as dif
from jaxweights import fit, generators, nets, parallel
from jaxweights.errors import UserError
from jaxweights.generators import conv1d
from jaxweights.generators.pdiff import PDiff
from jaxweights.population import Population

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden" / "pdiff_reference.npz"
SMALL = {
    "autoencoder_channels": (4, 6, 3),
    "latent_dim": 8,
    "denoiser_channels": (3, 5, 6),
    "num_timesteps": 60,
    "autoencoder_steps": 4,
    "autoencoder_learning_rate": 1e-3,
    "weight_decay": 1e-2,
    "input_noise": 0.0,
    "latent_noise": 0.0,
}
# Float32 convolutions and batch statistics summed in another order: a few units of the last place of the largest entry.
RELATIVE = 2e-5


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as archive:
        return {name: archive[name] for name in archive.files}


def tree(golden, prefix):
    """The nested dict of all arrays under a prefix."""
    found = {}
    for name, value in golden.items():
        if name.startswith(prefix + "/"):
            *path, last = name[len(prefix) + 1 :].split("/")
            node = found
            for part in path:
                node = node.setdefault(part, {})
            node[last] = value
    return found


def agree(ours, theirs, scale=None):
    """All leaves agree relative to the largest entry (of each leaf, or `scale`)."""
    ours, theirs = (dict(jax.tree_util.tree_leaves_with_path(t)) for t in (ours, theirs))
    assert ours.keys() == theirs.keys()
    for path, expected in theirs.items():
        size = scale or np.abs(expected).max()
        np.testing.assert_allclose(
            ours[path], expected, rtol=0, atol=RELATIVE * size, err_msg=jax.tree_util.keystr(path)
        )


def module_variables(golden, name, after=False):
    stats = "batch_stats_after" if after else "batch_stats"
    return {"params": tree(golden, f"{name}/params"), "batch_stats": tree(golden, f"{name}/{stats}")}


def test_autoencoder_agrees_with_the_published_one(golden):
    module = PDiff(**SMALL)._autoencoder(128)
    before, after = (module_variables(golden, "autoencoder", a) for a in (False, True))

    @jax.jit
    def evaluate():
        encoded = module.apply(before, golden["x"], "running", method="encode")
        decoded = module.apply(before, golden["latents_running"], "running", method="decode")
        return encoded, decoded, module.apply(after, golden["z"], "instance", method="decode")

    agree(evaluate(), (golden["latents_running"], golden["decoded_running"], golden["decoded_instance"]))

    def loss(params):
        variables = {**before, "params": params}
        out, updated = module.apply(variables, golden["x"], golden["latent_noise"], "batch", mutable=["batch_stats"])
        return jnp.mean((out - golden["x"]) ** 2), updated["batch_stats"]

    (value, stats), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(before["params"])
    agree(value, golden["autoencoder_loss"])
    agree(stats, after["batch_stats"])
    # Biases before a normalisation have a gradient of zero but for rounding: compare on the scale of the whole
    # gradient.
    expected = tree(golden, "autoencoder_gradient")
    agree(gradient, expected, scale=float(optax.global_norm(expected)))


def test_autoencoder_training_agrees_with_the_published_one(golden):
    generator = PDiff(**SMALL)
    stage = generator.stages()[0]
    variables = module_variables(golden, "autoencoder", after=True)
    done = {"constants": {"mean": np.zeros(128, np.float32), "std": np.ones(128, np.float32)}}
    keys = jax.random.split(jax.random.key(0), len(golden["x"]))

    @jax.jit
    def step(params, stats, opt_state):
        (value, (stats, _)), gradient = jax.value_and_grad(stage.loss, has_aux=True)(
            params, stats, done, golden["x"], keys, None
        )
        updates, opt_state = stage.optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), stats, opt_state, value

    params, stats, losses = variables["params"], variables["batch_stats"], []
    opt_state = stage.optimizer.init(params)
    for _ in range(4):
        params, stats, opt_state, value = step(params, stats, opt_state)
        losses.append(value)
    agree(np.array(losses), golden["training_losses"])
    found = generator._autoencoder(128).apply(
        {"params": params, "batch_stats": stats}, golden["x"], "running", method="encode"
    )
    # Adam divides by the root of tiny second moments where the true gradient is zero, which magnifies rounding there.
    np.testing.assert_allclose(
        found, golden["trained_latents_running"], atol=2e-3 * np.abs(golden["trained_latents_running"]).max()
    )


def test_denoiser_and_sampling_agree_with_the_published_ones(golden):
    generator = PDiff(**SMALL)
    module, diffusion = generator._denoiser(), generator._diffusion()
    before, after = (module_variables(golden, "denoiser", a) for a in (False, True))
    x0, noise, t = golden["latents_batch"], golden["noise"], golden["t"]

    def loss(params):
        variables = {**before, "params": params}
        out, updated = module.apply(variables, diffusion.add_noise(x0, noise, t), t, "batch", mutable=["batch_stats"])
        return jnp.mean((out - diffusion.target(x0, noise, t)) ** 2), updated["batch_stats"]

    (value, stats), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(before["params"])
    agree(value, golden["diffusion_loss"])
    agree(stats, after["batch_stats"])
    expected = tree(golden, "denoiser_gradient")
    agree(gradient, expected, scale=float(optax.global_norm(expected)))

    def predict(x, timesteps):
        return module.apply(after, x, timesteps, "running")

    agree(predict(noise, t), golden["denoised_running"])
    keys = jax.random.split(jax.random.key(0), 3)
    given = {"initial": jnp.asarray(golden["initial"]), "noise": jnp.asarray(golden["step_noise"])}
    sampled = jax.jit(lambda: dif.sample_ddpm(diffusion, predict, keys, (8,), **given))()
    # Sixty steps, each of which may add a rounding.
    np.testing.assert_allclose(sampled, golden["ddpm"], atol=60 * 1e-6 * np.abs(golden["ddpm"]).max())


@pytest.mark.parametrize("length, count", [(2048, 2_199_201), (768, 1_870_241), (3072, 2_462_369), (5120, 2_988_705)])
def test_published_parameter_counts(length, count):
    stages = PDiff().stages()
    key = jax.random.key(0)
    done = {"constants": {"mean": jnp.zeros(length), "std": jnp.ones(length)}}
    params, stats = jax.eval_shape(stages[0].init, key, done)
    assert sum(x.size for x in jax.tree.leaves(params)) == count
    done["autoencoder"] = {"params": params, "model_state": stats}
    params, _ = jax.eval_shape(stages[1].init, key, done)
    assert sum(x.size for x in jax.tree.leaves(params)) == 2_462_977


NET = nets.build({"name": "mlp", "hidden": (3,)}, (4, 4, 1), 4)
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
    return generator, fit.fit(generator, Population.create(rows, NET.spec), mesh, key=jax.random.key(0), path=path)


@pytest.fixture(scope="module")
def trained(rows, tmp_path_factory):
    """On eight devices, with every batch statistic in play."""
    return train(rows, tmp_path_factory.mktemp("eight"), 8, encode="batch")


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


def test_the_faithful_decoder_differs(trained):
    generator, state = trained
    keys = jax.random.split(jax.random.key(5), 4)
    instance = jax.jit(dataclasses.replace(generator, decode="instance").sample)(state, keys)
    running = jax.jit(generator.sample)(state, keys)
    assert not np.allclose(instance.weights, running.weights, atol=1e-3)


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="kernel_size is 4"):
        PDiff(kernel_size=4)
    with pytest.raises(UserError, match='"running" or "instance"'):
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
    spec = nets.build({"name": "mlp", "hidden": (1,)}, (1, 1, 1), 2).spec  # tensors of 1, 1, 2 and 2 entries
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
