"""PNG and JPEG images to and from arrays, through Pillow."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable

import numpy as np

from jaxweights.errors import UserError

# Pillow's modes of 8 bits per channel: grey, colour, colour with opacity.
_MODES = ("L", "RGB", "RGBA")
_FORMATS = ("PNG", "JPEG")


def decode_images(encoded: Iterable[bytes], count: int, where: str) -> np.ndarray:
    """Decodes images of one size.

    Args:
      encoded: the PNG or JPEG files' bytes.
      count: how many there are.
      where: file that error messages name.

    Returns:
      `[count, H, W, C]` uint8; `[0, 1, 1, 1]` when there is none.

    Raises:
      UserError: an image is damaged, not of 8 bits per channel, or of another size than the first one.
    """
    from PIL import Image

    images = np.empty((0, 1, 1, 1), np.uint8)
    for row, data in enumerate(encoded):
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                mode, image = picture.mode, np.asarray(picture)
        # A broken PNG chunk is a SyntaxError of Pillow's, not of Python's.
        except (OSError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError) as error:
            raise UserError(f"{where}: image {row} cannot be decoded ({error}); the file is damaged.") from error
        if mode not in _MODES:
            raise UserError(f"{where}: image {row} is of mode {mode}; 8-bit grey or colour images are needed.")
        if image.ndim == 2:
            image = image[..., None]
        if row == 0:
            images = np.empty((count, *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            raise UserError(f"{where}: image {row} has shape {image.shape}, the first one {images.shape[1:]}.")
        images[row] = image
    return images


def encode_png(image: np.ndarray) -> bytes:
    """Returns one image `[H, W, C]` uint8 with 1, 3 or 4 channels as the bytes of a PNG file, without loss."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()
