"""Published facts about image sets: shapes, sizes, standardisation."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple


class Moments(NamedTuple):
    """Mean and standard deviation of pixels, one per channel or one for all."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Known:
    """What is published about a data set.

    Attributes:
      shape: `(H, W, C)` of one image; None for sides that vary.
      num_classes: number of classes.
      sizes: published numbers of training and test images.
      full_scale: raw value that counts as 1.
      moments: mean and standard deviation of pixels divided by `full_scale`; None where training images decide.
      test_split: name of the test split in tensorflow-datasets.
    """

    shape: tuple[int | None, int | None, int]
    num_classes: int
    sizes: tuple[int, int]
    full_scale: float = 255.0
    moments: Moments | None = None
    test_split: str = "test"


# P-diff standardises both CIFAR sets with the constants of CIFAR-100 (arXiv 2402.13144, published code).
_PDIFF_CIFAR = Moments((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
# As P-diff standardises its other sets. It takes 0.5 for ImageNet's vision transformers, too: set that in a config.
_HALF = Moments((0.5,), (0.5,))
_IMAGENET = Moments((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

KNOWN: dict[str, Known] = {
    "digits": Known((8, 8, 1), 10, (1437, 360), full_scale=16.0),
    # The constants of G.pt (arXiv 2209.12892) and of the Hyper-Representations MNIST zoo.
    "mnist": Known((28, 28, 1), 10, (60000, 10000), moments=Moments((0.1307,), (0.3081,))),
    # Mean and deviation of its training pixels, as commonly used.
    "fashion_mnist": Known((28, 28, 1), 10, (60000, 10000), moments=Moments((0.2860,), (0.3530,))),
    # Hyper-Representations (arXiv 2209.14733): grey, centre crop of 28, (x - 0.5) / 0.5.
    "svhn_cropped": Known((32, 32, 3), 10, (73257, 26032), moments=_HALF),
    "cifar10": Known((32, 32, 3), 10, (50000, 10000), moments=_PDIFF_CIFAR),
    "cifar100": Known((32, 32, 3), 100, (50000, 10000), moments=_PDIFF_CIFAR),
    "stl10": Known((96, 96, 3), 10, (5000, 8000), moments=_HALF),
    "oxford_flowers102": Known((None, None, 3), 102, (1020, 6149), moments=_HALF),
    "oxford_iiit_pet": Known((None, None, 3), 37, (3680, 3669), moments=_HALF),
    "food101": Known((None, None, 3), 101, (75750, 25250), moments=_IMAGENET, test_split="validation"),
    "imagenet2012": Known((None, None, 3), 1000, (1281167, 50000), moments=_IMAGENET, test_split="validation"),
}
ALIASES = {"svhn": "svhn_cropped"}


def known_channels(name: str) -> int | None:
    """Number of channels of a data set's images; None where it is not published."""
    return KNOWN[name].shape[-1] if name in KNOWN else None


def test_split(name: str) -> str:
    """Name of a data set's test split in tensorflow-datasets."""
    return KNOWN[name].test_split if name in KNOWN else "test"
