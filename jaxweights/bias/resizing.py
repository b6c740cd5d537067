"""Bicubic resizing of images: by Pillow on the host, and as Pillow does it on devices."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import extras
from jaxweights.nets.resize import weigh

_SHARPNESS = -0.5  # of Keys' cubic, Pillow's


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


@functools.cache
def bicubic(inputs: int, outputs: int) -> np.ndarray:
    """Weights `[outputs, inputs]` float32 of old pixels in new ones along an axis; rows add up to 1.

    Keys' cubic at distances in pixels, of the old image or of the new one, whichever are larger: the filter of Pillow's
    `BICUBIC`.
    """
    scale = inputs / outputs
    width = max(scale, 1.0)
    centres = (np.arange(outputs)[:, None] + 0.5) * scale
    x = np.abs(np.arange(inputs)[None, :] + 0.5 - centres) / width
    a = _SHARPNESS
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def resize_bytes(images: jax.Array, side: int) -> jax.Array:
    """Whole values 0 ... 255 `[B, H, W, C]` float32, resized to a short side of `side` pixels; 0 to leave them.

    Rounded after each axis, the columns first, as Pillow does.
    """
    _, height, width, _ = images.shape
    if not side or min(height, width) == side:
        return images
    tall, wide = (side * pixels // min(height, width) for pixels in (height, width))
    as_rows, as_columns = jnp.eye(height), jnp.eye(wide)
    across = _whole(weigh(images, as_rows, jnp.asarray(bicubic(width, wide))))
    return _whole(weigh(across, jnp.asarray(bicubic(height, tall)), as_columns))


def _whole(values: jax.Array) -> jax.Array:
    return jnp.clip(jnp.floor(values + 0.5), 0, 255)
