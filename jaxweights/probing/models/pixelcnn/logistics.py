"""Mixtures of discretised logistic distributions over the 256 levels of a pixel (Salimans et al. 2017, section 2.1).

Colours depend on one another: the mean of green is shifted by red, that of blue by red and green. Values lie in
[-1, 1], levels `2 / 255` apart.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

LEVELS = 256
LEAST_LOG_SCALE = -7.0

# Channels to the pairs (channel, earlier channel that shifts its mean).
_SHIFTS: dict[int, tuple[tuple[int, int], ...]] = {1: (), 3: ((1, 0), (2, 0), (2, 1))}
CHANNELS = tuple(_SHIFTS)
"""Numbers of channels that an image may have."""

_TOP = LEVELS - 1
_EDGE = 1 - 1 / LEVELS  # beyond it lie the first and the last level alone


class Mixture(NamedTuple):
    """Distribution of pixels, K logistics of C channels each.

    Attributes:
      logits: `[..., K]` logits of the components.
      means: `[..., C, K]`, before earlier channels shift them.
      log_scales: `[..., C, K]`.
      shifts: `[..., C (C - 1) / 2, K]` factors of earlier channels in (-1, 1).
    """

    logits: jax.Array
    means: jax.Array
    log_scales: jax.Array
    shifts: jax.Array


def num_outputs(channels: int, mixtures: int) -> int:
    """Values that describe the distribution of a pixel."""
    return mixtures * (1 + 2 * channels + len(_SHIFTS[channels]))


def mixture(outputs: jax.Array, channels: int) -> Mixture:
    """The distribution that `outputs` `[..., num_outputs]` describe, in the published order: logits, then for every
    channel its means, its log scales and, of colours, one factor (of green by red, blue by red, blue by green)."""
    size = outputs.shape[-1] // (1 + 2 * channels + len(_SHIFTS[channels]))
    logits, rest = outputs[..., :size], outputs[..., size:]
    parts = rest.reshape(*rest.shape[:-1], channels, -1, size)
    log_scales = jnp.maximum(parts[..., 1, :], LEAST_LOG_SCALE)
    shifts = jnp.tanh(parts[..., 2, :]) if _SHIFTS[channels] else parts[..., :0, 0, :]
    return Mixture(logits, parts[..., 0, :], log_scales, shifts)


def quantised(images: jax.Array) -> jax.Array:
    """Values in [0, 1] to the nearest level, in [-1, 1]."""
    return jnp.round(jnp.clip(images, 0.0, 1.0) * _TOP) * (2 / _TOP) - 1


def log_likelihood(outputs: jax.Array, values: jax.Array) -> jax.Array:
    """Log probabilities `[...]` in nats of pixels.

    The published code takes density times width for levels whose probability is below 1e-5; this is exact for them.

    Args:
      outputs: `[..., num_outputs]`.
      values: `[..., C]` levels in [-1, 1].
    """
    channels = values.shape[-1]
    found = mixture(outputs, channels)
    means = [found.means[..., c, :] for c in range(channels)]
    for i, (channel, earlier) in enumerate(_SHIFTS[channels]):
        means[channel] += found.shifts[..., i, :] * values[..., earlier, None]
    rate = jnp.exp(-found.log_scales)
    value = values[..., None]
    centred, half = value - jnp.stack(means, axis=-2), 1 / _TOP
    upper, lower = rate * (centred + half), rate * (centred - half)
    # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)); the last levels reach to infinity.
    below, above = -jax.nn.softplus(-upper), -jax.nn.softplus(lower)
    between = below + above + jnp.log(-jnp.expm1(-2 * half * rate))
    level = jnp.where(value < -_EDGE, below, jnp.where(value > _EDGE, above, between))
    return jax.nn.logsumexp(level.sum(axis=-2) + jax.nn.log_softmax(found.logits), axis=-1)


def bits_per_dimension(nats: jax.Array, size: int) -> jax.Array:
    """Negative log likelihoods of images of `size` values, in nats, as bits per value."""
    return nats / (size * math.log(2))


class Noise(NamedTuple):
    """What a pixel is drawn with.

    Attributes:
      component: `[..., K]` Gumbel noise, which chooses the component.
      value: `[..., C]` standard logistic noise.
    """

    component: jax.Array
    value: jax.Array


def noise(keys: jax.Array, shape: tuple[int, int, int], mixtures: int) -> Noise:
    """Noise of images `[H, W, C]`, with leading axes `[H, W, n]` for keys `[n]`; a row depends on its own key alone."""
    height, width, channels = shape

    def draw(key):
        first, second = jax.random.split(key)
        return Noise(
            jax.random.gumbel(first, (height, width, mixtures)), jax.random.logistic(second, (height, width, channels))
        )

    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 2), jax.vmap(draw)(keys))


def draw(outputs: jax.Array, given: Noise) -> jax.Array:
    """Draws pixels `[..., C]`, levels in [-1, 1].

    Every channel is brought to its level before it shifts the next ones, which is what the likelihood is of; the
    published code keeps values between levels.

    Args:
      outputs: `[..., num_outputs]`.
      given: noise of these pixels.
    """
    channels = given.value.shape[-1]
    found = mixture(outputs, channels)
    chosen = jax.nn.one_hot(jnp.argmax(found.logits + given.component, axis=-1), found.logits.shape[-1])[..., None, :]
    means, log_scales, shifts = (jnp.sum(x * chosen, axis=-1) for x in (found.means, found.log_scales, found.shifts))
    values = means + jnp.exp(log_scales) * given.value
    pixel: list[jax.Array] = []
    for channel in range(channels):
        value = values[..., channel]
        for i, (shifted, earlier) in enumerate(_SHIFTS[channels]):
            if shifted == channel:
                value = value + shifts[..., i] * pixel[earlier]
        pixel.append(quantised((value + 1) / 2))
    return jnp.stack(pixel, axis=-1)
