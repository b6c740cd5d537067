"""Data: the embedded digits, image sets prepared by tensorflow-datasets, idx and `.npz` files, and shapes.

Nothing here downloads. `python -m launch.prepare_data` prepares a data set, from files or from the network.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jaxweights.data import cartpole, changes, shapes
from jaxweights.data.checks import check
from jaxweights.data.dataset import Dataset, finish, standardise
from jaxweights.data.raw import Reading
from jaxweights.data.signals import Signals
from jaxweights.data.sources import as_path, default_data_dir, find
from jaxweights.errors import UserError

__all__ = ["Dataset", "Signals", "check_shapes", "default_data_dir", "load", "load_signals", "standardise"]


def load(
    name: str = "digits",
    data_dir: str | os.PathLike | None = None,
    *,
    mean=None,
    std=None,
    grey: bool = False,
    resize: int = 0,
    crop: int = 0,
    train_limit: int = 0,
    test_limit: int = 0,
    skip_bad: bool = False,
    labelled: bool = True,
    permute_pixels: int = 0,
    label_noise: float = 0.0,
) -> Dataset:
    """Loads an image set into memory; never downloads.

    `digits` is embedded, and so are the initial states of `cartpole`, which are used like images. Any other name is
    looked up in `data_dir`, in this order: a directory prepared by tensorflow-datasets as array_record, one prepared
    as tfrecord (`<name>/<version>` or `<name>/<configuration>/<version>`), the four idx files of the MNIST family (in
    `data_dir/<name>`, in `data_dir` itself, or where torchvision has them: `data_dir/MNIST/raw`), `<name>.npz`, and the
    published files of CIFAR and SVHN, packed or not. The images keep the order of their source: of the files, or the
    shuffled one in which tensorflow-datasets stored them. Limits take the first images of that order, and must leave
    images of every class.

    Standardisation: `mean` and `std` if given; else the published constants (MNIST 0.1307 and 0.3081, Fashion-MNIST
    0.2860 and 0.3530, both CIFAR sets the CIFAR-100 constants of P-diff, ImageNet's for itself and Food-101, 0.5 and
    0.5 for SVHN, STL-10, flowers and pets); else, as for the digits, other sets, and colour sets made grey that have
    constants per colour, mean and deviation of the training pixels.

    Images of several sizes, such as those of the last four known sets, need `resize`. They are resized while they are
    decoded, so that memory holds the resized bytes alone. Of a prepared known set, no more images are decoded than the
    limits allow.

    Args:
      name: `digits`, `cartpole`, `mnist`, `fashion_mnist`, `svhn_cropped` (or `svhn`), `cifar10`, `cifar100`, `stl10`,
        `oxford_flowers102`, `oxford_iiit_pet`, `food101`, `imagenet2012`, any name found in `data_dir`, or the
        path of an `.npz` file (see `jaxweights.data.npz.read`).
      data_dir: data directory; None for that of tensorflow-datasets (`default_data_dir`). May also be the path of an
        `.npz` file with the images of `name`.
      mean: scalar or one per channel, of pixels divided by their full scale (255 for bytes, 16 for digits, 1 for
        floats); only together with `std`.
      std: standard deviation, like `mean`; positive.
      grey: whether colour images are converted to luminance, as by torchvision's `Grayscale`.
      resize: length of the shorter side after bilinear resizing by Pillow, followed by a centre crop to a square; 0 for
        no resizing.
      crop: side of the centre crop, 0 for none.
      train_limit: number of training images to keep (the first ones), 0 for all.
      test_limit: number of test images to keep, 0 for all.
      skip_bad: whether images and files that cannot be used are left out, see `Dataset.skipped`.
      labelled: whether the classes are used, so that each of them must have images.
      permute_pixels: random seed of one order of the pixels of all images, 0 for their own.
      label_noise: share of the training labels that are replaced by another class, see `changes`.

    Returns:
      The data set: images `[n, H, W, C]` as stored, uint8 or float32, and labels `[n]` int32.

    Raises:
      UserError: the data set is unknown or absent (the message says what to run); a file is damaged or of another kind;
        images, labels or settings do not fit together; a class has no training image, or none within the limit.
    """
    options = {"mean": mean, "std": std, "grey": grey, "resize": resize, "crop": crop}
    if name == "cartpole":
        if mean is not None or std is not None or grey or resize or crop or permute_pixels or label_noise:
            raise UserError("data set 'cartpole' has no images; leave all that changes images as it is.")
        return cartpole.read(train_limit, test_limit)
    counts = {"resize": resize, "crop": crop, "train_limit": train_limit, "test_limit": test_limit}
    for setting, value in counts.items():
        if not isinstance(value, (int, np.integer)) or (setting == "resize" and value < 0):
            raise UserError(f"config.data.{setting} is {value!r}; give a whole number of pixels or images, or 0.")
    wanted = (max(train_limit, 0), max(test_limit, 0))
    raw, name = find(name, data_dir, Reading(resize=resize, limits=wanted, skip_bad=skip_bad))
    checked = check(raw, name, skip_bad, labelled)
    made = finish(checked, name, limits=(train_limit, test_limit), labelled=labelled, **options)
    made = changes.permuted_pixels(made, permute_pixels) if permute_pixels else made
    return changes.noisy_labels(made, label_noise) if label_noise else made


def load_signals(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    kind: Literal["occupancy", "image"],
    runs: int,
    signals: Mapping[str, Any],
    skip_bad: bool = False,
    **images: Any,
) -> Dataset:
    """Loads the signals that a zoo of neural fields is fitted to; never downloads.

    Args:
      name: a procedural kind, a file or a folder of shapes (see `shapes.load`); for images any name that `load` takes.
      data_dir: directory to look in, as for `load`.
      kind: "occupancy" of shapes, or "image".
      runs: signals to fit, one per run.
      signals: number of unseen signals and sampling of shapes: `config.data.signals`.
      skip_bad: whether shapes or images that cannot be used are left out, see `Dataset.skipped`.
      **images: other arguments of `load`; images only.

    Returns:
      The data set with its `signals`; the images are points at which networks are compared.

    Raises:
      UserError: unknown or absent data, or fewer signals than are needed.
    """
    if kind == "image":
        if name == "cartpole":
            raise UserError("data set 'cartpole' has no images; give a set of images, or shapes.")
        loaded = load(name, data_dir, skip_bad=skip_bad, labelled=False, **images)
        return shapes.signals_of_images(loaded, runs, signals["unseen"])
    if kind != "occupancy":
        raise UserError(f"The kind of the signals is {kind!r}; it must be 'occupancy' or 'image'.")
    if images:
        raise UserError(f"data set '{name}' has shapes, no images; leave {', '.join(images)} as they are.")
    return shapes.load(name, _folder(data_dir), runs=runs, skip_bad=skip_bad, **signals)


def check_shapes(name: str, data_dir: str | os.PathLike | None = None, *, moving: bool, clouds: str) -> None:
    """Raises `UserError` where files of shapes are absent; none is read. See `shapes.load` for the arguments."""
    shapes.check_there(name, _folder(data_dir), moving=moving, clouds=clouds)


def _folder(data_dir: str | os.PathLike | None) -> pathlib.Path:
    return default_data_dir() if data_dir is None else as_path(data_dir, "data_dir")
