"""Networks that predict an image, its noise or its velocity from a noised image and a time: a U-Net, and dense ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.nn.convolution import Conv, patches
from jaxweights.nn.dense import Dense, matmul
from jaxweights.nn.normalization import LayerNorm, standardise
from jaxweights.nn.parameters import Initialiser, constant, normal, parameter
from jaxweights.nn.strided import Resampled
from jaxweights.nn.transformer import frequencies, scalar_features

Network = Literal["unet", "mlp"]
_FREQUENCIES = frequencies(16, 10.0)  # of times in [0, 1]
_EPSILON = 1e-5
_LECUN = Initialiser(lambda u, i, o: normal(i**-0.5)(u), lambda u, i, o: jnp.zeros_like(u))
_ZERO = Initialiser(lambda u, i, o: jnp.zeros_like(u), lambda u, i, o: jnp.zeros_like(u))


class UNet(nn.Module):
    """A U-Net (Ho et al., 2020, without attention) of images cut into squares.

    Attributes:
      width: channels of the largest maps.
      multiples: channels of each resolution, from the largest to the smallest, in units of the width; groups of eight
        are normalised together.
      blocks: residual blocks at each resolution, on the way down and on the way up.
      patch: pixels of a side of a square, which is one position of the largest map.
    """

    width: int
    multiples: tuple[int, ...]
    blocks: int
    patch: int

    @nn.compact
    def __call__(self, images: jax.Array, times: jax.Array) -> jax.Array:
        """The prediction `[n, H, W, C]` for images in [-1, 1] with noise, at times `[n]` in [0, 1]."""
        time = nn.silu(_dense(4 * self.width, "time")(scalar_features(times, jnp.asarray(_FREQUENCIES))))
        block = _Names(lambda size, name: Residual(size, name=name))
        x = patches(images, self.patch).rows
        inside = x.shape[-1]
        x = _conv(self.width, _LECUN, "in")(x)
        kept = [x]
        for level, multiple in enumerate(self.multiples):
            if level:
                x = _conv(self.width * multiple, _LECUN, f"down_{level}", stride=2)(x)
                kept.append(x)
            for _ in range(self.blocks):
                x = block(self.width * multiple)(x, time)
                kept.append(x)
        x = block(x.shape[-1])(x, time)
        for level, multiple in reversed(list(enumerate(self.multiples))):
            for _ in range(self.blocks + 1):
                x = block(self.width * multiple)(jnp.concatenate([x, kept.pop()], axis=-1), time)
            if level:
                x = Resampled(self.width * multiple, 4, "double", _LECUN, name=f"up_{level}")(x)
        x = nn.silu(GroupNorm(name="norm_out")(x))
        return _whole(_conv(inside, _ZERO, "out")(x), images.shape, self.patch)


class MLP(nn.Module):
    """Residual dense layers over all pixels, beside a share of the input, which depends on the time: the noise in it
    has more dimensions than fewer units than pixels can pass on.

    Attributes:
      width: units.
      blocks: pairs of layers.
    """

    width: int
    blocks: int

    @nn.compact
    def __call__(self, images: jax.Array, times: jax.Array) -> jax.Array:
        """See `UNet`."""
        time = nn.silu(_dense(self.width, "time")(scalar_features(times, jnp.asarray(_FREQUENCIES))))
        flat = images.reshape(len(images), -1)
        x = _dense(self.width, "in")(flat)
        for i in range(self.blocks):
            y = LayerNorm(convention="flax", name=f"norm_{i}")(x)
            y = nn.silu(_dense(self.width, f"first_{i}")(y) + _dense(self.width, f"time_{i}")(time))
            x = x + Dense(self.width, _ZERO, convention="flax", name=f"second_{i}")(y)
        x = LayerNorm(convention="flax", name="norm_out")(x)
        out = Dense(flat.shape[-1], _ZERO, convention="flax", name="out")(x)
        share = Dense(1, _ZERO, convention="flax", name="share")(time)
        return (out + share * flat).reshape(images.shape)


class Residual(nn.Module):
    """Two convolutions, between which the time is added, beside a connection of a square of one position.

    Attributes:
      features: output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """Maps `[n, H, W, C]` and `[n, T]` to `[n, H, W, features]`."""
        y = _conv(self.features, _LECUN, "first")(nn.silu(GroupNorm(name="norm_first")(x)))
        y = y + _dense(self.features, "time")(time)[:, None, None]
        y = _conv(self.features, _ZERO, "second")(nn.silu(GroupNorm(name="norm_second")(y)))
        if x.shape[-1] != self.features:
            x = matmul(x, parameter(self, "skip", (x.shape[-1], self.features), normal(x.shape[-1] ** -0.5)))
        return x + y


class GroupNorm(nn.Module):
    """Normalisation of each example over positions and groups of channels (Wu and He, 2018).

    Attributes:
      channels: of a group; a number of channels that is no multiple is one group.
    """

    channels: int = 8

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `[n, H, W, C]`."""
        scale, bias = (parameter(self, k, x.shape[-1:], constant(v)) for k, v in (("scale", 1.0), ("bias", 0.0)))
        inside = self.channels if x.shape[-1] % self.channels == 0 else x.shape[-1]
        groups = x.reshape(*x.shape[:-1], -1, inside)
        y = standardise(groups, (1, 2, 4), _EPSILON).reshape(x.shape)
        return y * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)


class _Names:
    """Makes blocks named "block_0", "block_1", ..."""

    def __init__(self, make: Callable[[int, str], nn.Module]):
        self._make, self._count = make, 0

    def __call__(self, size: int) -> nn.Module:
        self._count += 1
        return self._make(size, f"block_{self._count - 1}")


def _conv(features: int, initialiser: Initialiser, name: str, stride: int = 1) -> Conv:
    """A convolution of 3 x 3, in one operation, which compiles five times as fast as sums of shifted products."""
    return Conv(features, 3, stride, padding=1, initialiser=initialiser, name=name)


def _dense(features: int, name: str) -> Dense:
    return Dense(features, _LECUN, convention="flax", name=name)


def _whole(rows: jax.Array, shape: tuple[int, ...], patch: int) -> jax.Array:
    """Squares `[n, H / p, W / p, p * p * C]` as images; undoes `patches`."""
    count, height, width, channels = shape
    x = rows.reshape(count, height // patch, width // patch, patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(count, height, width, channels)
