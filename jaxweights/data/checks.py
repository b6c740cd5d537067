"""Checks of the arrays that readers of image sets return."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxweights.data.inspection import Inspection, ranges
from jaxweights.data.known import KNOWN, Known
from jaxweights.data.pixels import images_per_block
from jaxweights.data.raw import Raw
from jaxweights.errors import UserError

_LARGEST_PIXEL = 1e30  # whose sum over an image fits in float32


def check(raw: Raw, name: str, skip_bad: bool = False, labelled: bool = True) -> Raw:
    """Checks a reader's arrays and converts them to the form of `Dataset`.

    Args:
      raw: arrays of a reader.
      name: the data set; for a known name, shape and classes must be the published ones.
      skip_bad: whether images with NaN or infinite pixels are left out.
      labelled: whether labels are used, so that every class of an unknown set must have training images.

    Returns:
      `Raw` with images `[n, H, W, C]` uint8 or float32 and labels `[n]` int32.

    Raises:
      UserError: wrong shape or type, no image, different numbers of labels and images, label out of range, a class
        without training images, NaN or infinite pixels; the message names the file.
    """
    known = KNOWN.get(name)
    inspection = Inspection(raw.where, "images", skip=skip_bad)
    parts = {
        "training": (raw.train_images, raw.train_labels),
        "test": (raw.test_images, raw.test_labels),
    }
    images, labels = {}, {}
    for part, (pixels, classes) in parts.items():
        pixels = _check_images(pixels, part, raw.where, known, raw.resized)
        classes = _check_labels(classes, len(pixels), part, raw.where)
        finite = _finite(pixels)
        inspection.rows(f"{part} images", np.flatnonzero(~finite), "have NaN or infinite pixels")
        images[part], labels[part] = (pixels, classes) if finite.all() else (pixels[finite], classes[finite])
    skipped = inspection.settle(min(map(len, images.values())))
    shapes = [f"{pixels.dtype} of shape {pixels.shape[1:]}" for pixels in images.values()]
    if shapes[0] != shapes[1]:
        raise UserError(f"{raw.where}: training images are {shapes[0]} and test images {shapes[1]}; both must agree.")
    check_classes(labels, name, raw.where, labelled)
    for part, pixels in images.items():
        if pixels.dtype != np.uint8:
            images[part] = _as_float32(pixels, part, raw.where)
    return dataclasses.replace(
        raw,
        train_images=images["training"],
        train_labels=labels["training"].astype(np.int32),
        test_images=images["test"],
        test_labels=labels["test"].astype(np.int32),
        skipped=raw.skipped + skipped,
    )


def check_classes(labels: Mapping[str, np.ndarray], name: str, where: str, labelled: bool = True) -> None:
    """Raises `UserError` for labels `[n]` by part ("training" among them) that are out of range, or, where they are
    used, classes without training images."""
    known, classes = KNOWN.get(name), np.unique(labels["training"])
    num_classes = known.num_classes if known else int(classes[-1]) + 1
    for part, own in labels.items():
        if own.min() < 0 or own.max() >= num_classes:
            counted = f"data set '{name}' has" if known else "the training labels make"
            raise UserError(
                f"{where}: {part} labels range from {own.min()} to {own.max()}, but {counted} {num_classes} classes, "
                f"0 to {num_classes - 1}; correct the labels."
            )
    if known or not labelled:
        return
    if len(classes) < num_classes:
        raise UserError(
            f"{where}: the training labels are {ranges(classes)}, which makes {num_classes} classes, from 0 on, of "
            f"which {num_classes - len(classes)} have no training image. Correct wrong labels, or number the classes "
            "anew: classes, train_labels = numpy.unique(train_labels, return_inverse=True); test_labels = "
            "numpy.searchsorted(classes, test_labels)."
        )
    if num_classes < 2:
        raise UserError(f"{where}: all training labels are 0; give images of two classes or more.")


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
    return images


def _finite(images: np.ndarray) -> np.ndarray:
    """Whether all pixels of an image are finite, `[n]` bool."""
    finite = np.ones(len(images), bool)
    if images.dtype == np.uint8:
        return finite
    step = images_per_block(images)
    for start in range(0, len(images), step):
        block = images[start : start + step]
        finite[start : start + step] = np.isfinite(block).reshape(len(block), -1).all(axis=1)
    return finite


def _as_float32(images: np.ndarray, part: str, where: str) -> np.ndarray:
    if max(float(images.max()), -float(images.min())) > _LARGEST_PIXEL:
        raise UserError(
            f"{where}: {part} images have pixels from {images.min():g} to {images.max():g}, too large for float32; "
            "rescale them."
        )
    return images.astype(np.float32, copy=False)


def _check_labels(labels: np.ndarray, count: int, part: str, where: str) -> np.ndarray:
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{where}: {part} labels have type {labels.dtype}; save them as integers, one class per image: "
            "labels.astype(int)."
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        one_hot = labels.ndim == 2 and np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()
        cure = ": labels.argmax(axis=1)" if one_hot else ""
        raise UserError(
            f"{where}: {part} labels have shape {labels.shape}; they must be [n], one class per image{cure}."
        )
    if len(labels) != count:
        raise UserError(f"{where}: {count} {part} images but {len(labels)} labels; there must be one label per image.")
    return labels
