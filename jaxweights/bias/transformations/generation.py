"""Images of a generator that was trained on a collection, in place of its own: what a generator inherits of a bias."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxweights import diffusion, parallel
from jaxweights.bias.transformations.autoencoder import FACTOR, VAE
from jaxweights.bias.transformations.base import FULL, Augmentation, Fitted, as_floats
from jaxweights.bias.transformations.fitting import FittingSettings, fit_each
from jaxweights.errors import UserError
from jaxweights.nn.convolution import patches
from jaxweights.nn.dense import matmul
from jaxweights.nn.normalization import LayerNorm
from jaxweights.nn.parameters import constant, initialise, normal, parameter
from jaxweights.nn.transformer import INIT_STD, Architecture, Blocks, frequencies, scalar_features
from jaxweights.settings import setting

_SMALL = 1e-6  # added to standard deviations
_PATCH = 2  # latents of a side per token, as in DiT-B/2
_FREQUENCIES = frequencies(16, 10.0)  # of timesteps divided by their number


class Denoiser(nn.Module):
    """A transformer that denoises latents `[n, h, w, c]`: one token per square of 2 x 2, one for the time.

    Attributes:
      architecture: sizes.
    """

    architecture: Architecture

    @nn.compact
    def __call__(self, latents: jax.Array, times: jax.Array) -> jax.Array:
        """The prediction, of the shape of the latents, at times `[n]` in [0, 1]."""
        count, height, width, channels = latents.shape
        inside, tokens = _PATCH**2 * channels, height * width // _PATCH**2
        wide = self.architecture.width
        rows = patches(latents, _PATCH).rows.reshape(count, tokens, inside)
        x = matmul(rows, parameter(self, "in_kernel", (inside, wide), normal(inside**-0.5)))
        x = x + parameter(self, "positions", (tokens, wide), normal(INIT_STD))[None]
        embedded = scalar_features(times, jnp.asarray(_FREQUENCIES))
        size = embedded.shape[-1]
        time = matmul(embedded, parameter(self, "time_kernel", (size, wide), normal(size**-0.5)))
        x = jnp.concatenate([x, time[:, None]], axis=1)
        x = LayerNorm(convention="flax", name="norm_out")(Blocks(self.architecture, tokens, name="blocks")(x))
        out = matmul(x, parameter(self, "out_kernel", (wide, inside), constant(0.0)))
        out = out.reshape(count, height // _PATCH, width // _PATCH, _PATCH, _PATCH, channels)
        return out.transpose(0, 1, 3, 2, 4, 5).reshape(latents.shape)


@dataclasses.dataclass(frozen=True)
class Generation(Fitted, FittingSettings):
    """Samples of a latent diffusion model of each collection, instead of its images: a small transformer in the latents
    of one small autoencoder (published: a DiT-B/2 in those of a large one), 1000 noise levels, DDIM. It predicts
    v = sqrt(a) noise - sqrt(1 - a) latents, from which a small network's errors are not multiplied at high noise.

    An image's own pixels have no influence on the sample in its place.

    Attributes:
      autoencoder: settings of the autoencoder.
      width: values per token.
      blocks: transformer blocks.
      heads: heads of attention.
      num_timesteps: noise levels, betas from 1e-4 to 0.02 in equal steps.
      sampling_steps: steps of a sample, of DDIM without noise.
    """

    KIND: ClassVar[str] = "generation"
    AUGMENTATION: ClassVar[Augmentation] = FULL
    TINY: ClassVar[Mapping[str, Any]] = {
        "autoencoder": VAE.TINY,
        "steps": 2,
        "batch_size": 8,
        "width": 8,
        "blocks": 1,
        "heads": 2,
        "num_timesteps": 10,
        "sampling_steps": 2,
    }

    autoencoder: VAE = VAE()
    ema_decay: float | None = setting(0.995, at_least=0, below=1)
    width: int = setting(128, at_least=1)
    blocks: int = setting(4, at_least=1)
    heads: int = setting(4, at_least=1)
    num_timesteps: int = setting(1000, at_least=2)
    sampling_steps: int = setting(50, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            self.refuse("width", f"it must be a multiple of heads, {self.heads}")
        if self.sampling_steps > self.num_timesteps:
            self.refuse("sampling_steps", f"set it to at most num_timesteps, {self.num_timesteps}")

    def check(self, shape: tuple[int, int, int]) -> None:
        """See `Transformation.check`."""
        multiple = FACTOR * _PATCH
        if shape[0] % multiple or shape[1] % multiple:
            raise UserError(
                f"{self.section} cuts images into squares of {multiple} pixels, but they are {shape[0]} x {shape[1]}; "
                f"read them at a size that is a multiple of {multiple}."
            )

    @functools.cached_property
    def _diffusion(self) -> diffusion.Diffusion:
        return diffusion.Diffusion(diffusion.linear_schedule(self.num_timesteps), "v")

    @property
    def _denoiser(self) -> Denoiser:
        return Denoiser(Architecture(self.width, self.blocks, self.heads, len(_FREQUENCIES), "float32"))

    def _predict(self, params: Any) -> diffusion.Predict:
        def predict(x: jax.Array, timesteps: jax.Array) -> jax.Array:
            times = timesteps.astype(jnp.float32) / self.num_timesteps
            return self._denoiser.apply({"params": params}, x, times)  # type: ignore[return-value]

        return predict

    def fit(
        self,
        images: Sequence[np.ndarray],
        key: jax.Array,
        mesh: Mesh | None = None,
        folder: pathlib.Path | None = None,
    ) -> list[Any]:
        """See `Fitted.fit`; a state has the autoencoder, the moments of its latents by channel, and the denoiser."""
        self.check(images[0].shape[1:])  # type: ignore[arg-type]
        mesh = parallel.resolve(mesh)
        first, second = jax.random.split(key)
        autoencoders = self.autoencoder.fit(images, first, mesh, folder)
        encode = parallel.map_rows(lambda state, part: self.autoencoder.encode(state, as_floats(part)), mesh)
        latents = [np.asarray(encode(state, of)) for state, of in zip(autoencoders, images, strict=True)]
        moments = [(of.mean(axis=(0, 1, 2)), of.std(axis=(0, 1, 2)) + _SMALL) for of in latents]
        shape = latents[0].shape[1:]

        def init(key: jax.Array) -> Any:
            return initialise(self._denoiser, key, jnp.zeros((1, *shape)), jnp.zeros((1,)))["params"]

        def loss(params: Any, batch: jax.Array, keys: jax.Array) -> jax.Array:
            return diffusion.loss(self._diffusion, self._predict(params), batch, keys)

        standardised = [(of - mean) / std for of, (mean, std) in zip(latents, moments, strict=True)]
        denoisers = fit_each(self.KIND, self, init, loss, standardised, second, mesh, folder)
        parts = zip(autoencoders, moments, denoisers, strict=True)
        return [{"autoencoder": a, "mean": mean, "std": std, "denoiser": d} for a, (mean, std), d in parts]

    def apply(self, state: Any, images: jax.Array, keys: jax.Array) -> jax.Array:
        """See `Fitted.apply`."""
        height, width, channels = images.shape[1:]
        shape = height // FACTOR, width // FACTOR, self.autoencoder.latents
        predict = self._predict(state["denoiser"])
        latents = diffusion.sample_ddim(self._diffusion, predict, keys, shape, steps=self.sampling_steps)
        mean, std = (state[name].reshape(1, 1, 1, -1) for name in ("mean", "std"))
        return self.autoencoder.decode(state["autoencoder"], latents * std + mean, channels)
