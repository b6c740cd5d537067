"""What a camera sees of solids on a ground, and how much of a light reaches it.

One scene at a time; the functions are pure and may be mapped. Points and directions are `[3, S]`: x to the right, y
away from the camera, z up, the ground at z = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.probing.data import scenes_solids

T = TypeVar("T")

GROUND, SKY = -1, -2
"""Ids of what is not an object, see `Seen`."""

EYE = (0.0, -12.0, 10.7)
"""Where the camera is before it is moved."""
TARGET = (0.0, -0.1, 0.4)
"""The point in the middle of every image."""
HALF_VIEW = math.tan(math.radians(17))
"""Half the side of an image at distance 1."""

_CLOSE = 4e-3  # a distance that counts as a hit, in sizes of the solid; a pixel of 128 is 0.07
_FAR = 1e6
_LEAST_STEP = 0.02  # of rays to the light, which start on a surface
_LIFT = 0.02  # of their start, above it
_BAND = 2048  # rays at a time, at most
_BLUR = 8.0  # sizes behind an object up to which its shadow's edge is drawn in full
_SHADOW_STEPS = 16


class Objects(NamedTuple):
    """Up to M objects; the first `count` are there.

    Attributes:
      count: scalar int32.
      shape: `[M]` int32, places in `scenes_solids.SHAPES`.
      centre: `[M, 2]` on the ground.
      size: `[M]` radius of the circle that the object fits into, seen from above.
      turn: `[M]` rotation about the vertical, radians.
      color: `[M, 3]` in [0, 1].
      metal: `[M]` bool; others are rubber.
    """

    count: jax.Array
    shape: jax.Array
    centre: jax.Array
    size: jax.Array
    turn: jax.Array
    color: jax.Array
    metal: jax.Array


class Seen(NamedTuple):
    """The first thing that each ray meets.

    Attributes:
      depth: `[S]` length of the ray.
      id: `[S]` int32, the object's place, `GROUND` or `SKY`.
      normal: `[3, S]` of the surface, of length 1.
    """

    depth: jax.Array
    id: jax.Array
    normal: jax.Array


def rays(eye: jax.Array, side: int) -> jax.Array:
    """Directions `[3, side * side]` of length 1 through the middles of pixels, row by row from the top left.

    Args:
      eye: `[3]` where the camera is; it looks at `TARGET`.
      side: pixels of a row and of a column.
    """
    ahead, right, up = axes(eye)
    place = ((jnp.arange(side) + 0.5) * 2 / side - 1) * HALF_VIEW
    across, down = (x.reshape(1, -1) for x in jnp.meshgrid(place, place))
    directions = ahead[:, None] + right[:, None] * across - up[:, None] * down
    return directions / jnp.sqrt(jnp.sum(directions**2, axis=0, keepdims=True))


def axes(eye: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Directions `[3]` ahead, to the right and up of a camera."""
    ahead = unit(jnp.array(TARGET) - eye)
    right = unit(jnp.stack([ahead[1], -ahead[0], jnp.zeros(())]))
    return ahead, right, jnp.cross(right, ahead)


def unit(vector: jax.Array) -> jax.Array:
    """A vector `[3]` with length 1."""
    return vector / jnp.sqrt(jnp.sum(vector**2))


def trace(objects: Objects, eye: jax.Array, steps: int, directions: jax.Array) -> Seen:
    """Follows rays to the first thing that they meet.

    An object is looked for within the ball about it alone, by `steps` steps of the distance to it.

    Args:
      objects: M of them.
      eye: `[3]` where rays begin.
      steps: most steps towards an object.
      directions: `[3, S]` of length 1.
    """
    down = directions[2] < -1e-6
    depth = jnp.where(down, -eye[2] / jnp.where(down, directions[2], -1.0), _FAR)
    first = Seen(depth, jnp.where(down, GROUND, SKY), jnp.zeros_like(directions) + jnp.array([0.0, 0.0, 1.0])[:, None])

    def nearer(i, seen):
        frame = _Frame.of(objects, i)
        start, along = frame.point(eye[:, None]), frame.direction(directions)
        enters, leaves, met = _ball(start, along, frame.bound)
        met &= enters * frame.size < seen.depth

        def march(seen):
            reached = jax.lax.fori_loop(
                0, steps, lambda _, t: t + jnp.minimum(frame.distance(start + t[None] * along), leaves - t), enters
            )
            place = start + reached[None] * along
            hit = met & (frame.distance(place) < _CLOSE) & (reached > 0) & (reached * frame.size < seen.depth)
            return Seen(
                jnp.where(hit, reached * frame.size, seen.depth),
                jnp.where(hit, i, seen.id),
                jnp.where(hit[None], frame.back(frame.normal(place)), seen.normal),
            )

        return jax.lax.cond(jnp.any(met), march, lambda seen: seen, seen)

    return jax.lax.fori_loop(0, objects.count, nearer, first)


def lit(objects: Objects, seen: Seen, points: jax.Array, light: jax.Array, softness: float) -> jax.Array:
    """How much of a distant light reaches points, `[S]` from 0 to 1, by how close the way to it passes objects.

    The shadow's edge is half where the way touches an object, and as wide as the light and the distance make it (the
    method of Quilez).

    Args:
      objects: M of them.
      seen: what the points are on.
      points: `[3, S]`.
      light: `[3]` direction to the light, of length 1.
      softness: tangent of half the angle under which the light is seen.
    """

    def darker(i, free):
        frame = _Frame.of(objects, i)
        start = frame.point(points + _LIFT * seen.normal)
        along = frame.direction(light[:, None])
        reach = frame.bound + _BLUR * softness
        enters, leaves, met = _ball(start, along, reach)

        def step(_, carry):
            t, least = carry
            gap = frame.distance(start + t[None] * along)
            least = jnp.where(t < leaves, jnp.minimum(least, gap / (softness * t)), least)
            return t + jnp.clip(gap, _LEAST_STEP, 0.5), least

        met &= leaves > 0

        def march(free):
            begin = jnp.maximum(enters, _LEAST_STEP), jnp.ones_like(free)
            _, least = jax.lax.fori_loop(0, _SHADOW_STEPS, step, begin)
            least = jnp.maximum(least, -1)
            return jnp.minimum(free, jnp.where(met, 0.25 * (1 + least) ** 2 * (2 - least), 1))

        return jax.lax.cond(jnp.any(met), march, lambda free: free, free)

    return jax.lax.fori_loop(0, objects.count, darker, jnp.ones_like(seen.depth))


def by_bands(function: Callable[..., T], *rows: Any) -> T:
    """A function of rays, band after band of an image's rows, so that what a band needs stays in a core's cache, and
    that no band looks for objects elsewhere (16 times as fast at 128 pixels).

    Args:
      function: of arrays `[..., S]`, S rays; gives such arrays.
      *rows: pytrees of `[..., S]`, the rays of a square image row by row.
    """
    total = jax.tree.leaves(rows)[0].shape[-1]
    side = math.isqrt(total)
    bands = next(n for n in range(1, side + 1) if side % n == 0 and total // n <= _BAND or n == side)

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*x.shape[:-1], bands, -1), -2, 0)

    def join(x: jax.Array) -> jax.Array:
        joined = jnp.moveaxis(x, 0, -2)
        return joined.reshape(*joined.shape[:-2], -1)

    return jax.tree.map(join, jax.lax.map(lambda band: function(*band), jax.tree.map(split, rows)))


def pixels_of(ids: jax.Array, most: int) -> jax.Array:
    """Rays `[most]` int32 that meet each object first, of ids `[S]`."""
    return jnp.sum(ids[None] == jnp.arange(most)[:, None], axis=1, dtype=jnp.int32)


class _Frame(NamedTuple):
    """The own frame of an object, in which it has size 1."""

    shape: jax.Array
    bound: jax.Array
    size: jax.Array
    centre: jax.Array
    cos: jax.Array
    sin: jax.Array

    @classmethod
    def of(cls, objects: Objects, i: jax.Array) -> _Frame:
        size, shape, turn = objects.size[i], objects.shape[i], objects.turn[i]
        height = size * jnp.asarray(scenes_solids.HEIGHTS)[shape]
        centre = jnp.concatenate([objects.centre[i], height[None]])
        bound = jnp.asarray(scenes_solids.BOUNDS)[shape]
        return cls(shape, bound, size, centre, jnp.cos(turn), jnp.sin(turn))

    def point(self, points: jax.Array) -> jax.Array:
        return self.direction((points - self.centre[:, None]) / self.size)

    def direction(self, directions: jax.Array) -> jax.Array:
        x, y, z = directions
        return jnp.stack([self.cos * x + self.sin * y, self.cos * y - self.sin * x, z])

    def back(self, directions: jax.Array) -> jax.Array:
        x, y, z = directions
        return jnp.stack([self.cos * x - self.sin * y, self.cos * y + self.sin * x, z])

    def distance(self, points: jax.Array) -> jax.Array:
        return scenes_solids.distance(self.shape, points)

    def normal(self, points: jax.Array) -> jax.Array:
        """The gradient of the distance, by differences along four directions whose sum is zero."""
        signs = np.array([[1, -1, -1, 1], [-1, -1, 1, 1], [-1, 1, -1, 1]], np.float32)[:, :, None]
        around = self.distance(points[:, None] + 2e-3 * signs)
        gradient = jnp.sum(signs * around[None], axis=1)
        return gradient / jnp.maximum(jnp.sqrt(jnp.sum(gradient**2, axis=0, keepdims=True)), 1e-12)


def _ball(start: jax.Array, along: jax.Array, radius: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where rays enter and leave a ball about the origin, and whether they meet it."""
    middle = -jnp.sum(start * along, axis=0)
    inside = middle**2 - jnp.sum(start**2, axis=0) + radius**2
    half = jnp.sqrt(jnp.maximum(inside, 0))
    return middle - half, middle + half, inside > 0
