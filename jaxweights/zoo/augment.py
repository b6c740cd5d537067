"""Random changes of training images that leave their classes alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp

BORDER = 4  # zeros around an image before a piece of its own size is cut out again


def flip_and_cut(images: jax.Array, key: jax.Array) -> jax.Array:
    """Mirrors every second image at random, and moves each by up to `BORDER` pixels over a background of zeros.

    As the zoo of G.pt (published code, `data_gen/train_cifar10.py`): the zeros are those of standardised images, and
    the first row and column of the cut are uniform on 0 ... 7 of the 8 that the border allows for, so that images move
    by -4 ... 3 pixels.

    Args:
      images: `[B, H, W, C]` float32, standardised.
      key: of the draws.

    Returns:
      `[B, H, W, C]` float32.
    """
    count, height, width, _ = images.shape
    bits = jax.random.bits(key, (3, count), jnp.uint32)
    down, across = (bits[:2] % (2 * BORDER)).astype(jnp.int32) - BORDER
    rows = jnp.arange(height)[None, :] + down[:, None]
    columns = jnp.arange(width)[None, :] + across[:, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    columns = jnp.where(bits[2][:, None] >> 31 == 1, width - 1 - columns, columns)
    # Indices out of range are clipped and their pixels blanked: cheaper than images with the border in memory.
    rows, columns = jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
    moved = images[jnp.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return jnp.where(inside[..., None], moved, 0.0)
