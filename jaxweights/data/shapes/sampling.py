"""Sampling of shapes: occupancy, surface points and the probe points of a data set."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from jaxweights.data.signals import Signals
from jaxweights.errors import UserError

# Number of values of a block of shapes in memory.
_BLOCK = 1 << 24
# Rounds of drawing probe points inside shapes; 8 are enough for shapes that fill 1 % of the cube.
_ROUNDS = 64


class Source(Protocol):
    """Shapes with a surface and an interior.

    Attributes:
      names: `[n]` unique names.
      ids: `[n]` int, from which each shape's random generators derive.
      moving: whether points are (x, y, z, t).
      source: description of the shapes, with a fingerprint that does not depend on the host.
      skipped: shapes that `split` leaves out because they cannot be used, one sentence each.
    """

    names: tuple[str, ...]
    ids: np.ndarray
    moving: bool
    source: str

    @property
    def skipped(self) -> tuple[str, ...]:
        """See the class."""
        ...

    def split(self, runs: int, unseen: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the shapes that runs are fitted to, `[runs]`, and of unseen shapes, `[unseen]`."""
        ...

    def surface(self, rows: np.ndarray, count: int, in_motion: bool) -> np.ndarray:
        """Points on the surfaces of `rows`, uniform by area, `[n, count, 3]` float32; with a time if in motion."""
        ...

    def inside(self, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Whether points `[n, S, d]`, or `[1, S, d]` common to all shapes, are inside: `[n, S]` bool."""
        ...


def sample(shapes: Source, rows: np.ndarray, *, samples: int, near: float, surface: int, seed: int) -> Signals:
    """Samples the occupancy of shapes: a block of points near the surface, then a block of uniform points.

    Follows HyperDiffusion (arXiv 2303.17015, published code): surface points, uniform by area, plus Gaussian noise, and
    as many points uniform in [-0.5, 0.5]^3. Moving shapes have a time in [-0.5, 0.5) at every point. A shape's samples
    depend on the seed and its id alone.

    Args:
      shapes: source of the shapes.
      rows: `[n]` int, rows of the shapes.
      samples: number of points of each shape; if it is odd, one more point is uniform.
      near: standard deviation of the noise, in units of the cube's side.
      surface: number of points on each shape's surface, without noise, at time 0.
      seed: random seed of the points.

    Returns:
      The signals, with the names of the shapes.
    """
    rows = np.asarray(rows)
    close, dimensions = samples // 2, 4 if shapes.moving else 3
    points = np.empty((len(rows), samples, dimensions), np.float32)
    values = np.empty((len(rows), -(-samples // 8)), np.uint8)
    surfaces = np.empty((len(rows), surface, 3), np.float32)
    step = max(1, min(len(rows), _BLOCK // (16 * samples)))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        if shapes.moving:
            still, on = shapes.surface(block, surface, False), shapes.surface(block, close, True)
        else:
            pool = shapes.surface(block, close + surface, False)
            on, still = pool[:, :close], pool[:, close:]
        generators = (np.random.default_rng([seed, 2, identity]) for identity in shapes.ids[block])
        drawn = np.stack([_scatter(own, samples, near, rng) for own, rng in zip(on, generators, strict=True)])
        inside = shapes.inside(block, drawn)
        points[start : start + step] = drawn
        values[start : start + step] = np.packbits(inside, axis=1)
        surfaces[start : start + step] = still
    return Signals("occupancy", tuple(shapes.names[row] for row in rows), points, values, surfaces)


def _scatter(on: np.ndarray, samples: int, near: float, rng: np.random.Generator) -> np.ndarray:
    """Points `[samples, d]`: those `[close, d]` on the surface plus noise (not in time), then uniform ones."""
    noisy = on.copy()
    noisy[:, :3] += np.float32(near) * rng.standard_normal((len(on), 3), np.float32)
    return np.concatenate([noisy, rng.random((samples - len(on), on.shape[1]), np.float32) - np.float32(0.5)])


def probe_points(shapes: Source, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Points at which networks are compared: half uniform in the cube, half inside the given shapes.

    Outside of all shapes all networks agree, and planes fill 1 % of the cube. The density of the second half is
    proportional to the share of shapes that contain a point.

    Args:
      shapes: source of the shapes.
      rows: `[n]` int, rows of the shapes that runs are fitted to.
      count: number of points.
      seed: random seed of the points.

    Returns:
      `[count, d]` float32, the uniform ones first.
    """
    rng = np.random.default_rng([seed, 3])
    dimensions = 4 if shapes.moving else 3
    uniform = rng.uniform(-0.5, 0.5, (count - count // 2, dimensions)).astype(np.float32)
    found, wanted = [], count // 2
    # Thin shapes fill about 1 % of the cube.
    tries = 1 << max(12, (128 * wanted // len(rows)).bit_length())
    for _ in range(_ROUNDS):
        chosen = rng.choice(rows, min(len(rows), 64), replace=False)
        candidates = rng.uniform(-0.5, 0.5, (1, min(tries, 1 << 16), dimensions)).astype(np.float32)
        of, at = np.nonzero(shapes.inside(chosen, candidates))
        kept = rng.permutation(len(at))[: min(wanted, max(1, count // 8))]
        found.append(candidates[0, at[kept]])
        wanted -= len(kept)
        if not wanted:
            break
    # For shapes of nearly no volume.
    rest = rng.uniform(-0.5, 0.5, (wanted, dimensions)).astype(np.float32)
    return np.concatenate([uniform, *found, rest])


def occupancy(shapes: Source, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points `[T, d]` are inside shapes: `[T, n]` uint8."""
    step = max(1, _BLOCK // len(points))
    blocks = [shapes.inside(rows[i : i + step], points[None]).T for i in range(0, len(rows), step)]
    return np.concatenate(blocks, axis=1).astype(np.uint8)


def shuffled_split(count: int, runs: int, unseen: int, seed: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the runs' shapes and of unseen shapes: both ends of one shuffle, so that neither depends on the other.

    Args:
      count: number of shapes.
      runs, unseen: numbers of shapes to choose.
      seed: random seed of the shuffle.
      where: file or folder, for error messages.

    Raises:
      UserError: too few shapes.
    """
    if runs + unseen > count:
        raise UserError(
            f"{where} has {count} shapes, but {runs} for the runs and {unseen} unseen ones, {runs + unseen} in all, "
            "are needed; set fewer, or add shapes."
        )
    order = shuffled(count, seed)
    return order[:runs], order[count - unseen :]


def shuffled(count: int, seed: int) -> np.ndarray:
    """Rows of shapes from files in the order in which they are chosen."""
    return np.random.default_rng([seed, 4]).permutation(count)
