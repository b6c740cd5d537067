"""P-diff against the published modules on the same weights and inputs, and its published sizes and settings."""

import dataclasses
import fnmatch
import functools

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from goldens import agree

from configs.paper import pdiff as published
from configs.paper import pdiff_cifar100_resnet18
from jaxweights import diffusion as dif
from jaxweights import generators, tasks
from jaxweights.data.known import KNOWN
from jaxweights.errors import UserError
from jaxweights.generators.pdiff import PDiff
from jaxweights.generators.pdiff import generator as pdiff
from jaxweights.generators.pdiff.importer import from_torch
from jaxweights.generators.pdiff.network import Denoiser
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.normalization import is_statistic
from jaxweights.population import Population

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


@pytest.fixture(scope="module")
def golden():
    return goldens.load("pdiff")


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
        inputs = golden["x"], golden["latent_noise"], 1.0
        (out, *_), updated = module.apply(variables, *inputs, "batch", mutable=["batch_stats"])
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
    encode = jax.jit(functools.partial(generator._autoencoder(128).apply, method="encode"), static_argnums=2)
    found = encode({"params": params, "batch_stats": stats}, golden["x"], "running")
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

    @jax.jit
    def both(x, timesteps):
        shorter = Denoiser(module.channels, module.kernel_size, "bfloat16")
        return predict(x, timesteps), shorter.apply(after, x, timesteps, "running")

    whole, found = both(noise, t)
    agree(whole, golden["denoised_running"])
    found = found - golden["denoised_running"]
    # Five layers whose factors have eight bits each.
    assert 1e-4 < np.abs(found).max() / np.abs(golden["denoised_running"]).max() < 3e-2
    keys = jax.random.split(jax.random.key(0), 3)
    given = {"initial": jnp.asarray(golden["initial"]), "noise": jnp.asarray(golden["step_noise"])}
    sampled = jax.jit(lambda: dif.sample_ddpm(diffusion, predict, keys, (8,), **given))()
    # Sixty steps, each of which may add a rounding.
    np.testing.assert_allclose(sampled, golden["ddpm"], atol=60 * 1e-6 * np.abs(golden["ddpm"]).max())


@pytest.mark.parametrize(
    "length, latent_dim, autoencoder, denoiser",
    [
        (2048, 128, 2_199_201, 2_462_977),
        (768, 128, 1_870_241, 2_462_977),
        (3072, 128, 2_462_369, 2_462_977),
        (4096, 128, 2_725_537, 2_462_977),
        (5120, 128, 2_988_705, 2_462_977),
        (9408, 1024, 23_016_929, 3_726_337),
        (51_300, 512, 54_776_737, 2_807_809),
        (66_970, 768, 105_812_961, 3_201_537),
        (10_853, 256, 7_352_993, 2_545_153),
    ],
)
def test_published_parameter_counts(length, latent_dim, autoencoder, denoiser):
    stages = PDiff(latent_dim=latent_dim).stages()
    key = jax.random.key(0)
    done = {"constants": {"mean": jnp.zeros(length), "std": jnp.ones(length)}}
    params, stats = jax.eval_shape(stages[0].init, key, done)
    assert sum(x.size for x in jax.tree.leaves(params)) == autoencoder
    done["autoencoder"] = {"params": params, "model_state": stats}
    params, _ = jax.eval_shape(stages[1].init, key, done)
    assert sum(x.size for x in jax.tree.leaves(params)) == denoiser


VALUES = {
    "resnet18": 2048,
    "resnet50": 5120,
    "vittiny": 768,
    "vitbase": 3072,
    "convnexttiny": 3072,
    "convnextbase": 4096,
}
VALUES |= {"mlp": 66_970, "convnet": 24_262, "resnet": 25_138, "vit": 80_714, "convnext": 74_970, "cnnmedium": 10_853}
ABLATED = {"layers_cv0000": 9408, "layers_fc0000": 51_300}


def test_published_settings_have_the_published_sizes():
    """Every tag is a config whose generators can be built and whose chosen leaves have as many values as published."""
    assert [len(t) for t in (published.MAIN, published.FULL, published.ABLATIONS)] == [42, 12, 27]
    sizes = {}
    for tag in published.MAIN | published.FULL | published.ABLATIONS:
        config = published.get_config(tag).to_dict()
        generators.resolve(config["generators"])
        known = KNOWN[config["data"]["name"]]
        shape = tuple(config["data"].get("resize") or side for side in known.shape[:2]) + known.shape[2:]
        case = str(config["net"]), config["zoo"]["subset"], shape, known.num_classes
        if case not in sizes:
            leaves = [x for x in tasks.build(config["net"], *case[2:]).spec.leaves if not is_statistic(x.name)]
            patterns = case[1] or ["*"]
            sizes[case] = sum(leaf.size for leaf in leaves if any(fnmatch.fnmatch(leaf.name, p) for p in patterns))
        ablated = ABLATED.get(tag, VALUES["resnet18"])
        assert sizes[case] == (ablated if tag in published.ABLATIONS else VALUES[tag.split("_")[1]]), tag
    assert pdiff_cifar100_resnet18.get_config().to_dict() == published.get_config().to_dict()
    with pytest.raises(ValueError, match="cifar100_resnet18"):
        published.get_config("cifar100_resnet")


@pytest.mark.parametrize(
    "tag, first, count, last",
    [
        ("cifar100_resnet18", 2, 300, 301),  # one pass, from the second update
        ("cifar10_vitbase", 1, 301, 301),
        ("flowers_convnextbase", 2, 300, 350),  # passes of seven steps, of which six are kept
        ("stl10_resnet18", 3, 300, 308),  # passes of 78 steps, of which 76 are kept
        ("in1k_resnet18", 33, 300, 9900),
        ("in1k_resnet50", 10_042, 300, 19_909),  # after a whole epoch of 10,009 steps
        ("mnist_cnnmedium", 1, 321, 321),
        ("numberckpt_050", 2, 50, 51),
    ],
)
def test_published_settings_keep_the_published_steps(tag, first, count, last):
    zoo = published.get_config(tag).zoo
    kept = zoo.snapshots
    if zoo.snapshot_range:
        kept = range(zoo.snapshot_range[0], zoo.snapshot_range[1] + 1)
    assert (kept[0], len(kept), kept[-1]) == (first, count, last)
    assert zoo.steps == last or (not zoo.steps and zoo.epochs == 1)


def test_ablations_change_what_they_name():
    config = published.get_config("sgd_optimizer")
    assert (config.zoo.base.optimizer, config.zoo.base.epochs, config.zoo.base.select) == ("sgd", 50, "best_test")
    assert (config.zoo.optimizer, config.zoo.momentum, config.generators.pdiff.diffusion_steps) == ("sgd", 0.9, 6000)
    variational = generators.build("p", published.get_config("vae_sample").generators.pdiff.to_dict())
    assert [stage.name for stage in variational.stages()] == ["autoencoder"] and variational.latent_noise is None
    single = published.get_config("numberckpt_001").generators
    assert single.average.k == 1 and "gaussian" not in single


def layers():
    """The network whose checkpoints the golden data has, as files that the published code normalised and wrote."""
    leaves = Leaves()
    leaves.conv("conv1", 3, 1, 3, use_bias=False)
    leaves.norm("bn1", 3, statistics=True)
    leaves.dense("fc", 3, 1)
    return leaves.spec()


def test_preparation_agrees_with_the_published_one(golden):
    """Running variances on their scale, and the single entry of the last bias copied from the first file."""
    generator, spec = PDiff(**SMALL, batch_size=4, scalars="copy"), layers()
    data, constants = generator.prepare(Population.create(golden["files"], spec))
    modelled = slice(spec.num_params - 1)
    agree(data[:, modelled], golden["files_normalised"][:, modelled])
    assert not data[:, spec.num_params - 1 :].any()
    restored = pdiff.restore(golden["files_decoded"], constants)
    # The logarithm and its inverse round once each.
    np.testing.assert_allclose(restored, golden["files_restored"], rtol=1e-5, atol=1e-6)


def test_statistics_that_do_not_move_survive(golden):
    """As of a network whose statistics are frozen: constant tensors are only centred, variances stay positive."""
    spec, rows = layers(), golden["files"].copy()
    spans = {leaf.name: span for leaf, span in spec.spans()}
    rows[:, spans["bn1/running_mean"]], rows[:, spans["bn1/running_var"]] = 0, 1
    generator = PDiff(**SMALL, batch_size=4)
    data, constants = generator.prepare(Population.create(rows, spec))
    assert np.isfinite(data).all() and np.abs(data[:, spans["bn1/running_var"]]).max() < 1e-6
    decoded = jnp.array([[0.0], [-50.0]]) * jnp.ones((1, data.shape[1]))
    still, moved = np.asarray(pdiff.restore(decoded, constants))
    for name, value in (("bn1/running_mean", 0), ("bn1/running_var", 1)):
        np.testing.assert_allclose(still[spans[name]], value, atol=1e-6)
    assert (moved[spans["bn1/running_var"]] > 0).all() and np.isfinite(moved).all()


def test_published_checkpoints_are_read(golden):
    """Both networks, given as the published code saves them: the denoiser three times, batch counts among the rest."""
    diffusion = tree({k.replace("/net.", "/net/"): v for k, v in golden.items()}, "checkpoint/diffusion")["net"]
    saved = {"diffusion_trainer.beta_t": np.zeros(60)}
    for name in ("net", "diffusion_trainer.model", "diffusion_sampler.model"):
        saved |= {f"{name}.{k}": v if name == "net" else np.zeros(1) for k, v in diffusion.items()}
    checkpoint = {"vae": tree(golden, "checkpoint/vae"), "diffusion": saved}
    generator = PDiff(**SMALL, batch_size=4, standardise_latents=False)
    leaves = Leaves()
    leaves.vector("weight", 128)
    training = Population.create(golden["imported_x"], leaves.spec())
    state = from_torch(checkpoint, generator, training)
    module, variables = generator._autoencoder(128), generator._autoencoder_variables(state)
    stage = state["diffusion"]
    denoiser = {"params": stage["params"], "batch_stats": stage["model_state"]["denoiser"]}

    @jax.jit
    def evaluate():
        encoded = module.apply(variables, golden["imported_x"], "running", method="encode")
        decoded = module.apply(variables, golden["imported_latents"], "running", method="decode")
        times = jnp.asarray(golden["imported_t"], jnp.int32)
        return encoded, decoded, generator._denoiser().apply(denoiser, golden["imported_latents"], times, "running")

    agree(evaluate(), tuple(golden[f"imported_{name}"] for name in ("encoded", "decoded", "denoised")))
    with pytest.raises(UserError, match="standardise_latents=False"):
        from_torch(checkpoint, PDiff(**SMALL), training)
    with pytest.raises(UserError, match="shape"):
        from_torch(checkpoint, dataclasses.replace(generator, latent_dim=16), training)
    with pytest.raises(UserError, match="no tensor 'encoder.3.0.weight'"):
        from_torch(checkpoint, dataclasses.replace(generator, autoencoder_channels=(4, 6, 3, 3)), training)


def test_the_variational_objective_is_the_published_one(golden):
    generator = PDiff(**{**SMALL, "latent_noise": None, "kl_weight": 0.7}, batch_size=4, diffusion_steps=0)
    leaves = Leaves()
    leaves.vector("weight", 128)
    x = golden["imported_x"]
    state = from_torch({"vae": tree(golden, "checkpoint/vae")}, generator, Population.create(x, leaves.spec()))
    variables, module = generator._autoencoder_variables(state), generator._autoencoder(128)

    def loss(params):
        inputs = x, golden["vae_noise"], generator.latent_noise
        given = {**variables, "params": params}
        (out, mean, log_variance), _ = module.apply(given, *inputs, "batch", mutable=["batch_stats"])
        return jnp.mean((out - x) ** 2) + 0.7 * pdiff._divergence(mean, log_variance)

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
    agree(value, golden["vae_loss"])
    agree(gradient["encoder"]["fc_var"]["kernel"], golden["vae_gradient_fc_var"])
