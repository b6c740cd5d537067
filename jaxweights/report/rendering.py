"""Pictures of triangle meshes: a z-buffer with smooth shading, and mesh simplification.

Matplotlib sorts whole triangles by depth, which goes wrong where they interlock, and takes a second per ten thousand;
here every triangle becomes points, and every pixel keeps the nearest one.
"""

from __future__ import annotations

import numpy as np

COLOUR = "#d3d3d3"  # colour of all shapes, as in the figures of Zeng et al. 2025
_SAMPLES = 2  # samples per pixel along each side, averaged
FRAME = 0.7  # half the side of the visible square; shapes lie within 0.475 of the origin along every axis
LIGHTS = (
    (0.75, (-0.45, 0.65, 0.75)),
    (0.2, (0.9, 0.15, 0.35)),
)  # strength and direction: right, up, towards the camera
AMBIENT = 0.24
_SHORT_FIRST = 1e-7  # weight of an edge's squared length relative to its quadric error
_CHEAPEST = 0.3  # share of the edges that a round considers
_MOST_ROUNDS = 300


def view(azimuth: float, elevation: float, up: int) -> np.ndarray:
    """Rotation `[3, 3]` of a camera that looks at the origin.

    Args:
      azimuth: degrees about the upward axis.
      elevation: degrees above the horizon.
      up: axis of the shapes that points up.

    Returns:
      Rows that point right, up, and towards the camera.
    """
    a, e = np.deg2rad([azimuth, elevation])
    horizontal = np.roll(np.eye(3), -(up + 1), axis=0)[:2]  # the two other axes, right-handed
    outward = np.cos(a) * horizontal[0] + np.sin(a) * horizontal[1]
    towards = np.cos(e) * outward + np.sin(e) * np.eye(3)[up]
    right = -np.sin(a) * horizontal[0] + np.cos(a) * horizontal[1]
    return np.stack([right, np.cross(towards, right), towards])


def render(vertices: np.ndarray, faces: np.ndarray, rotation: np.ndarray, size: int = 320) -> np.ndarray:
    """Draws a triangle mesh in parallel projection.

    Args:
      vertices: `[V, 3]`, in about -0.5 to 0.5.
      faces: `[F, 3]` integers.
      rotation: camera, see `view`.
      size: number of pixels per side.

    Returns:
      `[size, size, 2]` float32: brightness and coverage of every pixel, both 0 to 1. The first row is the top.
    """
    side = _SAMPLES * size
    seen = np.asarray(vertices, np.float32) @ rotation.T.astype(np.float32)
    corners = np.concatenate([seen[faces], _brightness(seen, faces)[:, :, None]], axis=2)
    corners[..., :2] = (corners[..., :2] / (2.0 * FRAME) + 0.5) * side
    edges = corners - np.roll(corners, 1, axis=1)
    longest = np.sqrt(np.square(edges[..., :2]).sum(axis=2).max(axis=1, initial=0.0))
    cuts = 2 ** np.ceil(np.log2(np.maximum(1.1 * longest, 1.0))).astype(int)
    # Few sizes, since all triangles of marching cubes are about equally large.
    points = [np.matmul(_lattice(n), corners[cuts == n]).reshape(-1, 4) for n in np.unique(cuts)]
    x, y, depth, shade = np.concatenate([np.empty((0, 4), np.float32), *points]).T
    column, row = np.floor(x).astype(np.int32), np.floor(side - y).astype(np.int32)
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    pixel, depth, shade = (row * side + column)[inside], depth[inside], shade[inside]
    order = np.argsort(depth, kind="stable")  # the nearest one is written to a pixel last
    image = np.zeros((side * side, 2), np.float32)
    image[pixel[order], 0] = shade[order]
    image[pixel, 1] = 1.0
    blocks = image.reshape(size, _SAMPLES, size, _SAMPLES, 2).sum(axis=(1, 3))
    blocks[..., 0] /= np.maximum(blocks[..., 1], 1.0)  # of the covered part
    blocks[..., 1] /= _SAMPLES**2
    return blocks


def _brightness(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Brightness `[F, 3]` of every face's corners, with normals averaged over the faces at a vertex.

    Visible faces are lit from the camera's side, whatever the order of their corners.
    """
    corners = vertices[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # as long as twice the area
    place = (3 * faces[:, :, None] + np.arange(3)[None, None, :]).ravel()
    spread = np.broadcast_to(across[:, None, :], corners.shape).ravel()
    normals = np.bincount(place, spread, minlength=vertices.size).reshape(-1, 3)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    facing = np.where(across[:, 2] < 0, -1.0, 1.0)[:, None]
    light = np.full(faces.shape, AMBIENT)
    for strength, source in LIGHTS:
        direct = normals @ (np.asarray(source) / np.linalg.norm(source))
        light += strength * np.maximum(facing * direct[faces], 0.0)
    return np.minimum(light, 1.0).astype(np.float32)


def _lattice(count: int) -> np.ndarray:
    """Barycentric coordinates `[S, 3]` float32 of a lattice that divides every edge into `count` parts."""
    i, j = (x.ravel() for x in np.meshgrid(np.arange(count + 1), np.arange(count + 1), indexing="ij"))
    keep = i + j <= count
    return (np.stack([i, j, count - i - j], axis=1)[keep] / count).astype(np.float32)


def simplify(vertices: np.ndarray, faces: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Simplifies a triangle mesh by collapsing edges of small quadric error (Garland and Heckbert 1997).

    Instead of one edge after the other, every round collapses all edges that are cheaper than their neighbours, so that
    a mesh takes a few dozen rounds of array operations.

    Args:
      vertices: `[V, 3]`.
      faces: `[F, 3]` integers.
      most: largest number of triangles.

    Returns:
      Vertices float32 and faces int32; more than `most` where no further collapse is possible.
    """
    vertices, faces = np.asarray(vertices, np.float64).copy(), np.asarray(faces, np.int64)
    quadrics = _quadrics(vertices, faces)
    for _ in range(_MOST_ROUNDS):
        if len(faces) <= most:
            break
        first, second = _edges(faces, len(vertices))
        middle = 0.5 * (vertices[first] + vertices[second])
        joined = quadrics[first] + quadrics[second]
        options = np.stack([vertices[first], vertices[second], middle])
        errors = np.stack([_error(joined, x) for x in options])
        best = errors.argmin(axis=0)
        # In flat regions short edges are collapsed first.
        cost = errors.min(axis=0) + _SHORT_FIRST * np.square(vertices[first] - vertices[second]).sum(axis=1)
        rank = np.empty(len(cost), np.int64)
        rank[np.argsort(cost, kind="stable")] = np.arange(len(cost))
        lowest = np.full(len(vertices), len(rank))
        for end in (first, second):
            np.minimum.at(lowest, end, rank)
        chosen = (rank == lowest[first]) & (rank == lowest[second]) & (rank <= _CHEAPEST * len(rank))
        chosen &= rank <= np.sort(rank[chosen])[: max((len(faces) - most + 1) // 2, 1)].max()
        kept, gone = first[chosen], second[chosen]
        vertices[kept] = options[best[chosen], chosen]
        quadrics[kept] = joined[chosen]
        target = np.arange(len(vertices))
        target[gone] = kept
        faces = target[faces]
        faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[used].astype(np.float32), faces.reshape(-1, 3).astype(np.int32)


def _quadrics(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Sum `[V, 4, 4]` over the faces at a vertex of area times the squared distance from the face's plane."""
    corners = vertices[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = 0.5 * np.linalg.norm(across, axis=1)
    normal = across / np.maximum(2.0 * area, 1e-30)[:, None]
    plane = np.concatenate([normal, -np.einsum("fd,fd->f", normal, corners[:, 0])[:, None]], axis=1)
    squares = (area[:, None, None] * plane[:, :, None] * plane[:, None, :]).reshape(-1, 16)
    sums = [np.bincount(faces.ravel(), np.repeat(column, 3), minlength=len(vertices)) for column in squares.T]
    return np.stack(sums, axis=1).reshape(-1, 4, 4)


def _error(quadrics: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Quadric error `[n]` of `[n, 4, 4]` at `[n, 3]`."""
    points = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    return np.einsum("ni,nij,nj->n", points, quadrics, points)


def _edges(faces: np.ndarray, count: int) -> np.ndarray:
    """Ends `[2, E]` of every edge."""
    ends = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    return np.stack(np.divmod(np.unique(ends[:, 0] * count + ends[:, 1]), count))
