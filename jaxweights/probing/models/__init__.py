"""Generative models of images, by kind.

To add one: a frozen dataclass that derives from `ImageModel`, in a file of its own, and one line in `MODELS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxweights import settings
from jaxweights.probing.models.base import ImageModel
from jaxweights.probing.models.diffusion import Diffusion
from jaxweights.probing.models.flow import Flow
from jaxweights.probing.models.gan import DCGAN, WGAN
from jaxweights.probing.models.pixelcnn import PixelCNN
from jaxweights.probing.models.vae import VAE

__all__ = ["MODELS", "ImageModel", "make"]

_KINDS = (VAE, WGAN, DCGAN, Diffusion, Flow, PixelCNN)
MODELS: dict[str, type[ImageModel]] = {kind.KIND: kind for kind in _KINDS}


def make(name: str, values: str | Mapping[str, Any]) -> ImageModel:
    """A model from a config.

    Args:
      name: its name among the models.
      values: its kind, or a mapping with `kind` and any of its settings.

    Raises:
      UserError: an unknown kind or setting, or a value that a setting cannot have.
    """
    values = {"kind": values} if isinstance(values, str) else values
    return settings.make_kind(MODELS, {**values, "name": name}, f"probing.models.{name}")
