"""PNG and JPEG images to and from arrays, through Pillow."""

from __future__ import annotations

import functools
import io
import itertools
import zlib
from collections.abc import Iterable
from concurrent import futures
from typing import TYPE_CHECKING

import numpy as np

from jaxweights import extras
from jaxweights.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

# Pillow's modes of 8 bits per channel: grey, colour, colour with opacity.
_MODES = {"L": 1, "RGB": 3, "RGBA": 4}
_FORMATS = ("PNG", "JPEG")
# Number of files given to the threads at a time, so that few of them are in memory.
_BLOCK = 256


def decode_images(
    encoded: Iterable[bytes], count: int, where: str, resize: int = 0, channels: int | None = None
) -> np.ndarray:
    """Decodes images of one size, or of several sizes with resizing.

    Args:
      encoded: bytes of the PNG or JPEG files.
      count: number of images.
      where: file name, for error messages.
      resize: side of the resized square images (see `resize_picture`), 0 for no resizing.
      channels: number of channels of resized images, 1 or 3; None for that of the first image.

    Returns:
      `[count, H, W, C]` uint8; `[0, 1, 1, 1]` when there is none.

    Raises:
      UserError: an image is damaged, not of 8 bits per channel, or of another size than the first one.
    """
    rows = enumerate(encoded)
    first = next(rows, None)
    if first is None:
        return np.empty((0, 1, 1, 1), np.uint8)
    start = _decode(where, resize, channels, first)
    images = np.empty((count, *start.shape), np.uint8)
    images[0] = start
    decode = functools.partial(_decode, where, resize, start.shape[-1])
    with futures.ThreadPoolExecutor() as pool:  # Pillow releases the interpreter lock
        while block := list(itertools.islice(rows, _BLOCK)):
            for (row, _), image in zip(block, pool.map(decode, block), strict=True):
                if image.shape != start.shape:
                    raise UserError(
                        f"{where}: image {row} has shape {image.shape}, the first one {start.shape}; set "
                        "config.data.resize for images of several sizes."
                    )
                images[row] = image
    return images


def _decode(where: str, resize: int, channels: int | None, item: tuple[int, bytes]) -> np.ndarray:
    """One image `[H, W, C]` uint8, given its row and the bytes of its file."""
    with extras.importing("data"):
        from PIL import Image

    row, data = item
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            mode = picture.mode
            if resize:
                wanted = next((name for name, count in _MODES.items() if count == channels), None)
                resized = resize_picture(picture.convert(wanted or (mode if mode in _MODES else "RGB")), resize)
                image = np.asarray(resized)
            else:
                image = np.asarray(picture)
    # A broken PNG chunk is a SyntaxError of Pillow's, not of Python's.
    except (OSError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: image {row} cannot be decoded ({error}); the file is damaged.") from error
    if mode not in _MODES and not resize:
        raise UserError(f"{where}: image {row} is of mode {mode}; 8-bit grey or colour images are needed.")
    return image[..., None] if image.ndim == 2 else image


def resize_picture(picture: Image.Image, side: int) -> Image.Image:
    """Resizes the shorter side to `side`, bilinearly, and crops the centre: torchvision's `Resize(side)` and
    `CenterCrop(side)`."""
    with extras.importing("data"):
        from PIL import Image

    size = [side * pixels // min(picture.size) for pixels in picture.size]
    left, top = (round((pixels - side) / 2) for pixels in size)
    return picture.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))


def resize_images(images: np.ndarray, side: int) -> np.ndarray:
    """Resizes images `[n, H, W, C]`, uint8 or float32, as `resize_picture` does, to `[n, side, side, C]`."""
    with extras.importing("data"):
        from PIL import Image

    resized = np.empty((len(images), side, side, images.shape[-1]), images.dtype)
    # Channel by channel, since Pillow has no pictures of several float channels.
    for row, channel in np.ndindex(len(images), images.shape[-1]):
        resized[row, ..., channel] = resize_picture(Image.fromarray(images[row, ..., channel]), side)
    return resized


def encode_png(image: np.ndarray) -> bytes:
    """Returns one image `[H, W, C]` uint8 with 1, 3 or 4 channels as the bytes of a PNG file, without loss."""
    with extras.importing("data"):
        from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()
