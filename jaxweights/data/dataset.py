"""Image sets in memory: what a data set is, how it is checked, cropped, made grey and standardised."""

from __future__ import annotations

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.data.encoded import resize_images
from jaxweights.data.signals import Signals
from jaxweights.errors import UserError

# Pixels that are converted and summed at a time, so that no float64 copy of a whole set ever exists.
_BLOCK = 1 << 22


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled set of images with the standardisation that belongs to it.

    Attributes:
      name: the data set's name.
      train_images: `[n, H, W, C]`, uint8 as stored or float32 (user's own `.npz`).
      train_labels: `[n]` int32 in `0 .. num_classes - 1`.
      test_images: `[m, H, W, C]`, same type as `train_images`.
      test_labels: `[m]` int32.
      num_classes: number of classes.
      scale: `[C]` float32.
      shift: `[C]` float32; the standardised image is `raw * scale + shift`, see `standardise`.
      source: where the arrays came from: format, file names, fingerprint of the content (host-independent).
      signals: for neural fields, what each run is fitted to, in the order of the runs. The images are then points
        `[T, d]` at which networks are compared, and their labels `[T, m]` uint8, whether m unseen signals are occupied
        there.
      unseen: these m signals, which no run is fitted to.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    scale: np.ndarray
    shift: np.ndarray
    source: str
    signals: Signals | None = None
    unseen: Signals | None = None

    @property
    def num_examples(self) -> int:
        """Examples that a run is trained on: images, initial states, or points of its signal."""
        return len(self.train_labels) if self.signals is None else self.signals.num_points


@dataclasses.dataclass(frozen=True, eq=False)
class Raw:
    """Arrays as a reader found them, not yet checked.

    Attributes:
      train_images, train_labels, test_images, test_labels: as in `Dataset`, any type; images may lack the channel axis.
      files: format and file names, for provenance.
      where: path that error messages name.
      resized: whether the reader brought images of any size to the one that was asked for.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    files: str
    where: str
    resized: bool = False


@dataclasses.dataclass(frozen=True)
class Known:
    """What is published about a data set.

    Attributes:
      shape: `(H, W, C)` of one image; None for sides that vary.
      num_classes: number of classes.
      sizes: published numbers of training and test images.
      full_scale: raw value that counts as 1.
      mean: per channel, of pixels divided by `full_scale`; None: computed from the training images.
      std: per channel, likewise.
      test_split: what tensorflow-datasets calls the images to test on.
    """

    shape: tuple[int | None, int | None, int]
    num_classes: int
    sizes: tuple[int, int]
    full_scale: float = 255.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    test_split: str = "test"


# P-diff standardises both CIFAR sets with the constants of CIFAR-100 (arXiv 2402.13144, published code).
_PDIFF_CIFAR = {"mean": (0.5071, 0.4867, 0.4408), "std": (0.2675, 0.2565, 0.2761)}
# As P-diff standardises its other sets; for ImageNet's vision transformers it takes 0.5, too, which is for a config.
_HALF = {"mean": (0.5,), "std": (0.5,)}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

KNOWN: dict[str, Known] = {
    "digits": Known((8, 8, 1), 10, (1437, 360), full_scale=16.0),
    # The constants of G.pt (arXiv 2209.12892) and of the Hyper-Representations MNIST zoo.
    "mnist": Known((28, 28, 1), 10, (60000, 10000), mean=(0.1307,), std=(0.3081,)),
    # Mean and deviation of its training pixels, as commonly used.
    "fashion_mnist": Known((28, 28, 1), 10, (60000, 10000), mean=(0.2860,), std=(0.3530,)),
    # Hyper-Representations (arXiv 2209.14733): grey, centre crop of 28, (x - 0.5) / 0.5.
    "svhn_cropped": Known((32, 32, 3), 10, (73257, 26032), **_HALF),
    "cifar10": Known((32, 32, 3), 10, (50000, 10000), **_PDIFF_CIFAR),
    "cifar100": Known((32, 32, 3), 100, (50000, 10000), **_PDIFF_CIFAR),
    "stl10": Known((96, 96, 3), 10, (5000, 8000), **_HALF),
    "oxford_flowers102": Known((None, None, 3), 102, (1020, 6149), **_HALF),
    "oxford_iiit_pet": Known((None, None, 3), 37, (3680, 3669), **_HALF),
    "food101": Known((None, None, 3), 101, (75750, 25250), **_IMAGENET, test_split="validation"),
    "imagenet2012": Known((None, None, 3), 1000, (1281167, 50000), **_IMAGENET, test_split="validation"),
}
ALIASES = {"svhn": "svhn_cropped"}


def known_channels(name: str) -> int | None:
    """Channels of the images of a data set; None where they are not published."""
    return KNOWN[name].shape[-1] if name in KNOWN else None


def test_split(name: str) -> str:
    """What tensorflow-datasets calls the images of a data set to test on."""
    return KNOWN[name].test_split if name in KNOWN else "test"


def standardise(images, scale, shift) -> jax.Array:
    """Returns `images * scale + shift` as float32, the form in which every network sees images.

    Args:
      images: `[..., H, W, C]`, any real type; bytes are moved to the device as bytes and converted there.
      scale: `[C]` float32.
      shift: `[C]` float32.

    Returns:
      `[..., H, W, C]` float32.
    """
    images = jnp.asarray(images).astype(jnp.float32)
    per_channel = (1,) * (images.ndim - 1) + (-1,)
    return images * jnp.reshape(scale, per_channel) + jnp.reshape(shift, per_channel)


def check(raw: Raw, name: str) -> Raw:
    """Checks a reader's arrays and brings them to the form of `Dataset`.

    Args:
      raw: what a reader found.
      name: the data set; for a known name, shape and classes must be the published ones.

    Returns:
      `Raw` with images `[n, H, W, C]` uint8 or float32 and labels `[n]` int32.

    Raises:
      UserError: wrong shape or type, no image, as many labels as images not given, label out of range, NaN or infinite
        pixel; the message names the file.
    """
    known = KNOWN.get(name)
    train_images = _check_images(raw.train_images, "training", raw.where, known, raw.resized)
    test_images = _check_images(raw.test_images, "test", raw.where, known, raw.resized)
    if train_images.shape[1:] != test_images.shape[1:] or train_images.dtype != test_images.dtype:
        raise UserError(
            f"{raw.where}: training images are {train_images.dtype} of shape {train_images.shape[1:]} and test images "
            f"{test_images.dtype} of shape {test_images.shape[1:]}; both must be alike."
        )
    train_labels = _check_labels(raw.train_labels, len(train_images), "training", raw.where)
    test_labels = _check_labels(raw.test_labels, len(test_images), "test", raw.where)
    num_classes = known.num_classes if known else int(train_labels.max()) + 1
    for part, labels in (("training", train_labels), ("test", test_labels)):
        if labels.min() < 0 or labels.max() >= num_classes:
            counted = f"data set '{name}' has" if known else "the training labels make"
            raise UserError(
                f"{raw.where}: {part} labels range from {labels.min()} to {labels.max()}, but {counted} "
                f"{num_classes} classes, 0 to {num_classes - 1}; correct the labels."
            )
    return dataclasses.replace(
        raw,
        train_images=train_images,
        train_labels=train_labels.astype(np.int32),
        test_images=test_images,
        test_labels=test_labels.astype(np.int32),
    )


def _check_images(images: np.ndarray, part: str, where: str, known: Known | None, resized: bool) -> np.ndarray:
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise UserError(
            f"{where}: {part} images have type {images.dtype}; save them as uint8 (0 to 255) or as a float type."
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape[1:] or images.shape[-1] > 4:
        raise UserError(
            f"{where}: {part} images have shape {images.shape}; they must be [n, height, width] or "
            "[n, height, width, channels] with 1 to 4 channels last."
        )
    if len(images) == 0:
        raise UserError(f"{where}: there are no {part} images; give at least one.")
    expected = images.shape[1:] if known is None else known.shape
    if resized or None in expected:
        expected = images.shape[1:3] + expected[2:]
    if images.shape[1:] != expected:
        raise UserError(
            f"{where}: {part} images have shape {images.shape[1:]}, but those of this data set are {expected}; "
            "if these are other images, load them under a name of their own (the path of an .npz file)."
        )
    if images.dtype == np.uint8:
        return images
    step = _images_per_block(images)
    for start in range(0, len(images), step):
        finite = np.isfinite(images[start : start + step])
        if not finite.all():
            row = start + int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
            raise UserError(f"{where}: {part} image {row} has NaN or infinite pixels; remove or mend it.")
    if np.abs(images).max() > np.finfo(np.float32).max:
        raise UserError(f"{where}: {part} images have pixels too large for float32; rescale them.")
    return images.astype(np.float32, copy=False)


def _check_labels(labels: np.ndarray, count: int, part: str, where: str) -> np.ndarray:
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{where}: {part} labels have type {labels.dtype}; save them as integers, one class per image.")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise UserError(f"{where}: {part} labels have shape {labels.shape}; they must be [n], one class per image.")
    if len(labels) != count:
        raise UserError(f"{where}: {count} {part} images but {len(labels)} labels; there must be one label per image.")
    return labels


def finish(
    raw: Raw,
    name: str,
    *,
    mean=None,
    std=None,
    grey: bool = False,
    resize: int = 0,
    crop: int = 0,
    train_limit: int = 0,
    test_limit: int = 0,
) -> Dataset:
    """Makes a `Dataset` of checked arrays: limits, resizing, grey, centre crop, then the standardisation.

    Args:
      raw: result of `check`.
      name: the data set's name.
      mean: scalar or `[C]`, of pixels divided by their full scale (255 for bytes, 16 for digits, 1 for floats); with
        `std` it replaces the published constants.
      std: likewise, positive.
      grey: make three colours one channel.
      resize: side of the square images to make (see `encoded.resize_images`), unless the reader did; 0 for none.
      crop: side of the centre crop, 0 for none.
      train_limit: keep only the first so many training images, 0 for all.
      test_limit: likewise for the test images.

    Returns:
      The data set.

    Raises:
      UserError: a limit, a crop or constants that do not fit the images.
    """
    train_images, train_labels = _limit(raw.train_images, raw.train_labels, train_limit, "training", raw.where)
    test_images, test_labels = _limit(raw.test_images, raw.test_labels, test_limit, "test", raw.where)
    if resize and not raw.resized:
        train_images, test_images = resize_images(train_images, resize), resize_images(test_images, resize)
    if grey:
        train_images, test_images = to_grey(train_images, raw.where), to_grey(test_images, raw.where)
    if crop:
        train_images = centre_crop(train_images, crop, raw.where)
        test_images = centre_crop(test_images, crop, raw.where)
    scale, shift = _scale_shift(train_images, name, mean, std, raw.where)
    known = KNOWN.get(name)
    return Dataset(
        name=name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=known.num_classes if known else int(raw.train_labels.max()) + 1,
        scale=scale,
        shift=shift,
        source=f"{raw.files}; blake2b {fingerprint(train_images, train_labels, test_images, test_labels)}",
    )


def _limit(images: np.ndarray, labels: np.ndarray, limit: int, part: str, where: str):
    if limit < 0 or limit > len(images):
        raise UserError(
            f"{where}: a limit of {limit} {part} images was asked for, but there are {len(images)}; give a limit from "
            f"1 to {len(images)}, or 0 for all."
        )
    if limit == 0 or limit == len(images):
        return images, labels
    return images[:limit].copy(), labels[:limit].copy()


def to_grey(images: np.ndarray, where: str = "images") -> np.ndarray:
    """Returns luminance `[n, H, W, 1]` of colour images `[n, H, W, 3]`; grey images are returned as they are.

    Bytes are rounded as Pillow's `convert("L")` does (ITU-R 601-2, 16-bit fixed point), which is what torchvision's
    `Grayscale` calls, so that the pixels equal those of the published zoos.

    Raises:
      UserError: neither one nor three channels.
    """
    if images.shape[-1] == 1:
        return images
    if images.shape[-1] != 3:
        raise UserError(f"{where}: grey needs images of 1 or 3 channels, these have {images.shape[-1]}.")
    grey = np.empty((*images.shape[:-1], 1), images.dtype)
    step = _images_per_block(images)
    for start in range(0, len(images), step):
        block = images[start : start + step]
        if images.dtype == np.uint8:
            weighted = block.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
            grey[start : start + step, ..., 0] = (weighted + 0x8000) >> 16
        else:
            grey[start : start + step, ..., 0] = block @ np.array([0.299, 0.587, 0.114], np.float32)
    return grey


def centre_crop(images: np.ndarray, size: int, where: str = "images") -> np.ndarray:
    """Returns the central `size` by `size` pixels; an odd margin is split as torchvision's `CenterCrop` does.

    Raises:
      UserError: `size` is not between 1 and the smaller side.
    """
    height, width = images.shape[1:3]
    if not 1 <= size <= min(height, width):
        raise UserError(
            f"{where}: a centre crop of {size} was asked for, but the images are {height} by {width}; give a crop "
            f"from 1 to {min(height, width)}, or 0 for none."
        )
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.ascontiguousarray(images[:, top : top + size, left : left + size])


def _scale_shift(images: np.ndarray, name: str, mean, std, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[C]` float32 scale and shift from the given, published or measured mean and deviation."""
    known = KNOWN.get(name)
    channels = images.shape[-1]
    as_bytes = images.dtype == np.uint8
    full_scale = (known.full_scale if known else 255.0) if as_bytes else 1.0
    if (mean is None) != (std is None):
        raise UserError(f"data set '{name}': mean and std belong together; give both or neither.")
    if mean is None and known and known.mean is not None and len(known.mean) in (1, channels):
        if not as_bytes and (images.min() < 0 or images.max() > 1):
            raise UserError(
                f"{where}: the published mean and std of '{name}' are for pixels from 0 to 1, but these range from "
                f"{images.min():g} to {images.max():g}; save bytes, rescale them, or give mean and std."
            )
        mean, std = known.mean, known.std
    if mean is None:
        mean, std = _moments(images)
        mean, std = mean / full_scale, std / full_scale
        if not (std > 0).all():
            raise UserError(f"{where}: all training pixels of a channel are equal; such images cannot be standardised.")
    mean, std = (np.asarray(value, np.float64).reshape(-1) for value in (mean, std))
    if not {mean.size, std.size} <= {1, channels} or not np.isfinite(mean).all() or not np.isfinite(std).all():
        raise UserError(
            f"data set '{name}': mean {mean.tolist()} and std {std.tolist()} must be one finite number each, or one "
            f"per channel ({channels})."
        )
    if not (std > 0).all():
        raise UserError(f"data set '{name}': std {std.tolist()} must be positive.")
    scale = np.broadcast_to(1.0 / (full_scale * std), channels)
    shift = np.broadcast_to(-mean / std, channels)
    return scale.astype(np.float32), shift.astype(np.float32)


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and deviation per channel, `[C]` float64, of raw pixels."""
    pixels = images.reshape(-1, images.shape[-1])

    def average(function) -> np.ndarray:
        total = np.zeros(images.shape[-1])
        for start in range(0, len(pixels), _BLOCK):
            block = function(pixels[start : start + _BLOCK].astype(np.float64))
            # A product with ones sums over a long axis of short rows much faster than `sum` does.
            total += np.ones(len(block)) @ block
        return total / len(pixels)

    mean = average(lambda block: block)
    return mean, np.sqrt(average(lambda block: np.square(block - mean)))


def _images_per_block(images: np.ndarray) -> int:
    return max(1, _BLOCK // (images.shape[1] * images.shape[2]))


def fingerprint(*arrays: np.ndarray) -> str:
    """Returns 16 hexadecimal digits that depend on type, shape and content alone, not on the file format."""
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
