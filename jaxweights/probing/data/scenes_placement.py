"""Places of objects on a square of ground, none too close to another, found in a bounded number of draws."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.errors import UserError

_TRIES = 32  # places drawn for an object, of which the first free one is taken


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where objects may be.

    Attributes:
      reach: half the side of the square that centres lie in.
      gap: least distance between the circles that hold two objects.
      margin: least distance between two centres from left to right.
    """

    reach: float
    gap: float
    margin: float = 0.0

    def check(self, count: int, size: float) -> None:
        """Raises `UserError` where so many objects of that size are not sure to fit, with the bound.

        They do where they fit on a grid: `ceil(sqrt(count))` columns of circles.
        """
        columns, apart = math.ceil(math.sqrt(count)), max(2 * size + self.gap, self.margin)
        most = (math.floor(2 * self.reach / apart) + 1) ** 2
        if (columns - 1) * apart > 2 * self.reach or (self.margin and count > 2):
            raise UserError(
                f"{count} objects of size {size:g} do not fit: centres {apart:g} apart in a square of side "
                f"{2 * self.reach:g} are sure to for at most {most} objects. Ask for fewer of them, or lower size, gap "
                "or margin."
            )

    def draw(self, key: jax.Array, count: jax.Array, size: jax.Array) -> jax.Array:
        """Centres `[M, 2]` of objects, of which the first `count` matter; pure.

        As in CLEVR, one object after the other takes the first of its draws that is free; where one has none, all are
        put on a shuffled grid and moved as far as is allowed.

        Args:
          key: PRNG key.
          count: scalar int32, for which `check` holds.
          size: `[M]` radii of the circles that hold the objects.
        """
        most = len(size)
        uniform = jax.random.uniform(key, (most, _TRIES + 2, 2), minval=-1.0, maxval=1.0)
        tries = self.reach * uniform[:, :_TRIES]

        def add(i, carry):
            centres, free = carry
            apart = jnp.abs(tries[i][:, None] - centres[None])
            far = jnp.sqrt(jnp.sum(apart**2, axis=-1)) > (size[i] + size + self.gap)[None]
            clear = (far & (apart[..., 0] > self.margin)) | (jnp.arange(most) >= i)[None]
            fits = jnp.all(clear, axis=1)
            return centres.at[i].set(tries[i, jnp.argmax(fits)]), free & (jnp.any(fits) | (i >= count))

        centres, free = jax.lax.fori_loop(0, most, add, (jnp.zeros((most, 2)), jnp.bool_(True)))
        return jnp.where(free, centres, self._grid(uniform[:, _TRIES], uniform[:, -1, 0], count, size))

    def _grid(self, shift: jax.Array, order: jax.Array, count: jax.Array, size: jax.Array) -> jax.Array:
        """Centres `[M, 2]` on a grid.

        Args:
          shift: `[M, 2]` in (-1, 1), of their allowed moves.
          order: `[M]` in (-1, 1), which draws the objects' places.
          count: scalar int32.
          size: `[M]`.
        """
        most, there = len(size), jnp.arange(len(size)) < count
        columns = jnp.asarray(np.ceil(np.sqrt(np.arange(most + 1))), jnp.int32)[count]
        rank = jnp.argsort(jnp.argsort(jnp.where(there, order, 2.0)))
        place = jnp.stack([rank % columns, rank // columns], axis=1)
        cells = jnp.stack([columns, -(-count // columns)])
        apart = jnp.maximum(2 * jnp.max(jnp.where(there, size, 0)) + self.gap, self.margin)
        step = 2 * self.reach / jnp.maximum(cells - 1, 1)
        middle = jnp.where(cells == 1, 0, self.reach)
        slack = jnp.where(cells == 1, self.reach, (step - apart) / 2)
        return jnp.clip(place * step[None] - middle[None] + shift * slack[None], -self.reach, self.reach)
