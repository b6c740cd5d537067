"""RPG: tokens, codes of places, the Mamba-2 scan, permutation states, what padding does, devices."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import agree
from jax.sharding import PartitionSpec

from configs.paper import rpg as published
from jaxweights import parallel, tasks
from jaxweights.errors import UserError
from jaxweights.generators import normalisation
from jaxweights.generators.rpg import RPG
from jaxweights.generators.rpg.network import Denoiser
from jaxweights.nn import mamba
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.parameters import initialise
from jaxweights.population import Population

NET = tasks.build({"name": "mlp", "hidden": (3,)}, (4, 4, 1), 4)
RNG = np.random.default_rng(0)
ROWS = (0.3 * RNG.normal(size=(16, NET.spec.num_params)) + RNG.normal(size=NET.spec.num_params)).astype(np.float32)
KEY = jax.random.key(0)
TINY = RPG(**{**RPG.TINY, "permutation_states": "checkpoints", "recurrence": "mlp"})  # compiles faster than Mamba-2


def recurrence(x, decay, b, c):
    """Mamba-2's states and outputs position by position, in float64."""
    x, decay, b, c = (np.asarray(value, np.float64) for value in (x, decay, b, c))
    state, found = 0.0, []
    for at in range(x.shape[1]):
        state = np.exp(decay[:, at])[..., None, None] * state + np.einsum("nhp,ns->nhps", x[:, at], b[:, at])
        found.append(np.einsum("nhps,ns->nhp", state, c[:, at]))
    return np.stack(found, axis=1)


@pytest.mark.parametrize("chunk", [4, 64])
def test_the_scan_by_chunks_is_the_recurrence(chunk):
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 11, 3, 4), "b": (2, 11, 5), "c": (2, 11, 5)}
    x, b, c = (rng.normal(size=shape).astype(np.float32) for shape in shapes.values())
    decay = -rng.uniform(0.01, 1.6, size=(2, 11, 3)).astype(np.float32)  # rates of 16 and step sizes of 0.1
    found = jax.jit(mamba.scan, static_argnums=4)(x, decay, b, c, chunk)
    expected = recurrence(x, decay, b, c)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_sizes_are_the_published_ones():
    """Tokens of the two small networks, and parameters of the denoiser of three sizes of tokens."""
    for tag, parameters, tokens in (("cifar10_cnnsmall", 2864, 18), ("cifar10_cnnmedium", 10_853, 48)):
        config = published.get_config(tag)
        spec = tasks.build(config.net, (32, 32, 3), 10).spec
        generator = RPG(**{k: v for k, v in config.generators.rpg.to_dict().items() if k != "kind"})
        assert (spec.num_params, generator.num_tokens(spec)) == (parameters, tokens)
    for size, expected in ((256, 342_145), (8192, 136_484_225), (16_384, 541_259_137)):
        module = Denoiser(size, RPG().channels, RPG().kernel_size)
        made = jax.eval_shape(lambda key, m=module, s=size: initialise(m, key, jnp.zeros((1, s)), method="start"), KEY)
        assert sum(leaf.size for leaf in jax.tree.leaves(made["params"])) == expected


def test_what_no_model_can_be_built_from_is_refused():
    for changes, message in [
        ({"width": 6}, "multiple of 4"),
        ({"recurrence": "mamba", "head_size": 5}, r"divisor of expand times width \(16\)"),
        ({"kernel_size": 4}, "odd"),
    ]:
        with pytest.raises(UserError, match=message):
            TINY.replace(**changes)


def test_running_variances_and_scalars_come_back():
    """Also those far from their mean, and of a tensor that has one entry."""
    leaves = Leaves()
    leaves.norm("bn", 5, statistics=True)
    leaves.dense("fc", 5, 1)
    spec = leaves.spec()
    rows = RNG.normal(size=(6, spec.num_params)).astype(np.float32)
    variances = {leaf.name: span for leaf, span in spec.spans()}["bn/running_var"]
    rows[:, variances] = np.exp(rows[:, variances])
    data, constants = TINY.prepare(Population.create(rows, spec))
    tokens = np.where(constants["index"] >= 0, data["vectors"][:, constants["index"]], np.nan)
    flat = tokens.reshape(len(rows), -1)[:, constants["slot"]]
    np.testing.assert_allclose(normalisation.restore(flat, constants), rows, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def state():
    """A generator with random parameters."""
    _, constants = TINY.prepare(Population.create(ROWS, NET.spec))
    init = TINY.stages()[0].init
    params, statistics = jax.eval_shape(init, KEY, {"constants": constants})
    params = jax.tree.map(lambda x: (0.3 * RNG.normal(size=x.shape)).astype(np.float32), params)
    statistics = jax.tree.map(lambda x: RNG.uniform(1, 2, size=x.shape).astype(np.float32), statistics)
    return {"constants": constants, "diffusion": {"params": params, "model_state": statistics}}


def test_two_devices_equal_one(state):
    """Random tokens have different numbers of entries; batch statistics and the loss are those of all of them."""
    done, stage = {"constants": state["constants"]}, TINY.stages()[0]
    data, _ = TINY.prepare(Population.create(ROWS, NET.spec))
    batch, keys = {key: value[:8] for key, value in data.items()}, jax.random.split(KEY, 8)

    def loss(stored, batch, keys, axis_name=None):
        value, (statistics, _) = stage.loss(stored["params"], stored["model_state"], done, batch, keys, axis_name)
        return (value if axis_name is None else jax.lax.pmean(value, axis_name)), statistics

    whole, split = PartitionSpec(), PartitionSpec(parallel.AXIS)
    over = functools.partial(loss, axis_name=parallel.AXIS)
    mapped = jax.shard_map(over, mesh=parallel.make_mesh(2), in_specs=(whole, split, split), out_specs=whole)
    one, two = (jax.jit(f)(state["diffusion"], batch, keys) for f in (loss, mapped))
    agree(two, one, relative=1e-5)


def test_a_sample_is_told_which_checkpoint_it_is_of(state):
    """There is a row per training network, which a sample's prototypes are from, and that network is its parent."""
    assert state["diffusion"]["params"]["recurrent"]["permutation_states"].shape == (len(ROWS), TINY.width)
    equal = jax.tree.map(lambda x: x, state)
    equal["diffusion"]["params"]["recurrent"]["permutation_states"] = np.zeros((len(ROWS), TINY.width), np.float32)
    program = jax.jit(TINY.sample)
    (weights, parents), (others, same) = (program(s, jax.random.split(KEY, 64)) for s in (state, equal))
    assert len(set(parents.tolist())) > 10 and set(parents.tolist()) <= set(range(len(ROWS)))
    np.testing.assert_array_equal(parents, same)
    assert np.isfinite(weights).all() and np.abs(weights - others).max() > 1e-4


def test_with_one_permutation_state_there_is_one_row(state):
    generator = TINY.replace(permutation_states="one")
    shapes, _ = jax.eval_shape(generator.stages()[0].init, KEY, {"constants": state["constants"]})
    assert shapes["recurrent"]["permutation_states"].shape == (1, generator.width)
