"""One solid disc on white: size, place and hue; the reduced task of two cores."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.errors import UserError
from jaxweights.probing.data.base import DesignedData, each, left_open
from jaxweights.probing.features import Design, Feature
from jaxweights.settings import setting

SIZES = (0.25, 0.375, 0.5)
"""Radii, as shares of half the side."""
PLACES = (-0.46, -0.23, 0.0, 0.23, 0.46)
"""Offsets of the centre, in halves of the side."""
HUES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Hues, as shares of the circle of colours that begins at red."""


@dataclasses.dataclass(frozen=True)
class Discs(DesignedData):
    """A disc of a saturated colour on white: 3 sizes, 5 x 5 places and 5 hues, 375 cells. Its edge is one pixel wide.

    Features: `size`, the radius as a share of half the side; `x` and `y`, the offset of the centre in halves of the
    side, to the right and downwards; `hue`, a share of the circle of colours. One that is left open is uniform over its
    values.

    Attributes:
      side: pixels of a side.
      jitter: every feature differs from what is asked for by a uniform share of the distance of its values, up to this
        one.
    """

    KIND: ClassVar[str] = "discs"

    side: int = setting(16, at_least=8, at_most=128)
    jitter: float = setting(0.1, at_least=0, below=0.5)

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `DesignedData.shape`."""
        return self.side, self.side, 3

    @property
    def features(self) -> tuple[Feature, ...]:
        """See `DesignedData.features`."""
        listed = (("size", SIZES), ("x", PLACES), ("y", PLACES), ("hue", HUES))
        return tuple(Feature.between(name, values) for name, values in listed)

    def check(self, design: Design) -> None:
        """See `DesignedData.check`."""
        super().check(design)
        for feature in self.features:
            column, (low, high) = design.column(feature.name), (feature.edges[0], feature.edges[-1])
            if ((column < low) | (column > high)).any():
                raise UserError(f"A design of discs asks for {feature.name} outside of [{low:g}, {high:g}].")

    def render(self, values: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `DesignedData.render`."""
        return each(self._one, values, keys)

    def _one(self, values: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        chosen, moved = jax.random.split(key)
        picks = jax.random.split(chosen, len(self.features))
        tables = [jnp.array(f.values, jnp.float32) for f in self.features]
        values = left_open(values, jnp.stack([jax.random.choice(k, t) for k, t in zip(picks, tables, strict=True)]))
        steps = jnp.array([f.values[1] - f.values[0] for f in self.features], jnp.float32)
        exact = values + self.jitter * steps * jax.random.uniform(moved, values.shape, minval=-1.0)
        return _disc(*exact, side=self.side), exact


def _disc(size: jax.Array, x: jax.Array, y: jax.Array, hue: jax.Array, *, side: int) -> jax.Array:
    """The image `[side, side, 3]`."""
    half = side / 2
    pixels = jnp.arange(side) + 0.5 - half
    away = jnp.hypot((pixels - half * y)[:, None], (pixels - half * x)[None])
    cover = jnp.clip(half * size - away + 0.5, 0.0, 1.0)[..., None]
    return 1 - cover * (1 - coloured(hue))[None, None]


def coloured(hue: jax.Array | np.ndarray) -> jax.Array:
    """Colours `[..., 3]` of hues, at full saturation and value."""
    corner = 6 * jnp.asarray(hue)[..., None] + jnp.broadcast_to(jnp.array([0.0, 4.0, 2.0]), (*jnp.shape(hue), 3))
    return jnp.clip(jnp.abs(corner % 6 - 3) - 1, 0.0, 1.0)
