"""Images resized on device are Pillow's but for its rounding, random crops are drawn as torchvision draws them, and a
network that resizes its images is the same network on images that were resized before."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from jaxweights import data, nets, tasks
from jaxweights.errors import UserError
from jaxweights.nets.resize import Resize, bilinear, checked
from jaxweights.zoo.augment import BOX_DRAWS, RATIO, Boxes, augmented, boxes

# Pillow rounds to bytes after each axis, by at most half a level each; weights add up to 1.
ROUNDING = 1.001
KEY = jax.random.key(3)

# Compiled as a whole: operation by operation the compilations add up to seconds.
boxes_of = jax.jit(boxes, static_argnums=(1, 2))
change = jax.jit(augmented, static_argnums=(2, 3))
weights_of = jax.jit(bilinear, static_argnums=(0, 1))


@pytest.fixture(scope="module")
def pictures():
    """Colour pictures that are not square: two smooth ones, of digits, and two of noise."""
    digits = data.load("digits").test_images[:2].astype(np.uint8) * 15
    smooth = [np.asarray(Image.fromarray(d[..., 0]).resize((37, 32), Image.BICUBIC)) for d in digits]
    smooth = np.repeat(np.stack(smooth)[..., None], 3, axis=-1)
    return np.concatenate([smooth, np.random.default_rng(0).integers(0, 256, (2, 32, 37, 3), np.uint8)])


def pillow(picture, size, box=None):
    image = Image.fromarray(picture)
    return np.asarray((image.crop(box) if box else image).resize(size, Image.BILINEAR), np.float32)


@pytest.mark.parametrize(("side", "crop"), [(64, 64), (48, 40), (20, 17), (32, 21)])
def test_resize_and_centre_crop_are_pillows(pictures, side, crop):
    result = jax.jit(Resize(side, crop).__call__)(pictures.astype(np.float32))
    expected = np.stack([pillow(picture, (side * 37 // 32, side)) for picture in pictures])
    top, left = (round((n - crop) / 2) for n in expected.shape[1:3])
    np.testing.assert_allclose(result, expected[:, top : top + crop, left : left + crop], rtol=0, atol=ROUNDING)


def test_random_crops_are_pillows_of_the_boxes_drawn_and_half_of_them_mirrored(pictures):
    many = np.tile(pictures, (8, 1, 1, 1))
    result = np.asarray(change(many.astype(np.float32), KEY, "resized_crop", (24, 28)))
    drawn = boxes_of(jax.random.uniform(KEY, (BOX_DRAWS + 1, len(many)))[:-1], 32, 37)
    mirrored = 0
    for picture, image, top, left, height, width in zip(many, result, *map(np.asarray, drawn), strict=True):
        expected = pillow(picture, (28, 24), (left, top, left + width, top + height))
        errors = [np.abs(image - each).max() for each in (expected, expected[:, ::-1])]
        assert min(errors) < ROUNDING
        mirrored += errors[1] < errors[0]
    assert 6 <= mirrored <= 26  # of 32; outside with probability 2e-4, for one key


def test_the_whole_image_at_its_own_size_stays_as_it_is():
    identity = np.broadcast_to(np.eye(9, dtype=np.float32), (2, 9, 9))
    np.testing.assert_array_equal(weights_of(9, 9, np.zeros(2), np.full(2, 9)), identity)
    images = np.random.default_rng(0).normal(size=(3, 9, 9, 2)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(Resize(9, 9).__call__)(images), images)


def test_pixels_outside_the_piece_have_no_weight_and_rows_add_up_to_one():
    start, length = np.arange(6)[:, None].repeat(4, 1), np.array([[1, 2, 5, 11]] * 6)
    weights = np.asarray(weights_of(16, 7, start, length))
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    pixel = np.arange(16)
    outside = (pixel < start[..., None]) | (pixel >= (start + length)[..., None])
    assert (weights[np.broadcast_to(outside[:, :, None], weights.shape)] == 0).all()
    assert (weights >= 0).all()


def drawn_one_by_one(rng, height, width):
    """torchvision's procedure in Python."""
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(height - h + 1), rng.integers(width - w + 1), h, w
    raise AssertionError("ten draws of which none fits are not expected of an image that is nearly square")


def test_boxes_are_distributed_as_torchvisions():
    size, count = (96, 110), 4000
    rng = np.random.default_rng(0)
    ours = Boxes(*map(np.asarray, boxes_of(rng.random((BOX_DRAWS, count), np.float32), *size)))
    reference = Boxes(*np.array([drawn_one_by_one(rng, *size) for _ in range(count)]).T)
    for of in (
        lambda b: b.height * b.width,
        lambda b: np.log(b.width / b.height),
        lambda b: b.top + b.height / 2,
        lambda b: b.left + b.width / 2,
        lambda b: b.top,
    ):
        assert stats.ks_2samp(of(ours), of(reference)).pvalue > 1e-3
    # Boxes stay inside, and those that can move reach both edges.
    for first, length, side in ((ours.top, ours.height, size[0]), (ours.left, ours.width, size[1])):
        first, last = (x[length < side] for x in (first, first + length))
        assert first.min() == 0 and last.max() == side and (length <= side).all()
    # Sides are rounded to whole pixels, by at most half of one.
    assert ((ours.width + 0.5) / (ours.height - 0.5) > RATIO[0]).all()
    assert ((ours.width - 0.5) / (ours.height + 0.5) < RATIO[1]).all()


@pytest.mark.parametrize(
    ("size", "expected"), [((4, 1000), (0, 497, 4, 5)), ((1000, 6), (496, 0, 8, 6))], ids=["wide", "tall"]
)
def test_an_image_that_no_draw_fits_gives_its_central_part(size, expected):
    draws = np.random.default_rng(0).random((BOX_DRAWS, 5), np.float32)
    for drawn, value in zip(boxes_of(draws, *size), expected, strict=True):
        np.testing.assert_array_equal(drawn, np.full(5, value))


def test_a_key_draws_the_same_crops_and_another_key_others():
    images = np.random.default_rng(0).normal(size=(4, 12, 12, 1)).astype(np.float32)
    first, again, other = (np.asarray(change(images, jax.random.key(k), "resized_crop", (8, 8))) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (4, 8, 8, 1) and (np.abs(first - other).max(axis=(1, 2, 3)) > 0.1).all()
    assert augmented(images, KEY, "none", (8, 8)) is images


@pytest.mark.parametrize(
    "config",
    [
        {"name": "pdiff_vit", "patch": 4, "width": 8, "depth": 1},  # prepares its images itself
        {"name": "vit_tiny", "patch": 4, "width": 8, "heads": 2, "depth": 1},
    ],
    ids=lambda config: config["name"],
)
def test_a_network_resizes_the_images_of_its_data_set_and_no_others(config):
    own = tasks.build({**config, "resize": 16, "crop": 12}, (8, 10, 3), 5)
    plain = tasks.build(config, (12, 12, 3), 5)
    assert own.spec == plain.spec and own.input_shape == (8, 10, 3) and own.image_shape == (12, 12, 3)
    images = jax.random.normal(KEY, (3, 8, 10, 3))
    names = [leaf.name for leaf in plain.spec.leaves if leaf.name.startswith("head/")]

    @jax.jit
    def logits(key, images):
        weights, resized = own.init(key), Resize(16, 12)(images)
        given = (images, resized, own.prepare(images), own.prepare(resized))
        return weights, plain.init(key), plain.apply(weights, resized), [own.apply(weights, x) for x in given]

    weights, init, expected, results = logits(KEY, images)
    np.testing.assert_array_equal(weights, init)
    part = nets.partial(own, np.asarray(weights), names)
    results += [jax.jit(lambda images: part.apply(part.start, part.prepare(images)))(images)]
    for result in results:
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)  # programs that are fused in different ways
    assert np.abs(expected).max() > 0.01 and own.activation_size == plain.activation_size


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ((0, 8), (8, 8, 1), "config.data.crop"),
        ((8, 9), (4, 4, 1), "crop from 1 to it"),
        ((16, 8), (8, 8, 1), "config.data.resize"),
        ((16, 8), (4,), "no sides"),
    ],
)
def test_impossible_sizes_are_refused(settings, shape, message):
    with pytest.raises(UserError, match=message):
        checked(*settings, shape)


def test_nothing_to_resize_is_nothing():
    assert checked(0, 0, (8, 8, 1)) is None and checked(8, 0, (8, 8, 1)) is None
    assert checked(8, 0, (8, 9, 1)) == Resize(8, 8)
