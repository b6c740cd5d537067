"""Scenes in the manner of CLEVR: solids on a ground, whose number, or whose shapes and colours, are chosen.

Published: Johnson et al., arXiv 1612.06890, rendered by Blender; numerosity and pairs as Zhao et al., arXiv 1811.03259,
asked for them. Here rays are followed by steps of the distance to the solids. Lengths are in CLEVR's units.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.errors import UserError
from jaxweights.probing.data import scenes_tracing as tracing
from jaxweights.probing.data.base import DesignedData, each, left_open
from jaxweights.probing.data.scenes_placement import Placement
from jaxweights.probing.data.scenes_shading import KEY_LIGHT, MATERIALS, PALETTE, shade
from jaxweights.probing.data.scenes_solids import SHAPES
from jaxweights.probing.data.scenes_tracing import Objects, Seen
from jaxweights.probing.features import Design, Feature
from jaxweights.settings import setting

_LOOKS, _PLACES = 0, 1  # purposes of an image's key
_OWN = 5  # uniform draws of an object's looks: shape, colour, material, size, turn


class _Looks(NamedTuple):
    """What an image shows, but for the places of its objects.

    Attributes:
      objects: with centres of zero.
      eye: `[3]` where the camera is.
      key_light: `[3]` where the key light is.
      features: `[F]` exact features.
    """

    objects: Objects
    eye: jax.Array
    key_light: jax.Array
    features: jax.Array


class View(NamedTuple):
    """Images and what they show, with a leading axis of n.

    Attributes:
      images: `[H, W, 3]` float32 in [0, 1].
      features: `[F]` float32, exact.
      ids: `[H * supersample, W * supersample]` int32, the place of the object that a ray meets first, or `GROUND` or
        `SKY` of `scenes_tracing`.
      objects: M of them.
    """

    images: jax.Array
    features: jax.Array
    ids: jax.Array
    objects: Objects


@dataclasses.dataclass(frozen=True)
class _Rendered(DesignedData):
    """Objects on a ground.

    Attributes:
      side: pixels of a row and of a column.
      supersample: rays per pixel, along each of its sides.
      colors: names of the colours that objects have, of CLEVR's palette.
      shapes: names of the solids that they are.
      materials: of "rubber" and "metal", those that objects are drawn from.
      size: least and largest radius of the circle that an object fits into, seen from above.
      reach: half the side of the square that their centres lie in.
      gap: least distance between the circles of two objects.
      margin: least distance between two centres from left to right.
      visible: least share of the image's pixels that meet each object first.
      redraws: most times that the places are drawn anew where an object shows less; the best draw is taken then.
      camera_jitter: largest move of the camera along each axis.
      light_jitter: largest move of the key light along each axis.
      steps: most steps of a ray towards an object.
    """

    side: int = setting(32, at_least=8)
    supersample: int = setting(2, at_least=1, at_most=8)
    colors: tuple[str, ...] = setting(tuple(PALETTE), length=(1, None), one_of=tuple(PALETTE))
    shapes: tuple[str, ...] = setting(("cube", "sphere", "cylinder"), length=(1, None), one_of=SHAPES)
    materials: tuple[str, ...] = setting(MATERIALS, length=(1, None), one_of=MATERIALS)
    size: tuple[float, float] = setting((0.8, 1.0), above=0)
    reach: float = setting(3.0, above=0, at_most=3)
    gap: float = setting(0.4, at_least=0)
    margin: float = setting(0.0, at_least=0)
    visible: float = setting(0.01, at_least=0, below=1)
    redraws: int = setting(16, at_least=0)
    camera_jitter: float = setting(0.5, at_least=0, at_most=2)
    light_jitter: float = setting(1.0, at_least=0, at_most=3)
    steps: int = setting(24, at_least=4)

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `DesignedData.shape`."""
        return self.side, self.side, 3

    @property
    @abc.abstractmethod
    def most(self) -> int:
        """Most objects of an image."""

    @abc.abstractmethod
    def _looks(self, values: jax.Array, key: jax.Array) -> _Looks:
        """What an image of the values `[F]` shows."""

    @property
    def _placement(self) -> Placement:
        return Placement(self.reach, self.gap, self.margin)

    def check(self, design: Design) -> None:
        """See `DesignedData.check`: values that there are, objects that fit beside each other, and can be seen."""
        super().check(design)
        for i, feature in enumerate(self.features):
            asked = design.values[:, i]
            unknown = asked[~np.isnan(asked) & ~np.isin(asked, self._possible(feature))]
            if len(unknown):
                raise UserError(
                    f"{self.section} has images of {feature.name} {feature.values[0]:g} to {feature.values[-1]:g}, "
                    f"whole numbers, but the design asks for {unknown[0]:g}."
                )
        low, high = self.size
        if low > high:
            self.refuse("size", "give the least size first")
        self._placement.check(self._largest(design), high)
        share = _share_of_sphere(low, self.reach)
        if self.visible > share:
            self.refuse(
                "visible", f"a sphere of size {low:g} at the far edge covers {share:.4f} of the pixels: lower visible"
            )

    def _possible(self, feature: Feature) -> tuple[float, ...]:
        """Values of a feature that a design may ask for."""
        return feature.values

    @abc.abstractmethod
    def _largest(self, design: Design) -> int:
        """Most objects that a design asks for in an image."""

    def render(self, values: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `DesignedData.render`."""
        view = self.view(values, keys)
        return view.images, view.features

    def view(self, values: jax.Array, keys: jax.Array) -> View:
        """What `render` gives and what stands behind it, of values `[n, F]` and keys `[n]`."""
        return each(self._image, values, keys)

    def _image(self, values: jax.Array, key: jax.Array) -> View:
        looks = self._looks(values, jax.random.fold_in(key, _LOOKS))
        rows = self.side * self.supersample
        directions = tracing.rays(looks.eye, rows)
        objects, seen = self._placed(looks, directions, jax.random.fold_in(key, _PLACES))
        shaded = functools.partial(shade, objects, looks.eye, looks.key_light)
        fine = tracing.by_bands(shaded, directions, seen)
        fine = fine.reshape(3, self.side, self.supersample, self.side, self.supersample)
        image = fine.mean(axis=(2, 4)).transpose(1, 2, 0)
        return View(image, looks.features, seen.id.reshape(rows, rows), objects)

    def _placed(self, looks: _Looks, directions: jax.Array, key: jax.Array) -> tuple[Objects, Seen]:
        """The objects in their places, and what rays meet; drawn again until every object shows enough."""
        wanted = math.ceil(self.visible * directions.shape[1])

        def attempt(number):
            own = looks.objects
            centre = self._placement.draw(jax.random.fold_in(key, number), own.count, own.size)
            objects = own._replace(centre=self._ordered(centre))
            seen = tracing.by_bands(functools.partial(tracing.trace, objects, looks.eye, self.steps), directions)
            shown = tracing.pixels_of(seen.id, self.most)
            return centre, seen, jnp.min(jnp.where(jnp.arange(self.most) < own.count, shown, directions.shape[1]))

        def again(carry):
            number, best = carry
            new = attempt(number)
            return number + 1, jax.tree.map(lambda a, b: jnp.where(new[2] > best[2], a, b), new, best)

        first = jnp.int32(1), attempt(jnp.int32(0))
        _, (centre, seen, _) = jax.lax.while_loop(
            lambda carry: (carry[1][2] < wanted) & (carry[0] <= self.redraws), again, first
        )
        return looks.objects._replace(centre=self._ordered(centre)), seen

    def _ordered(self, centre: jax.Array) -> jax.Array:
        return centre

    def _scene(self, features, count, shape, color, uniform: jax.Array) -> _Looks:
        """Looks of shapes `[M]` and colours `[M]`, places in the lists of settings, and draws `[M + 2, _OWN]`."""
        own, scene = uniform[: self.most], uniform[self.most :]
        low, high = self.size
        solids = jnp.array([SHAPES.index(name) for name in self.shapes], jnp.int32)
        palette = jnp.array([PALETTE[name] for name in self.colors], jnp.float32) / 255
        metals = jnp.array([name == "metal" for name in self.materials])
        objects = Objects(
            count,
            solids[shape],
            jnp.zeros((self.most, 2)),
            low + (high - low) * own[:, 3],
            2 * math.pi * own[:, 4],
            palette[color],
            metals[_choice(own[:, 2], len(self.materials))],
        )
        moved = 2 * scene[:, :3] - 1
        eye = jnp.array(tracing.EYE) + self.camera_jitter * moved[0]
        return _Looks(objects, eye, jnp.array(KEY_LIGHT) + self.light_jitter * moved[1], features)


def _choice(uniform: jax.Array, n: int) -> jax.Array:
    """Whole numbers below n, int32, of draws in [0, 1)."""
    return jnp.minimum((uniform * n).astype(jnp.int32), n - 1)


def _share_of_sphere(size: float, reach: float) -> float:
    """Share of an image's pixels that a sphere covers at the far edge, in the middle."""
    distance = math.hypot(reach - tracing.EYE[1], tracing.EYE[2] - size)
    return math.pi * size**2 / (distance**2 - size**2) / (2 * tracing.HALF_VIEW) ** 2


@dataclasses.dataclass(frozen=True)
class Scenes(_Rendered):
    """A number of objects of any colour, shape and size.

    Attributes:
      largest: most objects; a design may also ask for none.
    """

    KIND: ClassVar[str] = "scenes"

    largest: int = setting(6, at_least=1, at_most=16)

    @property
    def features(self) -> tuple[Feature, ...]:
        """The number of objects."""
        return (Feature.counted("count", 1, self.largest),)

    @property
    def most(self) -> int:
        """Most objects of an image."""
        return self.largest

    def _possible(self, feature: Feature) -> tuple[float, ...]:
        return (0.0, *feature.values)

    def _largest(self, design: Design) -> int:
        asked = design.column("count")
        return int(np.max(np.where(np.isnan(asked), self.largest, asked)))

    def _looks(self, values: jax.Array, key: jax.Array) -> _Looks:
        uniform = jax.random.uniform(key, (self.most + 2, _OWN))
        own = uniform[: self.most]
        count = left_open(values[0], 1.0 + _choice(uniform[-1, -1], self.most))
        shape, color = _choice(own[:, 0], len(self.shapes)), _choice(own[:, 1], len(self.colors))
        return self._scene(count[None], count.astype(jnp.int32), shape, color, uniform)


@dataclasses.dataclass(frozen=True)
class ScenePairs(_Rendered):
    """Two objects, one to the left of the other, whose shapes and colours are chosen.

    The features are whole numbers, places in `colors` or `shapes`; `names` has the words.
    """

    KIND: ClassVar[str] = "scene_pairs"

    colors: tuple[str, ...] = setting(("red", "blue", "green", "brown"), length=(1, None), one_of=tuple(PALETTE))
    shapes: tuple[str, ...] = setting(("sphere", "cylinder", "cone", "torus"), length=(1, None), one_of=SHAPES)
    size: tuple[float, float] = setting((1.5, 1.5), above=0)
    reach: float = setting(2.4, above=0, at_most=3)
    margin: float = setting(2.0, at_least=1)
    visible: float = setting(0.02, at_least=0, below=1)

    @property
    def features(self) -> tuple[Feature, ...]:
        """Colours and shapes of the left and of the right object."""
        return tuple(Feature.counted(name, 0, len(words) - 1) for name, words in self.names.items())

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The words that the values of every feature stand for."""
        return {
            "left_color": self.colors,
            "right_color": self.colors,
            "left_shape": self.shapes,
            "right_shape": self.shapes,
        }

    @property
    def most(self) -> int:
        """Two objects."""
        return 2

    def _largest(self, design: Design) -> int:
        del design
        return 2

    def _looks(self, values: jax.Array, key: jax.Array) -> _Looks:
        uniform = jax.random.uniform(key, (self.most + 2, _OWN))
        drawn = [_choice(uniform[:2, 1], len(self.colors)), _choice(uniform[:2, 0], len(self.shapes))]
        found = left_open(values, jnp.concatenate(drawn).astype(values.dtype))
        color, shape = found.astype(jnp.int32).reshape(2, 2)
        return self._scene(found, jnp.int32(2), shape, color, uniform)

    def _ordered(self, centre: jax.Array) -> jax.Array:
        """The left object is the first."""
        return jnp.where(centre[0, 0] > centre[1, 0], centre[::-1], centre)
