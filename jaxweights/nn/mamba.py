"""Mamba-2: state-space layers whose states decay by a scalar per head (Dao and Gu, arXiv 2405.21060).

A head with inputs x_l `[p]` and decays a_l has the states and outputs

    S_l = exp(a_l) S_{l-1} + x_l b_l^T,    y_l = S_l c_l.

Written out, y = (L * (C B^T)) x, where L holds the products of the decays between two positions: attention without a
softmax. Of a chunk of positions this is a matrix product; from chunk to chunk the state is handed on.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.nn.dense import Dense, biased
from jaxweights.nn.parameters import FAN_IN_UNIFORM, Initial, constant, kernel_and_bias, parameter
from jaxweights.sharding import whole

_DECAYS = (1.0, 16.0)  # range of the initial rates of decay
_STEPS = (0.001, 0.1)  # range of the initial step sizes
_EPSILON = 1e-5
CHUNK = 64
"""Positions per chunk. The published kernels take 256; on CPUs, work grows with the square of a chunk."""


def scan(x: jax.Array, decay: jax.Array, b: jax.Array, c: jax.Array, chunk: int = CHUNK) -> jax.Array:
    """Outputs of all heads, chunk by chunk: products within a chunk, a `lax.scan` over states between chunks.

    Exponents are differences of sums over a chunk, so rounding grows with the total decay of a chunk, as in the
    published code.

    Args:
      x: `[n, length, heads, p]` inputs.
      decay: `[n, length, heads]` logarithms of the decays, at most 0.
      b: `[n, length, state]`, shared by all heads.
      c: `[n, length, state]`, the same.
      chunk: positions per chunk, at most; the work within a chunk grows with its square.

    Returns:
      `[n, length, heads, p]`.
    """
    n, length, heads, p = x.shape
    chunk = min(chunk, length)
    count = -(-length // chunk)
    # Heads before positions; a position of zeros leaves the state as it is.
    x, decay = jnp.swapaxes(x, 1, 2), jnp.swapaxes(decay, 1, 2)
    x, decay, b, c = (_chunks(value, axis, count, chunk) for value, axis in ((x, 2), (decay, 2), (b, 1), (c, 1)))
    earlier = jnp.tril(jnp.ones((chunk, chunk), bool))[None, None]

    def step(state: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        x, decay, b, c = inputs  # [n, heads, chunk, p], [n, heads, chunk], [n, chunk, state] twice
        total = jnp.cumsum(decay, axis=2)
        between = jnp.exp(jnp.where(earlier, total[:, :, :, None] - total[:, :, None, :], -jnp.inf))
        y = jnp.matmul(between * jnp.einsum("nqs,nts->nqt", c, b)[:, None], x)
        y = y + jnp.exp(total)[..., None] * jnp.einsum("nqs,nhsp->nhqp", c, state)
        left = jnp.exp(total[:, :, -1:] - total)[..., None] * x
        state = jnp.exp(total[:, :, -1])[..., None, None] * state + jnp.einsum("nts,nhtp->nhsp", b, left)
        return state, y

    start = jnp.zeros((n, heads, b.shape[-1], p), x.dtype) + 0.0 * x[0, :, :, :1]  # on as many devices as x
    _, y = jax.lax.scan(step, start, (x, decay, b, c))
    return y.transpose(1, 0, 3, 2, 4).reshape(n, count * chunk, heads, p)[:, :length]


def _chunks(x: jax.Array, axis: int, count: int, chunk: int) -> jax.Array:
    """Cuts an axis into chunks, padded with zeros at the end, which become the first axis."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, count * chunk - x.shape[axis])
    x = jnp.pad(x, padding).reshape(*x.shape[:axis], count, chunk, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)


class Mamba2(nn.Module):
    """A Mamba-2 layer with the published names, initial values and defaults (state-spaces/mamba), one group of heads.

    Attributes:
      state: size of a head's state, per input.
      window: positions that the causal convolution sees.
      expand: inner width over width.
      head_size: inputs of a head; the inner width is a multiple.
      chunk: see `scan`.
    """

    state: int = 128
    window: int = 4
    expand: int = 2
    head_size: int = 64
    chunk: int = CHUNK

    @nn.compact
    def __call__(self, u: jax.Array) -> jax.Array:
        """Maps `[n, length, width]` to `[n, length, width]`; a position sees itself and those before it."""
        n, length, width = u.shape
        inner = self.expand * width
        heads = inner // self.head_size
        sizes = (inner, inner + 2 * self.state, heads)
        projected = Dense(sum(sizes), FAN_IN_UNIFORM, False, convention="flax", name="in_proj")(u)
        z, xbc, dt = jnp.split(projected, (sizes[0], sizes[0] + sizes[1]), axis=-1)
        xbc = nn.silu(CausalConv(self.window, name="conv1d")(xbc))
        x, b, c = jnp.split(xbc, (inner, inner + self.state), axis=-1)
        x = x.reshape(n, length, heads, self.head_size)
        rate = jnp.exp(parameter(self, "A_log", (heads,), lambda draws: jnp.log(_between(draws, *_DECAYS))))
        dt = nn.softplus(biased(dt, parameter(self, "dt_bias", (heads,), _inverse_softplus_of_steps())))
        y = scan(dt[..., None] * x, -dt * rate[None, None, :], b, c, self.chunk)
        y = y + parameter(self, "D", (heads,), constant(1.0))[None, None, :, None] * x
        y = y.reshape(n, length, inner) * nn.silu(z)
        scale = parameter(self, "norm", (inner,), constant(1.0))[None, None, :]
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + _EPSILON) * scale
        return Dense(width, FAN_IN_UNIFORM, False, convention="flax", name="out_proj")(y)


class CausalConv(nn.Module):
    """A convolution of every channel by itself, of a position and those before it.

    Attributes:
      window: positions that an output sees.
    """

    window: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, length, channels]` to the same shape."""
        length, channels = x.shape[1:]
        shape = (self.window, channels)
        kernel, bias = kernel_and_bias(self, "kernel", shape, (self.window, self.window), FAN_IN_UNIFORM)
        kernel = whole(kernel)
        x = jnp.pad(x, ((0, 0), (self.window - 1, 0), (0, 0)))
        taps = [x[:, i : i + length] * kernel[i][None, None, :] for i in range(self.window)]
        return biased(sum(taps[1:], taps[0]), bias)


def _between(draws: jax.Array, low: float, high: float) -> jax.Array:
    """Uniform draws in (-1, 1) as uniform ones in (low, high)."""
    return low + (high - low) * (draws + 1) / 2


def _inverse_softplus_of_steps() -> Initial:
    """Initial biases: step sizes are log-uniform."""

    def initial(draws: jax.Array) -> jax.Array:
        steps = jnp.exp(_between(draws, *(math.log(step) for step in _STEPS)))
        return steps + jnp.log(-jnp.expm1(-steps))

    return initial
