"""Where flows run: straight lines between vectors, or great circles for what lies on spheres.

Points, displacements and velocities are `[n, D]`, times `[n]`; velocities on spheres are tangent to them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import flow

_SMALL = 1e-12  # squared angle below which a great circle is a point


class Euclidean:
    """Straight lines."""

    def start(self, noise: jax.Array) -> jax.Array:
        """Starting points of noise."""
        return noise

    def path(self, start: jax.Array, end: jax.Array, times: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Points of the paths at times, and the velocities there."""
        return flow.between(start, end, times), end - start

    def onto(self, x: jax.Array) -> jax.Array:
        """The nearest points of the space."""
        return x

    def tangent(self, x: jax.Array, velocity: jax.Array) -> jax.Array:
        """Velocities at points without what leads out of the space."""
        del x
        return velocity

    def move(self, x: jax.Array, displacement: jax.Array) -> jax.Array:
        """Where displacements lead."""
        return x + displacement

    def error(self, difference: jax.Array) -> jax.Array:
        """The loss of differences of velocities, a mean over them."""
        return jnp.mean(jnp.square(difference))


@dataclasses.dataclass(frozen=True, eq=False)
class Product(Euclidean):
    """Unit spheres, and straight lines for all other entries.

    Attributes:
      places: places `[units, size]` of the entries of spheres of one size, several times.
      size: D.
      published: whether the loss is weightflow's, with fourth powers.
    """

    places: tuple[np.ndarray, ...]
    size: int
    published: bool = False

    def start(self, noise: jax.Array) -> jax.Array:
        """Uniform points of the spheres, noise elsewhere."""
        return self.onto(noise)

    def path(self, start: jax.Array, end: jax.Array, times: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Great circles at constant speed."""
        both = zip(self._split(start), self._split(end), strict=True)
        *circles, (first, last) = both
        parts = [_circle(a, b, times) for a, b in circles]
        straight = flow.between(first, last, times), last - first
        points, velocities = zip(*parts, straight, strict=True)
        return self._joined(points), self._joined(velocities)

    def onto(self, x: jax.Array) -> jax.Array:
        """Unit vectors of what lies on spheres."""
        return self._mapped(lambda p: p / jnp.linalg.norm(p, axis=-1, keepdims=True), x)

    def tangent(self, x: jax.Array, velocity: jax.Array) -> jax.Array:
        """Without the radial parts."""
        return self._mapped(lambda p, v: v - _dot(p, v) * p, x, velocity, rest=lambda p, v: v)

    def move(self, x: jax.Array, displacement: jax.Array) -> jax.Array:
        """Along great circles, as far as the displacement is long (the exponential map)."""

        def along(p: jax.Array, v: jax.Array) -> jax.Array:
            length = jnp.sqrt(jnp.maximum(_dot(v, v), _SMALL))
            moved = jnp.cos(length) * p + jnp.sin(length) / length * v
            return moved / jnp.linalg.norm(moved, axis=-1, keepdims=True)

        return self._mapped(along, x, self.tangent(x, displacement), rest=jnp.add)

    def error(self, difference: jax.Array) -> jax.Array:
        """The mean square; as published the mean over layers of the squared squares of lengths on spheres, and the mean
        square elsewhere."""
        if not self.published:
            return super().error(difference)
        *circles, straight = self._split(difference)
        layers = [jnp.mean(jnp.square(_dot(part, part))) for part in circles]
        rest = [jnp.mean(jnp.square(straight))] if straight.shape[1] else []
        return jnp.sum(jnp.stack([jnp.mean(jnp.stack(layers)), *rest]))

    def _mapped(
        self,
        function: Callable[..., jax.Array],
        *arrays: jax.Array,
        rest: Callable[..., jax.Array] = lambda x: x,
    ) -> jax.Array:
        *circles, straight = zip(*map(self._split, arrays), strict=True)
        return self._joined([*(function(*parts) for parts in circles), rest(*straight)])

    @functools.cached_property
    def _order(self) -> np.ndarray:
        """Places of the entries of the spheres, then of all others."""
        own = np.concatenate([places.ravel() for places in self.places])
        return np.concatenate([own, np.setdiff1d(np.arange(self.size), own)])

    @property
    def straight(self) -> np.ndarray:
        """Places of the entries that lie on no sphere."""
        return self._order[sum(places.size for places in self.places) :]

    def _split(self, x: jax.Array) -> list[jax.Array]:
        """`[n, units, size]` by spheres of one size, and the others `[n, R]`."""
        sizes = np.cumsum([places.size for places in self.places])
        *parts, rest = jnp.split(x[:, self._order], sizes, axis=1)
        shaped = [part.reshape(-1, *places.shape) for part, places in zip(parts, self.places, strict=True)]
        return [*shaped, rest]

    def _joined(self, parts) -> jax.Array:
        flat = jnp.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        return flat[:, np.argsort(self._order)]


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a * b, axis=-1, keepdims=True)


def _circle(start: jax.Array, end: jax.Array, times: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Points `[n, m, d]` of great circles at times `[n]`, and the velocities there."""
    cosine = _dot(start, end)
    across = end - cosine * start
    sine = jnp.sqrt(jnp.maximum(_dot(across, across), _SMALL))
    angle, direction = jnp.arctan2(sine, cosine), across / sine
    turned = flow.along(times, start) * angle
    point = jnp.cos(turned) * start + jnp.sin(turned) * direction
    return point, angle * (jnp.cos(turned) * direction - jnp.sin(turned) * start)
