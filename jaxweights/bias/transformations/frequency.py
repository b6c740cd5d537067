"""Low-pass and high-pass filters of the two-dimensional Fourier transform."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.bias.transformations.base import CROP_FLIP, Arithmetic, Augmentation, Stage
from jaxweights.bias.transformations.grey import luminance, on_all_channels
from jaxweights.settings import setting

_SMALL = 1e-5  # in place of the distance 0, and added to the range of an image


@dataclasses.dataclass(frozen=True)
class _Filter(Arithmetic):
    """A filter of luminance, stretched to [0, 1] image by image and repeated on all channels.

    Attributes:
      threshold: distance from the centre of the shifted transform, in coefficients; the ideal low-pass keeps distances
        up to it, the ideal high-pass those beyond.
      butterworth: whether the mask is Butterworth's, which falls smoothly and is 1/2 at the threshold.
      order: of Butterworth's.
    """

    STAGE: ClassVar[Stage] = Stage.AFTER
    AUGMENTATION: ClassVar[Augmentation] = CROP_FLIP
    LOW: ClassVar[bool]
    TINY: ClassVar[Mapping[str, Any]] = {"threshold": 3.0}

    threshold: float = setting(40.0, above=0.0)
    butterworth: bool = False
    order: int = setting(2, at_least=1, at_most=20)

    def mask(self, height: int, width: int) -> np.ndarray:
        """`[height, width // 2 + 1]` float32 weights of the coefficients of `rfft2`."""
        # Rounded to the whole numbers that they are, so that distances equal to the threshold count as such.
        down, across = np.rint(np.fft.fftfreq(height) * height), np.rint(np.fft.rfftfreq(width) * width)
        distance = np.sqrt(down[:, None] ** 2 + across[None, :] ** 2)
        if self.butterworth:
            distance = np.maximum(distance, _SMALL)
            ratio = distance / self.threshold if self.LOW else self.threshold / distance
            return (1 / (1 + ratio ** (2 * self.order))).astype(np.float32)
        kept = distance <= self.threshold
        return (kept if self.LOW else ~kept).astype(np.float32)

    def apply(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """See `Arithmetic.apply`."""
        del keys
        _, height, width, channels = images.shape
        spectrum = jnp.fft.rfft2(luminance(images)) * jnp.asarray(self.mask(height, width))[None]
        return on_all_channels(stretched(jnp.fft.irfft2(spectrum, (height, width))), channels)


@dataclasses.dataclass(frozen=True)
class LowPass(_Filter):
    """What low frequencies show; see `_Filter` for the settings."""

    KIND: ClassVar[str] = "low_pass"
    LOW: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class HighPass(_Filter):
    """What high frequencies show; see `_Filter` for the settings."""

    KIND: ClassVar[str] = "high_pass"
    LOW: ClassVar[bool] = False


def stretched(values: jax.Array) -> jax.Array:
    """`[B, H, W]` with the least value of each image at 0 and the largest just below 1; constant images are 0."""
    least = jnp.min(values, axis=(1, 2), keepdims=True)
    most = jnp.max(values, axis=(1, 2), keepdims=True)
    return (values - least) / (most - least + _SMALL)
