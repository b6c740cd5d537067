"""What image models share: they are learned generators whose training rows are images."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.generators.base import LearnedGenerator, Samples, keys_for
from jaxweights.population import Population
from jaxweights.probing.data import images_of

SHAPE = "blank"
"""Name among the constants of an empty image `[H, W, C]`, which says how large images are."""
_DRAW = 0  # purpose of a sample's key


@dataclasses.dataclass(frozen=True)
class ImageModel(LearnedGenerator):
    """A generator of images `[H, W, C]` in [0, 1]; trained by `training.train_generator` or, many together, by lanes.

    The stages of an image model know the size of images from `done["constants"][SHAPE]` alone.
    """

    KIND: ClassVar[str] = ""

    @property
    def section(self) -> str:
        """Where a config has the settings."""
        return f"probing.models.{self.name}"

    def prepare(self, training: Population) -> tuple[np.ndarray, dict[str, Any]]:
        """Images `[N, H, W, C]` float32, and an empty one."""
        found = images_of(training)
        return found, {SHAPE: np.zeros(found.shape[1:], np.float32)}

    def sample(self, state: Mapping[str, Any], inputs: jax.Array) -> Samples:
        """One image per key, flat `[n, H * W * C]` float32 in [0, 1]; parents are -1."""
        drawn = self.draw(state, keys_for(inputs, _DRAW), state["constants"][SHAPE].shape)
        flat = jnp.clip(drawn.reshape(len(drawn), -1), 0.0, 1.0)
        return Samples(flat, jnp.full(len(drawn), -1, jnp.int32))

    @abc.abstractmethod
    def draw(self, state: Mapping[str, Any], keys: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
        """Images `[n, *shape]` of keys `[n]`; pure, jit-compatible, a row depends on its own key alone."""
