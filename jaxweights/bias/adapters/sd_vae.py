"""Reconstruction by the autoencoder of a latent diffusion model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from jaxweights import extras
from jaxweights.bias.adapters import models
from jaxweights.bias.adapters.base import Adapter
from jaxweights.bias.adapters.folder import Input, Running
from jaxweights.bias.adapters.models import EXTRA
from jaxweights.bias.transformations.base import FULL, Augmentation
from jaxweights.settings import setting

SIZE = 256
"""Side of the pictures that models of arXiv 2412.01876 make."""


@dataclasses.dataclass(frozen=True)
class SDVAE(Adapter):
    """Images squashed to a square, encoded to the mean of their latents, decoded, and stretched to their size again.

    Attributes:
      size: side of the square.
      subfolder: where in the model's files the autoencoder is, such as "vae" in those of a pipeline.
    """

    KIND: ClassVar[str] = "sd_vae"
    AUGMENTATION: ClassVar[Augmentation] = FULL

    model: str = "stabilityai/sd-vae-ft-ema"
    size: int = setting(SIZE, at_least=8)
    subfolder: str = ""

    def begin(self) -> Running:
        """See `Adapter.begin`."""
        options = {"subfolder": self.subfolder} if self.subfolder else {}
        loaded, torch = models.load(self, "diffusers", "AutoencoderKL", **options), models.torch()

        def prepare(given: Input) -> tuple[np.ndarray, tuple[int, int]]:
            return to_size(given.image, (self.size, self.size)), (given.image.shape[0], given.image.shape[1])

        def run(batch: Sequence[tuple[np.ndarray, tuple[int, int]]]) -> list[np.ndarray]:
            levels = torch.from_numpy(np.stack([image for image, _ in batch])).to(loaded.device)
            with torch.inference_mode():
                pixels = (levels.permute(0, 3, 1, 2).float() / 127.5 - 1).to(loaded.dtype)
                made = loaded.model.decode(loaded.model.encode(pixels).latent_dist.mean).sample
            return [to_size(image, size) for image, (_, size) in zip(pictures(made), batch, strict=True)]

        return Running(run, prepare, weights=loaded.weights)


def pictures(values: object) -> np.ndarray:
    """Outputs `[B, 3, H, W]` of a decoder, in [-1, 1], as `[B, H, W, 3]` uint8."""
    levels = (values.float().clamp(-1, 1) + 1) * 127.5  # type: ignore[attr-defined]
    return levels.round().byte().permute(0, 2, 3, 1).cpu().numpy()


def to_size(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image `[H, W, 3]` uint8, resized by Pillow's bicubic filter to a height and width."""
    if image.shape[:2] == size:
        return image
    with extras.importing(EXTRA):
        from PIL import Image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))
