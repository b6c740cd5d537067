"""Shuffled pixels and patches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxweights import shuffle
from jaxweights.bias.transformations.base import FULL, Arithmetic, Augmentation, Stage, divides
from jaxweights.settings import setting

_COPIED = 48  # numbers of a patch from which copying it beats a gather on CPU


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
        places = corners(images.shape[1], images.shape[2], self.patch)
        if self.fixed:
            return take_patches(images, places[fixed_permutation(len(places), self.seed)], self.patch)
        return take_patches(images, jax.vmap(lambda key: _shuffled(places, key))(keys), self.patch)


@dataclasses.dataclass(frozen=True)
class PixelShuffle(PatchShuffle):
    """Pixels of an image change places, all channels together; see `PatchShuffle`."""

    KIND: ClassVar[str] = "pixel_shuffle"
    TINY: ClassVar[Mapping[str, Any]] = {}

    patch: int = setting(1, at_least=1)


def fixed_permutation(count: int, seed: int) -> np.ndarray:
    """`[count]` int32, the permutation of all images; the patch at place i comes from place `permutation[i]`."""
    return np.random.default_rng(seed).permutation(count).astype(np.int32)


def corners(height: int, width: int, patch: int) -> np.ndarray:
    """`[n]` int32, the first pixel of every patch in reading order, counted in reading order."""
    rows, columns = np.arange(0, height, patch), np.arange(0, width, patch)
    return (rows[:, None] * width + columns).reshape(-1).astype(np.int32)


def _shuffled(places: np.ndarray, key: jax.Array) -> jax.Array:
    """Places `[n]` in a random order; sorting random numbers takes up to ten times as long on CPU."""
    order = shuffle.permuted(jnp.arange(len(places)), jax.random.key_data(key), len(places))
    return jnp.asarray(places)[order]


def take_patches(images: jax.Array, first: jax.Array | np.ndarray, patch: int) -> jax.Array:
    """Images `[B, H, W, C]` whose patch at place i, in reading order, is the one that begins at the pixel `first[i]`.

    Args:
      images: of any type.
      first: `[n]` for all images, or `[B, n]`; `corners` in another order.
      patch: side of the patches.
    """
    batch, height, width, channels = images.shape
    if jax.default_backend() == "cpu" and patch**2 * channels >= _COPIED:
        return _copied_patches(images, jnp.broadcast_to(first, (batch, first.shape[-1])), patch)
    within = np.arange(patch, dtype=np.int32)[:, None] * width + np.arange(patch, dtype=np.int32)

    def source(first: Any) -> Any:
        """Pixel that comes to each pixel, in reading order."""
        grid = first.reshape(height // patch, 1, width // patch, 1)
        return (grid + within[None, :, None, :]).reshape(-1)

    pixels = images.reshape(batch, height * width, channels)
    if first.ndim == 1:
        return pixels[:, source(first)].reshape(images.shape)
    moved = jax.vmap(lambda image, first: image.at[source(first)].get(mode="promise_in_bounds"))(pixels, first)
    return moved.reshape(images.shape)


def _copied_patches(images: jax.Array, first: jax.Array, patch: int) -> jax.Array:
    """`take_patches` with `first` `[B, n]`, patch after patch: on CPU copies of a patch's rows take half the time of a
    gather, which looks up every number."""
    batch, height, width, channels = images.shape
    down, across = height // patch, width // patch

    def one(given: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        image, top, left = given

        def put(row: jax.Array, column: jax.Array, made: jax.Array) -> jax.Array:
            cut = lax.dynamic_slice(image, (top[row, column], left[row, column]), (patch, patch * channels))
            return lax.dynamic_update_slice(made, cut, (row * patch, column * patch * channels))

        def line(row: jax.Array, made: jax.Array) -> jax.Array:
            return lax.fori_loop(0, across, functools.partial(put, row), made)

        return lax.fori_loop(0, down, line, jnp.zeros_like(image))

    first = first.reshape(batch, down, across)
    rows = images.reshape(batch, height, width * channels)
    return lax.map(one, (rows, first // width, first % width * channels)).reshape(images.shape)
