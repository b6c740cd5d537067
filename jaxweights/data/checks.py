"""Checks of the arrays that readers of image sets return."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxweights.data.dataset import Raw
from jaxweights.data.known import KNOWN, Known
from jaxweights.data.pixels import images_per_block
from jaxweights.errors import UserError


def check(raw: Raw, name: str) -> Raw:
    """Checks a reader's arrays and converts them to the form of `Dataset`.

    Args:
      raw: arrays of a reader.
      name: the data set; for a known name, shape and classes must be the published ones.

    Returns:
      `Raw` with images `[n, H, W, C]` uint8 or float32 and labels `[n]` int32.

    Raises:
      UserError: wrong shape or type, no image, different numbers of labels and images, label out of range, NaN or
        infinite pixel; the message names the file.
    """
    known = KNOWN.get(name)
    train_images = _check_images(raw.train_images, "training", raw.where, known, raw.resized)
    test_images = _check_images(raw.test_images, "test", raw.where, known, raw.resized)
    if train_images.shape[1:] != test_images.shape[1:] or train_images.dtype != test_images.dtype:
        raise UserError(
            f"{raw.where}: training images are {train_images.dtype} of shape {train_images.shape[1:]} and test images "
            f"{test_images.dtype} of shape {test_images.shape[1:]}; both must agree."
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
    step = images_per_block(images)
    for start in range(0, len(images), step):
        finite = np.isfinite(images[start : start + step])
        if not finite.all():
            row = start + int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
            raise UserError(f"{where}: {part} image {row} has NaN or infinite pixels; remove or correct it.")
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
