"""Luminance of images that may be grey already, and pictures of one channel on all of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

LUMINANCE = (0.299, 0.587, 0.114)
"""Shares of red, green and blue (ITU-R 601-2)."""


def luminance(images: jax.Array) -> jax.Array:
    """`[B, H, W]` of images `[B, H, W, C]`: of the first three channels, or of the only one."""
    if images.shape[-1] < 3:
        return images[..., 0]
    # One by one: XLA's sum over an axis of three took fifty times as long on CPU.
    red, green, blue = (images[..., channel] * share for channel, share in enumerate(LUMINANCE))
    return red + green + blue


def on_all_channels(grey: jax.Array, channels: int) -> jax.Array:
    """`[B, H, W]` as `[B, H, W, channels]`, the same on every channel."""
    return jnp.broadcast_to(grey[..., None], (*grey.shape, channels))


def repeated(picture: np.ndarray, channels: int) -> np.ndarray:
    """`[H, W]` as `[H, W, channels]`."""
    return np.repeat(picture[..., None], channels, axis=-1)
