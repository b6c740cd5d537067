"""Discs of one size on white: how many are there?

The published set (arXiv 1811.03259 and its code) is drawn by matplotlib, disc by disc, and rejected until no two discs
touch. Here a batch is drawn in one program.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.errors import UserError
from jaxweights.probing.data.base import DesignedData, each, left_open, reflected
from jaxweights.probing.features import Design, Feature
from jaxweights.settings import setting

RADIUS, MOST = 0.08, 12
"""Radius, as a share of the side, and most discs of the published set."""
_WINDOW, _MARGIN, _SIDE = 71.0, 3.5, 64  # pixels of matplotlib's axes, what the crop cuts off a side, and what is left
_DARKEST = 0.9  # colours are uniform in [0, this]
_PROPOSALS = 128  # of either half, at a time
_ROUNDS = 1 << 16  # at most; a design that `check` accepts needs more with a probability below exp(-60)
_RAREST = 1000  # rounds that a design may need on average
_PILOT = 1 << 16  # proposals of either half, from which the acceptance of a design is estimated
_FEWEST = 8  # acceptances below which an estimate is none
_COUNT, _RADIUS, _PLACES, _COLOURS, _NOISE = range(5)  # purposes of an image's key


@dataclasses.dataclass(frozen=True)
class Dots(DesignedData):
    """Up to twelve discs that do not touch, each of one random colour, on white.

    Places follow the uniform distribution over all configurations in which no two centres are closer than `distance`
    radii: that of drawing all centres independently and uniformly, again and again until none are too close. The two
    halves of a configuration are drawn so first, and then rejected together where they are in each other's way, which
    is the same distribution at a fraction of the proposals.

    Features: `count`, and `radius`, a share of the side, where there are several. A count that is left open is uniform
    over 1 ... `most`, a radius over `radii`.

    Attributes:
      side: pixels of a side.
      most: largest number of discs.
      radii: radii that there are, as shares of the side, in ascending order.
      distance: least distance of two centres, in radii.
      noise: standard deviation of what is added to every channel of every pixel, and reflected at 0 and 1; drawn once
        per image.
      faithful: whether discs are larger than their name says and may be cut off by the border, as in the published
        images: 64 pixels cut out of 74, of which 71 are the unit square, so that a disc in a corner loses 47 % of its
        area. Else discs are whole.
    """

    KIND: ClassVar[str] = "dots"

    side: int = setting(64, at_least=16, at_most=128)
    most: int = setting(MOST, at_least=1, at_most=MOST)
    radii: tuple[float, ...] = setting((RADIUS,), above=0, below=0.5, length=(1, None))
    distance: float = setting(2.1, at_least=2)
    noise: float = setting(0.03, at_least=0, at_most=0.5)
    faithful: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(b <= a for a, b in zip(self.radii, self.radii[1:], strict=False)):
            self.refuse("radii", "list them in ascending order, each once")

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `DesignedData.shape`."""
        return self.side, self.side, 3

    @property
    def features(self) -> tuple[Feature, ...]:
        """See `DesignedData.features`."""
        count = Feature.counted("count", 1, self.most)
        return (count, Feature.between("radius", self.radii)) if len(self.radii) > 1 else (count,)

    def check(self, design: Design) -> None:
        """See `DesignedData.check`.

        Raises:
          UserError: features of other data; counts or radii out of range; discs that cannot fit, by Groemer's bound;
            discs that fit so rarely that they would hardly be found.
        """
        super().check(design)
        counts = np.nan_to_num(design.column("count"), nan=self.most)
        if ((counts != np.round(counts)) | (counts < 1) | (counts > self.most)).any():
            raise UserError(f"A design of dots asks for counts other than whole numbers from 1 to {self.most}.")
        single = len(self.radii) == 1
        radii = np.nan_to_num(np.full(len(counts), np.nan) if single else design.column("radius"), nan=self.radii[-1])
        if ((radii <= 0) | (radii >= 0.5)).any():
            raise UserError("A design of dots asks for radii outside of (0, 0.5), shares of the side.")
        for count, radius in sorted(set(zip(counts.astype(int).tolist(), radii.tolist(), strict=True))):
            _fits(count, radius, self.distance)

    def render(self, values: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `DesignedData.render`; an image whose discs cannot be placed is white, and its features are NaN."""
        return each(self._one, values, keys)

    def _one(self, values: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = [jax.random.fold_in(key, purpose) for purpose in range(5)]
        count = left_open(values[0], jax.random.randint(keys[_COUNT], (), 1, self.most + 1).astype(jnp.float32))
        radius = jnp.float32(self.radii[0])
        if len(self.radii) > 1:
            radius = left_open(values[1], jax.random.choice(keys[_RADIUS], jnp.array(self.radii, jnp.float32)))
        centres, found = _places(keys[_PLACES], count, radius, self.distance, self.most)
        shown = (jnp.arange(len(centres)) < count) & found
        colours = jax.random.uniform(keys[_COLOURS], (len(centres), 3), maxval=_DARKEST)
        image = _painted(self.pixels_of(centres), self.pixels_of(radius, 0.0), shown, colours, self.side)
        if self.noise:
            image = reflected(image + self.noise * jax.random.normal(keys[_NOISE], image.shape))
        exact = jnp.stack([count, radius])[: len(self.features)]
        return image, jnp.where(found, exact, jnp.nan)

    def pixels_of(self, lengths: jax.Array, margin: float = _MARGIN) -> jax.Array:
        """Lengths in pixels of shares of the unit square; places less the margin that is cut off."""
        if not self.faithful:
            return self.side * lengths
        return self.side / _SIDE * (_WINDOW * lengths - margin)


def _painted(centres: jax.Array, radius: jax.Array, shown: jax.Array, colours: jax.Array, side: int) -> jax.Array:
    """Discs on white, their edges one pixel wide.

    Args:
      centres: `[k, 2]`, row and column in pixels.
      radius: in pixels.
      shown: `[k]` bool.
      colours: `[k, 3]`.
      side: of the image.
    """
    pixels = jnp.arange(side) + 0.5

    def paint(i: int, image: jax.Array) -> jax.Array:
        away = jnp.hypot((pixels - centres[i, 0])[:, None], (pixels - centres[i, 1])[None])
        cover = jnp.where(shown[i], jnp.clip(radius - away + 0.5, 0.0, 1.0), 0.0)[..., None]
        return image + cover * (colours[i][None, None] - image)

    return jax.lax.fori_loop(0, len(centres), paint, jnp.ones((side, side, 3)))


def _places(
    key: jax.Array, count: jax.Array, radius: jax.Array, distance: float, most: int
) -> tuple[jax.Array, jax.Array]:
    """Centres of discs, uniform over configurations in which none are too close.

    In every round, `_PROPOSALS` first and second halves are drawn. The i-th of the first halves in which no discs touch
    is put together with the i-th such second half; the first pair without a touch is taken. Halves are independent, so
    the pairs are independent draws of two valid halves, and one that is accepted is uniform over all valid
    configurations.

    Args:
      key: PRNG key.
      count: number of discs.
      radius: as a share of the side.
      distance: least distance of two centres, in radii.
      most: largest count.

    Returns:
      `[2 * ceil(most / 2), 2]` places in the unit square, those of the `count` discs first; whether there are any.
    """
    half = -(-most // 2)
    in_second = jnp.floor(count / 2)
    used = jnp.arange(half)[None] < jnp.stack([count - in_second, in_second])[:, None]  # [2, half]
    nearest = jnp.square(distance * radius)

    def propose(round_: jax.Array) -> tuple[jax.Array, jax.Array]:
        drawn = jax.random.uniform(jax.random.fold_in(key, round_), (2, half, 2, _PROPOSALS))
        drawn = radius + (1 - 2 * radius) * drawn
        alone = _clear(drawn, drawn, used, used, nearest, within=True)  # [2, _PROPOSALS]
        order = jnp.argsort(~alone, axis=1, stable=True)
        sorted_ = jnp.take_along_axis(drawn, order[:, None, None], axis=3)
        both = jnp.all(jnp.take_along_axis(alone, order, axis=1), axis=0)
        both &= _clear(sorted_[:1], sorted_[1:], used[:1], used[1:], nearest)[0]
        first = jnp.argmax(both)
        return sorted_[..., first], both[first]

    def search(state):
        round_, _, _ = state
        return round_ + 1, *propose(round_)

    _, halves, found = jax.lax.while_loop(
        lambda state: ~state[2] & (state[0] < _ROUNDS), search, (0, jnp.zeros((2, half, 2)), jnp.bool_(False))
    )
    # Used places of both halves first.
    order = jnp.argsort(~used.reshape(-1), stable=True)
    return halves.reshape(-1, 2)[order], found


def _clear(
    a: jax.Array, b: jax.Array, in_a: jax.Array, in_b: jax.Array, nearest: jax.Array, within: bool = False
) -> jax.Array:
    """Whether no disc of `a` is near one of `b`: `[h, n]` bool.

    Args:
      a: `[h, k, 2, n]`, places.
      b: `[h, k, 2, n]`.
      in_a: `[h, k]` bool, those that count.
      in_b: `[h, k]` bool.
      nearest: square of the distance that is too small.
      within: whether `a` and `b` are the same, so that every pair is looked at once.
    """
    k = a.shape[1]
    i, j = np.triu_indices(k, 1) if within else np.indices((k, k)).reshape(2, -1)
    gaps = jnp.sum(jnp.square(a[:, i] - b[:, j]), axis=2)
    return jnp.all((gaps > nearest) | ~(in_a[:, i] & in_b[:, j])[..., None], axis=1)


@functools.cache
def _fits(count: int, radius: float, distance: float) -> None:
    """Raises `UserError` where discs cannot be placed, or hardly ever are."""
    asked = f"{count} discs of radius {radius:g} (shares of the side) whose centres are {distance:g} radii apart"
    most = capacity(radius, distance)
    if count > most:
        raise UserError(
            f"{asked} cannot fit: there is no place for more than {most} in the unit square, by Groemer's bound. Ask "
            "for fewer or smaller ones."
        )
    rounds = _rounds(count, radius, distance)
    if rounds > _RAREST:
        known = f"{rounds * _PROPOSALS:.1g}" if math.isfinite(rounds) else f"{_RAREST * _PROPOSALS:.1g} or more"
        raise UserError(
            f"{asked} would be drawn by chance once in {known} proposals; the limit is {_RAREST * _PROPOSALS:.1g}, and "
            f"the bound on what fits at all {most}. Ask for fewer or smaller ones."
        )


def capacity(radius: float, distance: float = 2.1) -> int:
    """The most centres that there can be in the square of side `1 - 2 * radius`, `distance` radii apart.

    An upper bound (Groemer, "Über die Einlagerung von Kreisen in einen konvexen Bereich", 1960).
    """
    side, apart = 1 - 2 * radius, distance * radius
    return math.floor(2 / math.sqrt(3) * side**2 / apart**2 + 2 * side / apart + 1)


def _rounds(count: int, radius: float, distance: float) -> float:
    """Rounds that `_places` needs on average, about; infinite where a pilot finds too few configurations."""
    if count < 2:
        return 1.0
    rng, nearest = np.random.default_rng(0), (distance * radius) ** 2
    halves = []
    for discs in (count - count // 2, count // 2):
        drawn = rng.uniform(radius, 1 - radius, (_PILOT, discs, 2))
        pairs = np.triu_indices(discs, 1)
        gaps = np.square(drawn[:, pairs[0]] - drawn[:, pairs[1]]).sum(-1)
        halves.append(drawn[(gaps > nearest).all(axis=1)])
    pairs = min(map(len, halves))
    if not pairs:
        return math.inf
    # Pairs of halves at several offsets: more of them than there are halves of either kind.
    accepted, offsets = 0, range(min(16, pairs))
    for offset in offsets:
        a, b = halves[0][:pairs], np.roll(halves[1][:pairs], offset, axis=0)
        accepted += int((np.square(a[:, :, None] - b[:, None]).sum(-1) > nearest).all(axis=(1, 2)).sum())
    if accepted < _FEWEST:
        return math.inf
    return _PILOT / pairs * (pairs * len(offsets) / accepted) / _PROPOSALS
