"""Bilinear resizing of images on device, as two small matrix products per image.

Along an axis, a new pixel is a weighted mean of old ones, with weights that fall linearly to zero at the distance of
one pixel, of the old image or of the new one, whichever is larger: the filter of Pillow's `BILINEAR`, and so of
torchvision's transforms of Pillow images. Pillow rounds to whole bytes after each axis; nothing is rounded here, so the
two differ by at most one of 255 levels.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxweights.errors import UserError


def bilinear(inputs: int, outputs: int, start: jax.typing.ArrayLike, length: jax.typing.ArrayLike) -> jax.Array:
    """Weights of old pixels in new ones along one axis.

    Args:
      inputs: old pixels along the axis.
      outputs: new pixels.
      start: `[...]` first old pixel of the piece that is resized.
      length: `[...]` old pixels of the piece, at least 1. Those outside it have no weight.

    Returns:
      `[..., outputs, inputs]` float32; rows add up to 1.
    """
    start, length = (jnp.asarray(x, jnp.float32)[..., None, None] for x in (start, length))
    scale = length / outputs
    old = jnp.arange(inputs, dtype=jnp.float32) + 0.5
    new = jnp.arange(outputs, dtype=jnp.float32) + 0.5
    axes = (1,) * (start.ndim - 2)
    old, new = old.reshape(axes + (1, inputs)), new.reshape(axes + (outputs, 1))
    weights = jnp.maximum(1.0 - jnp.abs(old - start - new * scale) / jnp.maximum(scale, 1.0), 0.0)
    weights = jnp.where((old > start) & (old < start + length), weights, 0.0)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def weigh(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """New pixels as weighted means of old ones.

    Args:
      images: `[B, H, W, C]` float32.
      rows: `[h, H]`, or `[B, h, H]`, every image's own.
      columns: `[w, W]` or `[B, w, W]`.

    Returns:
      `[B, h, w, C]` float32.
    """
    own = "b" if rows.ndim == 3 else ""
    # Channels come first for one product and last for the other: both are plain ones of long rows.
    wide = jnp.einsum(f"bchw,{own}vw->bchv", images.transpose(0, 3, 1, 2), columns, precision="highest")
    wide = wide.transpose(0, 2, 3, 1)
    flat = wide.reshape(wide.shape[:2] + (-1,))
    tall = jnp.einsum(f"{own}uh,bhf->buf", rows, flat, precision="highest")
    return tall.reshape(tall.shape[:2] + wide.shape[2:])


@dataclasses.dataclass(frozen=True)
class Resize:
    """torchvision's `Resize(side)` and `CenterCrop(crop)`.

    Attributes:
      side: pixels of the shorter side after resizing.
      crop: side of the square that is cut out of the middle.
    """

    side: int
    crop: int

    def __call__(self, images: jax.Array) -> jax.Array:
        """`[B, crop, crop, C]` float32 of `[B, H, W, C]`."""
        old = images.shape[1:3]
        new = [self.side * size // min(old) for size in old]
        rows, columns = (slice(first, first + self.crop) for first in (round((size - self.crop) / 2) for size in new))
        if self.side == min(old):
            return images[:, rows, columns]
        down, across = (bilinear(inputs, outputs, 0, inputs) for inputs, outputs in zip(old, new, strict=True))
        return weigh(images, down[rows], across[columns])


def checked(side: int, crop: int, input_shape: tuple[int, ...]) -> Resize | None:
    """The resizing that a network's settings `resize` and `crop` ask for, or None.

    Args:
      side: `net.resize`, 0 for none.
      crop: `net.crop`, 0 for `side`.
      input_shape: shape of the data set's images.

    Raises:
      UserError: a crop without resizing or larger than it, inputs that are no images, or images that have the size of
        the crop before it, so that they could not be told from those that were resized already.
    """
    if not side and not crop:
        return None
    if len(input_shape) != 3:
        raise UserError(f"net.resize is for images; inputs of shape {tuple(input_shape)} have no sides. Leave it at 0.")
    if side < 1 or not 0 <= crop <= side:
        raise UserError(
            f"net.crop is {crop} and net.resize {side}; give a resize of at least 1 and a crop from 1 to it, or 0 for "
            "all of it. To cut images without resizing them, set config.data.crop."
        )
    crop = crop or side
    if input_shape[:2] == (crop, crop):
        if side == crop:
            return None
        raise UserError(
            f"The images are {crop} by {crop} already, which is net.crop; resizing them to {side} first would go "
            "unnoticed. Leave net.resize and net.crop at 0, or load larger images with config.data.resize."
        )
    return Resize(side, crop)
