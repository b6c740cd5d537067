"""Procedural shapes as a source of signals: occupancy and uniform surface points from signed distances."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import parallel
from jaxweights.data.dataset import fingerprint
from jaxweights.data.shapes import families, solids

# Number of the first unseen shape; smaller numbers are shapes of runs.
_UNSEEN = 1 << 20
# Number of shapes built at a time.
_SHAPES = 64
# Number of blocks per call of the compiled program, and points per block: few enough that all intermediate results stay
# in the L2 cache (5 x on CPU).
_TASKS, _POINTS = 32, 4096
# Number of candidate points of all shapes at a time.
_POOL = 1 << 22
# Cells per side of the grid in which surface points are searched.
_GRID = 32
# Half thickness of the shell around the surface that candidates must hit; less than half of any part's thickness.
_SHELL = 0.004
# Largest distance of points on the surface; points that do not converge, in gaps between blended parts, are left out.
_ON = 5e-4
# Candidates per point. At least about 1 in 8 hits: cells that the surface may cross have their centres within half a
# diagonal, 0.027, plus the shell.
_CANDIDATES = 11
# Step of finite differences: far above the rounding of distances, below the radius of any edge.
_STEP = 3e-4
# Instants at which a moving shape's surface is sampled.
_INSTANTS = 16


class Procedural:
    """Shapes of one family and seed, of which there are infinitely many.

    Attributes:
      names: `[n]` names of the shapes.
      ids: `[n]` their numbers, from which their keys derive: 0, 1, ... for runs, `_UNSEEN`, ... for unseen shapes.
      moving: whether points have a time.
      source: description of the shapes and fingerprint of the draws that determine their parameters.
    """

    def __init__(self, family: str, runs: int, unseen: int, moving: bool, seed: int):
        """Draws the shapes' parameters.

        Args:
          family: a key of `families.FAMILIES`.
          runs: number of shapes that runs are fitted to.
          unseen: number of other shapes.
          moving: whether the shapes move.
          seed: random seed of parameters and points.
        """
        self.ids = np.concatenate([np.arange(runs), _UNSEEN + np.arange(unseen)])
        self.names = tuple(f"{family}-{seed}-{i}" for i in self.ids)
        self.moving, self.skipped = moving, ()
        self._seed = seed
        draws = families.draw(family, seed, self.ids)
        # In blocks of one size, because the last bits of a program's results depend on its sizes.
        blocks = [
            _build(family, moving, np.resize(draws[i : i + _SHAPES], (_SHAPES, draws.shape[1])))
            for i in range(0, len(draws), _SHAPES)
        ]
        self._solids = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(draws)], *blocks)
        self.source = f"procedural {family}{' in motion' if moving else ''}, seed {seed}; blake2b {fingerprint(draws)}"

    def split(self, runs: int, unseen: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the shapes that runs are fitted to, and of unseen shapes."""
        return np.arange(runs), len(self.ids) - unseen + np.arange(unseen)

    def surface(self, rows: np.ndarray, count: int, in_motion: bool) -> np.ndarray:
        """Points on the surfaces, uniform by area.

        Args:
          rows: `[n]` int, rows of the shapes.
          count: number of points of each shape.
          in_motion: whether points are spread over random times of the motion; else all are at time 0.

        Returns:
          `[n, count, 3]` float32, or `[n, count, 4]` with the time if in motion.
        """
        generators = [np.random.default_rng([self._seed, 1, identity]) for identity in self.ids[rows]]
        still, shapes = np.zeros((len(rows), 1), np.float32), self.solids(rows)
        if not in_motion:
            return surface_points(shapes, still, generators, count)[:, 0]
        spread = [rng.random(_INSTANTS, np.float32) for rng in generators]
        times = (np.arange(_INSTANTS, dtype=np.float32) + np.stack(spread)) / _INSTANTS - np.float32(0.5)
        points = surface_points(shapes, times, generators, -(-count // _INSTANTS))
        stamped = np.concatenate([points, np.broadcast_to(times[..., None, None], (*points.shape[:3], 1))], axis=3)
        # Instants alternate, so that the first points of any number contain all of them.
        return stamped.swapaxes(1, 2).reshape(len(rows), -1, 4)[:, :count]

    def inside(self, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Whether points are inside.

        Args:
          rows: `[n]` int, rows of the shapes.
          points: `[n, S, d]` float32, or `[1, S, d]` common to all shapes; d is 4 for moving shapes.

        Returns:
          `[n, S]` bool.
        """
        return distances(self.solids(rows), points) < 0

    def solids(self, rows: np.ndarray) -> solids.Solid:
        """The fitted solids of some shapes, stacked."""
        return jax.tree.map(lambda leaf: leaf[rows], self._solids)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _build(family: str, moving: bool, draws: jax.Array) -> solids.Solid:
    make = families.FAMILIES[family][1]
    return jax.vmap(lambda draw: solids.fit(make(families.parameters(family, draw)), moving))(draws)


@functools.cache
def _program(mesh):
    """Distances `[n, _POINTS]` of points `[n, _POINTS, 4]` to n solids."""
    return parallel.map_rows(
        lambda _, rows: jax.lax.map(lambda row: solids.distance(row[0], row[1][:, :3].T, row[1][:, 3]), rows), mesh
    )


def distances(shapes: solids.Solid, points: np.ndarray) -> np.ndarray:
    """Signed distances to solids, by a program that is compiled once for any number of solids and points.

    Args:
      shapes: n solids, stacked.
      points: `[n, S, 3]` float32, or `[n, S, 4]` with a time, or `[1, S, d]` common to all.

    Returns:
      `[n, S]` float32. No value depends on the other solids and points.
    """
    count, program = points.shape[1], _program(parallel.resolve())
    points = np.pad(points, ((0, 0), (0, -count % _POINTS), (0, 4 - points.shape[2])))
    points = points.reshape(len(points), -1, _POINTS, 4)
    per_shape, num_shapes = points.shape[1], len(shapes.blend)
    found = np.empty((num_shapes * per_shape, _POINTS), np.float32)
    for start in range(0, len(found), _TASKS):
        tasks = np.arange(start, start + _TASKS).clip(max=len(found) - 1)
        shape, part = np.divmod(tasks, per_shape)
        own = jax.tree.map(lambda leaf, shape=shape: leaf[shape], shapes)
        block = points[shape if len(points) > 1 else 0, part]
        found[start : start + _TASKS] = program(jnp.zeros(()), (own, block))[: len(found) - start]
    return found.reshape(num_shapes, -1)[:, :count]


def surface_points(
    shapes: solids.Solid, times: np.ndarray, generators: Sequence[np.random.Generator], count: int
) -> np.ndarray:
    """Points on the surfaces of solids, uniform by area.

    Points drawn uniformly in a thin shell around the surface are projected onto it along the gradient. Since distances
    are exact, the shell's volume is proportional to area; excess outside of convex edges cancels the deficit inside.

    Args:
      shapes: n solids, stacked.
      times: `[n, i]` float32 times.
      generators: random generators, one per solid.
      count: number of points at each time.

    Returns:
      `[n, i, count, 3]` float32.
    """
    axis = (np.arange(_GRID, dtype=np.float32) + np.float32(0.5)) / _GRID - np.float32(0.5)
    centres = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    tasks = [(i, time) for i, instants in enumerate(times) for time in instants]
    step = max(1, _POOL // (_CANDIDATES * count + len(centres)))
    blocks = [
        _surface_points(shapes, centres, tasks[i : i + step], generators, count) for i in range(0, len(tasks), step)
    ]
    return np.concatenate(blocks).reshape(*times.shape, count, 3)


def _surface_points(
    shapes: solids.Solid,
    centres: np.ndarray,
    tasks: Sequence[tuple[int, float]],
    generators: Sequence[np.random.Generator],
    count: int,
) -> np.ndarray:
    """Points `[t, count, 3]` of t tasks (row of the solid, time), given the centres `[C, 3]` of the grid's cells."""
    own = jax.tree.map(lambda leaf: leaf[np.array([i for i, _ in tasks])], shapes)
    stamps = np.array([[[time]] for _, time in tasks], np.float32)

    def distance(points):
        shape = np.broadcast_shapes(points.shape[:2], (len(tasks), 1))
        timed = np.concatenate([np.broadcast_to(part, (*shape, part.shape[2])) for part in (points, stamps)], axis=2)
        return distances(own, timed)

    def taken(points, chosen, count):
        """The first `count` chosen points of each task, repeated should there be too few."""
        return np.stack([part[np.resize(np.flatnonzero(row), count)] for part, row in zip(points, chosen, strict=True)])

    side = np.float32(1 / _GRID)
    crossed = np.abs(distance(centres[None])) < side * 3**0.5 / 2 + _SHELL
    candidates = np.empty((len(tasks), _CANDIDATES * count, 3), np.float32)
    for (i, _), cells, points in zip(tasks, crossed, candidates, strict=True):
        cells = np.flatnonzero(cells)
        points[:] = centres[cells[generators[i].integers(len(cells), size=len(points))]]
        points += side * (generators[i].random(points.shape, np.float32) - np.float32(0.5))
    points = taken(candidates, np.abs(distance(candidates)) < _SHELL, count + count // 8)

    offsets = np.concatenate([np.zeros((1, 3)), _STEP * np.eye(3)]).astype(np.float32)
    around = distance((points[:, None] + offsets[None, :, None]).reshape(len(tasks), -1, 3))
    around = around.reshape(len(tasks), 4, -1, 1)
    away, gradient = around[:, 0], np.moveaxis(around[:, 1:] - around[:, :1], 1, 2)[..., 0] / _STEP
    gradient /= np.maximum(np.sum(gradient**2, axis=2, keepdims=True), 0.1)
    # One step where distances are exact, the others for blends.
    for _ in range(3):
        points = points - away * gradient
        away = distance(points)[..., None]
    return taken(points, np.abs(away[..., 0]) < _ON, count)
