"""Histograms of oriented gradients (Dalal and Triggs, 2005), as a picture."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.bias.resizing import resize_bytes
from jaxweights.bias.transformations.base import CROP_FLIP, Arithmetic, Augmentation, Stage, as_levels, from_levels
from jaxweights.bias.transformations.grey import LUMINANCE, on_all_channels
from jaxweights.errors import UserError
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class HOG(Arithmetic):
    """The picture that scikit-image's `hog` visualises, computed on device: square roots of grey values, differences
    of neighbours, histograms of their directions in square cells, each drawn as a star of lines, stretched to bytes.

    Blocks and their normalisation have no part in that picture.

    Attributes:
      orientations: directions of a histogram.
      cell: side of a cell in pixels.
      side: images are resized to this short side first; 0 to leave them.
    """

    KIND: ClassVar[str] = "hog"
    TINY: ClassVar[Mapping[str, Any]] = {"side": 0}
    STAGE: ClassVar[Stage] = Stage.OFFLINE
    AUGMENTATION: ClassVar[Augmentation] = CROP_FLIP
    BYTES: ClassVar[bool] = True

    orientations: int = setting(9, at_least=1, at_most=90)
    cell: int = setting(8, at_least=4)
    side: int = setting(500, at_least=0)

    def check(self, shape: tuple[int, int, int]) -> None:
        """See `Transformation.check`."""
        side = self.side or min(shape[:2])
        if side < self.cell:
            raise UserError(f"{self.section}.cell is {self.cell}, but images have {side} pixels; set it lower.")

    def apply(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """See `Arithmetic.apply`."""
        del keys
        pixels = resize_bytes(as_levels(images), self.side)
        histograms = self._histograms(jnp.sqrt(_grey(pixels)))
        picture = self._drawn(histograms, (pixels.shape[1], pixels.shape[2]))
        least = jnp.min(picture, axis=(1, 2), keepdims=True)
        most = jnp.max(picture, axis=(1, 2), keepdims=True)
        flat = most == least
        share = (picture - least) / jnp.where(flat, 1.0, most - least)
        return on_all_channels(from_levels(jnp.floor(share * 255), images), images.shape[-1])

    def _histograms(self, grey: jax.Array) -> jax.Array:
        """`[B, rows, columns, orientations]` of grey values `[B, H, W]`: the mean over a cell of the gradients of a
        direction. Gradients are 0 across the border of the image."""
        down = jnp.pad(grey[:, 2:] - grey[:, :-2], ((0, 0), (1, 1), (0, 0)))
        across = jnp.pad(grey[:, :, 2:] - grey[:, :, :-2], ((0, 0), (0, 0), (1, 1)))
        size = jnp.sqrt(down**2 + across**2)
        # Directions modulo 180 degrees: turned into the upper half plane, and compared with the bounds of the bins.
        turned = (down < 0) | ((down == 0) & (across < 0))
        down, across = (jnp.where(turned, -x, x) for x in (down, across))
        bounds = np.arange(1, self.orientations) * math.pi / self.orientations
        past = [down * math.cos(bound) >= across * math.sin(bound) for bound in bounds]
        bins = sum((p.astype(jnp.int32) for p in past), jnp.zeros(grey.shape, jnp.int32))
        rows, columns = grey.shape[1] // self.cell, grey.shape[2] // self.cell

        def cells(values: jax.Array) -> jax.Array:
            cut = values[:, : rows * self.cell, : columns * self.cell]
            cut = cut.reshape(-1, rows, self.cell, columns, self.cell)
            return jnp.mean(cut, axis=(2, 4))

        return jnp.stack([cells(jnp.where(bins == o, size, 0.0)) for o in range(self.orientations)], axis=-1)

    def _drawn(self, histograms: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """Pictures `[B, *shape]` of histograms; what lies beyond the last whole cell is 0."""
        batch, rows, columns, _ = histograms.shape
        stars = jnp.asarray(star(self.orientations, self.cell))
        drawn = jnp.einsum("brco,oyx->brycx", histograms, stars, precision="highest")
        drawn = drawn.reshape(batch, rows * self.cell, columns * self.cell)
        below, right = shape[0] - drawn.shape[1], shape[1] - drawn.shape[2]
        return jnp.pad(drawn, ((0, 0), (0, below), (0, right)))


def _grey(pixels: jax.Array) -> jax.Array:
    """Whole grey values `[B, H, W]` of bytes `[B, H, W, C]`."""
    if pixels.shape[-1] < 3:
        return pixels[..., 0]
    return jnp.round(jnp.sum(pixels[..., :3] * np.array([[[LUMINANCE]]], np.float32), axis=-1))


@functools.cache
def star(orientations: int, cell: int) -> np.ndarray:
    """`[orientations, cell, cell]` float32: 1 on the line through a cell's centre that is perpendicular to the
    gradients of a direction, else 0."""
    lines = np.zeros((orientations, cell, cell), np.float32)
    radius, centre = cell // 2 - 1, cell // 2
    for orientation in range(orientations):
        angle = math.pi * (orientation + 0.5) / orientations
        down, across = radius * math.cos(angle), radius * math.sin(angle)
        begin = math.floor(centre - down), math.floor(centre + across)
        end = math.floor(centre + down), math.floor(centre - across)
        for row, column in line(begin, end):
            lines[orientation, row, column] = 1
    return lines


def line(begin: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """Pixels of a line (Bresenham, 1965), both ends included."""
    (row, column), (last_row, last_column) = begin, end
    rows, columns = abs(last_row - row), abs(last_column - column)
    down, across = (1 if last_row > row else -1), (1 if last_column > column else -1)
    steep = rows > columns
    longer, shorter = (rows, columns) if steep else (columns, rows)
    error, found = 2 * shorter - longer, []
    for _ in range(longer + 1):
        found.append((row, column))
        if error >= 0:
            row, column = (row, column + across) if steep else (row + down, column)
            error -= 2 * longer
        row, column = (row + down, column) if steep else (row, column + across)
        error += 2 * shorter
    return found
