"""PNG and JPEG images to and from arrays, through Pillow."""

from __future__ import annotations

import functools
import io
import itertools
import math
import zlib
from collections.abc import Iterable
from concurrent import futures
from typing import TYPE_CHECKING

import numpy as np

from jaxweights import extras, memory
from jaxweights.data.inspection import Inspection
from jaxweights.data.raw import Reading

if TYPE_CHECKING:
    from PIL import Image

# Pillow's modes of 8 bits per channel: grey, colour, colour with opacity.
_MODES = {"L": 1, "RGB": 3, "RGBA": 4}
_FORMATS = ("PNG", "JPEG")
# Number of files given to the threads at a time, so that few of them are in memory.
_BLOCK = 256


def decode_images(
    encoded: Iterable[bytes], count: int, inspection: Inspection, what: str, reading: Reading
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes images of one size, or of several sizes with resizing.

    Args:
      encoded: bytes of the PNG or JPEG files.
      count: largest number of images.
      inspection: takes images that are damaged, not of 8 bits per channel, or of another size than the first good one.
      what: what the images are called there, in the plural.
      reading: resizing.

    Returns:
      The good images, `[n, H, W, C]` uint8 (`[0, 1, 1, 1]` when there is none), and their rows `[n]`.
    """
    rows, images = enumerate(encoded), np.empty((0, 1, 1, 1), np.uint8)
    good: list[int] = []
    bad: dict[str, list[int]] = {}

    def keep(row: int, image: np.ndarray | str) -> None:
        nonlocal images
        if not good and not isinstance(image, str):
            images = _allocate((count, *image.shape), np.uint8)
        if isinstance(image, str):
            bad.setdefault(image, []).append(row)
        elif image.shape != images.shape[1:]:
            reason = f"have another size than image {good[0]}, {images.shape[1:]} (set config.data.resize)"
            bad.setdefault(reason, []).append(row)
        else:
            images[len(good)] = image
            good.append(row)

    for row, data in rows:
        keep(row, _decode(reading.resize, reading.channels, data))
        if good:
            break
    decode = functools.partial(_decode, reading.resize, images.shape[-1])
    with futures.ThreadPoolExecutor() as pool:  # Pillow releases the interpreter lock
        while block := list(itertools.islice(rows, _BLOCK)):
            for (row, _), image in zip(block, pool.map(decode, (data for _, data in block)), strict=True):
                keep(row, image)
    for reason, of in bad.items():
        inspection.rows(what, of, reason)
    return images[: len(good)], np.array(good, np.int64)


def _decode(resize: int, channels: int | None, data: bytes) -> np.ndarray | str:
    """One image `[H, W, C]` uint8 from the bytes of its file, or what is wrong with it, in the plural."""
    with extras.importing("data"):
        from PIL import Image

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
    except (OSError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError):
        return "cannot be decoded as PNG or JPEG: they are damaged"
    if mode not in _MODES and not resize:
        return f"are of mode {mode}, not 8-bit grey or colour"
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

    resized = _allocate((len(images), side, side, images.shape[-1]), images.dtype)
    # Channel by channel, since Pillow has no pictures of several float channels.
    for row, channel in np.ndindex(len(images), images.shape[-1]):
        resized[row, ..., channel] = resize_picture(Image.fromarray(images[row, ..., channel]), side)
    return resized


def _allocate(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An array for images.

    Raises:
      UserError: it does not fit in the memory of the machine.
    """
    cure = "Set config.data.resize lower, or fewer images by config.data.train_limit and test_limit"
    part = memory.Part("their pixels", math.prod(shape) * np.dtype(dtype).itemsize, cure)
    memory.refuse_unless_fits(f"An array of images {shape}", [part], memory.host())
    return np.empty(shape, dtype)


def encode_png(image: np.ndarray) -> bytes:
    """Returns one image `[H, W, C]` uint8 with 1, 3 or 4 channels as the bytes of a PNG file, without loss."""
    with extras.importing("data"):
        from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()
