"""Solids of scenes by their signed distances, each in its own frame: upright, its centre at the origin.

All of size 1: seen from above, the solid just fits into the unit circle. Distances are exact, so that a ray may be
followed by steps of that length (sphere tracing, Hart 1996).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = ("cube", "sphere", "cylinder", "cone", "torus")
"""Names of the solids; elsewhere a solid is its place in this list."""

_CUBE = 1 / math.sqrt(2)  # half an edge: CLEVR's rescaling, which keeps corners on the circle
_ROUNDING = 0.06  # radius of the edges of cubes and cylinders, as of CLEVR's smooth meshes
_RING, _TUBE = 0.68, 0.32  # of the torus
_SLANT = 1 / math.sqrt(5)  # the cone is 2 wide and 2 high: its side's normal is (2, 1) * _SLANT

HEIGHTS = np.array([_CUBE, 1, 1, 1, _TUBE], np.float32)
"""Height of the centre above the ground, by solid."""
BOUNDS = np.array([_CUBE * math.sqrt(3), 1, math.sqrt(2), math.sqrt(2), 1], np.float32)
"""Radius of a ball about the centre that holds the solid, by solid."""


def _extruded(outline: jax.Array, z: jax.Array, half: float) -> jax.Array:
    """Distance to the prism of an outline (signed distances) and of a height, its edges rounded."""
    side, cap = outline + _ROUNDING, jnp.abs(z) - half + _ROUNDING
    outside = jnp.sqrt(jnp.maximum(side, 0) ** 2 + jnp.maximum(cap, 0) ** 2)
    return jnp.minimum(jnp.maximum(side, cap), 0) + outside - _ROUNDING


def cube(points: jax.Array) -> jax.Array:
    """A cube with rounded edges whose upright ones touch the unit circle, before they are rounded."""
    excess = jnp.abs(points) - (_CUBE - _ROUNDING)
    outside = jnp.sqrt(jnp.sum(jnp.maximum(excess, 0) ** 2, axis=0))
    return jnp.minimum(jnp.max(excess, axis=0), 0) + outside - _ROUNDING


def sphere(points: jax.Array) -> jax.Array:
    """The unit ball."""
    return jnp.sqrt(jnp.sum(points**2, axis=0)) - 1


def cylinder(points: jax.Array) -> jax.Array:
    """A cylinder of radius 1 and height 2 with rounded edges."""
    return _extruded(_across(points) - 1, points[2], 1.0)


def cone(points: jax.Array) -> jax.Array:
    """A cone whose base has the radius 1, of height 2."""
    r, z = _across(points), points[2]
    base, side = -1 - z, (2 * r + z - 1) * _SLANT  # distances to the planes, of the half-plane (r, z)
    to_base = jnp.sqrt(jnp.maximum(r - 1, 0) ** 2 + base**2)
    along = jnp.clip((1 - r + 2 * (z + 1)) * _SLANT, 0, 1 / _SLANT)  # from the rim (1, -1) up to the tip (0, 1)
    to_side = jnp.sqrt((r - 1 + along * _SLANT) ** 2 + (z + 1 - 2 * along * _SLANT) ** 2)
    nearest = jnp.minimum(to_base, to_side)
    return jnp.where(jnp.maximum(base, side) < 0, -nearest, nearest)


def torus(points: jax.Array) -> jax.Array:
    """A torus that lies on the ground."""
    return jnp.sqrt((_across(points) - _RING) ** 2 + points[2] ** 2) - _TUBE


def _across(points: jax.Array) -> jax.Array:
    return jnp.sqrt(points[0] ** 2 + points[1] ** 2)


def distance(shape: jax.Array, points: jax.Array) -> jax.Array:
    """Signed distances `[...]` of points `[3, ...]` to a solid, int32 scalar; negative inside."""
    return jax.lax.switch(shape, (cube, sphere, cylinder, cone, torus), points)
