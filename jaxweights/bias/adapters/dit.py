"""Samples of a diffusion transformer of each collection, in place of its images: the bias that a generator inherits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from jaxweights import extras
from jaxweights.bias.adapters import models
from jaxweights.bias.adapters.base import Adapter
from jaxweights.bias.adapters.folder import Running
from jaxweights.bias.adapters.models import EXTRA, Loaded
from jaxweights.bias.adapters.sd_vae import pictures
from jaxweights.bias.transformations.base import FULL, Augmentation
from jaxweights.settings import setting

_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "clip_sample": False,
    "timestep_spacing": "linspace",  # from the first to the last, as DiT's own code spaces them
}
"""Of DiT (Peebles and Xie, 2023)."""


@dataclasses.dataclass(frozen=True)
class DiT(Adapter):
    """Samples of class 0 without guidance, ancestral, with the variances that the model learned. An image's pixels have
    no influence on the sample in its place but the seed.

    Attributes:
      models: of every collection, in the order of their names, a folder or a name on the hub, as pipelines of
        `diffusers` are kept: `transformer/` and `vae/`.
      model: not used.
      steps: steps of a sample.
    """

    KIND: ClassVar[str] = "dit"
    AUGMENTATION: ClassVar[Augmentation] = FULL
    PER_COLLECTION: ClassVar[bool] = True

    models: tuple[str, ...] = ()
    batch_size: int = setting(32, at_least=1)
    steps: int = setting(250, at_least=1, at_most=1000)

    def begin(self, collection: int) -> Running:
        """See `Adapter.begin`."""
        if collection >= len(self.models):
            self.refuse("models", f"give one for every collection; there is none for number {collection + 1}")
        own, torch = self.replace(model=self.models[collection]), models.torch()
        transformer = models.load(own, "diffusers", "DiTTransformer2DModel", subfolder="transformer")
        vae = models.load(own, "diffusers", "AutoencoderKL", subfolder="vae")

        def run(batch: Sequence[int]) -> list[np.ndarray]:
            with torch.inference_mode():
                latents = self._sampled(transformer, batch)
                return list(pictures(vae.model.decode(latents / vae.model.config.scaling_factor).sample))

        return Running(run, lambda given: given.seed, weights=transformer.weights)

    def _sampled(self, loaded: Loaded, seeds: Sequence[int]) -> Any:
        """Latents `[B, C, h, w]`, each from a seed of its own."""
        torch, config = models.torch(), loaded.model.config
        learned = config.out_channels == 2 * config.in_channels
        variance = "learned_range" if learned else "fixed_small"
        scheduler = extras.module(EXTRA, "diffusers").DDPMScheduler(variance_type=variance, **_SCHEDULE)
        scheduler.set_timesteps(self.steps)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        shape = config.in_channels, config.sample_size, config.sample_size
        drawn = [torch.randn(shape, generator=generator) for generator in generators]
        latents = torch.stack(drawn).to(loaded.device, loaded.dtype)
        labels = torch.zeros(len(seeds), dtype=torch.long, device=loaded.device)
        for timestep in scheduler.timesteps:
            times = timestep.to(loaded.device).expand(len(seeds))
            found = loaded.model(latents, timestep=times, class_labels=labels).sample
            latents = scheduler.step(found, timestep, latents, generator=generators).prev_sample
        return latents
