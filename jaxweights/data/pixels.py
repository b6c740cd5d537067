"""Operations on whole sets of images: luminance, centre crop, moments."""

from __future__ import annotations

import numpy as np

from jaxweights.errors import UserError

# Pixels that are converted and summed at a time, so that no float64 copy of a whole set ever exists.
_BLOCK = 1 << 22


def to_grey(images: np.ndarray, where: str = "images") -> np.ndarray:
    """Returns luminance `[n, H, W, 1]` of colour images `[n, H, W, 3]`; grey images are returned unchanged.

    Bytes are rounded as Pillow's `convert("L")` does (ITU-R 601-2, 16-bit fixed point), which is what torchvision's
    `Grayscale` calls, so that the pixels equal those of the published zoos.

    Raises:
      UserError: neither one nor three channels.
    """
    if images.shape[-1] == 1:
        return images
    if images.shape[-1] != 3:
        raise UserError(f"{where}: grey needs images of 1 or 3 channels, these have {images.shape[-1]}.")
    grey = np.empty((*images.shape[:-1], 1), images.dtype)
    step = images_per_block(images)
    for start in range(0, len(images), step):
        block = images[start : start + step]
        if images.dtype == np.uint8:
            weighted = block.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
            grey[start : start + step, ..., 0] = (weighted + 0x8000) >> 16
        else:
            grey[start : start + step, ..., 0] = block @ np.array([0.299, 0.587, 0.114], np.float32)
    return grey


def centre_crop(images: np.ndarray, size: int, where: str = "images") -> np.ndarray:
    """Returns the central `size` by `size` pixels; an odd margin is split as torchvision's `CenterCrop` does.

    Raises:
      UserError: `size` is not between 1 and the smaller side.
    """
    height, width = images.shape[1:3]
    if not 1 <= size <= min(height, width):
        raise UserError(
            f"{where}: the centre crop is {size}, but the images are {height} by {width}; give a crop "
            f"from 1 to {min(height, width)}, or 0 for none."
        )
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.ascontiguousarray(images[:, top : top + size, left : left + size])


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and deviation per channel, `[C]` float64, of raw pixels."""
    pixels = images.reshape(-1, images.shape[-1])

    def average(function) -> np.ndarray:
        total = np.zeros(images.shape[-1])
        for start in range(0, len(pixels), _BLOCK):
            block = function(pixels[start : start + _BLOCK].astype(np.float64))
            # A product with ones sums over a long axis of short rows much faster than `sum` does.
            total += np.ones(len(block)) @ block
        return total / len(pixels)

    mean = average(lambda block: block)
    return mean, np.sqrt(average(lambda block: np.square(block - mean)))


def images_per_block(images: np.ndarray) -> int:
    """Number of images that are converted at a time."""
    return max(1, _BLOCK // (images.shape[1] * images.shape[2]))
