"""PixelCNN++: network and likelihood of a public implementation, causality, and sampling with cached activations equal
to the naive loop."""

import functools
import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxweights.errors import UserError
from jaxweights.generators.base import Training
from jaxweights.probing.data import pixels
from jaxweights.probing.models import make
from jaxweights.probing.models.pixelcnn import PixelCNN, logistics, network, sampling
from jaxweights.probing.models.pixelcnn.generator import FIRST

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "pixelcnn_reference.npz")
SIZES = network.Architecture(resnets=1, filters=4, mixtures=2, levels=3)
SHAPE = (4, 4, 8, 3)

run = jax.jit(lambda params, images: network.network(SIZES, params, images)[0])
likelihood = jax.jit(logistics.log_likelihood)


@functools.cache
def reference():
    """Parameters and images that the golden outputs are of, and the generator after them."""
    rng = np.random.RandomState(0)

    def flat(tree, path=""):
        for key, value in tree.items():
            yield from flat(value, f"{path}{key}/") if isinstance(value, dict) else [(path + key, value)]

    shapes, params = sorted(flat(network.shapes(SIZES, 3))), {}
    for name, shape in shapes:
        *path, last = name.split("/")
        place = functools.reduce(lambda tree, key: tree.setdefault(key, {}), path, params)
        small = (*shape[: name.startswith(("down", "up"))], shape[-1])
        v, g, b = (0.3 * rng.standard_normal(s) for s in (shape, small, small))
        place[last] = {k: x.astype(np.float32) for k, x in {"v": v, "g": 1 + g, "b": b}.items()}
    levels = rng.randint(0, 256, SHAPE)
    levels[0, 0], levels[1, 0] = 0, 255
    return params, (levels / 127.5 - 1).astype(np.float32), rng


def test_network_and_likelihood_are_those_of_the_public_implementation():
    params, images, rng = reference()
    np.testing.assert_allclose(run(params, images), GOLDEN["outputs"], rtol=1e-4, atol=1e-4)
    for name, channels in (("colour", 3), ("grey", 1)):
        outputs = (0.7 * rng.standard_normal((*SHAPE[:3], logistics.num_outputs(channels, 2)))).astype(np.float32)
        found = likelihood(outputs, images[..., :channels])
        np.testing.assert_allclose(found, GOLDEN[name], rtol=1e-4)


def test_a_pixel_depends_on_earlier_ones_alone():
    params, images, _ = reference()
    base, places = run(params, images), list(itertools.product(range(SHAPE[1]), range(SHAPE[2])))
    reached = np.zeros((len(places), len(places)), bool)
    for first in range(0, len(places), SHAPE[0]):
        changed = images.copy()
        for i, (row, column) in enumerate(places[first : first + SHAPE[0]]):
            changed[i, row, column] *= -1
        moved = np.any(np.asarray(run(params, changed)) != base, axis=-1)
        reached[first : first + SHAPE[0]] = moved.reshape(SHAPE[0], -1)
    assert not np.tril(reached).any()  # neither itself nor what came before
    assert reached[0].mean() > 0.9 and reached[range(len(places) - 1), range(1, len(places))].mean() > 0.8


def test_probabilities_of_all_levels_sum_to_one():
    rng, levels = np.random.default_rng(0), np.linspace(-1, 1, 256, dtype=np.float32)
    outputs = (3 * rng.normal(size=(20, 1, logistics.num_outputs(1, 4)))).astype(np.float32)
    given = np.broadcast_to(levels[None, :, None], (20, 256, 1))
    total = np.exp(likelihood(np.repeat(outputs, 256, axis=1), given)).sum(axis=1)
    np.testing.assert_allclose(total, 1.0, rtol=1e-4)


def test_a_channel_depends_on_earlier_ones_alone():
    rng, levels = np.random.default_rng(0), np.linspace(-1, 1, 256, dtype=np.float32)
    outputs = np.tile(rng.normal(size=10).astype(np.float32), (256, 1))
    values = np.stack([np.full(256, 0.2), np.full(256, -0.4), levels], axis=-1).astype(np.float32)
    other = outputs.copy()
    other[:, 7:] += 1  # all that is said of blue, which is summed over
    sums = [np.exp(likelihood(o, values)).sum() for o in (outputs, other)]
    np.testing.assert_allclose(*sums, rtol=1e-4)


def test_cached_and_naive_sampling_draw_the_same_images():
    params, _, _ = reference()
    keys = jax.random.split(jax.random.key(0), SHAPE[0])

    def draw(loop, params, keys):
        def choose(outputs, given):
            pixel = logistics.draw(outputs, given)
            return pixel, (pixel, outputs)

        noise = logistics.noise(keys, SHAPE[1:], SIZES.mixtures)
        found = loop(SIZES, params, SHAPE, choose, noise)
        return jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), found)

    cached = jax.jit(functools.partial(draw, sampling.cached))
    images, outputs = cached(params, keys)
    np.testing.assert_array_equal(images, jax.jit(functools.partial(draw, sampling.naive))(params, keys)[0])
    np.testing.assert_allclose(outputs, run(params, images), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(cached(params, keys[::-1])[0], images[::-1])
    levels = (np.asarray(images) + 1) * 127.5
    assert np.std(levels) > 10 and np.abs(levels - np.round(levels)).max() < 1e-3


def test_first_parameters_standardise_what_the_network_says_of_a_batch():
    _, images, _ = reference()
    params = jax.jit(functools.partial(network.initial, a=SIZES))(jax.random.key(0), images=images)
    outputs = np.asarray(run(params, images)).reshape(-1, 20)
    np.testing.assert_allclose(outputs.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(outputs.std(axis=0), 1, rtol=1e-3)


def test_published_size():
    done = {"constants": {FIRST: jax.ShapeDtypeStruct((16, 32, 32, 3), jnp.float32)}}
    (stage,) = PixelCNN().stages()
    params, _ = jax.eval_shape(stage.init, jax.random.key(0), done)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(params)) == 53_659_080


@pytest.mark.parametrize(
    ("shape", "words"),
    [((6, 8, 3), "models.small.levels is 3; images of 6 x 8 pixels"), ((8, 8, 2), "1 or 3 channels, but these have 2")],
)
def test_images_that_do_not_fit_are_refused(shape, words):
    with pytest.raises(UserError, match=words):
        make("small", {"kind": "pixelcnn", "batch_size": 1}).check(Training(8, 1, pixels(shape)))
