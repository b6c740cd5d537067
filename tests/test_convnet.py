"""G.pt's CIFAR-10 network is the published one; training images are moved and mirrored as published."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import zoos
from test_zoo import CONFIG

from jaxweights import nets, parallel, tasks
from jaxweights.errors import UserError
from jaxweights.evaluation import accuracy, evaluate
from jaxweights.nn import conv_pool
from jaxweights.zoo.augment import flip_and_cut
from jaxweights.zoo.supervised import pack, put


@functools.cache
def network():
    return tasks.build({"name": "convnet"}, (32, 32, 3), 10)


def textbook(vector, image):
    """Logits of one image by SciPy's correlations in float64, from the flat order of the published state dict."""
    sizes = [(16, 3, 3, 3), (32, 16, 3, 3), (10, 32), (10,)]
    ends = np.cumsum([int(np.prod(s)) for s in sizes])
    parts = [p.reshape(s) for p, s in zip(np.split(np.asarray(vector, np.float64), ends[:-1]), sizes, strict=True)]
    maps = np.asarray(image, np.float64).transpose(2, 0, 1)
    for kernels, stride in ((parts[0], 2), (parts[1], 1)):
        maps = [
            sum(scipy.signal.correlate(m, k, mode="same") for m, k in zip(maps, kernel, strict=True))
            for kernel in kernels
        ]
        maps = [np.maximum(m[::stride, ::stride], 0) for m in maps]
    return parts[2] @ np.array([m.mean() for m in maps]) + parts[3]


def test_parameters_are_the_published_ones():
    spec = network().spec
    assert spec.num_params == 5370
    assert [leaf.name for leaf in spec.leaves] == ["conv1/kernel", "conv2/kernel", "fc/weight", "fc/bias"]
    assert [(g.size, g.scaling) for g in spec.groups] == [(16, "positive"), (32, "positive")]
    vectors = np.asarray(jax.jit(jax.vmap(network().init))(jax.random.split(jax.random.key(0), 20)))
    for leaf, span in spec.spans():  # PyTorch: uniform up to one over the root of the number of inputs
        fan_in = {"conv1/kernel": 27, "conv2/kernel": 144, "fc/weight": 32, "fc/bias": 32}[leaf.name]
        largest = np.abs(vectors[:, span]).max() * np.sqrt(fan_in)
        assert 0.97 < largest < 1  # 200 draws or more: below 0.97 with probability 0.002


@pytest.mark.parametrize("side", [32, 9])
def test_logits_are_those_of_scipy(side):
    """On odd maps, too, where the last stride has a single row and column of the border under it."""
    net = tasks.build({"name": "convnet"}, (side, side, 3), 10)
    rng = np.random.default_rng(0)
    vector = rng.normal(size=net.spec.num_params).astype(np.float32) / 10
    images = rng.normal(size=(2, side, side, 3)).astype(np.float32)
    # float32 sums of 144 terms of order one.
    np.testing.assert_allclose(jax.jit(net.apply)(vector, images), [textbook(vector, i) for i in images], atol=1e-5)


def test_gradient_is_that_of_lax():
    """Against XLA's own convolutions, with their strides and paddings."""
    net = network()
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)

    def plain(vector):
        params, x = net.spec.unflatten(vector), images
        for name, stride in (("conv1", 2), ("conv2", 1)):
            numbers = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(
                x, params[name]["kernel"], (stride, stride), [(1, 1), (1, 1)], dimension_numbers=numbers
            )
            x = jax.nn.relu(x)
        return x.mean(axis=(1, 2)) @ params["fc"]["weight"].T + params["fc"]["bias"][None, :]

    vector = jax.jit(net.init)(jax.random.key(2))
    ours, theirs = (
        jax.jit(jax.grad(lambda v, f=f: jnp.sum(jnp.sin(f(v)))))(vector)
        for f in (lambda v: net.apply(v, images), plain)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * float(jnp.abs(theirs).max()))


def test_the_function_is_invariant_under_the_symmetry_group():
    net, key = network(), jax.random.key(3)
    images = np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype(np.float32)

    @jax.jit
    def orbit(key):
        vector = net.init(key)
        moved = net.spec.permute(vector, net.spec.random_permutation(key))
        return vector, moved, net.spec.rescale(vector, net.spec.random_scales(key))

    vector, moved, scaled = orbit(key)
    assert not np.allclose(moved, vector) and not np.allclose(scaled, vector)
    logits = jax.jit(net.apply)
    for other in (moved, scaled):
        np.testing.assert_allclose(logits(other, images), logits(vector, images), atol=1e-5)


def test_evaluation_equals_one_model_at_a_time(mesh):
    net = tasks.build({"name": "convnet", "channels": (4, 4)}, (8, 8, 3), 10)
    weights = np.asarray(jax.jit(jax.vmap(net.init))(jax.random.split(jax.random.key(0), 5)))
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(21, 8, 8, 3)).astype(np.float32), rng.integers(0, 10, 21)
    result, apply = evaluate(net, weights, images, labels, mesh), jax.jit(net.apply)
    for i, vector in enumerate(weights):
        logits = np.asarray(apply(vector, images))
        assert result.accuracy[i] == np.mean(logits.argmax(axis=1) == labels)
        np.testing.assert_allclose(result.loss[i], nets.cross_entropy(logits, labels).mean(), rtol=1e-5)
    assert accuracy.block_shape(net, "cpu").models == 8


def test_stride_and_pooling_exclude_each_other():
    with pytest.raises(UserError, match="stride 2 is not pooled"):
        conv_pool.unfold(jnp.zeros((3, 9, 9, 2)), (3, 3), pool=True, stride=2)


def test_images_are_moved_and_mirrored_as_published():
    """Every result is one of the 2 x 8 x 8 that the published code can draw, and all of these are equally frequent."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(6, 5, 2)).astype(np.float32)
    possible = {}
    for flip in range(2):
        bordered = np.pad(image[:, ::-1] if flip else image, ((4, 4), (4, 4), (0, 0)))
        for y in range(8):
            for x in range(8):
                possible[bordered[y : y + 6, x : x + 5].tobytes()] = len(possible)
    assert len(possible) == 128
    count = 12_800
    moved = np.asarray(jax.jit(flip_and_cut)(np.broadcast_to(image, (count, 6, 5, 2)), jax.random.key(0)))
    found = np.bincount([possible[m.tobytes()] for m in moved], minlength=128)
    chi_square = np.sum((found - 100) ** 2 / 100)
    assert abs(chi_square - 127) < 4 * np.sqrt(2 * 127)


def test_augmented_batches_are_fresh_at_every_step_and_belong_to_the_run():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 8, 8, 3)).astype(np.uint8)
    net = tasks.build({"name": "convnet", "channels": (4, 4)}, (8, 8, 3), 10)
    recipe = zoos.recipe("classification", 16, **CONFIG, augment="flip_crop")
    trainer = zoos.trainer(net, recipe, 16, parallel.make_mesh(1), 1)
    packed = put(pack(images, np.arange(16) % 10, np.ones(3), np.zeros(3)), trainer.mesh)
    words = trainer.init(0, np.arange(2)).words
    draw = jax.jit(lambda word, step: trainer.program.batch(packed, word, step)[0])

    def of(run, step):
        batch = np.asarray(draw(words[run], np.int32(step)))
        return batch[np.lexsort(batch.reshape(16, -1).T)]

    assert np.array_equal(of(0, 3), of(0, 3))
    assert not np.array_equal(of(0, 3), of(0, 4)) and not np.array_equal(of(0, 3), of(1, 3))
    with pytest.raises(UserError, match="one of none, flip_crop"):
        zoos.recipe("classification", 16, **CONFIG, augment="mixup")
