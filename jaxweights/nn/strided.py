"""Convolutions that halve or double a map `[B, H, W, C]`, and those that keep its size, zeros around it as TensorFlow's
"SAME".

On CPU they are sums of products of shifted maps. So are all of their derivatives, of any order, and under `vmap` over
weights: a gradient penalty, the second derivative of a convolution, took 4 to 9 times as long as XLA's own (100 maps of
9x9x64 and 17x17x64), as did transposed convolutions, whose zeros it multiplies.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxweights.nn.dense import biased, matmul
from jaxweights.nn.parameters import Initialiser, kernel_and_bias

Resampling = Literal["same", "half", "double"]


class Resampled(nn.Module):
    """A convolution of `[B, H, W, C]` to maps of the same size, of half of it or of twice as much.

    Attributes:
      features: output channels.
      window: rows and columns of the window.
      resampling: size of the outcome.
      initialiser: a name of `parameters.INITIALISERS`, or an initialiser.
      use_bias: whether there is a bias.
    """

    features: int
    window: int
    resampling: Resampling = "same"
    initialiser: str | Initialiser = "torch"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H', W', features]`; halved maps have even sizes."""
        area, inputs = self.window**2, x.shape[-1]
        shape, fans = (self.window, self.window, inputs, self.features), (area * inputs, area * self.features)
        if self.resampling == "double":  # a window of the outcome sees a quarter of the taps
            fans = -(-fans[0] // 4), fans[1]
        kernel, bias = kernel_and_bias(self, "kernel", shape, fans, self.initialiser, self.use_bias)
        convolution = {"same": same, "half": half, "double": double}[self.resampling]
        return biased(convolution(x, kernel), bias)


def same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates `[B, H, W, C]` with `[k, k, C, F]` at every position."""
    size = kernel.shape[0]
    before = (size - 1) // 2
    return _valid(_bordered(x, before, size - 1 - before), kernel)


def half(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates `[B, H, W, C]`, H and W even, with `[k, k, C, F]` at every second position, k > 1.

    Squares of four pixels become one of four times as many channels, whose windows are half as wide.
    """
    blocks, first = _halves(kernel)
    x = _bordered(x, first, 2 * blocks - 2 - first)
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return _valid(
        x.reshape(batch, height // 2, width // 2, 4 * channels),
        _cut(kernel, blocks).reshape(blocks, blocks, -1, kernel.shape[-1]),
    )


def double(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The transposed convolution of stride 2 of `[B, H, W, C]` with `[k, k, C, F]`, k > 1, to `[B, 2 H, 2 W, F]`.

    An input at (i, j) times the kernel is added at (2 i, 2 j), less `(k - 2) // 2` for the border. That is
    `lax.conv_transpose` of the kernel turned around.
    """
    blocks, first = _halves(kernel)
    height, width, features = x.shape[1], x.shape[2], kernel.shape[-1]
    turned = _cut(kernel, blocks)[::-1, ::-1].transpose(0, 1, 4, 2, 3, 5)
    y = _valid(_bordered(x, blocks - 1, blocks - 1), turned.reshape(blocks, blocks, x.shape[-1], 4 * features))
    rows, columns = y.shape[1], y.shape[2]
    y = y.reshape(-1, rows, columns, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(-1, 2 * rows, 2 * columns, features)
    return y[:, first : first + 2 * height, first : first + 2 * width]


def _halves(kernel: jax.Array) -> tuple[int, int]:
    """Squares of two that a window has on a side, and zeros before the map."""
    size = kernel.shape[0]
    return -(-size // 2), (size - 2) // 2


def _cut(kernel: jax.Array, blocks: int) -> jax.Array:
    """`[k, k, C, F]` as `[blocks, blocks, 2, 2, C, F]`, zeros after the last tap of an odd k."""
    after = 2 * blocks - kernel.shape[0]
    kernel = jnp.pad(kernel, ((0, after), (0, after), (0, 0), (0, 0)))
    kernel = kernel.reshape(blocks, 2, blocks, 2, *kernel.shape[2:])
    return kernel.transpose(0, 2, 1, 3, 4, 5)


def _bordered(x: jax.Array, before: int, after: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))


def _valid(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates `[B, H, W, C]` with `[k, k, C, F]` wherever the window fits."""
    if jax.default_backend() != "cpu":
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    size = kernel.shape[0]
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    shifts = [(i, j) for i in range(size) for j in range(size)]
    return sum((matmul(x[:, i : i + height, j : j + width], kernel[i, j]) for i, j in shifts), jnp.float32(0))
