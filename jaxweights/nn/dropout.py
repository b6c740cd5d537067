"""Dropout whose masks depend on each example's own key alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxweights import draws


def keep(keys: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    """Which values dropout keeps, `[n, *shape]` bool, for keys `[n]`; a row depends on its own key alone."""
    return draws.uniform(keys, shape) < 1 - rate


def drop(x: jax.Array, kept: jax.Array | None, rate: float) -> jax.Array:
    """Values that are kept over the probability of that, zero for the others; `x` itself without a mask."""
    return x if kept is None else jnp.where(kept, x / (1 - rate), 0.0)
