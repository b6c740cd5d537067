"""What transformations by libraries share: resizing by Pillow, pictures on all channels."""

from __future__ import annotations

import numpy as np

from jaxweights import extras


def at_most(image: np.ndarray, side: int) -> np.ndarray:
    """An image `[H, W, C]` uint8 whose short side is at most `side` pixels; 0 for any."""
    return resized(image, side) if side and min(image.shape[:2]) > side else image


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """An image `[H, W, C]` uint8 of 1, 3 or 4 channels, resized by Pillow's bicubic filter to a short side of `side`
    pixels; 0 to leave it."""
    height, width, channels = image.shape
    if not side or min(height, width) == side:
        return image
    with extras.importing("bias"):
        from PIL import Image

    tall, wide = (side * pixels // min(height, width) for pixels in (height, width))
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(picture.resize((wide, tall), Image.Resampling.BICUBIC)).reshape(tall, wide, channels)


def repeated(picture: np.ndarray, channels: int) -> np.ndarray:
    """`[H, W]` as `[H, W, channels]`."""
    return np.repeat(picture[..., None], channels, axis=-1)
