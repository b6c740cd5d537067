"""Procedural shapes as a source of signals: occupancy and evenly spread surface points from signed distances."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import parallel
from jaxweights.data.dataset import fingerprint
from jaxweights.data.shapes import families, solids

# Number of the first unseen shape; as many runs have other shapes.
_UNSEEN = 1 << 20
# Shapes that are built at once.
_SHAPES = 64
# Blocks whose distances one call of the one program takes, and their points: all intermediate results of so many stay
# in the L2 cache (5 x on CPU).
_TASKS, _POINTS = 32, 4096
# Points of all shapes that surface points are looked for among at once.
_POOL = 1 << 22
# Cells per side in which surface points are looked for.
_GRID = 32
# Half thickness of the shell around the surface that candidates must hit; less than half of any part's thickness.
_SHELL = 0.004
# Distance at which a point counts as on the surface; points that gaps between blended parts keep away are left out.
_ON = 5e-4
# Candidates per wanted point. About 1 in 8 or more hits: the cells that the surface may cross have their centres within
# half a diagonal, 0.027, and the shell of it.
_CANDIDATES = 11
# Step of the gradient's differences: far above the rounding of distances, below the radius of any edge.
_STEP = 3e-4
# Instants at which a moving shape's surface is sampled.
_INSTANTS = 16


class Procedural:
    """Shapes of one family and seed; any number of them exists.

    Attributes:
      names: `[n]` of the shapes asked for.
      ids: `[n]` their numbers, which make their keys: 0, 1, ... for runs, and the same from `_UNSEEN` for unseen ones.
      moving: whether points have a time.
      source: what the shapes are, with a fingerprint of the draws behind their parameters.
    """

    def __init__(self, family: str, runs: int, unseen: int, moving: bool, seed: int):
        """Draws the shapes' parameters.

        Args:
          family: a key of `families.FAMILIES`.
          runs: shapes that runs are fitted to.
          unseen: other shapes.
          moving: whether they move.
          seed: of parameters and points.
        """
        self.ids = np.concatenate([np.arange(runs), _UNSEEN + np.arange(unseen)])
        self.names = tuple(f"{family}-{seed}-{i}" for i in self.ids)
        self.moving = moving
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
        """Rows of the shapes that runs are fitted to, and of the unseen ones."""
        return np.arange(runs), len(self.ids) - unseen + np.arange(unseen)

    def surface(self, rows: np.ndarray, count: int, in_motion: bool) -> np.ndarray:
        """Points on the surfaces, evenly by area.

        Args:
          rows: `[n]` int, which shapes.
          count: points of each.
          in_motion: spread over random instants of the motion; else at time 0.

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
        # Instants alternate, so that any first part of the points holds all of them.
        return stamped.swapaxes(1, 2).reshape(len(rows), -1, 4)[:, :count]

    def inside(self, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Whether points are inside.

        Args:
          rows: `[n]` int, which shapes.
          points: `[n, S, d]` float32, or `[1, S, d]` for all shapes alike; d is 4 for moving shapes.

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
    """Signed distances to solids by one program for any number of them and of points, so that it is compiled once.

    Args:
      shapes: n solids, stacked.
      points: `[n, S, 3]` float32, or `[n, S, 4]` with a time; or `[1, S, d]` for all alike.

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
    """Points on the surfaces of solids, evenly by area.

    Points drawn evenly in a thin shell around the surface are moved onto it along the gradient: a shell has the same
    volume over every piece of surface, since the distances are exact, and what convex edges gain outside they lose
    inside.

    Args:
      shapes: n solids, stacked.
      times: `[n, i]` float32, at which instants.
      generators: of the points, one per solid.
      count: points of each instant.

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
    """`[t, count, 3]` points of t tasks (row of the solid, time), given the centres `[C, 3]` of the cube's cells."""
    own = jax.tree.map(lambda leaf: leaf[np.array([i for i, _ in tasks])], shapes)
    stamps = np.array([[[time]] for _, time in tasks], np.float32)

    def distance(points):
        shape = np.broadcast_shapes(points.shape[:2], (len(tasks), 1))
        timed = np.concatenate([np.broadcast_to(part, (*shape, part.shape[2])) for part in (points, stamps)], axis=2)
        return distances(own, timed)

    def taken(points, chosen, count):
        """The first `count` chosen ones of each task, repeated in the unexpected case of too few."""
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
