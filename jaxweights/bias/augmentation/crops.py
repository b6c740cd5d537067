"""Random and central crops with Pillow's bicubic filter, and flips."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxweights.bias.resizing import resize_bytes
from jaxweights.nets.resize import weigh
from jaxweights.zoo.augment import BOX_DRAWS, boxes

_SHARPNESS = -0.5  # of Keys' cubic, Pillow's


def whole(values: jax.Array) -> jax.Array:
    """Rounded to the numbers that bytes have."""
    return jnp.clip(jnp.floor(values + 0.5), 0.0, 255.0)


def weights(inputs: int, outputs: int, start: jax.Array, length: jax.Array) -> jax.Array:
    """Bicubic weights of old pixels in new ones along one axis, of a piece of its own for every image.

    Args:
      inputs: old pixels along the axis.
      outputs: new pixels.
      start: `[B]` first old pixel of the piece.
      length: `[B]` old pixels of the piece; those outside it have no weight.

    Returns:
      `[B, outputs, inputs]` float32; rows add up to 1.
    """
    start, length = (x.astype(jnp.float32)[:, None, None] for x in (start, length))
    scale = length / outputs
    old = jnp.arange(inputs, dtype=jnp.float32)[None, None, :] + 0.5
    new = jnp.arange(outputs, dtype=jnp.float32)[None, :, None] + 0.5
    x, a = jnp.abs(old - start - new * scale) / jnp.maximum(scale, 1.0), _SHARPNESS
    near, far = ((a + 2) * x - (a + 3)) * x**2 + 1, (((x - 5) * x + 8) * x - 4) * a
    found = jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))
    found = jnp.where((old > start) & (old < start + length), found, 0.0)
    return found / jnp.sum(found, axis=-1, keepdims=True)


def random_resized(images: jax.Array, keys: jax.Array, side: int, flip: bool) -> jax.Array:
    """torchvision's `RandomResizedCrop`, bicubic, with its default areas and ratios, and maybe `RandomHorizontalFlip`.

    Args:
      images: `[B, H, W, C]` float32, numbers that bytes have.
      keys: `[B]`.
      side: side of the result.
      flip: whether every second image is mirrored at random.

    Returns:
      `[B, side, side, C]` float32, numbers that bytes have; Pillow rounds after each axis, this once.
    """
    _, height, width, _ = images.shape
    draws = jax.vmap(lambda key: jax.random.uniform(key, (BOX_DRAWS + 1,)))(keys).T
    box = boxes(draws[:-1], height, width)
    rows, columns = weights(height, side, box.top, box.height), weights(width, side, box.left, box.width)
    if flip:
        columns = jnp.where((draws[-1] < 0.5)[:, None, None], columns[:, ::-1], columns)
    return whole(weigh(images, rows, columns))


def central(images: jax.Array, side: int, resize: int) -> jax.Array:
    """Images resized to a short side and cut to the square in the middle, as they are evaluated.

    Args:
      images: `[B, H, W, C]` float32, numbers that bytes have.
      side: side of the square.
      resize: short side before it is cut.
    """
    images = resize_bytes(images, resize)
    top, left = (round((pixels - side) / 2) for pixels in images.shape[1:3])
    return images[:, top : top + side, left : left + side]
