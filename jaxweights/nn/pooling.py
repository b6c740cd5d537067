"""The mean over a map of features."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn


class MapMean(nn.Module):
    """The mean over the positions of the last map, `[B, H, W, C]` to `[B, C]`.

    A module of its own, without parameters, so that Grad-CAM (`bias.gradcam`) finds the map that it is of.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.mean(x, axis=(1, 2))
