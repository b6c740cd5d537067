"""Image sets in memory: the class, and how raw arrays become one."""

from __future__ import annotations

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.data.encoded import resize_images
from jaxweights.data.known import KNOWN
from jaxweights.data.pixels import centre_crop, moments, to_grey
from jaxweights.data.signals import Signals
from jaxweights.errors import UserError


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
      source: provenance of the arrays: format, file names, fingerprint of the content (host-independent).
      signals: signals that the neural fields are fitted to, one per run, in the order of the runs; None for other
        tasks. The images are then points `[T, d]` at which networks are compared, and their labels are the occupancy
        `[T, m]` uint8 of m unseen signals there.
      unseen: the m signals that no run is fitted to.
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
        """Number of training examples of a run: images, initial states, or points of its signal."""
        return len(self.train_labels) if self.signals is None else self.signals.num_points


@dataclasses.dataclass(frozen=True, eq=False)
class Raw:
    """Arrays from a reader, not yet checked.

    Attributes:
      train_images, train_labels, test_images, test_labels: like those of `Dataset`, but of any type; images may lack
        the channel axis.
      files: format and file names, for provenance.
      where: path, for error messages.
      resized: whether the reader resized the images as requested.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    files: str
    where: str
    resized: bool = False


def standardise(images, scale, shift) -> jax.Array:
    """Returns `images * scale + shift` as float32, the input of every network.

    Args:
      images: `[..., H, W, C]`, any real type; bytes are converted on the device.
      scale: `[C]` float32.
      shift: `[C]` float32.

    Returns:
      `[..., H, W, C]` float32.
    """
    images = jnp.asarray(images).astype(jnp.float32)
    per_channel = (1,) * (images.ndim - 1) + (-1,)
    return images * jnp.reshape(scale, per_channel) + jnp.reshape(shift, per_channel)


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
    """Makes a `Dataset` of checked arrays: limits, resizing, luminance, centre crop, constants of standardisation.

    Args:
      raw: result of `check`.
      name: the data set's name.
      mean: scalar or `[C]`, of pixels divided by their full scale (255 for bytes, 16 for digits, 1 for floats); with
        `std` it replaces the published constants.
      std: standard deviation, like `mean`; positive.
      grey: whether colour images are converted to luminance.
      resize: side of the resized square images (see `encoded.resize_images`) if the reader has not resized them; 0 for
        no resizing.
      crop: side of the centre crop, 0 for none.
      train_limit: number of training images to keep (the first ones), 0 for all.
      test_limit: number of test images to keep, 0 for all.

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
            f"{where}: the limit is {limit} {part} images, but there are {len(images)}; give a limit from "
            f"1 to {len(images)}, or 0 for all."
        )
    if limit == 0 or limit == len(images):
        return images, labels
    return images[:limit].copy(), labels[:limit].copy()


def _scale_shift(images: np.ndarray, name: str, mean, std, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[C]` float32 scale and shift from the given, published or measured mean and deviation."""
    known = KNOWN.get(name)
    channels = images.shape[-1]
    as_bytes = images.dtype == np.uint8
    full_scale = (known.full_scale if known else 255.0) if as_bytes else 1.0
    if (mean is None) != (std is None):
        raise UserError(f"data set '{name}': mean and std belong together; give both or neither.")
    if mean is None and known and known.moments is not None and len(known.moments.mean) in (1, channels):
        if not as_bytes and (images.min() < 0 or images.max() > 1):
            raise UserError(
                f"{where}: the published mean and std of '{name}' are for pixels from 0 to 1, but these range from "
                f"{images.min():g} to {images.max():g}; save bytes, rescale them, or give mean and std."
            )
        mean, std = known.moments
    if mean is None:
        mean, std = moments(images)
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


def fingerprint(*arrays: np.ndarray) -> str:
    """Returns 16 hexadecimal digits that depend on type, shape and content alone, not on the file format."""
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
