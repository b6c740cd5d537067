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

from jaxweights.bias.resizing import resized
from jaxweights.bias.transformations.base import CROP_FLIP, Arithmetic, Augmentation, Stage, as_levels, from_levels
from jaxweights.bias.transformations.grey import luminance, on_all_channels
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

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """The image at its size."""
        return resized(image, self.side)

    def apply(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """See `Arithmetic.apply`; images have their size already, see `prepare`."""
        del keys
        # Barriers, since XLA would compute what it fuses once for every use.
        grey = jax.lax.optimization_barrier(jnp.sqrt(jnp.round(luminance(as_levels(images)))))
        picture = self._drawn(self._histograms(grey), (images.shape[1], images.shape[2]))
        picture = jax.lax.optimization_barrier(picture)
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
        down, across, size = jax.lax.optimization_barrier((down, across, size))
        bounds = np.arange(1, self.orientations) * math.pi / self.orientations
        past = [jnp.where(down * math.cos(b) >= across * math.sin(b), size, 0.0) for b in bounds]
        # What is in a bin is what is past its bound and not past the next one.
        beyond = jnp.stack([self._in_cells(part) for part in (size, *past)], axis=-1)
        return beyond - jnp.pad(beyond[..., 1:], ((0, 0), (0, 0), (0, 0), (0, 1)))

    def _in_cells(self, values: jax.Array) -> jax.Array:
        """Means `[B, rows, columns]` over the whole cells of `[B, H, W]`."""
        rows, columns = values.shape[1] // self.cell, values.shape[2] // self.cell
        cut = values[:, : rows * self.cell].reshape(-1, rows, self.cell, values.shape[2])
        # Rows one by one, then a product with ones: XLA's own sum over both axes took five times as long on CPU.
        tall = sum(cut[:, :, row] for row in range(self.cell))
        cells = np.zeros((columns, values.shape[2]), np.float32)
        cells[np.arange(columns).repeat(self.cell), np.arange(columns * self.cell)] = 1 / self.cell**2
        return jnp.einsum("brx,cx->brc", tall, jnp.asarray(cells), precision="highest")

    def _drawn(self, histograms: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """Pictures `[B, *shape]` of histograms; what lies beyond the last whole cell is 0."""
        batch, rows, columns, _ = histograms.shape
        stars = jnp.asarray(star(self.orientations, self.cell))
        drawn = jnp.einsum("brco,oyx->brycx", histograms, stars, precision="highest")
        drawn = drawn.reshape(batch, rows * self.cell, columns * self.cell)
        below, right = shape[0] - drawn.shape[1], shape[1] - drawn.shape[2]
        return jnp.pad(drawn, ((0, 0), (0, below), (0, right)))


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
