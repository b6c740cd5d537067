"""Image data in files: every reader gives back what was written and refuses what is damaged, by name."""

from __future__ import annotations

import gzip
import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_sets import KEYS, assert_holds, make, raw_of, save_npz, write_idx
from PIL import Image
from test_data_prepared import write_tfrecords

from jaxweights import data
from jaxweights.data import checks, encoded, pixels, prepare
from jaxweights.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


# ---- digits and the arithmetic on images ----


def test_digits_split_is_a_stratified_partition_that_never_changes():
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    assert digits.train_images.shape == (1437, 8, 8, 1) and digits.test_images.shape == (360, 8, 8, 1)
    source = load_digits()
    everything = np.concatenate([digits.train_images, digits.test_images]).reshape(-1, 64)
    order = np.lexsort(everything.T)
    np.testing.assert_array_equal(everything[order], source.data[np.lexsort(source.data.T)])
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    np.testing.assert_array_equal(labels[order], source.target[np.lexsort(source.data.T)])
    expected = np.bincount(source.target) / 5
    assert (np.abs(np.bincount(digits.test_labels) - expected) < 1).all()
    # The fingerprint covers every pixel and label: published numbers depend on this split.
    assert digits.source.endswith("b4b2fcf8ecb1320d")


def test_standardised_digits_have_mean_zero_and_deviation_one():
    digits = data.load()
    images = np.asarray(data.standardise(digits.train_images, digits.scale, digits.shift), np.float64)
    # float32 rounding of 92k values near 1.
    assert abs(images.mean()) < 1e-5 and abs(images.std() - 1) < 1e-5


def test_standardise_is_one_formula_for_any_batch_shape_and_under_jit():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 3), np.uint8)
    scale, shift = np.array([0.1, 0.2, 0.3], np.float32), np.array([-1, 0, 2], np.float32)
    expected = images.astype(np.float32) * scale + shift
    for function in (data.standardise, jax.jit(data.standardise), jax.vmap(data.standardise, (0, None, None))):
        result = function(images, scale, shift)
        assert result.dtype == jnp.float32
        # XLA may fuse the product and the sum into one rounding, 255 * 0.3 has an ulp of 8e-6.
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


def test_statistics_equal_numpy_for_bytes_and_floats(tmp_path):
    arrays = make((5, 7, 3), train=5000, seed=3)
    for scale_down in (False, True):
        if scale_down:
            for key in KEYS[::2]:
                arrays[key] = (arrays[key] / 255).astype(np.float64)
        loaded = data.load(str(save_npz(tmp_path / "colours.npz", arrays)))
        flat = arrays["train_images"].reshape(-1, 3).astype(np.float64)
        np.testing.assert_allclose(loaded.scale, 1 / flat.std(0), rtol=1e-6)
        np.testing.assert_allclose(loaded.shift, -flat.mean(0) / flat.std(0), rtol=1e-6)


def test_published_and_given_constants(tmp_path):
    save_npz(tmp_path / "mnist.npz", make())
    published = data.load("mnist", tmp_path)
    np.testing.assert_allclose(255 * published.scale + published.shift, (1 - 0.1307) / 0.3081, rtol=1e-6)
    np.testing.assert_allclose(published.shift, -0.1307 / 0.3081, rtol=1e-6)
    given = data.load("mnist", tmp_path, mean=0.5, std=[0.5])
    np.testing.assert_allclose([255 * given.scale + given.shift, given.shift], [[1], [-1]], rtol=1e-6)
    save_npz(tmp_path / "cifar10.npz", make((32, 32, 3)))
    cifar = data.load("cifar10", tmp_path)
    np.testing.assert_allclose(cifar.shift, -np.array([0.5071, 0.4867, 0.4408]) / [0.2675, 0.2565, 0.2761], rtol=1e-6)
    for wrong in (
        {"mean": 0.5},
        {"mean": [0.1, 0.2], "std": [1, 1]},
        {"mean": 0, "std": 0},
        {"mean": np.nan, "std": 1},
    ):
        with pytest.raises(UserError, match="mean|std"):
            data.load("mnist", tmp_path, **wrong)


def test_grey_equals_pillow_and_svhn_is_cropped_in_the_middle(tmp_path):
    arrays = make((32, 32, 3))
    save_npz(tmp_path / "svhn_cropped.npz", arrays)
    loaded = data.load("svhn", tmp_path, grey=True, crop=28)
    assert loaded.name == "svhn_cropped"
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in arrays["train_images"]])
    np.testing.assert_array_equal(loaded.train_images[..., 0], expected[:, 2:30, 2:30])
    np.testing.assert_allclose(255 * loaded.scale + loaded.shift, 1, rtol=1e-6)
    floats = pixels.to_grey(arrays["train_images"].astype(np.float32))
    # Half a level of rounding, and the fixed-point weights are within 1e-5 of the decimal ones.
    assert np.abs(floats[..., 0] - expected).max() < 0.51


def test_settings_that_do_not_fit_are_refused():
    for settings, message in (
        ({"crop": 9}, "8 by 8"),
        ({"crop": -1}, "crop"),
        ({"train_limit": 1438}, "1437"),
        ({"test_limit": -1}, "limit"),
    ):
        with pytest.raises(UserError, match=message):
            data.load("digits", **settings)


def test_pixels_in_another_order_and_wrong_labels():
    plain, moved, noisy = data.load(), data.load(permute_pixels=3), data.load(label_noise=0.2)
    for before, after in ((plain.train_images, moved.train_images), (plain.test_images, moved.test_images)):
        order = np.random.default_rng(3).permutation(64)
        assert np.array_equal(after.reshape(-1, 64), before.reshape(-1, 64)[:, order])
    assert np.array_equal(moved.train_labels, plain.train_labels)
    assert np.sum(noisy.train_labels != plain.train_labels) == round(0.2 * 1437)
    assert np.array_equal(noisy.test_labels, plain.test_labels)
    assert set(np.unique(noisy.train_labels)) == set(range(10))
    names = {d.source.rpartition("blake2b ")[2] for d in (plain, moved, noisy)}
    assert len(names) == 3 and "20% of training labels wrong" in noisy.source
    assert np.array_equal(data.load(label_noise=0.2).train_labels, noisy.train_labels)


def test_limits_take_the_first_images():
    full, part = data.load("digits"), data.load("digits", train_limit=50, test_limit=20)
    np.testing.assert_array_equal(part.train_images, full.train_images[:50])
    np.testing.assert_array_equal(part.test_labels, full.test_labels[:20])
    assert part.num_classes == 10 and part.source != full.source


# ---- idx ----


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("folder", [".", "mnist"])
def test_idx_round_trip(tmp_path, suffix, dot, folder):
    arrays = make()
    write_idx(tmp_path / folder, arrays, suffix, dot)
    assert_holds(data.load("mnist", tmp_path), arrays)


def test_idx_of_a_sibling_is_refused_and_own_names_need_their_own_folder(tmp_path):
    arrays = make()
    arrays["train_labels"][:10] = [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    write_idx(tmp_path, arrays)
    assert_holds(data.load("mnist", tmp_path), arrays)
    with pytest.raises(UserError, match="train-labels-idx1-ubyte.gz belongs to mnist"):
        data.load("fashion_mnist", tmp_path)
    for name in ("kmnist", "cifar10"):
        with pytest.raises(UserError, match=name):
            data.load(name, tmp_path)
    assert_holds(prepare.read_source("kmnist", tmp_path), arrays)
    write_idx(tmp_path / "kmnist", arrays)
    assert_holds(data.load("kmnist", tmp_path), arrays)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b"\0",
        lambda raw: raw[:10],
        lambda raw: b"",
        lambda raw: b"\0\0\x0d\3" + raw[4:],
        lambda raw: raw[:4] + b"\xff" * 4 + raw[8:],
    ],
    ids=["short", "long", "header", "empty", "floats", "huge"],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_idx_is_refused_by_name(tmp_path, damage, suffix):
    write_idx(tmp_path, make(), suffix)
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    with (gzip.open if suffix else open)(path, "rb") as file:
        content = damage(file.read())
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(UserError, match=path.name):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda raw: raw[: len(raw) // 2], lambda raw: b"no" + raw])
def test_damaged_gzip_is_refused_by_name(tmp_path, damage):
    write_idx(tmp_path, make())
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=path.name):
        data.load("mnist", tmp_path)


def test_incomplete_idx_names_the_missing_file(tmp_path):
    write_idx(tmp_path, make())
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte"):
        data.load("mnist", tmp_path)


# ---- npz ----


def test_npz_layouts_agree(tmp_path):
    arrays = make((6, 5, 3))
    plain = data.load(str(save_npz(tmp_path / "own.npz", arrays)))
    assert_holds(plain, arrays)
    assert plain.name == "own" and plain.num_classes == 10
    keras = dict(zip(("x_train", "y_train", "x_test", "y_test"), (arrays[key] for key in KEYS), strict=True))
    keras["y_train"] = keras["y_train"][:, None]
    save_npz(tmp_path / "keras.npz", keras)
    for same in (
        data.load("keras", tmp_path),
        data.load("keras.npz", tmp_path),
        data.load("x", tmp_path / "keras.npz"),
    ):
        assert_holds(same, arrays)
        # The fingerprint is of the content, so it does not depend on the layout.
        assert same.source.split()[-1] == plain.source.split()[-1]
    packed, decoded = {}, {}
    for part in ("train", "test"):
        files = []
        for image in arrays[f"{part}_images"]:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG")
            files.append(buffer.getvalue())
        packed[f"{part}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        packed[f"{part}_length"] = np.array([len(file) for file in files], np.int32)
        packed[f"{part}_label"] = arrays[f"{part}_labels"].astype(np.uint8)
        decoded[f"{part}_images"] = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
        decoded[f"{part}_labels"] = arrays[f"{part}_labels"]
    assert_holds(data.load(str(save_npz(tmp_path / "jpeg.npz", packed))), decoded)
    halved = data.load(str(tmp_path / "jpeg.npz"), resize=3)
    np.testing.assert_array_equal(halved.test_images, encoded.resize_images(decoded["test_images"], 3))
    packed["test_length"][3] += 1
    with pytest.raises(UserError, match="jpeg.npz.*lengths"):
        data.load(str(save_npz(tmp_path / "jpeg.npz", packed)))
    packed["test_length"][4] -= 1
    with pytest.raises(UserError, match="jpeg.npz.*test_jpeg images [345].* cannot be decoded"):
        data.load(str(save_npz(tmp_path / "jpeg.npz", packed)))


def _set(key, value):
    return lambda arrays: {**arrays, key: value(arrays[key])}


def _floats(value):
    def change(arrays):
        arrays = {**arrays, **{key: arrays[key].astype(np.float64) for key in KEYS[::2]}}
        arrays["train_images"][3, 1, 1, 0] = value
        return arrays

    return change


BAD_ARRAYS = {
    "labels as floats": (_set("train_labels", lambda x: x / 2), "type float64"),
    "images as int64": (_set("test_images", lambda x: x.astype(np.int64)), "type int64"),
    "label too large": (_set("test_labels", lambda x: x + 5), "5 to 14"),
    "label negative": (_set("train_labels", lambda x: x - 1), "-1 to 8"),
    "too few labels": (_set("train_labels", lambda x: x[1:]), "40 training images but 39 labels"),
    "labels one-hot": (_set("train_labels", lambda x: np.eye(10, dtype=int)[x]), r"shape \(40, 10\)"),
    "no images": (lambda arrays: {**arrays, **{k: arrays[k][:0] for k in KEYS[:2]}}, "no training images"),
    "channels first": (_set("train_images", lambda x: np.moveaxis(np.tile(x, (1, 1, 2, 3)), -1, 1)), "channels last"),
    "flat": (_set("train_images", lambda x: x.reshape(40, -1)), "must be"),
    "other sizes": (_set("test_images", lambda x: x[:, 1:]), "both must agree"),
    "other types": (_set("test_images", lambda x: x / np.float32(255)), "both must agree"),
    "NaN": (_floats(np.nan), "training images 3 have NaN"),
    "infinite": (_floats(-np.inf), "training images 3 have NaN"),
    "too large for float32": (_floats(1e300), "too large"),
    "constant": (lambda arrays: {**arrays, **{k: arrays[k] * 0 for k in KEYS[::2]}}, "equal"),
    "objects": (_set("train_labels", lambda x: x.astype(object)), "train_labels holds Python objects.*astype"),
    "a key missing": (lambda arrays: {key: arrays[key] for key in KEYS[1:]}, "has the keys"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused_by_name(tmp_path, case):
    change, message = BAD_ARRAYS[case]
    path = save_npz(tmp_path / "mine.npz", change(make((4, 4, 1))))
    with pytest.raises(UserError, match=f"mine.npz.*{message}"):
        data.load(str(path))


def test_known_sets_have_their_published_shape_and_classes(tmp_path):
    save_npz(tmp_path / "mnist.npz", make((8, 8, 1)))
    with pytest.raises(UserError, match=r"mnist.npz.*\(28, 28, 1\)"):
        data.load("mnist", tmp_path)
    save_npz(tmp_path / "svhn_cropped.npz", make((32, 32, 3), classes=11))
    with pytest.raises(UserError, match="svhn_cropped.npz.*0 to 9"):
        data.load("svhn", tmp_path)
    arrays = make()
    save_npz(tmp_path / "mnist.npz", {k: v / 1.0 if k.endswith("images") else v for k, v in arrays.items()})
    with pytest.raises(UserError, match="from 0 to 1"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"text", lambda raw: b""])
def test_damaged_npz_is_refused_by_name(tmp_path, damage):
    path = save_npz(tmp_path / "mine.npz", make((4, 4, 1)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="mine.npz is (truncated or damaged|a text file|empty)"):
        data.load("mine", tmp_path)


def test_flipped_byte_in_npz_is_noticed(tmp_path):
    path = save_npz(tmp_path / "mine.npz", make((4, 4, 1)))
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="mine.npz is (truncated or damaged|a text file|empty)"):
        data.load("mine", tmp_path)


# ---- images of several sizes ----


def varied(count, seed):
    """Pictures of several sizes and kinds, and what torchvision makes of them: RGB, `Resize(12)`, `CenterCrop(12)`."""
    rng = np.random.default_rng(seed)
    pictures, resized = [], []
    for row in range(count):
        height, width = rng.integers(9, 40, 2)
        channels = (3, 1, 3, 4)[row % 4]
        pictures.append(rng.integers(0, 256, (height, width, channels), np.uint8))
        image = Image.fromarray(pictures[-1].squeeze()).convert("RGB")
        image = image.resize((12 * width // min(height, width), 12 * height // min(height, width)), Image.BILINEAR)
        left, top = (round((side - 12) / 2) for side in image.size)
        resized.append(np.asarray(image)[top : top + 12, left : left + 12])
    return pictures, np.stack(resized)


def write_food(folder, arrays):
    """Lays out Food-101 as tensorflow-datasets does, which calls the test images `validation`."""
    write_tfrecords(folder, arrays, name="food101")
    for path in folder.glob("*-test.*"):
        path.rename(path.with_name(path.name.replace("-test.", "-validation.")))
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"name": "test"', '"name": "validation"'))


def test_images_of_several_sizes_are_resized_while_they_are_decoded(tmp_path):
    (train, train_resized), (test, test_resized) = varied(9, 0), varied(5, 1)
    labels = {"train_labels": np.arange(9) * 12, "test_labels": np.arange(5)}
    arrays = {"train_images": train, "test_images": test, **labels}
    write_food(tmp_path / "food101" / "2.0.0", arrays)
    expected = {"train_images": train_resized, "test_images": test_resized, **labels}
    food = data.load("food101", tmp_path, resize=12)
    assert_holds(food, expected)
    assert food.num_classes == 101
    np.testing.assert_allclose(food.scale, 1 / (255 * np.array([0.229, 0.224, 0.225])), rtol=1e-6)
    assert data.load("food101", tmp_path, resize=12, crop=10).test_images.shape == (5, 10, 10, 3)
    with pytest.raises(UserError, match=r"train images 1 to 8 have another size than image 0.*config\.data\.resize"):
        data.load("food101", tmp_path)
    with pytest.raises(UserError, match=r"config\.data\.resize is -1"):
        data.load("food101", tmp_path, resize=-1)


def test_no_more_images_are_decoded_than_are_wanted(tmp_path, monkeypatch):
    arrays = make((6, 6, 3), train=12, test=12)
    decoded = []
    monkeypatch.setattr(encoded, "_decode", lambda *args, real=encoded._decode: decoded.append(args[-1]) or real(*args))
    write_food(tmp_path / "food101" / "2.0.0", arrays)
    limited = {key: value[: 7 if key.startswith("train") else 3] for key, value in arrays.items()}
    assert_holds(data.load("food101", tmp_path, train_limit=7, test_limit=3), limited)
    assert len(decoded) == 10
    with pytest.raises(UserError, match="train_limit is 13, but there are 12"):
        data.load("food101", tmp_path, train_limit=13)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_arrays_of_any_channels_are_resized_as_pillow_does(dtype):
    images = (np.random.default_rng(0).integers(0, 256, (3, 20, 14, 2)) / (1 if dtype == np.uint8 else 7)).astype(dtype)
    resized = encoded.resize_images(images, 9)
    assert resized.shape == (3, 9, 9, 2) and resized.dtype == dtype
    whole = np.asarray(Image.fromarray(images[2, ..., 1]).resize((9, 12), Image.BILINEAR))
    np.testing.assert_array_equal(resized[2, ..., 1], whole[2:11])


def test_plain_arrays_of_a_known_set_are_resized_and_other_shapes_still_refused(tmp_path):
    arrays = make((32, 32, 3), train=4, test=2)
    save_npz(tmp_path / "cifar10.npz", arrays)
    loaded = data.load("cifar10", tmp_path, resize=8, grey=True)
    expected = pixels.to_grey(encoded.resize_images(arrays["test_images"], 8))
    np.testing.assert_array_equal(loaded.test_images, expected)
    save_npz(tmp_path / "stl10.npz", arrays)
    with pytest.raises(UserError, match=r"stl10.npz.*\(96, 96, 3\)"):
        data.load("stl10", tmp_path, resize=8)
    save_npz(tmp_path / "oxford_iiit_pet.npz", make((9, 8, 1), train=4, test=2))
    with pytest.raises(UserError, match=r"oxford_iiit_pet.npz.*\(9, 8, 1\).*\(9, 8, 3\)"):
        data.load("oxford_iiit_pet", tmp_path)


def test_sets_that_others_prepare_are_named_with_how(tmp_path):
    for name in ("stl10", "oxford_flowers102", "oxford_iiit_pet", "food101", "imagenet2012"):
        with pytest.raises(UserError, match=f"tfds build {name} --data_dir={tmp_path}"):
            data.load(name, tmp_path, resize=64)


# ---- real files ----


@pytest.mark.skipif(not (SHARED / "train-images-idx3-ubyte.gz").exists(), reason="needs ../shared/data with MNIST")
def test_real_mnist(tmp_path):
    mnist = data.load("mnist", SHARED)
    assert mnist.train_images.shape == (60000, 28, 28, 1) and mnist.test_images.shape == (10000, 28, 28, 1)
    np.testing.assert_array_equal(
        np.bincount(mnist.test_labels), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    )
    mean, std = pixels.moments(mnist.train_images)
    # The values of ../shared/data/README.md, to their last digit.
    np.testing.assert_allclose([mean[0], std[0]], [33.318, 78.567], atol=6e-4)
    # The published constants have four digits.
    np.testing.assert_allclose(mean * mnist.scale + mnist.shift, 0, atol=5e-4)
    np.testing.assert_allclose(std * mnist.scale, 1, atol=5e-4)
    part = {key: getattr(mnist, key)[:300] for key in KEYS}
    prepare.prepare("mnist", checks.check(raw_of(part), "mnist"), tmp_path)
    assert_holds(data.load("mnist", tmp_path), part)


@pytest.mark.skipif(not (SHARED / "cifar10_subset_jpeg.npz").exists(), reason="needs ../shared/data with CIFAR-10")
def test_real_cifar10_subset():
    cifar = data.load("cifar10", SHARED / "cifar10_subset_jpeg.npz", train_limit=1000)
    assert cifar.train_images.shape == (1000, 32, 32, 3) and cifar.test_images.shape == (5000, 32, 32, 3)
    np.testing.assert_array_equal(cifar.train_labels, np.arange(1000) % 10)
    # JPEG keeps the colours: the published constants bring means near 0 and deviations near 1 (they are CIFAR-100's).
    images = np.asarray(data.standardise(cifar.test_images, cifar.scale, cifar.shift)).reshape(-1, 3)
    assert np.abs(images.mean(0)).max() < 0.1 and np.abs(images.std(0) - 1).max() < 0.1
