"""Parameters in parts: how devices are arranged, what is alive at a time, and that nothing but the order of sums
changes; on several processes too."""

import dataclasses
import functools
import hashlib
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import mini
import numpy as np
import optax
import pytest
from goldens import agree
from jobs import run_job
from trees import length

from jaxweights import parallel, sharding
from jaxweights.errors import UserError
from jaxweights.generators.base import Stage
from jaxweights.nn.dense import Dense, matmul
from jaxweights.nn.parameters import _draws_from, constant, initialise, kernel, normal, parameter, uniform_draws
from jaxweights.training import StageTrainer
from launch import rehearse

pytestmark = pytest.mark.usefixtures("eight_devices")

WIDTH, LAYERS, STEPS = 24, 6, 4


class Stack(nn.Module):
    """Residual layers whose kernels are stacked and scanned."""

    @nn.compact
    def __call__(self, x):
        x = Dense(WIDTH, convention="flax", name="first")(x)
        kernels = kernel(self, "stacked", (LAYERS, WIDTH, WIDTH), normal(WIDTH**-0.5))
        biases = parameter(self, "biases", (LAYERS, WIDTH), constant(0.0))

        def layer(x, p):
            return x + jnp.tanh(matmul(x, p[0]) + p[1][None, :]), None

        return Dense(3, convention="flax", name="last")(jax.lax.scan(layer, x, (kernels, biases))[0])


def stage(shards):
    """Learns rows of three numbers, with everything that looks at more than one entry, row or device."""

    def init(key, done):
        return initialise(Stack(), key, jnp.zeros((1, 3)))["params"], {"mean": jnp.zeros(3), "count": jnp.int32(0)}

    def loss(params, model_state, done, batch, keys, axis_name):
        noisy = batch + 0.1 * jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
        mean = noisy.mean(axis=0)
        mean = mean if axis_name is None else jax.lax.pmean(mean, axis_name)
        out = Stack().apply({"params": params}, noisy - mean[None, :])
        state = {"mean": model_state["mean"] + mean, "count": model_state["count"] + 1}
        return jnp.mean(jnp.square(out - batch)), (state, {"mean": jnp.mean(mean)})

    # An epsilon under which Adam's steps are as exact as the gradient.
    optimizer, stacked = optax.adam(1e-2, eps=1e-2), ("stacked", "biases")
    return Stage("only", STEPS, 8, optimizer, init, loss, 0.5, _rows_of, 0.5, shards, stacked)


def _rows_of(data, rows, keys):
    return data[rows]


def trainer(devices, shards, steps=STEPS, data_memory=0):
    rows = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    chosen = dataclasses.replace(stage(shards), steps=steps, data_memory=data_memory)
    mesh = parallel.make_mesh_of(jax.devices()[:devices])
    return StageTrainer(chosen, rows, {"constants": {}}, mesh, jax.random.key(0), "x")


@functools.cache
def trained(devices, shards):
    """A trainer, its compiled program, the states before and after training, and the losses."""
    made = trainer(devices, shards)
    _, program = made.compile()
    before = jax.tree.map(np.asarray, made.init())
    state, metrics = made.advance(made.init(), STEPS)
    return made, program, before, jax.tree.map(np.asarray, state), np.asarray(metrics["loss"][:STEPS])


@pytest.mark.parametrize(
    "devices, shards, mesh", [(8, 1, (8, 1)), (8, 4, (2, 4)), (8, 0, (1, 8)), (6, 3, (2, 3))], ids=str
)
def test_every_mesh_trains_the_same(devices, shards, mesh):
    """The last one's batch is split over the first axis alone."""
    _, _, before, after, losses = trained(1, 1)
    made, _, start, found, theirs = trained(devices, shards)
    assert tuple(made.mesh.shape.values()) == mesh
    jax.tree.map(np.testing.assert_array_equal, start, before)
    np.testing.assert_allclose(theirs, losses, rtol=1e-5)
    moved = length(jax.tree.map(np.subtract, after.params, before.params))
    assert moved > 0.05
    # Sums over devices and over rows in another order.
    agree(found._replace(opt_state=()), after._replace(opt_state=()), 1e-5, scale=moved)
    agree(found.opt_state, after.opt_state, 1e-5, scale=1.0)


def test_one_array_is_whole_at_a_time():
    """By the compiled program: what it gathers in the loop over layers is one layer, and arguments and temporaries are
    as small as parts are."""
    made, program, *_ = trained(8, 0)
    gathered = re.findall(r"f32\[([\d,]+)\]\S* all-gather\(", program.as_text())
    shapes = [tuple(map(int, dims.split(","))) for dims in gathered]
    assert shapes.count((WIDTH, WIDTH)) == 2 and max(map(math.prod, shapes)) == WIDTH**2
    whole = sum(4 * x.size for x in jax.tree.leaves(made.programs.shapes.params))
    memory, copies = program.memory_analysis(), trained(8, 1)[1].memory_analysis()
    assert memory.argument_size_in_bytes < 4 * whole / 8 * 1.4  # parameters, average, two moments; vectors are whole
    assert copies.argument_size_in_bytes > 4 * whole
    assert memory.temp_size_in_bytes < whole < copies.temp_size_in_bytes


def test_parts_are_drawn_as_wholes_are():
    key = jax.random.key(7)
    whole = uniform_draws(key, (5 + 6 * 7 * 11,))
    found = jax.jit(lambda key: _draws_from(key, 5, (6, 7, 11)))(key)
    np.testing.assert_array_equal(found, whole[5:].reshape(6, 7, 11))


@pytest.mark.parametrize(
    "processes, devices, batch_size, shards, expected",
    [
        (1, 8, 32, 1, (8, 1, True)),
        (1, 8, 6, 1, (6, 1, True)),
        (1, 8, 6, 2, (3, 2, True)),
        (1, 6, 12, 4, (2, 3, True)),
        (1, 8, 1, 0, (1, 8, False)),
        (2, 4, 50, 1, (2, 1, True)),
        (4, 2, 50, 1, (2, 4, False)),
        (4, 1, 6, 2, (2, 2, False)),
    ],
)
def test_devices_are_arranged_for_batch_and_shards(processes, devices, batch_size, shards, expected):
    assert sharding.sizes(processes, devices, batch_size, shards) == expected


def test_vectors_and_the_axis_of_blocks_are_not_split():
    shapes = {"blocks": {"kernel": (8, 3, 4), "bias": (8, 4)}, "kernel": (8, 16), "odd": (3, 5), "bias": (8,)}
    tree = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32), shapes, is_leaf=lambda x: type(x) is tuple
    )
    axes = sharding.split_axes(tree, 4, ("blocks",))
    assert axes == {"blocks": {"kernel": -1, "bias": 0}, "kernel": -1, "odd": 0, "bias": 0}
    assert not any(jax.tree.leaves(sharding.split_axes(tree, 1)))


def test_two_processes_train_as_one(tmp_path):
    """Bit for bit, since the sum of two numbers has one order, and though each reads its rows as it needs them. One
    process with one device goes on from there."""
    code = f"""
import pathlib
import test_sharding
made = test_sharding.trainer(2, 0, steps=2, data_memory=1e-9)
assert made.most(1) == 1
print(test_sharding.digest(made.run(pathlib.Path({str(tmp_path)!r}), print)))
"""
    first, second = run_job(code, processes=2)
    rows = []
    one = trainer(2, 0, steps=2).run(None, rows.append)
    assert first.splitlines()[-1] == second.splitlines()[-1] == digest(one)
    made, _, before, after, losses = trained(1, 1)
    resumed = made.run(tmp_path, rows.append)
    np.testing.assert_allclose([row["loss"] for row in rows], losses, rtol=1e-5)
    agree(resumed["params"], after.ema, 1e-5, scale=length(jax.tree.map(np.subtract, after.ema, before.ema)))


def digest(tree):
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(tree))).hexdigest()


def test_a_rehearsal_takes_one_step_at_full_size():
    config = mini.get_config().to_dict()
    found = rehearse.rehearse(config, "pdiff", "autoencoder", "step")
    assert found["mesh"] == {"data": 8, "model": 1} and found["parameters"] > 0 and np.isfinite(found["loss"])
    assert found["step_gib_per_device"]["arguments"] > 0
    with pytest.raises(UserError, match="no learned generator gpt; known: pdiff"):
        rehearse.rehearse(config, "gpt", None, "compile")
    with pytest.raises(UserError, match="no stage 'x'; known: autoencoder, diffusion"):
        rehearse.rehearse(config, None, "x", "compile")
