"""RPG against the published modules on the same weights and inputs, and its published sizes."""

import json

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import agree

from jaxweights import diffusion as diffusion_lib
from jaxweights.generators import normalisation
from jaxweights.generators.rpg import RPG
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.mamba import Mamba2
from jaxweights.population import Population

SMALL = {
    "token_size": 8,
    "width": 8,
    "state": 3,
    "head_size": 4,
    "channels": (2, 3),
    "kernel_size": 3,
    "num_timesteps": 60,
    "tokens": 0,
    "batch_size": 2,
    "permutation_states": "checkpoints",
    "scalars": "copy",
}
ONES = r"norm\.weight$|running_var$|\.1\.0\.weight$|\.D$"
CONVS = {"encoder_list.0": 0, "encoder_list.1": 1, "encoder_list.2": 2, "decoder_list.0": 3}


@pytest.fixture(scope="module")
def golden():
    return goldens.load("rpg")


@pytest.fixture(scope="module")
def population(golden):
    """Three files of a convolution, a batch normalisation and two dense layers, the last with a single bias."""
    leaves = Leaves()
    leaves.conv("conv1", 3, 2, 4, use_bias=False)
    leaves.norm("bn1", 4, statistics=True)
    leaves.dense("fc1", 4, 3)
    leaves.dense("fc2", 3, 1)
    return Population.create(golden["files"], leaves.spec())


def parameters(golden, kind):
    """Our parameters and running statistics by the published names."""
    shapes = json.loads(str(golden[f"shapes/{kind}"]))
    drawn = goldens.draw(shapes, int(kind != "mamba"), ones=ONES)

    def dense(name):
        found = {"kernel": drawn[f"{name}.weight"].T}
        return {**found, "bias": drawn[f"{name}.bias"]} if f"{name}.bias" in drawn else found

    def norm(name):
        return {"scale": drawn[f"{name}.weight"], "bias": drawn[f"{name}.bias"]}

    recurrent = {
        "to_condition": dense("to_condition"),
        "permutation_states": drawn["to_permutation_state.weight"],
    }
    for i in range(2):
        if kind == "mamba":
            name = f"model.mamba_forward.{i}"
            conv = {"kernel": drawn[f"{name}.conv1d.weight"][:, 0].T, "bias": drawn[f"{name}.conv1d.bias"]}
            layer = {"in_proj": dense(f"{name}.in_proj"), "conv1d": conv, "out_proj": dense(f"{name}.out_proj")}
            layer |= {key: drawn[f"{name}.{key}"] for key in ("A_log", "dt_bias", "D")}
            layer["norm"] = drawn[f"{name}.norm.weight"]
        elif kind == "lstm":
            parts = (("inputs", "ih"), ("hidden", "hh"))
            layer = {
                ours: {
                    "kernel": drawn[f"model.lstm_forward.weight_{theirs}_l{i}"].T,
                    "bias": drawn[f"model.lstm_forward.bias_{theirs}_l{i}"],
                }
                for ours, theirs in parts
            }
        else:
            name = f"model.gmlp_forward.{i}"
            layer = {f"proj_{j}": dense(f"{name}.proj_{j}") for j in (1, 2, 3)}
            layer["norm"] = norm(f"{name}.layer_norm")
        recurrent[f"layer_{i}"] = layer
    net = "criteria.net"
    denoiser = {
        "time_in": dense(f"{net}.time_embedder.mlp.0"),
        "time_out": dense(f"{net}.time_embedder.mlp.2"),
        "prototype": dense(f"{net}.condi_embedder"),
    }
    statistics = {}
    for place, i in CONVS.items():
        kernel = drawn[f"{net}.{place}.0.weight"].transpose(2, 1, 0)
        denoiser[f"convs_{i}"] = {"kernel": kernel, "bias": drawn[f"{net}.{place}.0.bias"]}
        if i < 3:
            denoiser[f"norms_{i}"] = norm(f"{net}.{place}.1.0")
            statistics[f"norms_{i}"] = {ours: drawn[f"{net}.{place}.1.0.running_{ours}"] for ours in ("mean", "var")}
    return {"recurrent": recurrent, "denoiser": denoiser}, statistics


@pytest.mark.parametrize(
    ("granularity", "size", "number"), [("vector", 8, 0), ("tensor", 8, 1), ("rows", 8, 2), ("rows", 32, 2)]
)
def test_normalisation_tokens_and_places_are_the_published_ones(golden, population, granularity, size, number):
    positions = "1d" if granularity == "vector" else "2d"
    changes = {"token_size": size, "granularity": granularity, "positions": positions}
    data, constants = RPG(**{**SMALL, **changes}).prepare(population)
    expected = golden[f"tokens_{number}_{size}"]
    index = constants["index"]
    np.testing.assert_array_equal(np.isnan(expected[0]), index < 0)
    found = np.where(index >= 0, data["vectors"][:, np.maximum(index, 0)], np.nan)
    # Running variances are logarithms of quotients, which a mean near 0 magnifies the rounding of.
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if f"places_{number}_{size}" in golden:
        np.testing.assert_allclose(constants["places"], golden[f"places_{number}_{size}"], atol=1e-6)
    made = 2 * np.random.RandomState(8).normal(size=index.shape).astype(np.float32)
    restored = normalisation.restore(made.reshape(1, -1)[:, constants["slot"]], constants)
    np.testing.assert_allclose(restored[0], golden[f"restored_{number}_{size}"], rtol=1e-5, atol=1e-6)


def test_networks_training_and_sampling_agree_with_the_published_ones(golden, population, monkeypatch):
    """Prototypes of all recurrent networks, a Mamba-2 layer alone, predicted noise, loss, gradients, running
    statistics, 60 steps of DDPM, and 7 of DDIM."""
    generator = RPG(**SMALL)
    data, constants = generator.prepare(population)
    constants = {**constants, "places": golden["places_1_8"]}
    params, statistics = parameters(golden, "mamba")
    rows, count = np.array([0, 2], np.int32), len(constants["places"])
    rng = np.random.RandomState(2)
    x, c = (rng.normal(size=(5, 8)).astype(np.float32) for _ in range(2))
    noise = np.random.RandomState(3).normal(size=(2 * count, 8)).astype(np.float32)
    steps = np.random.RandomState(4).normal(size=(61, count, 8)).astype(np.float32)
    u = np.random.RandomState(5).normal(size=(2, 12, 8)).astype(np.float32)

    def diffuse(diffusion, x0, keys):
        t = jnp.asarray(golden["training_t"])
        return diffusion_lib.Noised(diffusion.add_noise(x0, noise, t), t, noise)

    monkeypatch.setattr(diffusion_lib, "diffuse", diffuse)
    denoiser = generator._denoiser()
    batch = {key: value[rows] for key, value in data.items()}
    keys = jax.random.split(jax.random.key(0), 2)

    def predicted(variables, x, t, embedded):
        times = denoiser.apply(variables, t, method="embed_times")
        return denoiser.apply(variables, x, times, embedded, "running")

    @jax.jit
    def run(params, statistics):
        def loss(params):
            value, (after, _) = generator._loss(params, statistics, {"constants": constants}, batch, keys, None)
            return value, after

        (value, after), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        variables = {"params": params["denoiser"], "batch_stats": statistics}
        embedded = denoiser.apply(variables, c, method="embed_prototypes")
        noise = predicted(variables, x, golden["t"], embedded)
        variables["batch_stats"] = after
        prototypes = generator._prototypes(params, constants, np.array([1]))[0]
        embedded = denoiser.apply(variables, prototypes, method="embed_prototypes")
        predict = lambda x, t: predicted(variables, x, t, embedded)  # noqa: E731
        sampled = diffusion_lib.sample_ddpm(
            generator.diffusion, predict, jax.random.split(keys[0], count), (8,), initial=steps[0], noise=steps[1:]
        )
        ddim = generator.replace(sampler="ddim_published", sampling_steps=7)
        steps_of = {"initial": steps[0], "noise": steps[1:8], "timesteps": ddim.published_timesteps}
        shorter = diffusion_lib.sample_ddim(
            generator.diffusion, predict, jax.random.split(keys[0], count), (8,), eta=0.05, **steps_of
        )
        layer = Mamba2(3, 4, 2, 4, chunk=5).apply({"params": params["recurrent"]["layer_0"]}, u)
        return generator._prototypes(params, constants, rows), layer, noise, value, after, gradient, (sampled, shorter)

    prototypes, layer, noise_found, value, after, gradient, sampled = run(params, statistics)
    agree([prototypes, layer, noise_found], [golden["prototypes/mamba"], golden["layer"], golden["denoised"]])
    agree(value, golden["loss"])
    # Up to 60 steps, one after the other.
    agree(sampled, (golden["sampled"], golden["sampled_ddim"]), relative=1e-4)
    published = {
        f"norms_{i}": {k: golden[f"after/criteria.net.{p}.1.0.running_{k}"] for k in ("mean", "var")}
        for p, i in CONVS.items()
        if f"after/criteria.net.{p}.1.0.running_mean" in golden
    }
    agree({key: after[key] for key in published}, published)
    first = gradient["recurrent"]["layer_0"]
    found = {
        "to_permutation_state.weight": gradient["recurrent"]["permutation_states"],
        "to_condition.bias": gradient["recurrent"]["to_condition"]["bias"],
        "model.mamba_forward.0.A_log": first["A_log"],
        "model.mamba_forward.0.dt_bias": first["dt_bias"],
        "model.mamba_forward.0.conv1d.weight": first["conv1d"]["kernel"].T[:, None],
        "criteria.net.time_embedder.mlp.0.bias": gradient["denoiser"]["time_in"]["bias"],
        "criteria.net.encoder_list.1.0.weight": gradient["denoiser"]["convs_1"]["kernel"].transpose(2, 1, 0),
        "criteria.net.condi_embedder.weight": gradient["denoiser"]["prototype"]["kernel"].T,
    }
    # Gradients cancel in the normalisations of the batch.
    agree(found, {key: golden[f"gradient/{key}"] for key in found}, relative=1e-4)


@pytest.mark.parametrize("kind", ["lstm", "mlp"])
def test_other_recurrent_networks_agree_with_the_published_ones(golden, population, kind):
    generator = RPG(**SMALL, recurrence=kind)
    constants = {"places": golden["places_1_8"], "rows": np.arange(3)}
    params, _ = parameters(golden, kind)
    found = jax.jit(lambda params: generator._prototypes(params, constants, np.array([0, 2])))(params)
    agree(found, golden[f"prototypes/{kind}"])
