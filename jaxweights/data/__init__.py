"""Data: the embedded digits, image sets prepared by tensorflow-datasets, idx and `.npz` files, and shapes.

Nothing here downloads. `python -m launch.prepare_data` prepares a data set, from files or from the network.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from jaxweights.data import cartpole, digits, npz, originals, prepared, shapes
from jaxweights.data.checks import check
from jaxweights.data.dataset import Dataset, Raw, finish, standardise
from jaxweights.data.files import read_files
from jaxweights.data.known import ALIASES, KNOWN, known_channels
from jaxweights.data.signals import Signals
from jaxweights.errors import UserError

__all__ = ["Dataset", "Signals", "default_data_dir", "load", "load_signals", "standardise"]


def default_data_dir() -> pathlib.Path:
    """Returns the directory that tensorflow-datasets uses: `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


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
) -> Dataset:
    """Loads an image set into memory; never downloads.

    `digits` is embedded, and so are the initial states of `cartpole`, which are used like images. Any other name is
    looked up in `data_dir`, in this order: a directory prepared by tensorflow-datasets as array_record, one prepared
    as tfrecord (`<name>/<version>`), the four idx files of the MNIST family (in `data_dir/<name>` or in `data_dir`
    itself), and `<name>.npz`. The images keep the order of their source: of the files, or the shuffled one in which
    tensorflow-datasets stored them. Limits take the first images of that order.

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

    Returns:
      The data set: images `[n, H, W, C]` as stored, uint8 or float32, and labels `[n]` int32.

    Raises:
      UserError: the data set is unknown or absent (the message says what to run), a file is damaged, or images, labels
        or settings do not fit together.
    """
    if name == "cartpole":
        if mean is not None or std is not None or grey or resize or crop:
            raise UserError("data set 'cartpole' has no images; leave mean, std, grey, resize and crop as they are.")
        return cartpole.read(train_limit, test_limit)
    if resize < 0:
        raise UserError(f"config.data.resize is {resize}; give the side of the images to make, or 0 for none.")
    name = ALIASES.get(name, name)
    folder = default_data_dir() if data_dir is None else pathlib.Path(data_dir).expanduser()
    raw, name = _find(name, folder, resize, (max(train_limit, 0), max(test_limit, 0)))
    return finish(
        check(raw, name),
        name,
        mean=mean,
        std=std,
        grey=grey,
        resize=resize,
        crop=crop,
        train_limit=train_limit,
        test_limit=test_limit,
    )


def load_signals(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    kind: Literal["occupancy", "image"],
    runs: int,
    signals: Mapping[str, Any],
    **images: Any,
) -> Dataset:
    """Loads the signals that a zoo of neural fields is fitted to; never downloads.

    Args:
      name: a procedural kind, a file or a folder of shapes (see `shapes.load`); for images any name that `load` takes.
      data_dir: directory to look in, as for `load`.
      kind: "occupancy" of shapes, or "image".
      runs: signals to fit, one per run.
      signals: number of unseen signals and sampling of shapes: `config.data.signals`.
      **images: other arguments of `load`; images only.

    Returns:
      The data set with its `signals`; the images are points at which networks are compared.

    Raises:
      UserError: unknown or absent data, or fewer signals than are needed.
    """
    if kind == "image":
        return shapes.signals_of_images(load(name, data_dir, **images), runs, signals["unseen"])
    if images:
        raise UserError(f"data set '{name}' has shapes, no images; leave {', '.join(images)} as they are.")
    folder = default_data_dir() if data_dir is None else pathlib.Path(data_dir).expanduser()
    return shapes.load(name, folder, runs=runs, **signals)


def _find(name: str, folder: pathlib.Path, resize: int, limits: tuple[int, int]) -> tuple[Raw, str]:
    """Returns the arrays of a data set and the name under which it goes."""
    if name == "digits":
        return digits.read(), name
    if name.endswith(".npz"):
        path = pathlib.Path(name).expanduser()
        inside = folder / path
        return npz.read(inside if inside.is_file() and not path.is_file() else path, resize), path.stem
    if folder.suffix == ".npz":
        return npz.read(folder, resize, known_channels(name)), name
    found = prepared.find(name, folder)
    if found is not None:
        # The classes of an unknown set are counted in all of its labels.
        return prepared.read(found, name, resize, limits if name in KNOWN else (0, 0)), name
    raw = read_files(name, folder, resize=resize)
    if raw is not None:
        return raw, name
    raise _missing(name, folder)


def _missing(name: str, folder: pathlib.Path) -> UserError:
    known = ", ".join(KNOWN)
    looked = f"{folder} {'has' if folder.is_dir() else 'does not exist, so there is'} no"
    if name not in KNOWN:
        return UserError(
            f"unknown data set '{name}': known are {known} (and svhn); {looked} {name}.npz and no directory {name} "
            "prepared for it. Give a known name, the path of an .npz file, or the right data_dir."
        )
    if name not in originals.ORIGINALS:
        return UserError(
            f"data set '{name}' is not there: {looked} {name}/<version> prepared by tensorflow-datasets and no "
            f"{name}.npz. Run `tfds build {name} --data_dir={folder}` (needs TensorFlow and the network), or give the "
            "data_dir where it is."
        )
    command = f"python -m launch.prepare_data --dataset={name} --data_dir={folder}"
    kinds = f"{name}.npz" if KNOWN[name].shape[-1] == 3 else f"idx files or {name}.npz"
    return UserError(
        f"data set '{name}' is not there: {looked} {name}/<version> prepared by tensorflow-datasets and no {kinds}. "
        f"Run `{command} --download` (needs the network), or `{command} --from=PATH` with a folder or .npz file that "
        "has the images, or give the data_dir where they are."
    )
