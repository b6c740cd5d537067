"""Points on triangles, and the interior of closed triangle meshes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.spatial

# Number of faces and points that are tested against each other at a time.
_FACES, _POINTS = 1024, 2048
# Meshes are rotated by a fixed generic rotation before rays are cast along z, so that no ray hits the edge of a box.
_TILT = scipy.spatial.transform.Rotation.from_rotvec([0.31, 0.47, 0.23]).as_matrix()


def points_on(triangles: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random points on triangles, uniform by area.

    Args:
      triangles: corners, `[F, 3, 3]`.
      count: number of points.
      rng: random generator.

    Returns:
      `[count, 3]` float32.
    """
    start, first, second = triangles[:, 0], triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    areas = np.cumsum(np.linalg.norm(np.cross(first, second), axis=1), dtype=np.float64)
    face = np.searchsorted(areas, rng.random(count) * areas[-1], side="right").clip(max=len(areas) - 1)
    u, v = rng.random((2, count, 1), np.float32)
    # Points of the parallelogram beyond the diagonal are mirrored into the triangle.
    beyond = u + v > 1
    u, v = np.where(beyond, 1 - u, u), np.where(beyond, 1 - v, v)
    return (start[face] + u * first[face] + v * second[face]).astype(np.float32)


def inside(triangles: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points are inside a closed surface with outward faces: whether its winding number is at least 0.5.

    The winding number of a closed surface is the number of faces through which a ray leaves less those it enters.

    Args:
      triangles: `[F, 3, 3]`, counter-clockwise seen from outside.
      points: `[S, 3]`.

    Returns:
      `[S]` bool.
    """
    turned = (triangles.astype(np.float64) @ _TILT).astype(np.float32)
    # Powers of two, so that few sizes are compiled; no ray hits faces without area.
    blocks = 1 << max(0, (-(-len(turned) // _FACES) - 1).bit_length())
    turned = np.pad(turned, ((0, blocks * _FACES - len(turned)), (0, 0), (0, 0)))
    seen = (points.astype(np.float64) @ _TILT).astype(np.float32)
    seen = np.pad(seen, ((0, -len(seen) % _POINTS), (0, 0)))
    winding = _winding(turned.reshape(blocks, _FACES, 3, 3), seen.reshape(-1, _POINTS, 3))
    return np.asarray(winding).reshape(-1)[: len(points)] > 0


@jax.jit
def _winding(faces: jax.Array, points: jax.Array) -> jax.Array:
    """`[blocks, _POINTS]` int32: crossings of upward rays from points with faces `[blocks, _FACES, 3, 3]`."""

    def crossings(points, faces):
        x, y, z = (points[:, i][:, None] for i in range(3))
        corners = [[faces[:, i, j][None, :] for j in range(3)] for i in range(3)]

        def side(start, end):
            """Twice the signed area of edge and point; exactly opposite for the face at the edge's other side."""
            swap = (start[0] > end[0]) | ((start[0] == end[0]) & (start[1] > end[1]))
            low = [jnp.where(swap, e, s) for s, e in zip(start, end, strict=True)]
            high = [jnp.where(swap, s, e) for s, e in zip(start, end, strict=True)]
            area = (high[0] - low[0]) * (y - low[1]) - (high[1] - low[1]) * (x - low[0])
            return jnp.where(swap, -area, area)

        a, b, c = corners
        ab, bc, ca = side(a, b), side(b, c), side(c, a)
        total = ab + bc + ca
        hit = ((ab > 0) & (bc > 0) & (ca > 0)) | ((ab < 0) & (bc < 0) & (ca < 0))
        height = (bc * a[2] + ca * b[2] + ab * c[2]) / jnp.where(hit, total, 1)
        return jnp.sum(jnp.where(hit & (height > z), jnp.sign(total), 0).astype(jnp.int32), axis=1)

    def of_block(points):
        none = jnp.zeros(_POINTS, jnp.int32)
        return jax.lax.scan(lambda total, block: (total + crossings(points, block), None), none, faces)[0]

    return jax.lax.map(of_block, points)
