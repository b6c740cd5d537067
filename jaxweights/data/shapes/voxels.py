"""Voxel grids as a source of signals."""

from __future__ import annotations

import functools
import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import extras, memory, parallel
from jaxweights.data.dataset import fingerprint
from jaxweights.data.inspection import Inspection
from jaxweights.data.numpy_files import read_arrays
from jaxweights.data.shapes.sampling import shuffled_split
from jaxweights.data.shapes.solids import REACH
from jaxweights.data.shapes.triangles import points_on
from jaxweights.errors import UserError


class Voxels:
    """Shapes given as occupied voxels.

    A point is inside where the grid, interpolated trilinearly between the voxels' centres, is above 0.5: at the centres
    this is the grid itself, walls keep their thickness, and slopes are smooth. The bounding box of each shape's
    occupied voxels is centred, and its longest side is scaled to 0.95 (+-0.475). The grid's axes are x, y, z.

    Attributes:
      names: `[n]` names, from the file name and the position in the file.
      ids: `[n]` positions in the file, from which the shapes' random generators derive.
      moving: False.
      source: name of the file and fingerprint of the grids.
      skipped: empty grids that were left out.
    """

    moving = False

    def __init__(self, grids: np.ndarray, where: str, seed: int, skip_bad: bool = False):
        """Checks and fits grids.

        Args:
          grids: `[n, D, H, W]` bool.
          where: file name, for error messages.
          seed: random seed of the split and of surface points.
          skip_bad: whether empty grids are left out.

        Raises:
          UserError: empty grids.
        """
        occupied = grids.any(axis=(1, 2, 3))
        inspection = Inspection(where, "grids", "Remove them", skip_bad)
        inspection.rows("grids", np.flatnonzero(~occupied), "have no occupied voxel")
        self.skipped = inspection.settle(int(occupied.sum()))
        self.source = f"voxels {pathlib.Path(where).name}; blake2b {fingerprint(np.packbits(grids, axis=1))}"
        self.ids = np.flatnonzero(occupied)
        grids = grids if occupied.all() else grids[occupied]
        stem = pathlib.Path(where).stem
        self.names = tuple(f"{stem}-{i}" for i in self.ids)
        self._seed, self._where = seed, where
        # An empty margin, so that surfaces close and far points find a cell.
        self._grids = np.pad(grids, ((0, 0), (1, 1), (1, 1), (1, 1)))
        self._centre, self._scale = _fit(self._grids)

    def split(self, runs: int, unseen: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the runs' shapes and of unseen shapes, see `shuffled_split`.

        Raises:
          UserError: too few grids.
        """
        return shuffled_split(len(self.ids), runs, unseen, self._seed, self._where)

    def surface(self, rows: np.ndarray, count: int, in_motion: bool) -> np.ndarray:
        """Points on the surfaces (marching cubes at 0.5), uniform by area, `[n, count, 3]` float32."""
        del in_motion
        return np.stack([self._surface(row, count) for row in rows])

    def _surface(self, row: int, count: int) -> np.ndarray:
        with extras.importing("shapes"):
            from skimage import measure
        vertices, faces, *_ = measure.marching_cubes(self._grids[row].astype(np.float32), 0.5)
        rng = np.random.default_rng([self._seed, int(self.ids[row])])
        return (points_on(vertices[faces], count, rng) - self._centre[row]) * self._scale[row]

    def inside(self, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Whether points `[n, S, 3]` float32, or `[1, S, 3]` common to all shapes, are inside: `[n, S]` bool."""
        points = np.broadcast_to(points, (len(rows), *points.shape[1:]))
        test = _tester(parallel.resolve())
        return np.asarray(test(jnp.zeros(()), (self._grids[rows], self._centre[rows], self._scale[rows], points)))


@functools.cache
def _tester(mesh):
    def inside(row):
        grid, centre, scale, points = row
        size = np.array(grid.shape)
        strides = np.array([(size[1] - 1) * (size[2] - 1), size[2] - 1, 1], np.int32)
        # One byte per cell between 8 centres holds its corners, so that a point needs one look-up instead of eight.
        corners = jnp.zeros(tuple(size - 1), jnp.uint8)
        for i, j, k in itertools.product((0, 1), repeat=3):
            shifted = grid[i : i + size[0] - 1, j : j + size[1] - 1, k : k + size[2] - 1]
            corners |= shifted.astype(jnp.uint8) << (4 * i + 2 * j + k)
        place = points / scale + centre[None, :]
        cell = jnp.floor(place)
        share = place - cell
        cell = cell.astype(jnp.int32)
        known = jnp.all((cell >= 0) & (cell < size[None, :] - 1), axis=1)
        cell = jnp.clip(cell, 0, size[None, :] - 2)
        found = corners.reshape(-1)[jnp.sum(cell * strides[None, :], axis=1)]
        value = jnp.zeros(len(points))
        for corner in range(8):
            bits = jnp.array([corner >> 2 & 1, corner >> 1 & 1, corner & 1], bool)
            weight = jnp.prod(jnp.where(bits[None, :], share, 1 - share), axis=1)
            value += weight * (found >> corner & 1)
        return known & (value > 0.5)

    return parallel.map_rows(lambda _, rows: jax.lax.map(inside, rows), mesh)


def _fit(grids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre `[n, 3]` of each bounding box of occupied voxels, in voxels, and scale `[n]` that fits it to +-`REACH`."""
    centres, sides = [], []
    for axis in range(3):
        used = np.asarray(grids.any(axis=tuple(1 + other for other in range(3) if other != axis)))
        low, high = used.argmax(1), used.shape[1] - 1 - used[:, ::-1].argmax(1)
        centres.append((low + high) / 2)
        sides.append(high - low + 1)
    scale = 2 * REACH / np.max(sides, axis=0)
    return np.stack(centres, axis=1).astype(np.float32), scale.astype(np.float32)


def read_grids(path: pathlib.Path) -> np.ndarray:
    """Reads grids from an `.npz` or `.npy` file.

    An `.npz` holds `packed` (`[n, bytes]` uint8, each row the bits of one grid in the order of `numpy.packbits`) and
    `shape` (`[3]`), or one array `[n, D, H, W]` of bool or of zeros and ones; an `.npy` such an array.

    Returns:
      `[n, D, H, W]` bool.

    Raises:
      UserError: the file is missing, damaged, of another kind, or has other content.
    """
    arrays = read_arrays(path, "packed=..., shape=...", (("packed", "shape"),))
    if arrays.keys() == {"packed", "shape"}:
        return _unpacked(arrays["packed"], arrays["shape"], path)
    if len(arrays) != 1:
        raise UserError(f"{path} has the keys {sorted(arrays)}; it must have packed and shape, or one array of grids.")
    (grids,) = arrays.values()
    if grids.ndim != 4 or 0 in grids.shape or grids.dtype not in (np.bool_, np.uint8) or grids.max() > 1:
        if grids.ndim == 4 and 0 not in grids.shape and grids.dtype.kind in "fiu":
            largest = grids.max()
            cure = f"write grids > {largest / 2:g}" if np.isfinite(largest) else "write truth values"
        else:
            cure = "write one such array"
        raise UserError(
            f"{path}: the array is {grids.dtype} {grids.shape}; grids must be bool, or zeros and ones as uint8, "
            f"[n, depth, height, width]: {cure}."
        )
    return grids.astype(bool)


def _unpacked(packed: np.ndarray, shape: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Grids `[n, D, H, W]` bool from their bits."""
    sides = [int(side) for side in shape.reshape(-1)] if shape.dtype.kind in "iu" else []
    if len(sides) != 3 or min(sides) < 1:
        raise UserError(f"{path}: shape is {shape.tolist()}; it must be three positive integers, the sides of a grid.")
    size = math.prod(sides)
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != -(-size // 8) or not len(packed):
        raise UserError(
            f"{path}: packed is {packed.dtype} {packed.shape}, but grids of shape {tuple(sides)} need uint8 "
            f"[n, {-(-size // 8)}]; pack them by numpy.packbits(grids.reshape(n, -1), axis=1)."
        )
    cure = "Write fewer or coarser grids"
    parts = [memory.Part("their voxels", 2 * len(packed) * size, cure)]
    memory.refuse_unless_fits(f"{path}: {len(packed)} grids of shape {tuple(sides)}", parts, memory.host())
    return np.unpackbits(packed, axis=1, count=size).reshape(-1, *sides).astype(bool)
