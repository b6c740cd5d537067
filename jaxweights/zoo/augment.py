"""Data augmentation: random changes of training images that keep their classes."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxweights.nets.resize import bilinear, weigh

Augmentation = Literal["none", "flip_crop", "resized_crop"]

BORDER = 4  # zeros around an image before a piece of its own size is cut out again

# Of torchvision's RandomResizedCrop: fraction of the image's area, width over height, draws before it gives up.
AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
BOX_DRAWS = 2 * TRIES + 2


def flip_and_cut(images: jax.Array, key: jax.Array) -> jax.Array:
    """Mirrors every second image at random, and moves each by up to `BORDER` pixels over a background of zeros.

    As the zoo of G.pt (published code, `data_gen/train_cifar10.py`): the zeros are those of standardised images, and
    the first row and column of the cut are uniform on 0 ... 7 of the 8 that the border allows for, so that images move
    by -4 ... 3 pixels.

    Args:
      images: `[B, H, W, C]` float32, standardised.
      key: random key.

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


class Boxes(NamedTuple):
    """A rectangle of pixels in each of B images.

    Attributes:
      top: `[B]` int32, first row.
      left: `[B]` int32, first column.
      height: `[B]` int32, at least 1.
      width: `[B]` int32, at least 1.
    """

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


def boxes(draws: jax.Array, height: int, width: int) -> Boxes:
    """Rectangles as torchvision's `RandomResizedCrop` draws them.

    The area is uniform on `AREA` of the image's, the logarithm of width over height on that of `RATIO`; the first of
    `TRIES` draws that fits is put anywhere in the image. If none fits it is the largest central rectangle whose ratio
    is in the range.

    Args:
      draws: `[BOX_DRAWS, B]` float32, uniform on [0, 1).
      height: height of the images.
      width: width of the images.
    """
    areas, ratios, (down, across) = draws[:TRIES], draws[TRIES:-2], draws[-2:]
    areas = height * width * (AREA[0] + (AREA[1] - AREA[0]) * areas)
    low, high = (math.log(ratio) for ratio in RATIO)
    ratios = jnp.exp(low + (high - low) * ratios)
    widths, heights = jnp.round(jnp.sqrt(areas * ratios)), jnp.round(jnp.sqrt(areas / ratios))
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first, found = jnp.argmax(fits, axis=0)[None, :], fits.any(axis=0)
    central = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))
    rows = jnp.where(found, jnp.take_along_axis(heights, first, 0)[0], central[0]).astype(jnp.int32)
    columns = jnp.where(found, jnp.take_along_axis(widths, first, 0)[0], central[1]).astype(jnp.int32)
    top = jnp.where(found, jnp.floor(down * (height - rows + 1)), (height - rows) // 2)
    left = jnp.where(found, jnp.floor(across * (width - columns + 1)), (width - columns) // 2)
    return Boxes(top.astype(jnp.int32), left.astype(jnp.int32), rows, columns)


def resized_crop(images: jax.Array, key: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Cuts a random rectangle out of each image, resizes it bilinearly, and mirrors every second image at random.

    torchvision's `RandomResizedCrop` and `RandomHorizontalFlip` of Pillow images, but for Pillow's rounding to bytes
    (see `jaxweights.nets.resize`); P-diff trains so (published code, `dataset/*/*/train.py`).

    Args:
      images: `[B, H, W, C]` float32, standardised.
      key: random key.
      size: height and width of the result.

    Returns:
      `[B, *size, C]` float32.
    """
    count, height, width, _ = images.shape
    draws = jax.random.uniform(key, (BOX_DRAWS + 1, count))
    box, mirrored = boxes(draws[:-1], height, width), draws[-1] < 0.5
    rows, columns = bilinear(height, size[0], box.top, box.height), bilinear(width, size[1], box.left, box.width)
    return weigh(images, rows, jnp.where(mirrored[:, None, None], columns[:, ::-1], columns))


def augmented(images: jax.Array, key: jax.Array, kind: str, size: tuple[int, int]) -> jax.Array:
    """Images `[B, H, W, C]` changed as `zoo.augment` says.

    Args:
      images: `[B, H, W, C]` float32, standardised.
      key: random key.
      kind: "flip_crop" (`flip_and_cut`), "resized_crop" (`resized_crop`), or "none".
      size: height and width that the network works at.

    Returns:
      float32 `[B, *size, C]` for "resized_crop", else `[B, H, W, C]`.
    """
    if kind == "flip_crop":
        return flip_and_cut(images, key)
    if kind == "resized_crop":
        return resized_crop(images, key, size)
    return images
