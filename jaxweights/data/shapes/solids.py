"""Solids as unions of parts with exact signed distances: rounded cones and rounded plates.

Every shape is mirrored in the plane y = 0: parts are given for y >= 0, or symmetric about that plane. Lengths are in
units of the cube [-0.5, 0.5]^3 once `fit` has been applied; before, in whatever unit the parts were built in.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Half the longest side of a fitted shape's bounding box (HyperDiffusion, arXiv 2303.17015, published code).
REACH = 0.475
# Distance to a part that a shape does not have: large but finite.
_ABSENT = 1e3
# Phases of the motion at which the bounding box of a moving shape is taken.
_PHASES = 8


class Cones(NamedTuple):
    """c cones with spherical ends, e.g. bars, barrels and (with equal ends) balls.

    Attributes:
      start, end: `[c, 3]` centres of the two balls.
      start_radius, end_radius: `[c]` their radii.
      present: `[c]` bool; absent parts have no volume.
      moves: `[c]` bool, whether the part rotates about the shape's hinge.
    """

    start: jax.Array
    end: jax.Array
    start_radius: jax.Array
    end_radius: jax.Array
    present: jax.Array
    moves: jax.Array


class Plates(NamedTuple):
    """p plates: convex quadrilaterals, grown by a rim in their plane, with a thickness and rounded edges.

    Attributes:
      centre: `[p, 3]` origin of the plate's own coordinates.
      axes: `[p, 3, 3]` rows are the unit vectors of its first, second and normal direction.
      corners: `[p, 4, 2]` corners of the quadrilateral, counter-clockwise; they may coincide.
      rim: `[p]` distance of the outline from the quadrilateral (corners become arcs, a point becomes a disc).
      half_thickness: `[p]`.
      rounding: `[p]` radius of the edges, at most the half thickness.
      present: `[p]` bool.
      moves: `[p]` bool.
    """

    centre: jax.Array
    axes: jax.Array
    corners: jax.Array
    rim: jax.Array
    half_thickness: jax.Array
    rounding: jax.Array
    present: jax.Array
    moves: jax.Array


class Hinge(NamedTuple):
    """Motion of moving parts: rotation by `swing * sin(2 pi t)` radians about a line.

    Attributes:
      origin: `[3]` a point of the line.
      axis: `[3]` its unit direction.
      swing: scalar, radians.
    """

    origin: jax.Array
    axis: jax.Array
    swing: jax.Array


class Solid(NamedTuple):
    """A shape: smooth union of its parts and of their mirror images.

    Attributes:
      cones, plates: the parts.
      blend: scalar, distance over which two parts are blended.
      hinge: axis of the moving parts.
    """

    cones: Cones
    plates: Plates
    blend: jax.Array
    hinge: Hinge


def distance(solid: Solid, points: jax.Array, time: jax.Array) -> jax.Array:
    """Signed distance to the surface, negative inside; never farther than the true one (Lipschitz constant 1).

    Args:
      solid: one shape.
      points: `[3, S]` float32.
      time: scalar or `[S]`, in periods of the motion.

    Returns:
      `[S]` float32. Outside, and away from blends, it is the exact distance. Two parts closer to each other than
      `blend` are joined by the polynomial smooth minimum (Quilez), at most `blend / 4` outside both.
    """
    points = jnp.stack([points[0], jnp.abs(points[1]), points[2]])
    turned = _turn(points, solid.hinge, -_angle(solid.hinge, time))

    def union(smallest, part, of):
        first, second = smallest
        here = jnp.where(part.moves, turned, points)
        new = jnp.where(part.present, of(part, here), _ABSENT)
        return (jnp.minimum(first, new), jnp.minimum(second, jnp.maximum(first, new))), None

    smallest = (jnp.full(points.shape[1:], _ABSENT), jnp.full(points.shape[1:], _ABSENT))
    smallest, _ = jax.lax.scan(lambda carry, part: union(carry, part, _cone), smallest, solid.cones)
    smallest, _ = jax.lax.scan(lambda carry, part: union(carry, part, _plate), smallest, solid.plates)
    overlap = jnp.maximum(solid.blend - (smallest[1] - smallest[0]), 0)
    return smallest[0] - 0.25 * overlap**2 / solid.blend


def fit(solid: Solid, moving: bool) -> Solid:
    """Moves the bounding box's centre to the origin (x and z; y is mirrored) and its longest side to 2 * `REACH`.

    Args:
      solid: one shape.
      moving: whether the box covers the whole motion.
    """
    times = jnp.arange(_PHASES) / _PHASES if moving else jnp.zeros(1)
    low, high = jax.vmap(lambda time: _box(solid, time))(times)
    low, high = low.min(0), high.max(0)
    side = jnp.maximum(-low[1], high[1])
    low, high = low.at[1].set(-side), high.at[1].set(side)
    centre, scale = (low + high) / 2, 2 * REACH / (high - low).max()
    cones, plates, hinge = solid.cones, solid.plates, solid.hinge
    return Solid(
        cones._replace(
            start=(cones.start - centre[None, :]) * scale,
            end=(cones.end - centre[None, :]) * scale,
            start_radius=cones.start_radius * scale,
            end_radius=cones.end_radius * scale,
        ),
        plates._replace(
            centre=(plates.centre - centre[None, :]) * scale,
            corners=plates.corners * scale,
            rim=plates.rim * scale,
            half_thickness=plates.half_thickness * scale,
            rounding=plates.rounding * scale,
        ),
        solid.blend * scale,
        hinge._replace(origin=(hinge.origin - centre) * scale),
    )


def _angle(hinge: Hinge, time) -> jax.Array:
    return hinge.swing * jnp.sin(2 * jnp.pi * time)


def _turn(points: jax.Array, hinge: Hinge, angle: jax.Array, about_origin: bool = False) -> jax.Array:
    """Rotates points `[3, S]` about the hinge (Rodrigues); directions are rotated about the origin."""
    origin = jnp.zeros((3, 1)) if about_origin else hinge.origin[:, None]
    offset, axis = points - origin, hinge.axis[:, None]
    angle = jnp.reshape(angle, (1, -1))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    along = jnp.sum(offset * axis, axis=0, keepdims=True)
    across = jnp.cross(jnp.broadcast_to(axis, offset.shape), offset, axis=0)
    return origin + offset * cos + across * sin + axis * (along * (1 - cos))


def _box(solid: Solid, time: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Lowest and highest coordinates `[3]` of the parts; rounded edges of plates count as sharp."""
    cones, plates, angle = solid.cones, solid.plates, _angle(solid.hinge, time)

    def posed(vectors, moves, about_origin=False):
        return jnp.where(moves[:, None], _turn(vectors.T, solid.hinge, angle, about_origin).T, vectors)

    start, end = posed(cones.start, cones.moves), posed(cones.end, cones.moves)
    centre = posed(plates.centre, plates.moves)
    axes = jnp.stack([posed(plates.axes[:, i], plates.moves, True) for i in range(3)], axis=1)
    corners = centre[:, None, :] + jnp.einsum("pcu,pux->pcx", plates.corners, axes[:, :2])
    normal = jnp.abs(axes[:, 2])
    margin = plates.rim[:, None] * jnp.sqrt(jnp.maximum(1 - normal**2, 0)) + plates.half_thickness[:, None] * normal
    lows = [start - cones.start_radius[:, None], end - cones.end_radius[:, None], corners.min(1) - margin]
    highs = [start + cones.start_radius[:, None], end + cones.end_radius[:, None], corners.max(1) + margin]
    present = jnp.concatenate([cones.present, cones.present, plates.present])[:, None]
    low = jnp.where(present, jnp.concatenate(lows), _ABSENT).min(0)
    high = jnp.where(present, jnp.concatenate(highs), -_ABSENT).max(0)
    return low, high


def _cone(cone: Cones, points: jax.Array) -> jax.Array:
    """Signed distance `[S]` to the hull of two balls: in the plane of the axis, that of a ball or of the tangent."""
    axis = cone.end - cone.start
    length = jnp.sqrt(jnp.sum(axis**2) + 1e-12)
    axis = axis / length
    offset = points - cone.start[:, None]
    along = jnp.sum(offset * axis[:, None], axis=0)
    across = jnp.sqrt(jnp.maximum(jnp.sum(offset**2, axis=0) - along**2, 1e-12))
    # The tangent's normal leans towards the smaller ball; a ball inside the other has none and is clipped away.
    lean = jnp.clip((cone.start_radius - cone.end_radius) / length, -1.0, 1.0)
    upright = jnp.sqrt(1 - lean**2)
    foot = along * upright - across * lean
    from_start = jnp.sqrt(along**2 + across**2) - cone.start_radius
    from_end = jnp.sqrt((along - length) ** 2 + across**2) - cone.end_radius
    side = along * lean + across * upright - cone.start_radius
    return jnp.where(foot < 0, from_start, jnp.where(foot > length * upright, from_end, side))


def _plate(plate: Plates, points: jax.Array) -> jax.Array:
    """Signed distance `[S]` to an extruded quadrilateral with rim and rounded edges."""
    offset = points - plate.centre[:, None]
    u, v, height = (jnp.sum(offset * plate.axes[i][:, None], axis=0) for i in range(3))
    nearest = jnp.full_like(u, jnp.inf)
    first, second = plate.corners[2] - plate.corners[0], plate.corners[3] - plate.corners[1]
    # A quadrilateral without area has no inside, only a rim.
    inside = jnp.full(u.shape, first[0] * second[1] - first[1] * second[0] > 1e-9)
    for i in range(4):
        start, end = plate.corners[i], plate.corners[(i + 1) % 4]
        edge, u_from, v_from = end - start, u - start[0], v - start[1]
        share = jnp.clip((u_from * edge[0] + v_from * edge[1]) / jnp.maximum(jnp.sum(edge**2), 1e-12), 0, 1)
        nearest = jnp.minimum(nearest, (u_from - share * edge[0]) ** 2 + (v_from - share * edge[1]) ** 2)
        inside &= edge[0] * v_from - edge[1] * u_from >= 0
    nearest = jnp.sqrt(nearest + 1e-12)
    outline = jnp.where(inside, -nearest, nearest) - plate.rim + plate.rounding
    height = jnp.abs(height) - plate.half_thickness + plate.rounding
    # The square root's gradient must not be taken at 0.
    outside = jnp.sqrt(jnp.maximum(outline, 0) ** 2 + jnp.maximum(height, 0) ** 2 + 1e-12)
    return jnp.minimum(jnp.maximum(outline, height), 0) + outside - plate.rounding
