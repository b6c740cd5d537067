"""Denoising diffusion (Ho et al., 2020), which the published study predates."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxweights import diffusion
from jaxweights.probing.models.denoising import Denoising
from jaxweights.probing.models.networks import Shape
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class Diffusion(Denoising):
    """Gaussian diffusion of images in [-1, 1], sampled by DDIM (Song et al., 2021).

    Attributes:
      num_timesteps: noise levels.
      schedule: of the noise; the linear one's betas go from 1e-4 to 0.02, whatever their number.
      prediction: what the network predicts: noise, image, or v = sqrt(a) noise - sqrt(1 - a) image, from which a small
        network's errors are not multiplied at high noise.
      eta: noise that sampling adds, from 0 for none to 1 for as much as an ancestral sampler of these steps does.
    """

    KIND: ClassVar[str] = "diffusion"
    SAMPLING: ClassVar[frozenset[str]] = Denoising.SAMPLING | {"eta"}
    TINY: ClassVar[Mapping[str, Any]] = {**Denoising.TINY, "num_timesteps": 10}

    num_timesteps: int = setting(1000, at_least=2)
    schedule: Literal["linear", "cosine"] = "cosine"
    prediction: diffusion.Prediction = "v"
    eta: float = setting(0.0, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampling_steps > self.num_timesteps:
            self.refuse("sampling_steps", f"set it to at most num_timesteps, {self.num_timesteps}")

    @functools.cached_property
    def process(self) -> diffusion.Diffusion:
        """Noise schedule and prediction."""
        make = diffusion.linear_schedule if self.schedule == "linear" else diffusion.cosine_schedule
        return diffusion.Diffusion(make(self.num_timesteps), self.prediction)

    def _timed(self, predict: Callable[..., jax.Array]) -> diffusion.Predict:
        return lambda x, timesteps: predict(x, timesteps.astype(jnp.float32) / self.num_timesteps)

    def error(self, predict: Callable[..., jax.Array], images: jax.Array, keys: jax.Array) -> jax.Array:
        """See `Denoising.error`."""
        return diffusion.loss(self.process, self._timed(predict), images, keys)

    def denoised(self, predict: Callable[..., jax.Array], keys: jax.Array, shape: Shape) -> jax.Array:
        """See `Denoising.denoised`."""
        steps, timed = self.sampling_steps, self._timed(predict)
        return diffusion.sample_ddim(self.process, timed, keys, shape, steps=steps, eta=self.eta, clip=1.0)
