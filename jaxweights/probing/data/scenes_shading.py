"""Colours of what a camera sees: a key light with a soft shadow, a fill light, light from the sky, two materials."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.probing.data.scenes_tracing import GROUND, SKY, Objects, Seen, lit, unit

PALETTE = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
"""Colours of objects, RGB in bytes (Johnson et al., CLEVR, arXiv 1612.06890, published data)."""
MATERIALS = ("rubber", "metal")
"""Rubber scatters light; metal mirrors ground, sky and light in its own colour."""

KEY_LIGHT = (-5.0, -4.0, 8.0)
"""Where the key light is, seen from the middle of the ground, before it is moved."""
SOFTNESS = 0.08
"""Tangent of half the angle under which it is seen."""

_FILL = np.array([0.75, -0.55, 0.36], np.float32)  # direction to the fill light
_GROUND, _SKY = 0.62, 0.72  # greys
_KEY_PART, _FILL_PART, _AROUND = 0.75, 0.2, 0.35  # light from each, on a surface that faces it
_MIRRORED = (0.38, 1.25)  # what a metal mirrors below and above the horizon
_SHINE = {False: (0.12, 12.0), True: (0.9, 40.0)}  # by whether it is metal: strength and sharpness of highlights


def shade(objects: Objects, eye: jax.Array, key_light: jax.Array, directions: jax.Array, seen: Seen) -> jax.Array:
    """Colours `[3, S]` in [0, 1] of what rays meet.

    Args:
      objects: M of them.
      eye: `[3]` where rays begin.
      key_light: `[3]` where the key light is.
      directions: `[3, S]` of the rays, of length 1.
      seen: what they meet.
    """
    light = unit(key_light)
    points = eye[:, None] + jnp.where(seen.id == SKY, 0, seen.depth)[None] * directions
    facing = jnp.maximum(_dot(seen.normal, light), 0)
    key = facing * jnp.where(facing > 0, lit(objects, seen, points, light, SOFTNESS), 0)
    fill = jnp.maximum(_dot(seen.normal, jnp.asarray(_FILL)), 0)
    diffuse = _KEY_PART * key + _FILL_PART * fill + _AROUND * (0.75 + 0.25 * seen.normal[2])
    mirrored = directions - 2 * jnp.sum(directions * seen.normal, axis=0, keepdims=True) * seen.normal
    towards = jnp.maximum(_dot(mirrored, light), 0)
    unshadowed = key / jnp.maximum(facing, 1e-6)
    place = jnp.maximum(seen.id, 0)
    metal, own = objects.metal[place], objects.color[place].T
    below, above = _MIRRORED
    horizon = jnp.clip(0.5 + 2.5 * mirrored[2], 0, 1)
    around = below + (above - below) * horizon * horizon * (3 - 2 * horizon)
    strength, sharpness = (jnp.where(metal, _SHINE[True][i], _SHINE[False][i]) for i in range(2))
    shine = strength * unshadowed * towards**sharpness
    surface = own * jnp.where(metal, 0.45 * diffuse + 0.65 * around, diffuse)[None] + shine[None]
    plain = jnp.where(seen.id == GROUND, _GROUND * diffuse, _SKY)
    fog = jnp.where(seen.id == GROUND, jnp.clip((seen.depth - 12) / 30, 0, 1), 0)  # the ground has no edge
    plain = plain + fog * (_SKY - plain)
    return jnp.clip(jnp.where((seen.id >= 0)[None], surface, plain[None]), 0, 1)


def _dot(directions: jax.Array, one: jax.Array) -> jax.Array:
    """Products `[S]` of directions `[3, S]` and one `[3]`."""
    return jnp.sum(directions * one[:, None], axis=0)
