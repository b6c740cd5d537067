"""Layers of the small convolutional networks, on batch-minor maps `[C, H, W, B]` (see `conv_pool`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.nn.activations import activation
from jaxweights.nn.conv_pool import Unfolded, conv_pool_batch_minor, conv_pool_unfolded, pad_map
from jaxweights.nn.normalization import standardise
from jaxweights.nn.parameters import Convention, constant, kernel_and_bias, parameter

_EPSILON = 1e-5
_POOL = 2


class MapConv(nn.Module):
    """Convolution, 2x2 max-pooling and activation of batch-minor maps; of what `unfold` made of them as well, for this
    window, pooling and padding.

    Attributes:
      features: output channels.
      window: rows and columns of the window.
      pool: whether 2x2 max-pooling follows.
      activation: name of the activation function, None for none.
      initialiser: a name of `parameters.INITIALISERS`.
      padding: zeros on each side of the map.
      use_bias: whether there is a bias.
      convention: whether the kernel is named `weight` or `kernel`; `[window, window, in, out]` in both.
    """

    features: int
    window: int
    pool: bool = False
    activation: str | None = None
    initialiser: str = "torch"
    padding: int = 0
    use_bias: bool = True
    convention: Convention = "torch"

    @nn.compact
    def __call__(self, x: jax.Array | Unfolded) -> jax.Array:
        """Maps `[C, H, W, B]` to `[features, H', W', B]`."""
        area = self.window**2
        inputs = x.columns.shape[0] // area if isinstance(x, Unfolded) else x.shape[0]
        shape, fans = (self.window, self.window, inputs, self.features), (area * inputs, area * self.features)
        name = "weight" if self.convention == "torch" else "kernel"
        kernel, bias = kernel_and_bias(self, name, shape, fans, self.initialiser, self.use_bias)
        act = activation(self.activation) if self.activation else lambda y: y
        if isinstance(x, Unfolded):
            return conv_pool_unfolded(x, kernel, bias, act)
        return act(conv_pool_batch_minor(pad_map(x, self.padding), kernel, bias, pool=self.pool))


class MapNorm(nn.Module):
    """Layer normalisation over channels and positions, every position with its own weight."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `[C, H, W, B]`."""
        weight, bias = (parameter(self, k, x.shape[:3], constant(v)) for k, v in (("weight", 1.0), ("bias", 0.0)))
        return standardise(x, (0, 1, 2), _EPSILON) * weight[..., None] + bias[..., None]


def max_pool(x: jax.Array) -> jax.Array:
    """2x2 max-pooling of batch-minor maps; a last odd row or column is left out."""
    channels, height, width, batch = x.shape
    rows, cols = height // _POOL, width // _POOL
    x = x[:, : rows * _POOL, : cols * _POOL].reshape(channels, rows, _POOL, cols, _POOL, batch)
    x = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])
