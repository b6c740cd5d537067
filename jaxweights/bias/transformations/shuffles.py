"""Shuffled pixels and patches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import shuffle
from jaxweights.bias.transformations.base import FULL, Arithmetic, Augmentation, Stage, divides
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class PatchShuffle(Arithmetic):
    """Square patches of an image change places, all channels together.

    Attributes:
      patch: side of the patches in pixels; it divides the sides of the images.
      fixed: whether one permutation serves all images, collections and splits; else every access draws another one.
      seed: of the fixed permutation.
    """

    KIND: ClassVar[str] = "patch_shuffle"
    TINY: ClassVar[Mapping[str, Any]] = {"patch": 4}
    STAGE: ClassVar[Stage] = Stage.AFTER
    AUGMENTATION: ClassVar[Augmentation] = FULL
    BYTES: ClassVar[bool] = True

    patch: int = setting(16, at_least=1)
    fixed: bool = False
    seed: int = setting(0, at_least=0)

    @property
    def random(self) -> bool:
        """Whether every access draws another permutation."""
        return not self.fixed

    def check(self, shape: tuple[int, int, int]) -> None:
        """See `Transformation.check`."""
        divides(self, "patch", shape)

    def apply(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """See `Arithmetic.apply`."""
        count = images.shape[1] * images.shape[2] // self.patch**2
        if self.fixed:
            return take_patches(images, jnp.asarray(fixed_permutation(count, self.seed)), self.patch)
        places = jnp.arange(count)
        orders = jax.vmap(lambda key: shuffle.permuted(places, jax.random.key_data(key), count))(keys)
        return take_patches(images, orders, self.patch)


@dataclasses.dataclass(frozen=True)
class PixelShuffle(PatchShuffle):
    """Pixels of an image change places, all channels together; see `PatchShuffle`."""

    KIND: ClassVar[str] = "pixel_shuffle"
    TINY: ClassVar[Mapping[str, Any]] = {}

    patch: int = setting(1, at_least=1)


def fixed_permutation(count: int, seed: int) -> np.ndarray:
    """`[count]` int32, the permutation of all images; the patch at place i comes from place `permutation[i]`."""
    return np.random.default_rng(seed).permutation(count).astype(np.int32)


def take_patches(images: jax.Array, order: jax.Array, patch: int) -> jax.Array:
    """Images `[B, H, W, C]` whose patch at place i, in reading order, is the one from place `order[i]`.

    Args:
      images: of any type.
      order: `[n]` for all images, or `[B, n]`.
      patch: side of the patches.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    within = np.arange(patch)[:, None] * width + np.arange(patch)

    def source(order: jax.Array) -> jax.Array:
        """Pixel that comes to each pixel, in reading order."""
        corner = order // columns * (patch * width) + order % columns * patch
        return (corner.reshape(rows, 1, columns, 1) + within[None, :, None, :]).reshape(-1)

    pixels = images.reshape(batch, height * width, channels)
    if order.ndim == 1:
        return pixels[:, source(order)].reshape(images.shape)
    moved = jax.vmap(lambda image, order: image.at[source(order)].get(mode="promise_in_bounds"))(pixels, order)
    return moved.reshape(images.shape)
