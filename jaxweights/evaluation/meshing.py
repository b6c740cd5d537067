"""Meshes of neural occupancy fields, evaluated coarse to fine, and points on their surfaces.

A mesh is the level set of a field's logit on a regular grid, by marching cubes (Lewiner, through scikit-image). The
published grid of 356^3 has 45 million points, nearly all of them far from the surface. Here the field is evaluated on
every fourth point of the grid, then on all points of the blocks between them that the surface may cross, and where the
surface leaves these blocks through a face, in the next ones, until it leaves none. Marching cubes then walks the cells
of these blocks alone. The result is that of the whole grid, vertex by vertex and face by face, unless a closed part of
the surface lies between coarse points with nothing around it that tells of it; see `extract`.

The published grid is sheared by up to one voxel (a true division where an integer one was meant); this one is not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh as DeviceMesh
from jax.sharding import PartitionSpec

from jaxweights import extras, nets, parallel
from jaxweights.errors import UserError

RESOLUTION = 356
"""Grid points along each axis, as in HyperDiffusion's evaluation."""
LEVEL = math.log(4.0)
"""The logit of occupancy 0.8, at which HyperDiffusion meshes its test shapes."""

# Of the range of the field around a block, by which the level may lie outside it. Of an aeroplane with wings thinner
# than three voxels, coarse points four voxels apart tell of every block with 0.1, and eight apart with 0.25.
_MARGIN = 0.25
_FEWEST_TRIANGLES = 4096


class Mesh(NamedTuple):
    """A triangle mesh; one without faces is empty.

    Attributes:
      vertices: `[V, 3]` float32, in the coordinates of the field, -0.5 to 0.5.
      faces: `[F, 3]` int32 rows of `vertices`, counter-clockwise seen from outside (where the logit is smaller).
    """

    vertices: np.ndarray
    faces: np.ndarray


EMPTY = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))


def extract(
    net: nets.TaskNet,
    weights,
    *,
    resolution: int = RESOLUTION,
    level: float = LEVEL,
    coarse: int = 4,
    mesh: DeviceMesh,
    progress: Callable[[int, int], None] | None = None,
) -> list[Mesh]:
    """Meshes the level sets of occupancy fields over the cube from -0.5 to 0.5.

    A block of `coarse`^3 cells is evaluated where the level lies within the range of the field at the 4^3 coarse points
    on and around the block, widened by a quarter of that range, or where the surface enters from a block that was
    evaluated. What can be missed is a closed part of the surface, connected to no other, that lies between coarse
    points while the field around it stays further from the level than that. A smaller `coarse` finds it; 1 evaluates
    every point.

    Args:
      net: a field of three coordinates and one output, the logit.
      weights: `[N, P]` float32, an array or anything that slices to one.
      resolution: grid points along each axis, both ends included.
      level: logit of the surface.
      coarse: spacing of the coarse points, in voxels.
      mesh: devices that the points of a network are spread over.
      progress: called with (networks done, N).

    Returns:
      N meshes; an empty one for a network whose logit does not cross the level or is not finite.

    Raises:
      UserError: if the network is no such field, or the grid has fewer than two points.
    """
    if not net.task.has_surfaces(net):
        raise UserError(
            f"Only an occupancy field of three coordinates has a mesh, which network {net.name!r} of inputs of shape "
            f"{net.input_shape} is not. Choose data of three-dimensional shapes."
        )
    if resolution < 2 or coarse < 1:
        raise UserError(
            f"A grid of {resolution} points along each axis, every {coarse}th of them coarse, has no cells. Set the "
            "resolution to at least 2 and the spacing of coarse points to at least 1."
        )
    evaluator = _Evaluator(net, resolution, coarse, mesh)
    meshes: list[Mesh] = []
    before: _Blocks | None = None
    lattice: Any = evaluator.coarse(weights[:1]) if len(weights) else None
    for i in range(len(weights)):
        assert lattice is not None
        field = _Blocks(evaluator, weights[i : i + 1], lattice(), level)
        fine = field.start()
        if i + 1 < len(weights):
            lattice = evaluator.coarse(weights[i + 1 : i + 2])
        if before is not None:  # the host marches through one network while the devices evaluate the next
            meshes.append(before.march())
            if progress is not None:
                progress(i, len(weights))
        field.flood(fine)
        before = field
    if before is not None:
        meshes.append(before.march())
        if progress is not None:
            progress(len(weights), len(weights))
    return meshes


def surface_points(
    meshes: Sequence[Mesh], count: int, key: jax.Array, *, mesh: DeviceMesh | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draws points evenly by area from the surfaces of meshes.

    The points of a mesh depend on the key and on its place in the sequence, not on the other meshes.

    Args:
      meshes: N meshes.
      count: points of each.
      key: random key.
      mesh: devices that the meshes are spread over; all by default.

    Returns:
      `[N, count, 3]` float32 points, and `[N]` bool: whether the mesh has a surface. The points of one that has none,
      being empty or without area, are zero.
    """
    mesh = parallel.make_mesh() if mesh is None else mesh
    points, ok = np.zeros((len(meshes), count, 3), np.float32), np.zeros(len(meshes), bool)
    program = _sampler(count, mesh)
    members: dict[int, list[int]] = {}
    for i, shape in enumerate(meshes):
        if len(shape.faces):
            members.setdefault(_padded_size(len(shape.faces)), []).append(i)
    for size, rows in members.items():
        for start in range(0, len(rows), mesh.size):
            chosen = rows[start : start + mesh.size]
            triangles = np.zeros((len(chosen), size, 3, 3), np.float32)
            for row, i in enumerate(chosen):
                triangles[row, : len(meshes[i].faces)] = meshes[i].vertices[meshes[i].faces]
            last = np.array([len(meshes[i].faces) - 1 for i in chosen], np.int32)
            points[chosen], ok[chosen] = jax.device_get(program(key, (np.array(chosen, np.int32), triangles, last)))
    return points, ok


def _padded_size(faces: int) -> int:
    """Powers of four, so that meshes of all sizes share few compiled programs."""
    size = _FEWEST_TRIANGLES
    while size < faces:
        size *= 4
    return size


@functools.lru_cache(maxsize=8)
def _sampler(count: int, mesh: DeviceMesh):
    """A program of a key and of rows (place in the sequence, triangles `[F, 3, 3]`, index of the last real one)."""

    def one(key, row):
        place, triangles, last = row
        face_key, inside_key = jax.random.split(jax.random.fold_in(key, place))
        origin, *others = (triangles[:, i] for i in range(3))
        sides = [x - origin for x in others]
        areas = jnp.linalg.norm(jnp.cross(*sides), axis=1)
        below = jnp.cumsum(areas)
        drawn = below[-1] * jax.random.uniform(face_key, (count,))
        # Rounding may put a draw at the very end, past the last triangle.
        faces = jnp.minimum(jnp.searchsorted(below, drawn, side="right"), last)
        u = jax.random.uniform(inside_key, (2, count, 1))
        u = jnp.where(jnp.sum(u, axis=0, keepdims=True) > 1, 1 - u, u)  # folds the parallelogram onto the triangle
        points = origin[faces] + u[0] * sides[0][faces] + u[1] * sides[1][faces]
        ok = (below[-1] > 0) & jnp.isfinite(below[-1])
        return jnp.where(ok, points, 0.0), ok

    return parallel.map_rows(lambda key, rows: jax.lax.map(functools.partial(one, key), rows), mesh)


class _Evaluator:
    """Values of one field after another at cubic blocks of points of the grid, which are `side`^3 points each.

    The grid is covered by `blocks` blocks along each axis; `cells` of them have cells of their own.
    """

    def __init__(self, net: nets.TaskNet, resolution: int, side: int, mesh: DeviceMesh):
        self.resolution, self.side, self._mesh = resolution, side, mesh
        self.cells, self.blocks = -(-(resolution - 1) // side), -(-resolution // side)
        self.group, self._groups = _group_shape(jax.default_backend(), side)
        self._program = _program(net, side, self.group, mesh)

    def coarse(self, weights) -> Callable[[], np.ndarray]:
        """Starts the evaluation at every `side`-th point, and at the last; returns how to get the cube of values."""
        points = self.cells + 1
        per_axis = -(-points // self.side)
        pending = self.values(weights, np.arange(per_axis**3), per_axis, self.side)

        def cube():
            values = pending().reshape((per_axis,) * 3 + (self.side,) * 3).transpose(0, 3, 1, 4, 2, 5)
            return values.reshape((per_axis * self.side,) * 3)[:points, :points, :points]

        return cube

    def values(self, weights, ids: np.ndarray, per_axis: int, stride: int) -> Callable[[], np.ndarray]:
        """Starts the evaluation of blocks; returns how to get their values `[n, side^3]`.

        Args:
          weights: `[1, P]`.
          ids: `[n]` numbers of blocks, row-major among `per_axis`^3.
          per_axis: blocks along each axis.
          stride: grid points between neighbouring points of a block; none lies beyond the end of the grid.
        """
        whole, split = parallel.replicated(self._mesh), parallel.sharded(self._mesh)
        vector = jax.device_put(np.asarray(weights, np.float32)[0], whole)
        grid = jax.device_put(np.array([per_axis, stride, self.resolution - 1], np.int32), whole)
        parts, devices = [], self._mesh.size
        for start in range(0, len(ids), devices * self._groups * self.group):
            part = ids[start : start + devices * self._groups * self.group]
            used = -(-len(part) // (devices * self.group))  # groups of each device, the first of its share
            placed = np.zeros((devices, self._groups, self.group), np.int32)
            placed[:, :used] = parallel.pad_rows(part, devices * used * self.group).reshape(devices, used, self.group)
            rows = jax.device_put(placed.reshape(-1, self.group), split)
            parts.append((len(part), used, self._program(vector, np.int32(used), rows, grid)))

        def collect():
            found = [np.asarray(x).reshape(devices, self._groups, self.group, -1) for _, _, x in parts]
            width = self.side**3
            return np.concatenate(
                [x[:, :used].reshape(-1, width)[:n] for x, (n, used, _) in zip(found, parts, strict=True)]
            )

        return collect


def _group_shape(backend: str, side: int) -> tuple[int, int]:
    """Blocks of a group, which is one product per layer, and groups of a dispatch on one device.

    Measured on CPU: about a thousand points, whose activations stay in cache.
    """
    points, groups = (1024, 256) if backend == "cpu" else (1 << 17, 16)
    return max(1, points // side**3), groups


@functools.lru_cache(maxsize=8)
def _program(net: nets.TaskNet, side: int, group: int, mesh: DeviceMesh):
    """The compiled evaluation: vector, used groups, block numbers `[groups, group]`, grid to `[groups, group, side^3]`.

    The resolution is not compiled in.
    """
    inside = np.stack(np.meshgrid(*[np.arange(side, dtype=np.int32)] * 3, indexing="ij"), axis=-1).reshape(1, -1, 3)

    def shard(vector, used, ids, grid):
        per_axis, stride, last = grid

        def step(i, out):
            block = jnp.stack(jnp.unravel_index(ids[i], (per_axis,) * 3), axis=-1)[:, None, :]
            index = jnp.minimum((side * block + inside) * stride, last)
            points = index.astype(jnp.float32) * (1 / last.astype(jnp.float32)) - 0.5
            return out.at[i].set(net.apply(vector, points.reshape(-1, 3)).reshape(group, -1))

        return jax.lax.fori_loop(0, used, step, jnp.zeros((*ids.shape, side**3)))

    split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
    specs = (whole, whole, split, whole)
    return jax.jit(jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False))


class _Blocks:
    """The blocks of one field that the surface may cross: a block has `side`^3 cells and is named by its indices."""

    def __init__(self, evaluator: _Evaluator, weights, lattice: np.ndarray, level: float):
        """Marks the blocks that the coarse values tell of; `lattice` has one more point along each axis than blocks."""
        self._evaluator, self._weights, self._level = evaluator, weights, level
        self._shape = (evaluator.blocks,) * 3
        self._row = np.full(self._shape, -1, np.int32)  # of a block of points among the values
        self._values = np.zeros((0, evaluator.side**3), np.float32)
        self._active = np.zeros(self._shape, bool)
        low, high = _windows(np.minimum, lattice), _windows(np.maximum, lattice)
        low, high = (_neighbourhood(f, x) for f, x in ((np.minimum, low), (np.maximum, high)))
        margin = _MARGIN * (high - low)
        cells = slice(evaluator.cells)
        self._active[cells, cells, cells] = (low - margin <= level) & (level <= high + margin)

    def start(self) -> Callable[[], np.ndarray]:
        """Starts the evaluation of the marked blocks; returns how to get it."""
        needed = self._active
        for axis in range(3):  # the cells of a block have corners in the next ones
            later = np.zeros_like(needed)
            later[_along(axis, slice(1, None))] = needed[_along(axis, slice(None, -1))]
            needed = needed | later
        ids = np.flatnonzero(needed.reshape(-1) & (self._row.reshape(-1) < 0))
        self._row.reshape(-1)[ids] = len(self._values) + np.arange(len(ids))
        if not len(ids):
            return lambda: self._values[:0]
        return self._evaluator.values(self._weights, ids, self._evaluator.blocks, 1)

    def flood(self, pending: Callable[[], np.ndarray]) -> None:
        """Evaluates further blocks until the surface leaves the marked ones nowhere."""
        frontier = np.argwhere(self._active)
        while True:
            self._values = np.concatenate([self._values, pending()])
            entered = np.concatenate([self._entered(frontier, axis, step) for axis in range(3) for step in (-1, 1)])
            if not len(entered):
                return
            frontier = np.unique(entered, axis=0)
            self._active[tuple(frontier.T)] = True
            pending = self.start()

    def march(self) -> Mesh:
        """Marching cubes over the marked blocks."""
        values, level, side = self._values, self._level, self._evaluator.side
        if not (np.isfinite(values).all() and values.size and values.min() <= level <= values.max()):
            return EMPTY
        marked = np.argwhere(self._active)
        first, last = marked.min(axis=0), marked.max(axis=0)
        # In points: up to the last corners of the last cells, which lie in the blocks that follow.
        size = np.minimum((last + 1) * side, self._evaluator.resolution - 1) - first * side + 1
        volume = np.zeros([x for n in last - first + 2 for x in (n, side)], np.float32)
        cells = np.zeros(volume.shape, bool)
        known = np.argwhere(self._row >= 0)
        at = (known - first[None, :]).T
        volume[at[0], :, at[1], :, at[2], :] = values[self._row[tuple(known.T)]].reshape((-1,) + (side,) * 3)
        at = (marked - first[None, :]).T
        cells[at[0], :, at[1], :, at[2], :] = True
        padded = tuple(side * (last - first + 2))
        crop = tuple(slice(n) for n in size)
        # scikit-image looks up a cell at its far corner.
        mask = np.zeros(size, bool)
        mask[1:, 1:, 1:] = cells.reshape(padded)[crop][:-1, :-1, :-1]
        with extras.importing("shapes"):
            from skimage import measure
        try:
            vertices, faces, *_ = measure.marching_cubes(volume.reshape(padded)[crop], level, mask=mask)
        except RuntimeError:  # no cell has a surface
            return EMPTY
        placed = (vertices + (first * side)[None, :]) / (self._evaluator.resolution - 1) - 0.5
        return Mesh(placed.astype(np.float32), np.ascontiguousarray(faces[:, ::-1], np.int32))

    def _entered(self, blocks: np.ndarray, axis: int, step: int) -> np.ndarray:
        """The unmarked neighbours `[n, 3]` of blocks `[m, 3]` in one direction that share a face which the surface
        crosses."""
        side, resolution = self._evaluator.side, self._evaluator.resolution
        neighbours = blocks.copy()
        neighbours[:, axis] += step
        inside = (neighbours[:, axis] >= 0) & (neighbours[:, axis] < self._evaluator.cells)
        blocks, neighbours = blocks[inside], neighbours[inside]
        unmarked = ~self._active[tuple(neighbours.T)]
        blocks, neighbours = blocks[unmarked], neighbours[unmarked]
        extent = [np.arange(side + 1)] * 3
        extent[axis] = np.array([side if step > 0 else 0])
        offsets = np.stack(np.meshgrid(*extent, indexing="ij"), axis=-1).reshape(1, -1, 3)
        points = np.minimum(side * blocks[:, None, :] + offsets, resolution - 1)
        rows = self._row[tuple(np.moveaxis(points // side, -1, 0))]
        above = self._values[rows, np.ravel_multi_index(np.moveaxis(points % side, -1, 0), (side,) * 3)] > self._level
        return neighbours[above.any(axis=1) & ~above.all(axis=1)]


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    """Indexes a part along one of three axes."""
    index = [slice(None)] * 3
    index[axis] = part
    return tuple(index)


def _windows(function, cube: np.ndarray) -> np.ndarray:
    """A binary function over all windows of two along each axis."""
    for axis in range(3):
        cube = function(cube[_along(axis, slice(1, None))], cube[_along(axis, slice(None, -1))])
    return cube


def _neighbourhood(function, cube: np.ndarray) -> np.ndarray:
    """A binary function over each entry and its neighbours, where there are any."""
    for axis in range(3):
        out, later, earlier = cube.copy(), _along(axis, slice(1, None)), _along(axis, slice(None, -1))
        out[later] = function(out[later], cube[earlier])
        out[earlier] = function(out[earlier], cube[later])
        cube = out
    return cube
