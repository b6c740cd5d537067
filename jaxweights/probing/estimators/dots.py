"""How many dots are there?"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from jaxweights import extras
from jaxweights.errors import UserError
from jaxweights.probing.data import DesignedData, Dots
from jaxweights.probing.data.base import each
from jaxweights.probing.data.dots import RADIUS
from jaxweights.probing.estimators.base import Estimator
from jaxweights.probing.estimators.batches import Progress, over

_SIDE = 64  # of the images that the constants below are of
_DARK = 2.6  # sum of red, green and blue below which a pixel is of a dot
_PAD, _APART, _HEIGHT, _SIGMA = 4, 4, 2.0, 1.0  # pixels
# Exchanges that leave the median of nine in the middle (Paeth, "Median finding on a 3 x 3 grid", 1990).
_EXCHANGES = (
    *((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3)),
    *((5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)),
)


@dataclasses.dataclass(frozen=True)
class DotsEstimator(Estimator):
    """Counts dots.

    "distance": peaks of the distance to the background. A median over 3 x 3 pixels; dots are where red, green and blue
    sum to less than 2.6; the border is continued by four pixels; peaks of the Euclidean distance to the background,
    smoothed by a Gaussian of one pixel, that are two pixels high and highest within four pixels each way. Lengths are
    those of 64 pixels a side and the published radius, and proportional to both; smaller images are enlarged first. The
    radius, where it is a feature, is that of discs of the area that is found.

    "components": connected components (by sides) of the same pixels, so that dots that touch are one.

    "hough": circles by OpenCV's Hough transform with the constants of the authors' older repository (InductiveBias),
    which finds too many: its error looks like a spread that grows with the count.

    Attributes:
      method: one of these.
    """

    KIND: ClassVar[str] = "dots"

    method: Literal["distance", "components", "hough"] = "distance"

    def check(self, data: DesignedData) -> None:
        """See `Estimator.check`."""
        if not isinstance(data, Dots):
            raise UserError(f"The estimator {self.KIND} counts dots; the images are {data.KIND}.")

    def measure(
        self, state: Any, data: DesignedData, images: np.ndarray, progress: Progress = lambda done, total: None
    ) -> np.ndarray:
        """See `Estimator.measure`; a count is always defined, the radius where there is a dot."""
        del state
        self.check(data)
        assert isinstance(data, Dots)
        if self.method == "distance":
            scale = data.side / _SIDE * data.radii[0] / RADIUS
            count, area = over(functools.partial(_peaks, scale), images, progress).T
        else:
            dark = over(_darkened, images, lambda done, total: None)
            count = _components(dark) if self.method == "components" else _circles(images, progress)
            area = dark.sum((1, 2))
        # An edge's pixels are one wide, and dark from a quarter on.
        radius = np.sqrt(area / (np.pi * np.where(count > 0, count, np.nan))) - 0.25
        unit = data.pixels_of(jnp.float32(1), 0.0)
        return np.stack([count, radius / float(unit)], axis=1)[:, : len(data.features)].astype(np.float32)


def _peaks(scale: float, images: jax.Array) -> jax.Array:
    """Number of dots, and dark pixels, `[n, 2]`.

    Args:
      scale: unit of the constants, in pixels.
      images: `[n, S, S, 3]`.
    """
    return each(functools.partial(_peaks_of_one, scale), images)


def _darkened(images: jax.Array) -> jax.Array:
    return each(_dark, images)


def _dark(image: jax.Array) -> jax.Array:
    """Where dots are, `[S, S]` bool."""
    side = image.shape[0]
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    seen = [padded[i : i + side, j : j + side] for i in range(3) for j in range(3)]
    for low, high in _EXCHANGES:
        seen[low], seen[high] = jnp.minimum(seen[low], seen[high]), jnp.maximum(seen[low], seen[high])
    return jnp.sum(seen[4], axis=-1) < _DARK


def _peaks_of_one(scale: float, image: jax.Array) -> jax.Array:
    enlarged = math.ceil(1 / scale - 1e-6)  # pixels of the constants are needed to tell small dots apart
    if enlarged > 1:
        scale, side = scale * enlarged, enlarged * image.shape[0]
        image = jax.image.resize(image, (side, side, 3), "linear")
    pad, apart = (max(1, round(scale * length)) for length in (_PAD, _APART))
    dark = _dark(image)
    inside = jnp.pad(dark, pad, mode="edge")
    size = len(inside)
    away = jnp.square(jnp.arange(size)[:, None] - jnp.arange(size)[None]).astype(jnp.float32)  # [k, i]

    def nearest(cost: jax.Array) -> jax.Array:
        """The least of `cost[k, j]` and the squared distance of i and k: `[i, j]`."""
        return jnp.min(away[:, :, None] + cost[:, None, :], axis=0)

    squares = nearest(nearest(jnp.where(inside, float(2 * size**2), 0.0)).T).T
    smooth = jnp.asarray(_gaussian(size, _SIGMA * scale))
    height = smooth @ jnp.sqrt(squares) @ smooth.T
    # Of equal heights that are too close, the last one counts.
    number = jnp.arange(size**2, dtype=jnp.float32).reshape(size, size)
    top = (height == _highest(height, apart)) & (height >= _HEIGHT * scale)
    top &= number == _highest(jnp.where(top, number, -1.0), apart)
    count = jnp.where(jnp.all(inside), 1, jnp.sum(top))  # without background there are no heights
    return jnp.stack([count, jnp.sum(dark) / enlarged**2]).astype(jnp.float32)


def _highest(heights: jax.Array, reach: int) -> jax.Array:
    """Of every pixel, the highest within `reach` pixels each way."""
    found: Any = heights
    for window in ((2 * reach + 1, 1), (1, 2 * reach + 1)):
        found = jax.lax.reduce_window(found, -jnp.inf, jax.lax.max, window, (1, 1), "SAME")
    return found


@functools.cache
def _gaussian(size: int, sigma: float) -> np.ndarray:
    """Smoothing of a column as a matrix `[size, size]`; beyond its ends it is reflected."""
    return ndimage.gaussian_filter1d(np.eye(size, dtype=np.float32), sigma, axis=0)


def _components(dark: np.ndarray) -> np.ndarray:
    """Connected components of each of `[n, S, S]` bool."""
    within = np.zeros((3, 3, 3), bool)
    within[1] = ndimage.generate_binary_structure(2, 1)
    labels = np.empty(dark.shape, np.int32)
    ndimage.label(dark, within, output=labels)
    # Labels rise from image to image.
    last = np.maximum.accumulate(labels.max(axis=(1, 2)))
    return np.diff(last, prepend=0)


def _circles(images: np.ndarray, progress: Progress) -> np.ndarray:
    """Circles by Hough's transform in each of `[n, S, S, 3]`."""
    with extras.importing("bias"):
        import cv2

    scale, out = images.shape[1] / _SIDE, np.zeros(len(images))
    least, most, apart = (max(1, round(scale * length)) for length in (4, 7, 10))
    for i, image in enumerate(images):
        grey = cv2.cvtColor(255 - np.round(255 * image).astype(np.uint8), cv2.COLOR_RGB2GRAY)
        grey = cv2.medianBlur(cv2.blur(grey, (3, 3)), 5)
        found = cv2.HoughCircles(
            grey, cv2.HOUGH_GRADIENT, 1, apart, param1=40, param2=3, minRadius=least, maxRadius=most
        )
        out[i] = 0 if found is None else found.shape[1]
        progress(i + 1, len(images))
    return out
