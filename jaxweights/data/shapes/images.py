"""Images as signals: values at pixel centres, for zoos of image fields."""

from __future__ import annotations

import numpy as np

from jaxweights.data.dataset import Dataset, fingerprint
from jaxweights.data.known import KNOWN
from jaxweights.data.signals import Signals
from jaxweights.errors import UserError


def signals_of_images(dataset: Dataset, runs: int, unseen: int) -> Dataset:
    """Makes a data set of image fields: run i is fitted to training image i, unseen ones are the first test images.

    Pixel centres are points (x, y), x to the right and y down; the longer side of the image spans -0.5 to 0.5. Networks
    are compared at the same points, by whether the value (the mean over colours) is above 0.5.

    Args:
      dataset: images.
      runs: number of training images, each the signal of one run.
      unseen: number of test images, the unseen signals.

    Returns:
      A data set whose values are pixels from 0 to 1, `[n, H * W, C]` float32, at points `[1, H * W, 2]`.

    Raises:
      UserError: too few images, or pixels outside 0 to 1.
    """
    for part, images, wanted in (("training", dataset.train_images, runs), ("test", dataset.test_images, unseen)):
        if len(images) < wanted:
            raise UserError(
                f"data set '{dataset.name}' has {len(images)} {part} images, but {wanted} are needed; "
                "set fewer runs or unseen signals."
            )
    height, width, channels = dataset.train_images.shape[1:]
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    centres = np.stack([columns + 0.5 - width / 2, rows + 0.5 - height / 2], axis=1) / max(height, width)
    centres = centres.astype(np.float32)

    def signals(images: np.ndarray, part: str) -> Signals:
        known = KNOWN.get(dataset.name)
        full_scale = (known.full_scale if known else 255.0) if images.dtype == np.uint8 else 1.0
        values = images.reshape(len(images), -1, channels).astype(np.float32) / np.float32(full_scale)
        if values.size and (values.min() < 0 or values.max() > 1):
            raise UserError(
                f"data set '{dataset.name}' has pixels from {values.min():g} to {values.max():g}; rescale them to 0 "
                "to 1, or save bytes."
            )
        names = tuple(f"{dataset.name}-{part}-{i}" for i in range(len(images)))
        return Signals("image", names, centres[None], values, np.zeros((len(images), 0, 3), np.float32))

    fitted = signals(dataset.train_images[:runs], "train")
    others = signals(dataset.test_images[:unseen], "test")
    return Dataset(
        name=dataset.name,
        train_images=centres,
        train_labels=_bright(fitted),
        test_images=centres,
        test_labels=_bright(others),
        num_classes=channels,
        scale=np.ones(2, np.float32),
        shift=np.zeros(2, np.float32),
        source=f"images of {dataset.source} as fields; blake2b {fingerprint(fitted.values, others.values)}",
        signals=fitted,
        unseen=others,
    )


def _bright(signals: Signals) -> np.ndarray:
    """Whether a pixel's mean over colours is above 0.5, `[T, n]` uint8."""
    return (signals.values.mean(axis=2) > 0.5).astype(np.uint8).T
