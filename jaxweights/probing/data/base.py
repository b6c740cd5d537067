"""What every kind of designed images offers, and how a training set is drawn from it."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxweights import parallel, programs
from jaxweights.errors import UserError
from jaxweights.population import TRAIN, Population
from jaxweights.probing.features import Design, Feature
from jaxweights.settings import Settings
from jaxweights.spec import FIXED, Leaf, WeightSpec

_BLOCK = 1024  # images rendered at a time, over all devices
FEATURE = "feature/"
"""Prefix of the columns that hold the exact features of images."""


@dataclasses.dataclass(frozen=True)
class DesignedData(Settings, abc.ABC):
    """Images whose features are chosen."""

    SECTION: ClassVar[str] = "probing.data"
    KIND: ClassVar[str] = ""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""

    @property
    @abc.abstractmethod
    def features(self) -> tuple[Feature, ...]:
        """F features, in the order of the columns of `values` everywhere."""

    def check(self, design: Design) -> None:
        """Raises `UserError` for combinations that no image can have, with the bound; asked before any is drawn."""
        own, asked = ([f.name for f in features] for features in (self.features, design.features))
        if own != asked:
            raise UserError(
                f"{self.section} has the features {', '.join(own)}, but the design is one of {', '.join(asked)}; make "
                "it of the features of the data."
            )

    def unseen(self) -> DesignedData:
        """Data of the same kind whose images an estimator has not learned from, to ask it about; itself where images
        are drawn, not taken from a set."""
        return self

    @abc.abstractmethod
    def render(self, values: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draws one image per row; pure and jit-compatible, a row depends on its own values and key alone.

        Args:
          values: `[n, F]` float32, NaN where a feature is left open.
          keys: `[n]` typed PRNG keys, of all that is left open.

        Returns:
          Images `[n, H, W, C]` float32 in [0, 1] and their exact features `[n, F]` float32.
        """


def each(one: Callable[..., Any], *rows: jax.Array) -> Any:
    """Applies a function to the rows of arrays: on CPU one at a time, which keeps an image in the cache and lets no row
    wait for the loops of another; elsewhere all together."""
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda row: one(*row), rows)
    return jax.vmap(one)(*rows)


def left_open(values: jax.Array, drawn: jax.Array) -> jax.Array:
    """Values, and drawn ones where they are NaN."""
    return jnp.where(jnp.isnan(values), drawn, values)


def reflected(images: jax.Array) -> jax.Array:
    """Values beyond 0 and 1 reflected there."""
    return jnp.clip(1 - jnp.abs(1 - jnp.abs(images)), 0.0, 1.0)


def pixels(shape: tuple[int, int, int]) -> WeightSpec:
    """The meaning of an image as a row of a population: one leaf `[H, W, C]` without symmetries."""
    leaf = Leaf("pixels", shape, shape, (FIXED,) * 3, (0,) * 3, (0, 1, 2))
    return WeightSpec((leaf,))


def images_of(population: Population) -> np.ndarray:
    """Images `[N, H, W, C]` float32 of a population of images."""
    return np.asarray(population.weights).reshape((len(population), *population.spec.leaves[0].shape))


def draw(
    data: DesignedData, design: Design, n: int, seed: int = 0, split: str = TRAIN, mesh: Mesh | None = None
) -> Population:
    """Draws images of a design.

    Args:
      data: kind of images.
      design: what their features are.
      n: number of images.
      seed: random seed; another one gives other images of the same combinations.
      split: of the population's records.
      mesh: devices; None for all.

    Returns:
      A population of images, flat `[n, H * W * C]` in [0, 1], in random order, with columns `combination` (row of the
      design) and `feature/<name>` (exact values).

    Raises:
      UserError: a design that cannot be drawn.
    """
    data.check(design)
    rows = design.rows(n, np.random.default_rng([seed, 0]))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), n)
    render, values = _renderer(data, parallel.resolve(mesh)), jnp.asarray(design.values[rows])
    flat, exact = np.empty((n, math.prod(data.shape)), np.float32), np.empty((n, len(data.features)), np.float32)
    block = min(_BLOCK, n)
    for first in range(0, n, block):  # the last one overlaps, so that all have one shape
        place = slice(max(0, min(first, n - block)), min(first + block, n))
        images, features = render((), (values[place], keys[place]))
        flat[place], exact[place] = np.asarray(images).reshape(block, -1), np.asarray(features)
    columns = {FEATURE + f.name: exact[:, i] for i, f in enumerate(data.features)}
    return Population.create(flat, pixels(data.shape), run=np.arange(n), split=split, combination=rows, **columns)


@programs.shared
def _renderer(data: DesignedData, mesh: Mesh):
    return parallel.map_rows(lambda _, rows: data.render(*rows), mesh)
