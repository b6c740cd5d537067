"""Bicubic resizing of bytes on device, as Pillow does it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.nets.resize import weigh

_SHARPNESS = -0.5  # of Keys' cubic, Pillow's


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
