"""Bicubic resizing of images: by Pillow on the host, and as Pillow does it on devices."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import extras

_SHARPNESS = -0.5  # of Keys' cubic, Pillow's
_BITS = 22  # of a weight behind the point


def at_most(image: np.ndarray, side: int) -> np.ndarray:
    """An image `[H, W, C]` uint8 whose short side is at most `side` pixels; 0 for any."""
    return resized(image, side) if side and min(image.shape[:2]) > side else image


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """An image `[H, W, C]` uint8 of 1, 3 or 4 channels, resized by Pillow's bicubic filter to a short side of `side`
    pixels; 0 to leave it."""
    height, width, channels = image.shape
    if not side or min(height, width) == side:
        return image
    with extras.importing("bias"):
        from PIL import Image

    tall, wide = (side * pixels // min(height, width) for pixels in (height, width))
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(picture.resize((wide, tall), Image.Resampling.BICUBIC)).reshape(tall, wide, channels)


def squared(image: np.ndarray, side: int) -> np.ndarray:
    """An image `[H, W, C]` uint8, resized to a short side of `side` pixels and cut to the square in its middle."""
    image = resized(image, side)
    top, left = (round((pixels - side) / 2) for pixels in image.shape[:2])
    return image[top : top + side, left : left + side]


class Taps(NamedTuple):
    """Which old pixels along an axis a new one is made of.

    Attributes:
      places: `[outputs, k]` int32.
      weights: `[outputs, k]` int32, in units of 2 ** -22; those of a new pixel add up to about 1.
    """

    places: np.ndarray
    weights: np.ndarray


@functools.cache
def bicubic(inputs: int, outputs: int) -> Taps:
    """Keys' cubic (1981) at distances in pixels, of the old image or of the new one, whichever are larger: the filter
    of Pillow's `BICUBIC`, with weights that are rounded as it rounds them."""
    scale = inputs / outputs
    width = max(scale, 1.0)
    centres = (np.arange(outputs)[:, None] + 0.5) * scale
    first = np.maximum(np.floor(centres - 2 * width + 0.5), 0).astype(np.int32)
    last = np.minimum(np.floor(centres + 2 * width + 0.5), inputs).astype(np.int32)
    places = first + np.arange((last - first).max())
    x = np.abs(places + 0.5 - centres) / width
    near = ((_SHARPNESS + 2) * x - (_SHARPNESS + 3)) * x**2 + 1
    far = (((x - 5) * x + 8) * x - 4) * _SHARPNESS
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0)) * (places < last)
    weights = weights / weights.sum(axis=1, keepdims=True) * 2**_BITS
    rounded = np.trunc(weights + np.copysign(0.5, weights)).astype(np.int32)
    return Taps(np.minimum(places, inputs - 1), rounded)


def resize_bytes(images: jax.Array, side: int) -> jax.Array:
    """Whole values 0 ... 255 `[B, H, W, C]` float32, resized to a short side of `side` pixels; 0 to leave them.

    The outcome is Pillow's to the bit: sums in whole numbers, rounded to bytes after the columns and after the rows.
    """
    _, height, width, _ = images.shape
    if not side or min(height, width) == side:
        return images
    tall, wide = (side * pixels // min(height, width) for pixels in (height, width))
    levels = _along(images.astype(jnp.int32), 2, bicubic(width, wide))
    return _along(levels, 1, bicubic(height, tall)).astype(jnp.float32)


def _along(levels: jax.Array, axis: int, taps: Taps) -> jax.Array:
    """Resizes whole values along an axis."""
    shape = [1] * levels.ndim
    shape[axis] = -1
    total = jnp.int32(1 << (_BITS - 1))
    for places, weights in zip(taps.places.T, taps.weights.T, strict=True):
        total = total + jnp.take(levels, places, axis=axis) * weights.reshape(shape)
    return jnp.clip(total >> _BITS, 0, 255)
