"""The published recipe: augmentations equal Pillow's, mixing its closed forms, a training resumes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from configs.paper import bias_ycd
from jaxweights import parallel, settings
from jaxweights.bias import annotations, protocol
from jaxweights.bias.adapters import annotation
from jaxweights.bias.augmentation import crops, mixing, randaugment
from jaxweights.bias.classifiers import recipe
from jaxweights.bias.describe import describe
from jaxweights.bias.transformations import make
from jaxweights.bias.transformations.base import Augmentation
from jaxweights.errors import UserError
from jaxweights.nets.resize import weigh


def _picture():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:20, :24]
    waves = np.stack([x * 8 + 30 * np.sin(y / 3), y * 9 + 20 * np.cos(x / 4), 100 + 60 * np.sin((x + y) / 5)], -1)
    return np.clip(waves + rng.normal(0, 8, waves.shape), 5, 240).astype(np.uint8)


def _pillow(picture, name, level, sign):
    """An operation of timm's RandAugment, by Pillow."""
    image, share = Image.fromarray(picture), level / 10
    fill = {"resample": Image.Resampling.BICUBIC, "fillcolor": (124, 116, 104)}
    factor, added = max(0.1, 1 + sign * 0.9 * share), min(128, int(share * 110))

    def affine(*matrix):
        return lambda: image.transform(image.size, Image.Transform.AFFINE, matrix, **fill)

    made = {
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
        "posterize": lambda: ImageOps.posterize(image, 4 - int(share * 4)),
        "solarize": lambda: ImageOps.solarize(image, 256 - min(256, int(share * 256))),
        "solarize_add": lambda: image.point([min(255, i + added) if i < 128 else i for i in range(256)] * 3),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "rotate": lambda: image.rotate(sign * share * 30, **fill),
        "shear_x": affine(1, sign * share * 0.3, 0, 0, 1, 0),
        "shear_y": affine(1, 0, 0, sign * share * 0.3, 1, 0),
        "translate_x": affine(1, 0, sign * share * 0.45 * image.width, 0, 1, 0),
        "translate_y": affine(1, 0, 0, 0, 1, sign * share * 0.45 * image.height),
    }
    return np.asarray(made[name]()).astype(int)


def test_operations_are_those_of_pillow():
    picture, apply = _picture(), jax.jit(randaugment.apply)
    for number, name in enumerate(randaugment.OPERATIONS):
        for level, sign in ((9.3, 1.0), (4.2, -1.0)):
            found = apply(jnp.asarray(picture, jnp.float32), number, jnp.float32(level), jnp.float32(sign))
            away = np.abs(np.asarray(found) - _pillow(picture, name, level, sign))
            # Pillow computes positions in double precision and cuts off: rounding can move a value to the next.
            assert away.max() <= 1 and (away > 0).mean() < 0.01, name


def test_crops_are_those_of_pillow():
    picture = _picture()
    box = [jnp.array([value]) for value in (3, 11)], [jnp.array([value]) for value in (5, 13)]
    rows, columns = crops.weights(20, 16, *box[0]), crops.weights(24, 16, *box[1])
    found = crops.whole(weigh(jnp.asarray(picture, jnp.float32)[None], rows, columns))[0]
    cut = Image.fromarray(picture[3:14, 5:18]).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(found) - np.asarray(cut).astype(int)).max() <= 1  # Pillow rounds after each axis


def test_mixing():
    images = jax.random.uniform(jax.random.key(0), (256, 6, 6, 1))
    targets, keys = jax.nn.one_hot(jnp.arange(256) % 4, 4), jax.random.split(jax.random.key(1), 256)
    chosen = mixing.Mixing(group=4)
    mix = jax.jit(mixing.mixed, static_argnums=3)
    found, labels = map(np.asarray, mix(images, targets, keys, chosen))
    others = np.asarray(mixing.partners(images, 4))
    np.testing.assert_array_equal(others[:4], np.asarray(images)[3::-1])
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    share = labels[np.arange(256), np.arange(256) % 4]
    kept = np.isclose(found, images, atol=1e-6).mean(axis=(1, 2, 3))
    pasted = np.all(np.isclose(found, images) | np.isclose(found, others), axis=(1, 2, 3))
    # About every second image has a box of its partner, and its target is the share of the image that is left.
    assert 0.4 < pasted.mean() < 0.6
    np.testing.assert_allclose(share[pasted], kept[pasted], atol=1e-6)
    blended = ~pasted
    weight = share[blended][:, None, None, None]
    expected = weight * np.asarray(images)[blended] + (1 - weight) * others[blended]
    np.testing.assert_allclose(found[blended], expected, atol=1e-5)
    alone, same = mixing.mixed(images, targets, keys, dataclasses.replace(chosen, probability=0.0))
    np.testing.assert_array_equal(alone, images)
    np.testing.assert_array_equal(same, targets)


def test_published_constants():
    counts = {"tiny": 27_822_435, "femto": 4_833_939, "nano": 14_954_483, "resnet34": 21_286_211}
    for name, count in counts.items():
        facts = describe(bias_ycd.get_config(name).to_dict())
        assert facts["networks"]["ycd"]["num_params"] == count and facts["networks"]["ycd"]["steps"] == 21_960
        assert set(facts["transformations"].values()) >= set(annotation.PICTURES)
    own = describe(bias_ycd.get_config("tiny,own").to_dict())["transformations"]
    assert len(own) == 17 and not set(own.values()) & {*annotation.PICTURES, "concatenation"}
    assert annotations.parse(bias_ycd.get_config("captions").to_dict())["language"].encoder.tuned
    # Segmentations, which the published code standardises in evaluation alone.
    augmentation, chosen = Augmentation("crop", False, True), recipe.Recipe()
    assert chosen.standardised_in(augmentation) == (True, True)
    assert chosen.replace(normalisation="published").standardised_in(augmentation) == (False, True)


def test_schedule():
    rate = recipe.Recipe().schedule(21_960)
    assert rate(0) == 0 and np.isclose(rate(1463), 1e-3) and np.isclose(rate(1464), 1e-3)
    assert np.isclose(rate(1464 + (21_960 - 1464) // 2), (1e-3 + 1e-6) / 2, rtol=1e-3)
    assert np.isclose(rate(21_959), 1e-6, rtol=1e-2)


def test_a_training(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), 24).astype(np.int32)
    images = rng.integers(0, 120, (48, 12, 12, 3)).astype(np.uint8) + (100 * labels[:, None, None, None]).astype(
        np.uint8
    )
    (split,) = protocol.splits(labels, np.arange(48), 16, 8, repeats=1)
    small = {
        "net": {"name": "mlp", "hidden": (16,)},
        "augment": {"operations": 1},
        "epochs": 8,
        "batch_size": 8,
        "learning_rate": 0.02,
        "side": 8,
        "resize": 8,
        "mixing": {"group": 2},
        "reported": "best",
    }
    chosen, mesh = settings.make(recipe.Recipe, small), parallel.make_mesh(2)
    trial, same = split.trial(0, 0), make("identity")
    outcome = recipe.train(chosen, images, same, trial, 2, mesh=mesh, path=tmp_path)
    assert np.mean(outcome.predictions == labels[split.validation]) > 0.9
    again = recipe.train(chosen, images, same, trial, 2, mesh=mesh, path=tmp_path)
    np.testing.assert_array_equal(again.predictions, outcome.predictions)
    with pytest.raises(UserError, match="groups of 128"):
        recipe.train(chosen.replace(mixing=mixing.Mixing()), images, same, trial, 2, mesh=mesh)
