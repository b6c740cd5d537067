"""Transformations of images: golden values of the published libraries, and what holds for all of them."""

import re

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxweights import parallel
from jaxweights.bias import resizing, transformations
from jaxweights.bias.transformations import (
    Arithmetic,
    Fitted,
    Library,
    Place,
    Pretrained,
    Stage,
    pipeline,
    shuffles,
    slic,
)
from jaxweights.bias.transformations.shuffles import corners, fixed_permutation, take_patches
from jaxweights.errors import UserError

KEY = jax.random.key(0)
OWN = [kind for kind, made in transformations.TRANSFORMATIONS.items() if not issubclass(made, Pretrained)]
FILTERS = [(kind, side, smooth) for kind in ("low_pass", "high_pass") for side in (5, 13) for smooth in (False, True)]


@pytest.fixture(scope="module")
def golden():
    """Arrays of the published libraries by name."""
    return goldens.load("bias_images")


@pytest.fixture(scope="module")
def one_device():
    """Programs for one device compile fastest."""
    return Place(parallel.make_mesh(1))


@pytest.fixture(scope="module")
def fitted(one_device):
    """State of a generator for the first of two collections; its autoencoder is a state of the other kind."""
    generation = tiny("generation")
    assert isinstance(generation, Fitted)
    return generation.fit([images(24), images(24)], KEY, one_device.mesh)[0]


def images(count=3, side=16, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), np.uint8)


def tiny(kind, **settings):
    return transformations.make({"kind": kind, **transformations.TRANSFORMATIONS[kind].TINY, **settings})


def library(kind, **settings):
    made = transformations.make({"kind": kind, **settings})
    assert isinstance(made, Library)
    return made


def arithmetic(kind, **settings):
    made = transformations.make({"kind": kind, **settings})
    assert isinstance(made, Arithmetic)
    return made


def test_arithmetic_equals_the_published_libraries(golden):
    many = {"mean_rgb": arithmetic("mean_rgb"), "hog": arithmetic("hog", side=0), "hog_60": arithmetic("hog", side=60)}
    for kind, threshold, smooth in FILTERS:
        name = f"{kind}_{threshold}_{'butterworth' if smooth else 'ideal'}"
        many[name] = arithmetic(kind, threshold=threshold, butterworth=smooth)

    @jax.jit
    def run(pixels, larger):
        keys = jax.random.split(KEY, len(pixels))
        levels = transformations.as_floats(pixels)
        made = {name: t.apply(pixels if t.BYTES else levels, keys) for name, t in many.items()}
        return made | {"hog_60": many["hog_60"].apply(larger, keys)}

    larger = np.stack([many["hog_60"].prepare(image) for image in golden["images"]])
    found = jax.device_get(run(golden["images"], larger))
    np.testing.assert_array_equal(found.pop("mean_rgb"), golden["mean_rgb"])
    for name in ("hog", "hog_60"):
        picture = found.pop(name)
        assert picture.dtype == np.uint8 and (picture == picture[..., :1]).all()
        # Float32 against float64: a value on the edge between two bytes, or a direction on that between two bins.
        difference = np.abs(picture[..., 0].astype(int) - golden[name])
        assert difference.max() <= 1 and np.mean(difference > 0) < 0.01, name
    for name, filtered in found.items():
        reference = golden[name]
        assert filtered.dtype == np.float32 and filtered.shape == (2, 48, 40, 3)
        np.testing.assert_allclose(filtered[: len(reference)], np.repeat(reference[..., None], 3, -1), atol=5e-6)


def test_libraries_are_called_as_published(golden):
    for name, kind, side in (("canny", "canny", 500), ("canny_20", "canny", 20), ("sift_80", "sift", 80)):
        made = np.stack([library(kind, side=side).one(image, 0) for image in golden["images"]])
        np.testing.assert_array_equal(made, np.repeat(golden[name][..., None], 3, -1), name)
    coloured = library("sift", side=80, colours="random")
    np.testing.assert_array_equal(coloured.one(golden["images"][0], 7), golden["sift_80_seed_7"])
    contours = library("slic", segments=20).one(golden["images"][0], 0)
    np.testing.assert_array_equal(contours[..., 1], slic.contours(golden["slic_20"][0]))


def test_resizing_on_device_is_that_on_the_host():
    cases = [(20, 28, 31), (30, 20, 7), (9, 9, 36)]
    many = [np.random.default_rng(0).integers(0, 256, (2, *case[:2], 3), np.uint8) for case in cases]
    sides = [side for *_, side in cases]

    @jax.jit
    def run(many):
        return [resizing.resize_bytes(pixels.astype(jnp.float32), s) for pixels, s in zip(many, sides, strict=True)]

    for found, pixels, side in zip(run(many), many, sides, strict=True):
        np.testing.assert_array_equal(found, [resizing.resized(image, side) for image in pixels])


def test_contours_lie_between_regions():
    regions = np.zeros((5, 6), int)
    regions[2:, 3:] = 1
    expected = np.zeros((5, 6), int)
    expected[1, 3:5] = expected[2, 2:5] = expected[3, 2:4] = 255
    np.testing.assert_array_equal(slic.contours(regions), expected)


def in_order(image, order, patch):
    """Patch by patch."""
    each, moved = image.shape[0] // patch, np.empty_like(image)
    for place, source in enumerate(order):
        (y, x), (v, u) = divmod(place, each), divmod(source, each)
        piece = image[v * patch : (v + 1) * patch, u * patch : (u + 1) * patch]
        moved[y * patch : (y + 1) * patch, x * patch : (x + 1) * patch] = piece
    return moved


def test_patches_change_places_whole():
    pixels, patches = images(2, 32), (1, 2, 4, 8, 16)
    orders = [[np.random.default_rng(i).permutation((32 // patch) ** 2) for i in range(2)] for patch in patches]

    @jax.jit
    def run(pixels):
        pairs = [(corners(32, 32, p)[np.array(order)], p) for order, p in zip(orders, patches, strict=True)]
        return [(take_patches(pixels, jnp.asarray(o), p), take_patches(pixels, o[0], p)) for o, p in pairs]

    for (own, common), order, patch in zip(run(pixels), orders, patches, strict=True):
        expected = [in_order(image, of, patch) for image, of in zip(pixels, order, strict=True)]
        np.testing.assert_array_equal(own, expected)
        np.testing.assert_array_equal(common, [expected[0], in_order(pixels[1], order[0], patch)])


def test_random_shuffles_depend_on_key_and_row_alone(monkeypatch, one_device):
    same = np.repeat(np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1), 10, axis=0)
    shuffle = transformations.make("pixel_shuffle")
    first = transformations.transform(shuffle, same, KEY, one_device)
    monkeypatch.setattr(pipeline, "_CHUNK_VALUES", 3 * 64)
    np.testing.assert_array_equal(transformations.transform(shuffle, same, KEY), first)  # eight devices, chunks
    assert len({image.tobytes() for image in first}) == 10
    np.testing.assert_array_equal(np.sort(first.reshape(10, -1)), same.reshape(10, -1))
    assert not np.array_equal(first, transformations.transform(shuffle, same, jax.random.key(1), one_device))
    # The fixed one has one order for all images, which the seed decides and the key does not.
    order = fixed_permutation(64, 5)
    fixed = arithmetic("pixel_shuffle", fixed=True, seed=5)
    np.testing.assert_array_equal(fixed.apply(jnp.asarray(same), KEY).reshape(10, -1), np.tile(order, (10, 1)))
    assert shuffle.random and not fixed.random


def test_every_order_of_a_few_patches_is_as_likely():
    keys = jax.random.split(KEY, 20_000)
    places = corners(16, 16, 8)
    found = np.searchsorted(places, jax.jit(jax.vmap(lambda key: shuffles._shuffled(places, key)))(keys))
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 24 and stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("kind", OWN)
def test_every_transformation(kind, one_device, fitted):
    made = tiny(kind)
    place = one_device
    if isinstance(made, Fitted):
        place = Place(place.mesh, state=fitted if kind == "generation" else fitted["autoencoder"])
    pixels = images()
    found = transformations.transform(made, pixels, KEY, place)
    assert len(found) == 3 and found.ndim == 4 and found.shape[-1] == made.channels(3)
    np.testing.assert_array_equal(found, transformations.transform(made, pixels, KEY, place))
    np.testing.assert_array_equal(pixels, images())
    if found.dtype != np.uint8:
        assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    if isinstance(made, Arithmetic) and made.BYTES:
        keys = jax.random.split(KEY, 3)
        floats, levels = jax.jit(lambda pixels: (made.apply(pixels / 255, keys), made.apply(pixels, keys)))(pixels)
        assert floats.dtype == np.float32 and levels.dtype == np.uint8
        np.testing.assert_allclose(floats * 255, levels, atol=1e-3)


def test_grey_images_stay_grey(golden):
    grey = golden["images"][..., :1]
    for kind in ("canny", "sift", "slic"):
        assert library(kind, side=60).one(grey[0], 0).shape[-1] == 1


def test_what_libraries_made_is_kept_on_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(pipeline, "_PART", 2)
    pixels, place, canny = images(5), Place(folder=tmp_path), library("canny")
    first = transformations.transform(canny, pixels, KEY, place)
    parts = sorted(tmp_path.rglob("*.npy"))
    assert len(parts) == 3
    parts[1].write_bytes(parts[1].read_bytes()[:100])
    computed = []
    one = type(canny).one
    monkeypatch.setattr(type(canny), "one", lambda self, image, seed: computed.append(seed) or one(self, image, seed))
    np.testing.assert_array_equal(transformations.transform(canny, pixels, KEY, place), first)
    assert len(computed) == 2
    transformations.transform(canny, pixels[:4], KEY, place)
    transformations.transform(canny.replace(low=10.0), pixels, KEY, place)
    assert len(computed) == 2 + 4 + 5 and len(list(tmp_path.iterdir())) == 3


def test_concatenations_are_their_parts_side_by_side(one_device):
    values = {"kind": "concatenation", "parts": [{"kind": "patch_shuffle", "patch": 4, "fixed": True}, "canny"]}
    pair, pixels = transformations.make(values), images()
    shuffle, canny = arithmetic("patch_shuffle", patch=4, fixed=True), library("canny")
    found = transformations.transform(pair, pixels, KEY, one_device)
    assert pair.stage == Stage.AFTER and pair.augmentation.group == "crop" and not pair.random
    assert pair.channels(3) == 6 and hash(pair) == hash(transformations.make(values))
    np.testing.assert_allclose(found[..., :3] * 255, shuffle.apply(jnp.asarray(pixels), KEY), atol=1e-3)
    np.testing.assert_allclose(found[..., 3:] * 255, [canny.one(image, 0) for image in pixels], atol=1e-3)
    with pytest.raises(UserError, match="several sizes"):
        hog = {"kind": "hog", "side": 32}
        transformations.transform(transformations.make({**values, "parts": [hog, "canny"]}), pixels, KEY)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("patch_shufle", "did you mean patch_shuffle"),
        ({"kind": "low_pass", "treshold": 3}, "did you mean threshold"),
        ({"kind": "concatenation", "parts": ("canny",)}, "2 to 8 entries"),
        ({"kind": "concatenation", "parts": ("canny", {"kind": "concatenation"})}, "not offered"),
    ],
)
def test_bad_settings_are_refused(values, words):
    with pytest.raises(UserError, match=words):
        transformations.make(values)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="patch is 5.*16 x 16"):
        transformations.transform(transformations.make({"kind": "patch_shuffle", "patch": 5}), images(), KEY)
    with pytest.raises(UserError, match="cell is 32"):
        transformations.transform(transformations.make({"kind": "hog", "cell": 32, "side": 0}), images(), KEY)
    assert all(re.fullmatch("[a-z_]+", kind) for kind in transformations.TRANSFORMATIONS)
    assert issubclass(transformations.TRANSFORMATIONS["canny"], Library)
