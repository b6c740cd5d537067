"""Reconstruction of tokens, and the cycle of learning rates."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax import lax

# PyTorch's OneCycleLR with its defaults: share of the steps that go up, what the largest rate is divided by for the
# first one, what that is divided by for the last one, and the decays of the first moment at the ends and between.
_RISE, _FIRST, _LAST = 0.3, 25.0, 1e4
_DECAYS = 0.95, 0.85


def reconstruction(
    outputs: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    padding: Literal["masked", "counts"],
    axis_name: str | None = None,
) -> jax.Array:
    """Mean squared error of tokens, of which outputs on padding count as 0.

    Args:
      outputs: `[2, b, w, token_size]`, this device's share.
      targets: the same shape, 0 on padding.
      mask: `[b, w, token_size]` bool.
      padding: whether padding "counts" as numbers without error, or is "masked" from the mean.
      axis_name: device axes that the batch is split over; shares are weighted so that their mean is that of the batch.
    """
    errors = jnp.sum(jnp.where(mask[None], jnp.square(outputs - targets), 0.0))
    if padding == "counts":
        return errors / outputs.size
    count = jnp.float32(outputs.shape[0]) * jnp.sum(mask, dtype=jnp.float32)
    return errors / (count if axis_name is None else lax.pmean(count, axis_name))


def one_cycle(step: jax.typing.ArrayLike, steps: int, first: float, middle: float, last: float) -> jax.Array:
    """Half a cosine from the first value to the middle one in 30 % of the steps, then half a cosine to the last."""
    peak, end = max(_RISE * steps - 1, 1e-6), max(steps - 1, 1)
    step = jnp.asarray(step, jnp.float32)
    up = jnp.clip(step / peak, 0, 1)
    down = jnp.clip((step - peak) / (end - peak), 0, 1) if end > peak else jnp.zeros_like(step)

    def between(a: float, b: float, share: jax.Array) -> jax.Array:
        return b + (a - b) / 2 * (jnp.cos(math.pi * share) + 1)

    return jnp.where(step <= peak, between(first, middle, up), between(middle, last, down))


def optimizer(steps: int, learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    """AdamW whose learning rate and first decay go through one cycle; biases and normalisations do not decay."""
    low, high = 1 / _FIRST, 1 / _FIRST / _LAST
    adam = optax.inject_hyperparams(optax.scale_by_adam)(
        b1=lambda step: one_cycle(step, steps, _DECAYS[0], _DECAYS[1], _DECAYS[0])
    )
    return optax.chain(
        adam,
        optax.add_decayed_weights(weight_decay, _decays),
        optax.scale_by_learning_rate(lambda step: learning_rate * one_cycle(step, steps, low, 1.0, high)),
    )


def _decays(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: not path[-1].key.endswith(("bias", "scale")), params)
