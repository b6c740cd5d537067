"""One-dimensional convolutions with PyTorch's conventions, as Flax Linen modules.

Signals are `[n, length, channels]`, kernels `[kernel_size, in_channels, out_channels]` with an odd kernel size, and
zeros are padded by half of it on both sides. Strides are taken out of the convolutions: a stride of 2 is a stride-1
convolution over pairs of positions, a transposed one is a stride-1 convolution that yields pairs. XLA would dilate the
input for the gradient of the first and for the second itself, which on CPU is up to a hundred times slower than the
same sums. How a stride-1 convolution is computed is decided in `_correlate`, in nothing else.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxweights import sharding
from jaxweights.nn.dense import biased
from jaxweights.nn.parameters import FAN_IN_UNIFORM, kernel_and_bias

# On CPU a convolution whose taps are matrices of at most so many entries is computed as a product with a banded matrix:
# XLA's convolution of so few channels took one and a half to four times as long.
_NARROW = 512


def conv1d(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Cross-correlates `[n, length, in]` with `[kernel_size, in, out]`; returns `[n, length / stride, out]`.

    Args:
      x: signals; the length is a multiple of the stride.
      kernel: weights, kernel size odd; zeros are padded by half of it on both sides.
      stride: 1 or 2.
    """
    size, _, out_channels = kernel.shape
    half = size // 2
    if stride == 2:
        return _conv_over_pairs(x, kernel)
    if out_channels == 1:
        return _conv_to_one_channel(x, kernel)
    return _correlate(x, kernel, half, half)


def conv1d_transpose(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Doubles the length: output `2 i + k - kernel_size // 2` receives `x[i] @ kernel[k]`.

    This is PyTorch's transposed convolution with stride 2 and output padding 1.

    Args:
      x: `[n, length, in]`.
      kernel: `[kernel_size, in, out]`, kernel size odd.

    Returns:
      `[n, 2 * length, out]`.
    """
    size, in_channels, out_channels = kernel.shape
    half = size // 2
    before, after = half // 2, (half + 1) // 2
    taps = before + after + 1
    # Output 2 j + r of pair j sees input j + d through tap r + half - 2 d: every second tap of the reversed kernel.
    reversed_kernel = jnp.pad(kernel[::-1], ((1, 1), (0, 0), (0, 0)))
    phases = []
    for remainder in (0, 1):
        first = half - remainder - 2 * before + 1
        phases.append(reversed_kernel[first : first + 2 * taps - 1 : 2])
    pairs = _correlate(x, jnp.concatenate(phases, axis=-1), before, after)
    return pairs.reshape(x.shape[0], 2 * x.shape[1], out_channels)


def _correlate(x: jax.Array, kernel: jax.Array, before: int, after: int) -> jax.Array:
    """Stride 1: `[n, length, in]` and `[before + 1 + after, in, out]` to `[n, length, out]`."""
    if jax.default_backend() != "cpu":
        return _xla_correlate(x, kernel, before, after)
    if kernel.shape[1] * kernel.shape[2] <= _NARROW:
        return _banded_correlate(x, kernel, before)
    # Under shard_map a replicated kernel has to become one per device here, where JAX adds the sum over devices that
    # its gradient then needs; inside a custom derivative it does not.
    kernel = kernel + 0.0 * lax.stop_gradient(x[:1, :1, :1])
    return _correlate_on_cpu(x, kernel, before, after)


def _banded_correlate(x: jax.Array, kernel: jax.Array, before: int) -> jax.Array:
    """As one product: blocks of positions with the neighbours that they see, times the kernel spread into a band."""
    n, length, in_channels = x.shape
    taps, _, out_channels = kernel.shape
    block = _block(length, in_channels * out_channels)
    width = block + taps - 1
    shifted = [jnp.pad(kernel, ((i, block - 1 - i), (0, 0), (0, 0))) for i in range(block)]
    band = jnp.stack(shifted, axis=2).reshape(width * in_channels, block * out_channels)
    slices = -(-width // block)
    blocks = length // block
    padded = (blocks + slices - 1) * block
    x = jnp.pad(x, ((0, 0), (before, max(0, padded - length - before)), (0, 0)))[:, :padded]
    x = x.reshape(n, blocks + slices - 1, block * in_channels)
    # The last slice of a window may be needed in part only.
    sizes = [min(block, width - i * block) * in_channels for i in range(slices)]
    windows = jnp.concatenate([x[:, i : i + blocks, :size] for i, size in enumerate(sizes)], axis=-1)
    return (windows.reshape(n * blocks, -1) @ band).reshape(n, length, out_channels)


def _block(length: int, tap_entries: int) -> int:
    """Positions per row of a banded product: fewer copies of neighbours against more zeros in the band (measured)."""
    wanted = 4 if tap_entries <= _NARROW // 4 else 2
    return next(block for block in (wanted, 2, 1) if length % block == 0)


def _xla_correlate(x: jax.Array, kernel: jax.Array, before: int, after: int) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, window_strides=(1,), padding=[(before, after)], dimension_numbers=("NHC", "HIO", "NHC")
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _correlate_on_cpu(x: jax.Array, kernel: jax.Array, before: int, after: int) -> jax.Array:
    """The same with derivatives that are convolutions of the same plain form.

    XLA's own derivatives permute the dimensions of a convolution. Inside a loop (all training steps are) XLA's CPU
    backend runs these without its fast routine: 10 times slower for the input's, 160 times for the kernel's.
    """
    return _xla_correlate(x, kernel, before, after)


def _correlate_forward(x: jax.Array, kernel: jax.Array, before: int, after: int) -> tuple[jax.Array, tuple]:
    return _xla_correlate(x, kernel, before, after), (x, kernel)


def _correlate_backward(before: int, after: int, residuals: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    last = kernel.shape[0] - 1
    to_x = _xla_correlate(cotangent, jnp.swapaxes(kernel[::-1], 1, 2), last - before, last - after)
    # Input channels in place of examples and the other way round: the sum runs over examples and positions.
    to_kernel = _xla_correlate(x.transpose(2, 1, 0), cotangent.transpose(1, 0, 2), before, after)
    return to_x, jnp.swapaxes(to_kernel, 0, 1)


_correlate_on_cpu.defvjp(_correlate_forward, _correlate_backward)


def _conv_over_pairs(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride 2: output l sees the pairs l - before ... l + after, the kernel's ends padded to whole pairs."""
    n, length, in_channels = x.shape
    size, _, out_channels = kernel.shape
    half = size // 2
    before, after = (half + 1) // 2, half // 2
    front = 2 * before - half
    taps = before + after + 1
    kernel = jnp.pad(kernel, ((front, 2 * taps - size - front), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, 2 * in_channels, out_channels)
    return _correlate(x.reshape(n, length // 2, 2 * in_channels), kernel, before, after)


def _conv_to_one_channel(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Every block's share in the outputs that it reaches, then overlaps added: the signal is read once, in place."""
    n, length, in_channels = x.shape
    size = kernel.shape[0]
    half = size // 2
    block = _block(length, in_channels)
    blocks, slices = length // block, -(-(block + size - 1) // block)
    shifted = [jnp.pad(kernel[::-1, :, 0], ((i, slices * block - size - i), (0, 0))) for i in range(block)]
    band = jnp.stack(shifted).transpose(0, 2, 1).reshape(block * in_channels, slices * block)
    reached = (x.reshape(n * blocks, block * in_channels) @ band).reshape(n, blocks, slices, block)
    shares = [
        jnp.pad(reached[:, :, i].reshape(n, length), ((0, 0), (i * block, (slices - 1 - i) * block)))
        for i in range(slices)
    ]
    total = sum(shares[1:], shares[0])
    return total[:, half : half + length, None]


class Conv(nn.Module):
    """`conv1d` with a bias; made by `initialise`.

    Attributes:
      features: output channels.
      kernel_size: odd.
      stride: 1 or 2.
    """

    features: int
    kernel_size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, length, in]` to `[n, length / stride, features]`."""
        shape = (self.kernel_size, x.shape[-1], self.features)
        fans = self.kernel_size * x.shape[-1], self.kernel_size * self.features
        kernel, bias = kernel_and_bias(self, "kernel", shape, fans, FAN_IN_UNIFORM)
        return biased(sharding.apply(lambda whole, x: conv1d(x, whole, self.stride), kernel, x), bias)


class ConvTranspose(nn.Module):
    """`conv1d_transpose` with a bias; made by `initialise`. PyTorch counts the output channels in its fan-in.

    Attributes:
      features: output channels.
      kernel_size: odd.
    """

    features: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, length, in]` to `[n, 2 * length, features]`."""
        shape = (self.kernel_size, x.shape[-1], self.features)
        fans = self.kernel_size * self.features, self.kernel_size * x.shape[-1]
        kernel, bias = kernel_and_bias(self, "kernel", shape, fans, FAN_IN_UNIFORM)
        return biased(sharding.apply(lambda whole, x: conv1d_transpose(x, whole), kernel, x), bias)
