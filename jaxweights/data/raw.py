"""What readers of image sets are asked for, and what they return."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Raw:
    """Arrays from a reader, not yet checked.

    Attributes:
      train_images, train_labels, test_images, test_labels: like those of `Dataset`, but of any type; images may lack
        the channel axis.
      files: format and file names, for provenance.
      where: path, for error messages.
      resized: whether the reader resized the images as requested.
      limited: whether the reader may have left images out that the limits exclude.
      skipped: bad items that were left out, one sentence each.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    files: str
    where: str
    resized: bool = False
    limited: bool = False
    skipped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a reader reads images.

    Attributes:
      resize: side of the square images to make of encoded ones (see `encoded.resize_picture`), 0 for no resizing.
      channels: number of channels of resized images, 1 or 3; None for that of the first image.
      limits: numbers of training and test images that are wanted, 0 for all; a reader may read more.
      skip_bad: whether bad images and files are left out, instead of refused.
    """

    resize: int = 0
    channels: int | None = None
    limits: tuple[int, int] = (0, 0)
    skip_bad: bool = False


AS_STORED = Reading()
