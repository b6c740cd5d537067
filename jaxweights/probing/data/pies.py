"""Pies on white: size, place, and the share of one colour.

The set of arXiv 1811.03259 and its code, whose combinations are written as codes of five digits, see `codes`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.errors import UserError
from jaxweights.probing.data.base import DesignedData, each, left_open
from jaxweights.probing.features import Design, Feature
from jaxweights.settings import setting

SLOTS, SWAPS, SHORTEST = 1000, 3, 10
"""Angles are quantised to so many slots; runs of slots are exchanged so often; the shortest run."""
SIZES = tuple(0.35 + digit / 20 for digit in range(1, 10))
"""Radii of the digits 1 ... 9, as shares of half the side."""
PLACES = tuple((digit - 5) / 20 for digit in range(1, 10))
"""Offsets of the centre of the digits 1 ... 9, in halves of the side."""
SHARES = tuple(digit / 10 for digit in range(1, 10))
"""Red shares of the digits 1 ... 9."""
_LEAST_RED, _BRIGHTEST, _LEAST_WEIGHT = 0.8, 0.9, 0.01
_LARGEST = 1.0  # sum of size and offset: the border of the image
_DIGITS, _COLOURS, _ORDER = range(3)  # purposes of an image's key


@dataclasses.dataclass(frozen=True)
class Pies(DesignedData):
    """A pie chart of four colours, one of them red, on white; without noise, its edges hard.

    Features: `size`, the radius as a share of half the side; `x` and `y`, the offset of the centre in halves of the
    side, to the right and downwards; `red`, the share of red. One that is left open is uniform over its nine digits.

    Every slot of the circle has a colour: first red from the left (-180 degrees) on, then the others with random
    shares; then three times a random run of the first half is exchanged with one of the second. So the red share of
    slots is exact, while pixels, of which whole rows of the grid lie on the limits of slots, may differ by 0.01.

    Attributes:
      side: pixels of a side.
      colours: number of colours, red among them.
      faithful: the published naming and its gap: `x` counts rows and `y` columns, and pixels at exactly 180 degrees
        are in no slot, and black. Else `x` is across, and they belong to the last slot.
    """

    KIND: ClassVar[str] = "pies"

    side: int = setting(64, at_least=16, at_most=128)
    colours: int = setting(4, at_least=2, at_most=16)
    faithful: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `DesignedData.shape`."""
        return self.side, self.side, 3

    @property
    def features(self) -> tuple[Feature, ...]:
        """Size and red have the values and bins of the published combinations, every second digit."""
        place = (-1.0, *((a + b) / 2 for a, b in zip(PLACES, PLACES[1:], strict=False)), 1.0)
        return (
            Feature("size", SIZES[::2], (0.0, 0.45, 0.55, 0.65, 0.75, 1.0)),
            Feature("x", PLACES, place),
            Feature("y", PLACES, place),
            Feature("red", SHARES[::2], (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        )

    def check(self, design: Design) -> None:
        """See `DesignedData.check`."""
        super().check(design)
        size, x, y, red = (design.column(name) for name in ("size", "x", "y", "red"))
        for name, column in (("size", size), ("red", red)):
            if ((column < 0) | (column > 1)).any():
                raise UserError(f"A design of pies asks for {name} outside of [0, 1].")
        reach = np.nan_to_num(size, nan=SIZES[-1])
        reach = reach + np.fmax(*(np.nan_to_num(np.abs(column), nan=PLACES[-1]) for column in (x, y)))
        if (reach > _LARGEST + 1e-6).any():
            raise UserError(
                f"A design of pies asks for a size and an offset of {reach.max():g} together, but the border is "
                f"{_LARGEST:g} halves of the side from the middle. Ask for smaller ones (a feature that is left open "
                f"may be as large as {SIZES[-1]:g}, an offset {PLACES[-1]:g})."
            )

    def render(self, values: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `DesignedData.render`."""
        return each(self._one, values, keys)

    def _one(self, values: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = [jax.random.fold_in(key, purpose) for purpose in range(3)]
        digits = jnp.array([SIZES, PLACES, PLACES, SHARES], jnp.float32)
        drawn = jax.random.randint(keys[_DIGITS], (4,), 0, digits.shape[1])
        values = left_open(values, digits[jnp.arange(4), drawn])
        slots, palette = _slots(keys[_COLOURS], keys[_ORDER], values[3], self.colours)
        half = self.side / 2
        across, down = (values[2], values[1]) if self.faithful else (values[1], values[2])
        # Pixels are points at whole numbers, as in the published code.
        dx = (jnp.arange(self.side) - half - half * across)[None]
        dy = (jnp.arange(self.side) - half - half * down)[:, None]
        inside = jnp.square(dx) + jnp.square(dy) < jnp.square(values[0] * half)
        # A limit belongs to the slot before it. Rounding puts the axes a little beyond or before it.
        turn = (jnp.arctan2(dy, dx) / (2 * jnp.pi) + 0.5) * SLOTS
        slot = jnp.maximum(jnp.ceil(turn - 1e-3).astype(jnp.int32) - 1, 0)
        image = palette[slots[slot]]
        if self.faithful:
            image = jnp.where(((dy == 0) & (dx < 0))[..., None], 0.0, image)
        exact = values.at[3].set(jnp.mean((slots == 0).astype(jnp.float32)))
        return jnp.where(inside[..., None], image, 1.0), exact


def _slots(colour_key: jax.Array, order_key: jax.Array, red: jax.Array, colours: int) -> tuple[jax.Array, jax.Array]:
    """Colours of slots `[SLOTS]` int32, 0 for red, and the palette `[colours, 3]`."""
    reds, others, weights = jax.random.split(colour_key, 3)
    first = jnp.array([1.0, 0.0, 0.0]) * jax.random.uniform(reds, (), minval=_LEAST_RED, maxval=_BRIGHTEST)
    rest = jax.random.uniform(others, (colours - 1, 3), maxval=_BRIGHTEST) * jnp.array([[0.0, 1.0, 1.0]])
    palette = jnp.concatenate([first[None], rest])
    weight = jax.random.uniform(weights, (colours - 1,), minval=_LEAST_WEIGHT, maxval=1.0)
    share = jnp.cumsum(weight) / jnp.sum(weight)
    own = jnp.round(red * SLOTS)
    ends = jnp.concatenate([own[None], jnp.round(own + (SLOTS - own) * share[:-1])])
    place = jnp.arange(SLOTS)
    slots = jnp.sum(place[:, None] >= ends[None], axis=1)
    for swap in range(SWAPS):
        slots = slots[_exchanged(jax.random.fold_in(order_key, swap), place)]
    return slots.astype(jnp.int32), palette


def _exchanged(key: jax.Array, place: jax.Array) -> jax.Array:
    """Places `[SLOTS]` after a run of the first half is exchanged with one of the second."""
    starts, ends, others = jax.random.split(key, 3)
    half = SLOTS // 2
    start = jax.random.randint(starts, (), 0, half - SHORTEST + 1)
    end = jax.random.randint(ends, (), start + SHORTEST, half + 1)
    other = jax.random.randint(others, (), half, SLOTS - (end - start) + 1)
    move = other - start
    in_first, in_second = (place >= start) & (place < end), (place >= other) & (place < end + move)
    return jnp.where(in_first, place + move, jnp.where(in_second, place - move, place))


def from_codes(data: Pies, codes: list[str] | tuple[str, ...]) -> Design:
    """The design of published codes.

    Args:
      data: pies.
      codes: of five digits each: number of colours, then size, x, y and red as digits 1 ... 9, or 0 for any of them.

    Raises:
      UserError: no code, or one of another form or another number of colours.
    """
    tables, rows = (SIZES, PLACES, PLACES, SHARES), []
    for code in codes:
        if len(code) != 5 or not (code.isascii() and code.isdecimal()) or int(code[0]) != data.colours:
            raise UserError(
                f"{code!r} is no code of a pie of {data.colours} colours; give five digits: {data.colours}, then size, "
                "x, y and red as 1 to 9, or 0 for any."
            )
        rows.append([math.nan if d == "0" else table[int(d) - 1] for d, table in zip(code[1:], tables, strict=True)])
    return Design(data.features, np.array(rows, np.float32).reshape(-1, 4))
