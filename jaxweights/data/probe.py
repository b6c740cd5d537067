"""The probe set: test images changed by stated amounts, on which trained networks err in different ways.

On few images that networks get nearly all right, two error sets that share a hard image overlap by chance, often
entirely. On images that are harder and more, what networks have in common tells copies from separate training.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from jaxweights.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class ProbeSettings(Settings):
    """Settings of the images on which errors and outputs of networks are compared; accuracies stay those of the test
    set.

    Attributes:
      size: number of images, each a test image that is changed at random; 0 for the test set as it is.
      shift: largest shift along either axis in pixels; every image has its own.
      rotate: largest rotation about the centre in degrees, likewise.
      noise: standard deviation of Gaussian noise, in units of standardised pixels.
      seed: random seed of the images.
    """

    SECTION: ClassVar[str] = "audit.probe"

    size: int = setting(0, at_least=0, at_most=1_000_000)
    shift: float = setting(0.25, at_least=0, at_most=1000)
    rotate: float = setting(10.0, at_least=0, at_most=180)
    noise: float = setting(0.3, at_least=0, at_most=100)
    seed: int = setting(0, at_least=0, at_most=2**32 - 1)


def probe_set(images: np.ndarray, labels: np.ndarray, settings: ProbeSettings) -> tuple[np.ndarray, np.ndarray]:
    """Draws the probe set; every test image is taken equally often, up to one.

    Args:
      images: `[T, H, W, C]` standardised test images.
      labels: `[T]`.
      settings: how many, and how they are changed.

    Returns:
      Images `[size, H, W, C]` float32 and labels `[size]`.
    """
    rng, count = np.random.default_rng(settings.seed), len(labels)
    rounds = [rng.permutation(count) for _ in range(-(-settings.size // count))]
    rows = np.concatenate(rounds)[: settings.size]
    angles = np.deg2rad(settings.rotate) * rng.uniform(-1, 1, len(rows))
    shifts = settings.shift * rng.uniform(-1, 1, (len(rows), 2))
    moved = _moved(np.asarray(images, np.float32)[rows], angles, shifts)
    return moved + np.float32(settings.noise) * rng.standard_normal(moved.shape, np.float32), labels[rows]


def _moved(images: np.ndarray, angles: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Images `[n, H, W, C]` rotated by angles `[n]` about their centres and shifted by `[n, 2]` pixels, bilinearly;
    what comes in from outside has the smallest value of its channel, which is black."""
    from scipy import ndimage

    sides = images.shape[1:3]
    grid = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), axis=-1) - (np.array(sides) - 1) / 2
    cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    offset = grid[None] - shifts[:, None, None, :]
    rows = cos * offset[..., 0] + sin * offset[..., 1] + (sides[0] - 1) / 2
    columns = cos * offset[..., 1] - sin * offset[..., 0] + (sides[1] - 1) / 2
    places = np.stack([np.broadcast_to(np.arange(len(images))[:, None, None], rows.shape), rows, columns])
    channels = [
        ndimage.map_coordinates(channel, places, order=1, mode="grid-constant", cval=float(channel.min()))
        for channel in np.moveaxis(images, -1, 0)
    ]
    return np.stack(channels, axis=-1)
