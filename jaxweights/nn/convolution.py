"""Convolutions of maps `[B, H, W, C]` for the larger task networks, with derivatives that are fast on CPU."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxweights.nn.dense import biased, matmul
from jaxweights.nn.parameters import Initialiser, kernel_and_bias

Borders = tuple[tuple[int, int], tuple[int, int]]
"""Rows of zeros above and below a map, and columns left and right of it."""


class Conv(nn.Module):
    """Convolution of `[B, H, W, C]` with a square window, zeros padded around the map; of `Patches` where these fit.

    Windows side by side are a matrix product, which stays one under `vmap` over weights, where a convolution becomes a
    grouped one.

    Attributes:
      features: output channels.
      window: rows and columns of the window.
      stride: rows and columns from one position to the next.
      padding: zeros on each side of the map.
      use_bias: whether there is a bias.
      initialiser: a name of `parameters.INITIALISERS`, or an initialiser.
    """

    features: int
    window: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    initialiser: str | Initialiser = "torch"

    @nn.compact
    def __call__(self, x: jax.Array | Patches) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H', W', features]`."""
        area, side_by_side = self.window**2, not self.padding and self.window in (1, self.stride)
        inputs = x.rows.shape[-1] // area if isinstance(x, Patches) else x.shape[-1]
        shape, fans = (self.window, self.window, inputs, self.features), (area * inputs, area * self.features)
        kernel, bias = kernel_and_bias(self, "weight", shape, fans, self.initialiser, self.use_bias)
        if isinstance(x, Patches):
            y = matmul(x.rows, kernel.reshape(fans[0], self.features))
        elif side_by_side:
            cut = patches(x[:, :: self.stride, :: self.stride] if self.window == 1 else x, self.window)
            y = matmul(cut.rows, kernel.reshape(fans[0], self.features))
        else:
            y = convolve(x, kernel, self.stride, self.padding)
        return biased(y, bias)


def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: int | Borders) -> jax.Array:
    """Cross-correlates `[B, H, W, C]` with `[h, w, C, F]`, zeros padded around the map.

    On CPU both derivatives are stride-1 convolutions in XLA's own order of axes, or, of the kernel under strides,
    products of shifted maps: left to itself, XLA took 15 and 50 times as long for them (64 maps of 32x32x16).

    Args:
      x: maps.
      kernel: window.
      stride: rows and columns from one position to the next.
      padding: rows and columns of zeros on each side, or those above and below, left and right.
    """
    given = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    windows = kernel.shape[:2]
    reached = [_reached(n, k, stride, p) for n, k, p in zip(x.shape[1:3], windows, given, strict=True)]
    taps, borders = zip(*reached, strict=True)
    if jax.default_backend() != "cpu" or taps != tuple((0, k) for k in windows):
        (top, bottom), (left, right) = taps
        return _convolve(x, kernel[top:bottom, left:right], (stride, stride), borders)
    return _convolve_on_cpu(x, _varying_as(kernel, x), stride, given)


def _reached(size: int, window: int, stride: int, border: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The range of a window's rows that ever lie on a map of so many rows, and the zeros that these need around it.

    A 3x3 window sees a map of one pixel, the last of deep networks on small images, with its middle alone; XLA would
    multiply eight ninths of zeros.
    """
    before, after = border
    last = (size + before + after - window) // stride * stride  # where the last window begins, in the padded map
    first, end = max(0, before - last), min(window, size + before)
    return (first, end), (before - first, last + end - before - size)


def _varying_as(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """Under shard_map a replicated kernel becomes one per device here, where JAX adds the sum over devices that its
    gradient needs; inside a custom derivative it does not."""
    axes = jax.typeof(x).manual_axis_type.varying - jax.typeof(kernel).manual_axis_type.varying
    return lax.pcast(kernel, tuple(axes), to="varying") if axes else kernel


def _convolve(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_on_cpu(x, kernel, stride, borders):
    return _convolve(x, kernel, (stride, stride), borders)


def _convolve_forward(x, kernel, stride, borders):
    return _convolve_on_cpu(x, kernel, stride, borders), (x, kernel)


def _convolve_backward(stride, borders, residuals, cotangent):
    x, kernel = residuals
    height, width = kernel.shape[:2]
    before = [size - 1 - first for size, (first, _) in zip((height, width), borders, strict=True)]
    spans = [(n - 1) * stride + 1 for n in cotangent.shape[1:3]]
    room = zip(x.shape[1:3], (height, width), before, spans, strict=True)
    after = [n + size - 1 - first - span for n, size, first, span in room]
    spread = lax.pad(cotangent, 0.0, ((0, 0, 0), *((0, 0, stride - 1),) * 2, (0, 0, 0)))
    to_x = _convolve(spread, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1), list(zip(before, after, strict=True)))
    if stride == 1:
        products = _convolve(x.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3), (1, 1), borders)
        return to_x, products.transpose(1, 2, 0, 3)
    bordered = jnp.pad(x, ((0, 0), *borders, (0, 0)))
    rows = cotangent.reshape(-1, cotangent.shape[-1])
    shifts = [(i, j) for i in range(height) for j in range(width)]
    taps = [bordered[:, i : i + spans[0] : stride, j : j + spans[1] : stride] for i, j in shifts]
    products = [tap.reshape(-1, tap.shape[-1]).T @ rows for tap in taps]
    return to_x, jnp.stack(products).reshape(kernel.shape)


_convolve_on_cpu.defvjp(_convolve_forward, _convolve_backward)


class DepthwiseConv(nn.Module):
    """Convolution of every channel of `[B, H, W, C]` with a window of its own, an odd number wide; the map keeps its
    size.

    Attributes:
      window: rows and columns of the window.
      initialiser: a name of `parameters.INITIALISERS`.
    """

    window: int
    initialiser: str = "torch"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to the same shape."""
        area, channels = self.window**2, x.shape[-1]
        # PyTorch divides the fan out, too, by the number of groups.
        shape = (self.window, self.window, 1, channels)
        kernel, bias = kernel_and_bias(self, "weight", shape, (area, area), self.initialiser)
        return biased(depthwise(x, _varying_as(kernel, x)), bias)


def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[B, H, W, C]` by `[k, k, 1, C]`, k odd, as a sum of shifted products.

    This is one pass over the map. XLA's grouped convolution took 18 to 31 times as long on CPU, with derivatives 2 to 6
    times (16 maps each of 16x16x16 and 8x8x32 for 8 models, and of 16x16x96 for one).
    """
    return _depthwise(x, kernel)


@jax.jit  # so that all layers of a shape are traced once
def _shifted_products(x, kernel):
    height, width, size = x.shape[1], x.shape[2], kernel.shape[0]
    bordered = _bordered(x, size)
    shifts = [(i, j) for i in range(size) for j in range(size)]
    return sum(bordered[:, i : i + height, j : j + width] * kernel[i, j][None, None] for i, j in shifts)


@jax.custom_vjp
def _depthwise(x, kernel):
    return _shifted_products(x, kernel)


def _depthwise_forward(x, kernel):
    return _shifted_products(x, kernel), (x, kernel)


def _depthwise_backward(residuals, cotangent):
    x, kernel = residuals
    size = kernel.shape[0]
    bordered = _bordered(x, size)

    def tap(position):
        shifted = lax.dynamic_slice(bordered, (0, position // size, position % size, 0), x.shape)
        return jnp.sum(shifted * cotangent, axis=(0, 1, 2))

    to_kernel = lax.map(tap, jnp.arange(size**2)).reshape(kernel.shape)
    return _shifted_products(cotangent, kernel[::-1, ::-1]), to_kernel


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _bordered(x, size):
    border = (size // 2, size // 2)
    return jnp.pad(x, ((0, 0), border, border, (0, 0)))


class Patches(NamedTuple):
    """An image cut into squares.

    Attributes:
      rows: `[B, H / p, W / p, p * p * C]`, a square's values in the order (y, x, c).
    """

    rows: jax.Array


def patches(x: jax.Array, side: int) -> Patches:
    """Cuts `[B, H, W, C]` into squares; rows and columns beyond the last whole square are left out."""
    batch, height, width, channels = x.shape
    rows, cols = height // side, width // side
    x = x[:, : rows * side, : cols * side].reshape(batch, rows, side, cols, side, channels)
    return Patches(x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, cols, -1))
