"""Samples of a diffusion transformer of each collection, in place of its images: the bias that a generator inherits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from jaxweights import extras
from jaxweights.bias.adapters import models
from jaxweights.bias.adapters.base import Adapter
from jaxweights.bias.adapters.folder import Running
from jaxweights.bias.adapters.models import EXTRA, Loaded
from jaxweights.bias.adapters.sd_vae import pictures
from jaxweights.bias.transformations.base import FULL, Augmentation
from jaxweights.errors import UserError
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
      models: by the name of every collection, a folder or a name on the hub, as pipelines of `diffusers` are kept:
        `transformer/` and `vae/`.
      model: of a single folder of images, in place of `models`.
      steps: steps of a sample.
    """

    KIND: ClassVar[str] = "dit"
    AUGMENTATION: ClassVar[Augmentation] = FULL
    PER_COLLECTION: ClassVar[bool] = True

    models: Mapping[str, str] = dataclasses.field(default_factory=dict)
    batch_size: int = setting(32, at_least=1)
    steps: int = setting(250, at_least=1, at_most=1000)

    def check_collections(self, collections: Sequence[str]) -> None:
        """See `Pretrained.check_collections`."""
        missing = [name for name in collections if name not in self.models]
        unknown = [name for name in self.models if name not in collections]
        if missing or unknown:
            lacking = [f"no model for {', '.join(missing)}"] if missing else []
            more = [f"one for {', '.join(unknown)}, not to be found among the collections"] if unknown else []
            raise UserError(
                f"{self.section}.models has {', and '.join(lacking + more)}. Give a folder or a name on the hub for "
                f"each of these names and no others: {', '.join(collections)}."
            )

    def of_collection(self, collection: str) -> Self:
        """See `Adapter.of_collection`."""
        if collection in self.models:
            return self.replace(model=self.models[collection], models={})
        if collection:
            self.check_collections([*self.models, collection])
        if not self.model:
            self.refuse("model", "give the one of this folder; `models` is for the collections of a comparison")
        return self

    def begin(self) -> Running:
        """See `Adapter.begin`."""
        torch = models.torch()
        transformer = models.load(self, "diffusers", "DiTTransformer2DModel", subfolder="transformer")
        vae = models.load(self, "diffusers", "AutoencoderKL", subfolder="vae")

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
