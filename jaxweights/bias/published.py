"""What was published on YFCC100M, CC12M and DataComp-1B (Zeng, Yin and Liu, arXiv 2412.01876): reference rows beside
one's own, which come from other collections and other classifiers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

CHANCE = 100 / 3
SOURCE = "arXiv 2412.01876, three collections of a million training images each, ConvNeXt-Tiny at 224 pixels"


class Row(NamedTuple):
    """A published accuracy.

    Attributes:
      name: the transformation in words.
      accuracy: percent, mean of three repeats.
      sd: standard deviation of these; None where it is not given.
      kind: key of `TRANSFORMATIONS`; empty where there is no such transformation here.
      settings: the published ones that one's own have to equal; a `threshold` in proportion to the image's side.
      note: what else is said about it.
    """

    name: str
    accuracy: float
    sd: float | None
    kind: str = ""
    settings: Mapping[str, Any] = {}
    note: str = ""


SIDE = 224
"""Side of the published images in pixels."""
_ALIKE = 0.02  # relative difference of a threshold that makes no difference
_NOISY = "the published code's own text gives {}"
_IDEAL = {"threshold": 40.0, "butterworth": False}

ROWS = (
    Row("original images", 82.0, 0.3, "identity"),
    Row("patches of 16 pixels, shuffled at random", 80.1, 0.2, "patch_shuffle", {"patch": 16, "fixed": False}),
    Row("patches of 16 pixels, one permutation", 81.2, 0.3, "patch_shuffle", {"patch": 16, "fixed": True}),
    Row("pixels, shuffled at random", 52.2, 0.8, "pixel_shuffle", {"fixed": False}),
    Row("pixels, one permutation", 58.5, 0.5, "pixel_shuffle", {"fixed": True}),
    Row("mean RGB", 48.5, 0.7, "mean_rgb"),
    Row("high-pass beyond 40", 79.2, 0.2, "high_pass", _IDEAL),
    Row("low-pass up to 40", 70.4, 0.5, "low_pass", _IDEAL),
    Row("HOG", 79.9, 0.2, "hog", {"cell": 8, "side": 500}, _NOISY.format("79.0")),
    Row("SIFT", 65.2, 1.4, "sift", {}, _NOISY.format("53.3")),
    Row("Canny", 71.0, 0.2, "canny", {"low": 85.0, "high": 255.0}),
    Row("VAE", 77.4, 0.3, "vae"),
    Row("unconditional generation", 77.6, 0.8, "generation"),
    Row("SAM contours", 73.2, 0.6, "sam"),
    Row("depth", 73.1, 0.2, "depth"),
    Row("semantic segmentation", 69.8, 0.6, "segmentation"),
    Row("object detection", 61.9, 0.4, "detection"),
    Row("captions, short", 63.8, 0.1),
    Row("captions, long", 66.1, 0.2),
    Row("text to image", 58.1, 0.4, "text_to_image"),
    Row("pixel shuffle and detection, concatenated", 68.9, None),
    Row("pixel shuffle and SAM contours, concatenated", 74.2, None),
    Row("detection and SAM contours, concatenated", 73.1, None),
)

PATCHES = {
    "random": {1: 52.2, 2: 70.5, 4: 76.5, 8: 77.5, 16: 80.1},
    "fixed": {1: 58.5, 2: 70.5, 4: 76.5, 8: 78.5, 16: 81.2},
}
"""Percent by side of the patches in pixels of 224; sides 2 to 8 are read off the published figure."""


_SAME = {"sd_vae": "vae", "dit": "generation"}  # what large models do of what small ones do here


def row_of(settings: Mapping[str, Any], side: int) -> Row | None:
    """The published row of a transformation; None where its settings are others, such as patches of another size.

    Args:
      settings: `kind` and settings.
      side: shorter side of the images that it is applied to, in pixels.
    """
    kind = settings.get("kind")
    for row in ROWS:
        if row.kind == _SAME.get(str(kind), kind) and all(
            _equal(k, settings.get(k), v, side) for k, v in row.settings.items()
        ):
            return row
    return None


def _equal(name: str, own: Any, published: Any, side: int) -> bool:
    """Whether a setting is the published one."""
    if name == "threshold":
        return math.isclose(own / side, published / SIDE, rel_tol=_ALIKE)
    return own == published
