"""Procedural shapes as a source of signals: occupancy and evenly spread surface points from signed distances."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import parallel
from jaxweights.data.dataset import fingerprint
from jaxweights.data.shapes import families, solids

# Number of the first unseen shape; as many runs have other shapes.
_UNSEEN = 1 << 20
# Shapes, or points of one shape, that one call of a program takes.
_TASKS, _POINTS = 64, 4096
# Cells per side in which surface points are looked for.
_GRID = 32
# Half thickness of the shell around the surface that candidates must hit; less than half of any part's thickness.
_SHELL = 0.004
# Distance at which a point counts as on the surface; points that gaps between blended parts keep away are left out.
_ON = 5e-4
# Candidates per wanted point. About 1 in 8 or more hits: the cells that the surface may cross have their centres within
# half a diagonal, 0.027, and the shell of it.
_CANDIDATES = 11
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
        draws = np.asarray(families.draw(family, seed, self.ids))
        # In blocks of one size, because the last bits of a program's results depend on its sizes.
        blocks = [
            _build(family, moving, np.resize(draws[i : i + _TASKS], (_TASKS, draws.shape[1])))
            for i in range(0, len(draws), _TASKS)
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
        sample = _sampler(count, in_motion, parallel.make_mesh())
        seed = jnp.asarray(self._seed)
        return _in_blocks(lambda rows: sample(seed, (self.solids(rows), self.ids[rows])), rows)

    def inside(self, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Whether points are inside.

        Args:
          rows: `[n]` int, which shapes.
          points: `[n, S, d]` float32, or `[1, S, d]` for all shapes alike; d is 4 for moving shapes.

        Returns:
          `[n, S]` bool.
        """
        count = points.shape[1]
        points = np.pad(points, ((0, 0), (0, -count % _POINTS), (0, 0)))
        points = points.reshape(len(points), -1, _POINTS, points.shape[2])
        per_shape, test = points.shape[1], _tester(parallel.make_mesh())

        def block(tasks):
            shape, part = np.divmod(tasks, per_shape)
            return test(jnp.zeros(()), (self.solids(rows[shape]), points[shape if len(points) > 1 else 0, part]))

        return _in_blocks(block, np.arange(len(rows) * per_shape)).reshape(len(rows), -1)[:, :count]

    def solids(self, rows: np.ndarray) -> solids.Solid:
        """The fitted solids of some shapes, stacked."""
        return jax.tree.map(lambda leaf: leaf[rows], self._solids)


def _in_blocks(function, tasks: np.ndarray) -> np.ndarray:
    """Runs a function of `_TASKS` tasks (of the next power of two, of fewer) on any number: few programs serve all."""
    size = min(_TASKS, 1 << (len(tasks) - 1).bit_length())
    blocks = [tasks[np.arange(i, i + size).clip(max=len(tasks) - 1)] for i in range(0, len(tasks), size)]
    return np.concatenate([np.asarray(function(block)) for block in blocks])[: len(tasks)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _build(family: str, moving: bool, draws: jax.Array) -> solids.Solid:
    make = families.FAMILIES[family][1]
    return jax.vmap(lambda draw: solids.fit(make(families.parameters(family, draw)), moving))(draws)


@functools.cache
def _tester(mesh):
    def inside(solid, points):
        time = points[:, 3] if points.shape[1] == 4 else jnp.zeros(())
        return solids.distance(solid, points[:, :3].T, time) < 0

    return parallel.map_rows(lambda _, rows: jax.lax.map(lambda row: inside(*row), rows), mesh)


@functools.cache
def _sampler(count: int, in_motion: bool, mesh):
    def one(seed, solid, identity):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), identity), 1)
        if not in_motion:
            return _surface(solid, key, jnp.zeros(()), count)
        when, where = jax.random.split(key)
        times = (jnp.arange(_INSTANTS) + jax.random.uniform(when, (_INSTANTS,))) / _INSTANTS - 0.5
        each = -(-count // _INSTANTS)
        points = jax.lax.map(lambda x: _surface(solid, x[0], x[1], each), (jax.random.split(where, _INSTANTS), times))
        stamped = jnp.concatenate([points, jnp.broadcast_to(times[:, None, None], (_INSTANTS, each, 1))], axis=2)
        # Instants alternate, so that any first part of the points holds all of them.
        return stamped.swapaxes(0, 1).reshape(-1, 4)[:count]

    return parallel.map_rows(lambda seed, rows: jax.lax.map(lambda row: one(seed, *row), rows), mesh)


def _surface(solid: solids.Solid, key: jax.Array, time: jax.Array, count: int) -> jax.Array:
    """`[count, 3]` points of the surface, evenly by area.

    Points drawn evenly in a thin shell around the surface are moved onto it along the gradient: a shell has the same
    volume over every piece of surface, since the distances are exact, and what convex edges gain outside they lose
    inside.
    """
    side = 1 / _GRID
    axis = (jnp.arange(_GRID) + 0.5) * side - 0.5
    centres = jnp.stack(jnp.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, -1)
    crossed = jnp.abs(solids.distance(solid, centres, time)) < side * 3**0.5 / 2 + _SHELL
    (cells,) = jnp.nonzero(crossed, size=crossed.size)

    pick, spread = jax.random.split(key)
    picked = jax.random.randint(pick, (_CANDIDATES * count,), 0, crossed.sum())
    points = centres[:, cells[picked]]
    points += jax.random.uniform(spread, points.shape, minval=-side / 2, maxval=side / 2)
    hit = jnp.abs(solids.distance(solid, points, time)) < _SHELL
    points = points[:, _first(hit, count + count // 8)]
    along = jax.vmap(
        lambda direction: jax.jvp(
            lambda x: solids.distance(solid, x, time), (points,), (jnp.broadcast_to(direction[:, None], points.shape),)
        )[1]
    )
    gradient = along(jnp.eye(3))
    slope = jnp.maximum(jnp.sum(gradient**2, axis=0, keepdims=True), 0.1)

    def step(_, points):
        return points - solids.distance(solid, points, time)[None, :] * gradient / slope

    # One step where distances are exact, the others for blends.
    points = jax.lax.fori_loop(0, 3, step, points)
    return points[:, _first(jnp.abs(solids.distance(solid, points, time)) < _ON, count)].T


def _first(chosen: jax.Array, count: int) -> jax.Array:
    """Indices of the first `count` chosen ones, repeated from the start in the unexpected case of too few."""
    (indices,) = jnp.nonzero(chosen, size=count)
    return indices[jnp.arange(count) % jnp.clip(chosen.sum(), 1, count)]
