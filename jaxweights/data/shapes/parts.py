"""Parts of procedural shapes: cones and plates, collected into a solid."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxweights.data.shapes.solids import Cones, Hinge, Plates, Solid

Parameters = Mapping[str, jax.Array]


class Parts:
    """Collects parts and stacks them into a solid."""

    def __init__(self):
        self._cones: list[Cones] = []
        self._plates: list[Plates] = []

    def cone(self, start, end, start_radius, end_radius, present: ArrayLike = True, moves: ArrayLike = False) -> None:
        shown, moved = jnp.asarray(present), jnp.asarray(moves)
        self._cones.append(Cones(start, end, start_radius, end_radius, shown, moved))

    def plate(
        self,
        centre,
        axes,
        corners,
        half_thickness,
        rim: ArrayLike = 0.0,
        round_off: float = 1.0,
        present: ArrayLike = True,
        moves: ArrayLike = False,
    ) -> None:
        """Adds a plate; `round_off` is the radius of its edges over half its thickness, at most the rim if any."""
        rounding = round_off * half_thickness * jnp.ones(())
        grown, shown, moved = jnp.asarray(rim), jnp.asarray(present), jnp.asarray(moves)
        self._plates.append(Plates(centre, axes, corners, grown, half_thickness, rounding, shown, moved))

    def solid(self, blend, hinge: Hinge) -> Solid:
        cones, plates = (jax.tree.map(lambda *x: jnp.stack(x), *parts) for parts in (self._cones, self._plates))
        return Solid(cones, plates, blend, hinge)


def point(x, y, z) -> jax.Array:
    """A point `[3]` float32."""
    return jnp.stack([jnp.asarray(value, jnp.float32) for value in (x, y, z)])


def corners(*corners) -> jax.Array:
    """Corners of a plate `[n, 2]` float32, in its own coordinates."""
    return jnp.stack([jnp.stack([jnp.asarray(value, jnp.float32) for value in corner]) for corner in corners])


def rectangle(half_u, half_v) -> jax.Array:
    """The corners `[4, 2]` of a rectangle around the origin."""
    return corners((half_u, -half_v), (half_u, half_v), (-half_u, half_v), (-half_u, -half_v))


def trapezoid(root, tip, span, sweep, rim) -> jax.Array:
    """A wing in its plane: u forward from the root's leading edge, v outward; less the rim at the free sides."""
    return corners(
        (-root + rim, 0),
        (-rim, 0),
        (-sweep * span - rim, span - rim),
        (-sweep * span - tip + rim, span - rim),
    )


def frame(second, across=None) -> jax.Array:
    """Axes of a plate whose second direction is `second` and whose first is forward, or `across`."""
    second = second / jnp.sqrt(jnp.sum(second**2))
    first = point(1, 0, 0) if across is None else across
    return jnp.stack([first, second, jnp.cross(first, second)])
