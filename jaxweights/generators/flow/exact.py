"""The field that flow matching approaches as its loss falls, in closed form: it copies the training networks.

With straight paths from noise N(0, s^2) to the training vectors w_i, points are x = (1 - t) x_0 + t w_i + sigma e, and
the mean of the velocity w_i - x_0 over all paths through x at t is

    v(x, t) = sum_i pi_i (w_i - (1 - t) s^2 / V (x - t w_i)),    V = (1 - t)^2 s^2 + sigma^2,

where pi is the softmax over i of -|x - t w_i|^2 / (2 V). Without sigma that is (sum_i pi_i w_i - x) / (1 - t), and the
last step of Euler's method to time 1 leads to a weighted mean of training vectors, which in many dimensions is one of
them. A trained flow is another generator only as far as its field differs from this one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxweights.flow import along


def posterior(x: jax.Array, times: jax.Array, data: jax.Array, source_std: float | jax.Array, sigma: float):
    """Probabilities `[n, N]` that points `[n, D]` at times `[n]` belong to the paths to data `[N, D]`."""
    variance = jnp.square(along(1 - times, x) * source_std) + sigma**2
    # |x - t w|^2 without |x|^2, which is the same for all w.
    products = jnp.matmul(x, data.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(jnp.square(data), axis=1)[None, :]
    t = along(times, x)
    return jax.nn.softmax((t * products - 0.5 * jnp.square(t) * squares) / variance, axis=1)


def field(
    x: jax.Array, times: jax.Array, data: jax.Array, source_std: float | jax.Array, sigma: float = 0.0
) -> jax.Array:
    """The exact velocity; times below 1.

    Args:
      x: points `[n, D]`.
      times: `[n]`.
      data: training vectors `[N, D]`.
      source_std: standard deviation of the noise at time 0.
      sigma: standard deviation of what is added to the points of the paths.

    Returns:
      `[n, D]`.
    """
    t = along(times, x)
    weights = posterior(x, times, data, source_std, sigma)
    mean = jnp.matmul(weights, data, precision=jax.lax.Precision.HIGHEST)
    left = (1 - t) * jnp.square(source_std)
    return mean - left / (jnp.square(1 - t) * jnp.square(source_std) + sigma**2) * (x - t * mean)
