"""Image sets in memory: the class, and how raw arrays become one."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.data.encoded import resize_images
from jaxweights.data.known import KNOWN
from jaxweights.data.pixels import centre_crop, moments, to_grey
from jaxweights.data.raw import Raw
from jaxweights.data.signals import Signals
from jaxweights.errors import UserError

_LARGEST = 1e30  # of the constants of standardisation in float32


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
      skipped: bad items that were left out, one sentence each.
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
    skipped: tuple[str, ...] = ()

    @property
    def num_examples(self) -> int:
        """Number of training examples of a run: images, initial states, or points of its signal."""
        return len(self.train_labels) if self.signals is None else self.signals.num_points

    @property
    def inputs(self) -> dict[str, Any]:
        """The standardisation as JSON data: a network's inputs are `(raw / full_scale - mean) / std`, by channel."""
        full_scale = _full_scale(self.name, self.train_images)
        scale, shift = (np.asarray(x, np.float64).ravel() for x in (self.scale * full_scale, self.shift))
        # As many digits as float32 has, in which it is applied.
        mean, std = ([float(f"{x:.7g}") for x in values] for values in (0.0 - shift / scale, 1 / scale))
        return {"full_scale": full_scale, "mean": mean, "std": std}


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
    limits: tuple[int, int] = (0, 0),
    labelled: bool = True,
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
      limits: numbers of training and test images to keep (the first ones), 0 for all.
      labelled: whether labels are used, so that the limits must leave images of every class.

    Returns:
      The data set.

    Raises:
      UserError: a limit, a crop or constants that do not fit the images, or a limit that leaves a class no image.
    """
    known = KNOWN.get(name)
    num_classes = known.num_classes if known else int(raw.train_labels.max()) + 1
    parts = []
    for part, images, labels, limit in (
        ("train", raw.train_images, raw.train_labels, limits[0]),
        ("test", raw.test_images, raw.test_labels, limits[1]),
    ):
        kept = _limit(len(images), limit, part, raw.where)
        if labelled and limit:
            _keep_classes(labels, limit, part, raw.where, num_classes if raw.limited else None)
        pixels = images[:kept].copy() if kept < len(images) else images
        pixels = resize_images(pixels, resize) if resize and not raw.resized else pixels
        pixels = to_grey(pixels, raw.where) if grey else pixels
        pixels = centre_crop(pixels, crop, raw.where) if crop else pixels
        parts.append((pixels, labels[:kept].copy() if kept < len(labels) else labels))
    (train_images, train_labels), (test_images, test_labels) = parts
    scale, shift = _scale_shift(train_images, name, mean, std, raw.where)
    skipped = ", bad items left out" if raw.skipped else ""
    return Dataset(
        name=name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=num_classes,
        scale=scale,
        shift=shift,
        source=f"{raw.files}{skipped}; blake2b {fingerprint(train_images, train_labels, test_images, test_labels)}",
        skipped=raw.skipped,
    )


def _limit(there: int, limit: int, part: str, where: str) -> int:
    """Number of images to keep."""
    if limit < 0 or limit > there:
        raise UserError(
            f"{where}: data.{part}_limit is {limit}, but there are {there} images; give a limit from 1 to {there}, or "
            "0 for all."
        )
    return limit or there


def _keep_classes(labels: np.ndarray, limit: int, part: str, where: str, num_classes: int | None) -> None:
    """Refuses a limit that loses classes: where images are sorted by class, networks would see few of them.

    Args:
      labels: `[n]` of all images, or of no more than the limit where `num_classes` is given.
      num_classes: number of classes where the images beyond the limit were not read.
    """
    classes, first = np.unique(labels, return_index=True)
    kept = int(np.sum(first < limit))
    if num_classes is not None:
        # By chance, n images of n classes have 63 % of them.
        lost, cure = kept < 0.5 * min(num_classes, limit), "Set it higher"
    else:
        num_classes = len(classes)
        lost, cure = kept < num_classes, f"Set it to at least {int(first.max()) + 1}"
    if lost:
        raise UserError(
            f"{where}: data.{part}_limit is {limit}, and the first {limit} images are of {kept} of the {num_classes} "
            f"classes. {cure}, or to 0 for all, or shuffle the images."
        )


def _full_scale(name: str, images: np.ndarray) -> float:
    """The raw value that counts as 1."""
    if images.dtype != np.uint8:
        return 1.0
    return KNOWN[name].full_scale if name in KNOWN else 255.0


def _scale_shift(images: np.ndarray, name: str, mean, std, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[C]` float32 scale and shift from the given, published or measured mean and deviation."""
    known = KNOWN.get(name)
    channels = images.shape[-1]
    as_bytes, full_scale = images.dtype == np.uint8, _full_scale(name, images)
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
    try:
        mean, std = (np.asarray(value, np.float64).reshape(-1) for value in (mean, std))
    except (TypeError, ValueError) as error:
        raise UserError(f"data set '{name}': mean {mean!r} and std {std!r} must be numbers.") from error
    if not {mean.size, std.size} <= {1, channels} or not np.isfinite(mean).all() or not np.isfinite(std).all():
        raise UserError(
            f"data set '{name}': mean {mean.tolist()} and std {std.tolist()} must be one finite number each, or one "
            f"per channel ({channels})."
        )
    if not (std > 0).all():
        raise UserError(f"data set '{name}': std {std.tolist()} must be positive.")
    scale = np.broadcast_to(1.0 / (full_scale * std), channels)
    shift = np.broadcast_to(-mean / std, channels)
    if max(scale.max(), np.abs(shift).max()) > _LARGEST:
        raise UserError(
            f"{where}: with mean {mean.tolist()} and std {std.tolist()}, standardised pixels are too large for "
            "float32; rescale the images, or give other constants."
        )
    return scale.astype(np.float32), shift.astype(np.float32)


def fingerprint(*arrays: np.ndarray) -> str:
    """Returns 16 hexadecimal digits that depend on type, shape and content alone, not on the file format."""
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
