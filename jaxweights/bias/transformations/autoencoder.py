"""Reconstruction by a variational autoencoder, which keeps what an image shows and replaces how it was stored."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from jaxweights.bias.transformations.base import FULL, Augmentation, Fitted, as_floats
from jaxweights.bias.transformations.fitting import FittingSettings, fit_each
from jaxweights.errors import UserError
from jaxweights.nn.activations import gelu
from jaxweights.nn.convolution import Conv
from jaxweights.nn.parameters import initialise
from jaxweights.settings import setting

FACTOR = 4
"""Pixels of a side per latent, as in the published autoencoder (Rombach et al., 2022, f = 4)."""

_Outputs = tuple[jax.Array, jax.Array, jax.Array]
_DIVERGENCE = 1e-6  # weight of the divergence from the standard normal (the same source)


class Autoencoder(nn.Module):
    """A convolutional encoder to two means and variances per latent, and a decoder.

    Attributes:
      channels: of an image.
      width: channels of the largest maps; smaller maps have twice as many.
      latents: channels of the latents.
    """

    channels: int
    width: int
    latents: int

    def setup(self) -> None:
        """Declares the layers."""
        wide = 2 * self.width
        self.down_1 = Conv(self.width, 3, stride=2, padding=1)
        self.down_2 = Conv(wide, 3, stride=2, padding=1)
        self.inner_1 = Conv(wide, 3, padding=1)
        self.moments = Conv(2 * self.latents, 1)
        self.inner_2 = Conv(wide, 3, padding=1)
        self.up_2 = Conv(4 * self.width, 3, padding=1)
        self.up_1 = Conv(2 * self.width, 3, padding=1)
        self.out = Conv(self.channels, 3, padding=1)

    def __call__(self, images: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Reconstructions `[B, H, W, C]`, means and logarithms of variances `[B, H / 4, W / 4, latents]`, of images in
        [-1, 1] and standard normal noise in the shape of the latents."""
        mean, log_variance = self.encode(images)
        return self.decode(mean + jnp.exp(0.5 * log_variance) * noise), mean, log_variance

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Means and logarithms of variances of images `[B, H, W, C]` in [-1, 1]."""
        x = gelu(self.down_1(images))
        x = gelu(self.down_2(x))
        x = gelu(self.inner_1(x))
        mean, log_variance = jnp.split(self.moments(x), 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Images `[B, H, W, C]` of latents `[B, H / 4, W / 4, latents]`."""
        x = gelu(self.inner_2(latents))
        x = gelu(_spread(self.up_2(x)))
        return self.out(gelu(_spread(self.up_1(x))))


def _spread(x: jax.Array) -> jax.Array:
    """`[B, H, W, 4 C]` as `[B, 2 H, 2 W, C]`: four channels become four pixels."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)


@dataclasses.dataclass(frozen=True)
class VAE(Fitted, FittingSettings):
    """Images encoded and decoded by a small convolutional autoencoder that is trained on them: squared error, and a
    divergence of weight 1e-6. The published one is a large one that was trained on other data.

    Attributes:
      shared: whether one autoencoder is trained on all collections together, as published, so that its own traces are
        the same everywhere; else every collection has its own.
      width: channels of its largest maps.
      latents: channels of its latents, of which there are a sixteenth as many as pixels.
    """

    KIND: ClassVar[str] = "vae"
    AUGMENTATION: ClassVar[Augmentation] = FULL
    TINY: ClassVar[Mapping[str, Any]] = {"steps": 2, "batch_size": 8, "width": 4}

    shared: bool = True
    width: int = setting(32, at_least=1)
    latents: int = setting(3, at_least=1)

    def check(self, shape: tuple[int, int, int]) -> None:
        """See `Transformation.check`."""
        if shape[0] % FACTOR or shape[1] % FACTOR:
            raise UserError(
                f"{self.section} halves images twice, but they are {shape[0]} x {shape[1]}; read them at a size "
                f"that is a multiple of {FACTOR}."
            )

    def module(self, channels: int) -> Autoencoder:
        """The network for images of so many channels."""
        return Autoencoder(channels, self.width, self.latents)

    def fit(
        self,
        images: Sequence[np.ndarray],
        key: jax.Array,
        mesh: Mesh | None = None,
        folder: pathlib.Path | None = None,
    ) -> list[Any]:
        """See `Fitted.fit`; a state is the parameters of an autoencoder."""
        self.check(images[0].shape[1:])  # type: ignore[arg-type]
        size = min(map(len, images))
        examples = [np.concatenate([of[:size] for of in images])] if self.shared else list(images)
        height, width, channels = images[0].shape[1:]
        shape, module = (height // FACTOR, width // FACTOR, self.latents), self.module(channels)

        def init(key: jax.Array) -> Any:
            blank = jnp.zeros((1, height, width, channels)), jnp.zeros((1, *shape))
            return initialise(module, key, *blank)["params"]

        def loss(params: Any, batch: jax.Array, keys: jax.Array) -> jax.Array:
            centred = 2 * as_floats(batch) - 1
            noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
            found, mean, log_variance = cast(_Outputs, module.apply({"params": params}, centred, noise))
            divergence = 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1 - log_variance, axis=(1, 2, 3))
            return jnp.mean((found - centred) ** 2) + _DIVERGENCE * jnp.mean(divergence)

        fitted = fit_each(self.KIND, self, init, loss, examples, key, mesh, folder)
        return fitted * len(images) if self.shared else fitted

    def apply(self, state: Any, images: jax.Array, keys: jax.Array) -> jax.Array:
        """See `Fitted.apply`; the means of the latents are decoded."""
        del keys
        return self.decode(state, self.encode(state, images), images.shape[-1])

    def encode(self, state: Any, images: jax.Array) -> jax.Array:
        """Means of the latents `[B, H / 4, W / 4, latents]` of images in [0, 1]."""
        module = self.module(images.shape[-1])
        return cast(tuple[jax.Array, ...], module.apply({"params": state}, 2 * images - 1, method="encode"))[0]

    def decode(self, state: Any, latents: jax.Array, channels: int) -> jax.Array:
        """Images `[B, H, W, channels]` in [0, 1] of latents."""
        decoded = cast(jax.Array, self.module(channels).apply({"params": state}, latents, method="decode"))
        return jnp.clip(0.5 * decoded + 0.5, 0.0, 1.0)
