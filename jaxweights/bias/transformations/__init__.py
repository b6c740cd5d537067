"""Transformations of images, by name.

To add one: a frozen dataclass that derives from `Arithmetic`, `Library`, `Fitted` or `Pretrained`, in a file of its
own, and one line in `TRANSFORMATIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxweights import settings
from jaxweights.bias.adapters.depth import Depth
from jaxweights.bias.adapters.detection import Detection
from jaxweights.bias.adapters.dit import DiT
from jaxweights.bias.adapters.sam import SAM
from jaxweights.bias.adapters.sd_vae import SDVAE
from jaxweights.bias.adapters.segmentation import Segmentation
from jaxweights.bias.adapters.text_to_image import TextToImage
from jaxweights.bias.transformations.autoencoder import VAE
from jaxweights.bias.transformations.base import (
    Arithmetic,
    Augmentation,
    Fitted,
    Library,
    Pretrained,
    Stage,
    Transformation,
    as_floats,
)
from jaxweights.bias.transformations.concatenation import Concatenation
from jaxweights.bias.transformations.edges import Canny
from jaxweights.bias.transformations.frequency import HighPass, LowPass
from jaxweights.bias.transformations.generation import Generation
from jaxweights.bias.transformations.hog import HOG
from jaxweights.bias.transformations.identity import Identity
from jaxweights.bias.transformations.mean_rgb import MeanRGB
from jaxweights.bias.transformations.pipeline import Place, accessed, fit, stored, transform
from jaxweights.bias.transformations.shuffles import PatchShuffle, PixelShuffle
from jaxweights.bias.transformations.sift import SIFT
from jaxweights.bias.transformations.slic import SLIC

__all__ = [
    "TRANSFORMATIONS",
    "Arithmetic",
    "Augmentation",
    "Fitted",
    "Library",
    "Place",
    "Pretrained",
    "Stage",
    "Transformation",
    "accessed",
    "as_floats",
    "fit",
    "make",
    "stored",
    "transform",
]

_ON_DEVICE = (Identity, MeanRGB, PixelShuffle, PatchShuffle, LowPass, HighPass, HOG)
_BY_LARGE_MODELS = (SAM, Segmentation, Depth, Detection, SDVAE, TextToImage, DiT)
_KINDS = (*_ON_DEVICE, Canny, SIFT, SLIC, VAE, Generation, *_BY_LARGE_MODELS, Concatenation)
TRANSFORMATIONS: dict[str, type[Transformation]] = {kind.KIND: kind for kind in _KINDS}


def make(values: str | Mapping[str, Any], section: str = "bias.transformations") -> Transformation:
    """A transformation from a config.

    Args:
      values: its kind, or a mapping with `kind` and any of its settings.
      section: where the values stand, for messages.

    Raises:
      UserError: an unknown kind or setting, or a value that a setting cannot have.
    """
    return settings.make_kind(TRANSFORMATIONS, values, section)
