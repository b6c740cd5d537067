"""P-diff's two networks, one-dimensional and convolutional: the autoencoder of vectors and the denoiser of latents."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxweights.nn.conv1d import Conv, ConvTranspose, conv1d
from jaxweights.nn.dense import Dense, biased, matmul
from jaxweights.nn.normalization import SignalNorm, Statistics
from jaxweights.nn.parameters import FAN_IN_UNIFORM, kernel_and_bias
from jaxweights.nn.timesteps import timestep_features


def _layer(function: Callable[[Any, jax.Array], jax.Array], remat: bool) -> Callable[[Any, jax.Array], jax.Array]:
    """A layer as a function of its module and its input, with `remat` computed again for the gradient."""
    return nn.remat(function) if remat else function


class Encoder(nn.Module):
    """Strided convolutions, then dense layers to the mean and the log-variance of the latent.

    Attributes:
      channels: output channels of the stride-2 convolutions.
      latent_dim: size of the latent.
      kernel_size: odd.
      remat: see `_layer`.
    """

    channels: tuple[int, ...]
    latent_dim: int
    kernel_size: int
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, statistics: Statistics, axis_name: str | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Maps `[n, length]` to two `[n, latent_dim]`; see `SignalNorm` for the last two arguments."""
        x = x[:, :, None]
        for i, features in enumerate(self.channels):

            def layer(self, x, i=i, features=features):
                x = Conv(features, self.kernel_size, stride=2, name=f"conv_{i}")(x)
                return nn.leaky_relu(SignalNorm(name=f"norm_{i}")(x, statistics, axis_name), negative_slope=0.01)

            x = _layer(layer, self.remat)(self, x)
        flat = jnp.swapaxes(x, 1, 2).reshape(x.shape[0], -1)
        dense = functools.partial(Dense, self.latent_dim, convention="flax")
        hidden = dense(name="to_latent")(flat)
        return dense(name="fc_mu")(hidden), dense(name="fc_var")(hidden)


class Decoder(nn.Module):
    """A dense layer, then transposed convolutions that double the length, then one convolution to a single channel.

    Attributes:
      channels: input channels of the transposed convolutions, the encoder's in reverse.
      length: length of the decoded vectors, a multiple of `2 ** len(channels)`.
      kernel_size: odd.
      remat: see `_layer`.
    """

    channels: tuple[int, ...]
    length: int
    kernel_size: int
    remat: bool = False

    @nn.compact
    def __call__(self, z: jax.Array, statistics: Statistics, axis_name: str | None = None) -> jax.Array:
        """Maps `[n, latent_dim]` to `[n, length]`; see `SignalNorm` for the last two arguments."""
        length = self.length >> len(self.channels)
        x = Dense(self.channels[0] * length, convention="flax", name="to_decode")(z)
        x = jnp.swapaxes(x.reshape(z.shape[0], self.channels[0], length), 1, 2)
        for i, features in enumerate(self.channels[1:] + self.channels[-1:]):

            def layer(self, x, i=i, features=features):
                x = ConvTranspose(features, self.kernel_size, name=f"conv_{i}")(x)
                return nn.elu(SignalNorm(name=f"norm_{i}")(x, statistics, axis_name))

            x = _layer(layer, self.remat)(self, x)
        return Conv(1, self.kernel_size, name="to_output")(x)[:, :, 0]


class Autoencoder(nn.Module):
    """The autoencoder of flat, normalised weight vectors.

    Attributes:
      channels: output channels of the encoder's stride-2 convolutions.
      latent_dim: size of the latent.
      kernel_size: odd.
      length: length of the vectors, a multiple of `2 ** len(channels)`.
      remat: see `_layer`.
    """

    channels: tuple[int, ...]
    latent_dim: int
    kernel_size: int
    length: int
    remat: bool = False

    def setup(self) -> None:
        """Builds the two halves."""
        self.encoder = Encoder(self.channels, self.latent_dim, self.kernel_size, self.remat)
        self.decoder = Decoder(self.channels[::-1], self.length, self.kernel_size, self.remat)

    def __call__(
        self,
        x: jax.Array,
        noise: jax.Array,
        amplitude: float | None,
        statistics: Statistics,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Reconstructs vectors through noised latents.

        Args:
          x: `[n, length]`.
          noise: `[n, latent_dim]`, standard normal.
          amplitude: amplitude of the noise, or None for the standard deviation that the encoder gives. With a number
            nothing depends on the head of the log-variance.
          statistics: see `SignalNorm`, as is the next.
          axis_name: device axis that the batch is split over.

        Returns:
          `[n, length]`, and mean and log-variance of the latents `[n, latent_dim]`.
        """
        mean, log_variance = self.encoder(x, statistics, axis_name)
        std = jnp.exp(0.5 * log_variance) if amplitude is None else amplitude
        return self.decode(mean + std * noise, statistics, axis_name), mean, log_variance

    def encode(self, x: jax.Array, statistics: Statistics, axis_name: str | None = None) -> jax.Array:
        """Returns the mean latents `[n, latent_dim]` of `[n, length]`."""
        return self.encoder(x, statistics, axis_name)[0]

    def decode(self, z: jax.Array, statistics: Statistics, axis_name: str | None = None) -> jax.Array:
        """Returns `[n, length]` for latents `[n, latent_dim]`."""
        return self.decoder(z, statistics, axis_name)


class ShortConv(nn.Module):
    """`Conv` of stride 1 with products of a shorter type, for inference; it has the same parameters.

    Attributes:
      features: output channels.
      kernel_size: odd.
      dtype: type of the factors; sums are float32.
    """

    features: int
    kernel_size: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, length, in]` to `[n, length, features]`."""
        length, half = x.shape[1], self.kernel_size // 2
        fans = self.kernel_size * x.shape[-1], self.kernel_size * self.features
        shape = (self.kernel_size, x.shape[-1], self.features)
        kernel, bias = kernel_and_bias(self, "kernel", shape, fans, FAN_IN_UNIFORM)
        if jax.default_backend() == "cpu":
            # XLA's convolution of bfloat16 is as slow there as that of float32; its matrix product is not.
            x = jnp.pad(x.astype(self.dtype), ((0, 0), (half, half), (0, 0)))
            parts = [matmul(x[:, i : i + length], kernel[i], self.dtype) for i in range(self.kernel_size)]
            out = sum(parts[1:], parts[0])
        else:
            out = conv1d(x.astype(self.dtype), kernel.astype(self.dtype)).astype(jnp.float32)
        return biased(out, bias)


class Denoiser(nn.Module):
    """A convolutional network that sees a latent as a signal with one channel, with additive skip connections.

    Attributes:
      channels: output channels of the convolutions up to the widest; the rest mirrors them.
      kernel_size: odd.
      dtype: type of the products of all convolutions but the first and the last, which have one channel on a side.
      remat: see `_layer`.
    """

    channels: tuple[int, ...]
    kernel_size: int
    dtype: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, timesteps: jax.Array, statistics: Statistics, axis_name: str | None = None
    ) -> jax.Array:
        """Maps latents `[n, latent_dim]` at `timesteps` `[n]` to `[n, latent_dim]`.

        The time embedding is as long as the latent and is added along it, in every channel, before every convolution.
        """
        latent_dim = x.shape[-1]
        dense = functools.partial(Dense, latent_dim, convention="flax")
        time = dense(name="time_in")(timestep_features(timesteps))
        time = dense(name="time_out")(nn.silu(time))[:, :, None]
        wide = Conv if self.dtype == "float32" else functools.partial(ShortConv, dtype=self.dtype)
        widths = self.channels + self.channels[-2::-1]
        outputs: list[jax.Array] = []
        x = x[:, :, None]
        for i, features in enumerate(widths):
            if i > len(self.channels):
                x = x + outputs[len(widths) - i]

            def layer(self, x, i=i, conv=wide if i else Conv, features=features):
                x = conv(features, self.kernel_size, name=f"conv_{i}")(x)
                return nn.elu(SignalNorm(name=f"norm_{i}")(x, statistics, axis_name))

            x = _layer(layer, self.remat)(self, x + time)
            outputs.append(x)
        return Conv(1, self.kernel_size, name="to_output")(x + outputs[0] + time)[:, :, 0]
