"""How denoisers of P-diff's kind see timesteps."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

_FEATURES = 256
_MAX_PERIOD = 10_000


def timestep_features(timesteps: jax.Array) -> jax.Array:
    """Cosines and sines of the raw timestep `[n]` at geometrically falling frequencies: `[n, 256]`."""
    half = _FEATURES // 2
    frequencies = jnp.asarray(np.exp(-math.log(_MAX_PERIOD) * np.arange(half) / half), jnp.float32)
    angles = timesteps[:, None].astype(jnp.float32) * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
