"""Stated changes of an image set: pixels in another order, and labels that are wrong."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxweights.data.dataset import Dataset, fingerprint
from jaxweights.errors import UserError

_NOISE_SEED = 0  # of wrong labels: the same ones for every zoo of a data set


def permuted_pixels(dataset: Dataset, seed: int) -> Dataset:
    """The same images with their pixels in another order, one for all training and test images.

    Args:
      dataset: images `[n, H, W, C]`; channels stay together.
      seed: random seed of the order.
    """
    height, width = dataset.train_images.shape[1:3]
    order = np.random.default_rng(seed).permutation(height * width)

    def moved(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), height * width, -1)[:, order].reshape(images.shape)

    changed = dataclasses.replace(
        dataset, train_images=moved(dataset.train_images), test_images=moved(dataset.test_images)
    )
    return _described(changed, f"pixels in random order {seed}")


def noisy_labels(dataset: Dataset, share: float) -> Dataset:
    """The same images with a share of the training labels replaced by another class each, drawn once for all runs.

    Args:
      dataset: labels `[n]` in `0 ... num_classes - 1`.
      share: above 0 and up to 1.

    Raises:
      UserError: a single class.
    """
    if dataset.num_classes < 2:
        raise UserError("data.label_noise needs at least two classes; set it to 0.")
    rng, labels = np.random.default_rng(_NOISE_SEED), dataset.train_labels.copy()
    rows = rng.permutation(len(labels))[: round(share * len(labels))]
    labels[rows] = (labels[rows] + rng.integers(1, dataset.num_classes, len(rows))) % dataset.num_classes
    return _described(dataclasses.replace(dataset, train_labels=labels), f"{share:.0%} of training labels wrong")


def _described(dataset: Dataset, change: str) -> Dataset:
    """With the change and the new fingerprint in the provenance."""
    found = fingerprint(dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
    before = dataset.source.rpartition("; blake2b ")[0]
    return dataclasses.replace(dataset, source=f"{before}, {change}; blake2b {found}")
