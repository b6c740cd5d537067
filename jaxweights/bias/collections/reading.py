"""From files to images of one size: decoding, resizing, re-encoding."""

from __future__ import annotations

import collections
import dataclasses
import io
import itertools
import math
import zlib
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import ClassVar, NamedTuple

import numpy as np

from jaxweights import extras, memory
from jaxweights.bias.collections.base import Collection, digest
from jaxweights.bias.resizing import at_most, squared
from jaxweights.data.inspection import Inspection
from jaxweights.settings import Settings, setting

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Names of Pillow's readers."""

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # of 8 bits per channel or fewer
_MODE_OF = {1: "L", 3: "RGB", 4: "RGBA"}  # of arrays, by their channels
_BLOCK = 256  # files that are decoded at a time, so that few of them are in memory


@dataclasses.dataclass(frozen=True)
class Reading(Settings):
    """How the images of a collection are brought to one form, in the order of the fields.

    Attributes:
      limit: images to keep, the first ones by name or in the order of the source; 0 for all.
      channels: 1 for grey images, 3 for colour; opacity is dropped.
      shrink: short side to which larger images are resized first, so that all lose the same detail; 0 for none.
      size: short side after resizing (bicubic), before the square in the middle is cut out; 0 to leave images as they
        are, which then must have one size.
      quality: quality of the JPEG that every image goes through last, to give all collections the same traces of
        compression; 0 for none.
      skip_bad: whether files that cannot be used are left out, and named, instead of refused.
    """

    SECTION: ClassVar[str] = "bias.collections"

    limit: int = setting(0, at_least=0)
    channels: int = setting(3, one_of=(1, 3))
    shrink: int = setting(0, at_least=0, at_most=8192)
    size: int = setting(0, at_least=0, at_most=8192)
    quality: int = setting(0, at_least=0, at_most=95)
    skip_bad: bool = False

    @property
    def words(self) -> str:
        """What is done to the images, for provenance."""
        steps = [f"shrunk to {self.shrink}"] * bool(self.shrink) + [f"resized to {self.size}"] * bool(self.size)
        steps += [f"JPEG of quality {self.quality}"] * bool(self.quality)
        return "".join(f", {step}" for step in steps)


class Item(NamedTuple):
    """An image before it is decoded.

    Attributes:
      name: for messages.
      content: bytes of the file, or pixels `[H, W, C]` uint8.
      label: class of what it shows, or -1.
    """

    name: str
    content: bytes | np.ndarray
    label: int = -1


class Decoded(NamedTuple):
    """An image.

    Attributes:
      image: `[H, W, channels]` uint8, brought to the form that is asked for.
      digest: hash of the pixels before, see `collections.digest`.
      format: what it was stored as.
      mode: kind of pixels that it was stored with.
      size: height and width before.
    """

    image: np.ndarray
    digest: str
    format: str
    mode: str
    size: tuple[int, int]


def read_items(name: str, items: Iterable[Item], count: int, reading: Reading, inspection: Inspection) -> Collection:
    """Makes a collection of images, decoded in threads.

    Args:
      name: name of the collection.
      items: in the order of the collection.
      count: number of items, or more.
      reading: what is done to each.
      inspection: takes items that cannot be used; it is settled here.

    Raises:
      UserError: items that cannot be used, unless they are skipped; or no good one.
    """
    images, good, labels = np.empty((0, 1, 1, reading.channels), np.uint8), list[Decoded](), list[int]()
    for item, decoded in _decoded(items, reading):
        if reading.limit and len(good) == reading.limit:
            break
        if isinstance(decoded, str):
            inspection.bad[item.name] = decoded
            continue
        if not good:
            images = _allocate(min(count, reading.limit or count), decoded.image.shape)
        if decoded.image.shape != images.shape[1:]:
            here, first = ("x".join(map(str, shape[:2])) for shape in (decoded.image.shape, images.shape[1:]))
            inspection.bad[item.name] = f"is {here}, not {first} as the first (set size to resize all)"
            continue
        images[len(good)] = decoded.image
        good.append(decoded._replace(image=images[:0]))  # one copy of the pixels
        labels.append(item.label)
    if not good and not inspection.bad:
        inspection.bad["it"] = "has no images"
    return Collection(
        name=name,
        images=images[: len(good)],
        digests=np.array([one.digest for one in good], dtype="U32"),
        source=f"{inspection.where}{reading.words}",
        formats=collections.Counter(one.format for one in good),
        modes=collections.Counter(one.mode for one in good),
        sizes=np.array([one.size for one in good], np.int32).reshape(-1, 2),
        shrink=reading.shrink,
        quality=reading.quality,
        labels=np.array(labels, np.int32) if labels and min(labels) >= 0 else None,
        skipped=inspection.settle(len(good)),
    )


def _decoded(items: Iterable[Item], reading: Reading) -> Iterator[tuple[Item, Decoded | str]]:
    """Items with their images, or with what is wrong with them."""
    rest = iter(items)
    with futures.ThreadPoolExecutor() as pool:  # Pillow releases the interpreter lock
        while block := list(itertools.islice(rest, _BLOCK)):
            yield from zip(block, pool.map(lambda item: decode(item.content, reading), block), strict=True)


def decode(content: bytes | np.ndarray, reading: Reading) -> Decoded | str:
    """One image, from a file's bytes or pixels `[H, W, C]` uint8, or what is wrong with it."""
    with extras.importing("bias"):
        from PIL import Image

    if isinstance(content, np.ndarray):
        mode, kind = _MODE_OF.get(content.shape[-1]), "array"
        if mode is None:
            return f"has {content.shape[-1]} channels, not {', '.join(map(str, _MODE_OF))}"
        pixels = _channels(Image.fromarray(content[..., 0] if mode == "L" else content), reading.channels)
    else:
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                mode, kind = picture.mode, picture.format or "unknown"
                if mode not in _MODES:
                    return f"has pixels of mode {mode}, not of 8 bits"
                pixels = _channels(picture, reading.channels)
        except Image.UnidentifiedImageError:
            return "is empty" if not content else f"is none of {', '.join(FORMATS)}"
        # A broken PNG chunk is a SyntaxError of Pillow's, not of Python's.
        except (OSError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError) as error:
            return f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})"
    size = pixels.shape[0], pixels.shape[1]
    return Decoded(formed(pixels, reading), digest(pixels), kind, mode, size)


def _channels(picture, channels: int) -> np.ndarray:
    """A picture of Pillow's as `[H, W, channels]` uint8."""
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # where a palette has opacity, Pillow warns of any other way
    return np.asarray(picture.convert("L" if channels == 1 else "RGB")).reshape(picture.height, picture.width, channels)


def formed(image: np.ndarray, reading: Reading) -> np.ndarray:
    """An image `[H, W, C]` uint8 shrunk, resized and re-encoded."""
    image = at_most(image, reading.shrink)
    image = squared(image, reading.size) if reading.size else image
    return through_jpeg(image, reading.quality) if reading.quality else image


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """An image `[H, W, C]` uint8, C 1 or 3, encoded by Pillow as JPEG and decoded again."""
    with extras.importing("bias"):
        from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as picture:
        return np.asarray(picture).reshape(image.shape)


def _allocate(count: int, shape: tuple[int, ...]) -> np.ndarray:
    cure = "Set size lower, or limit the number of images"
    part = memory.Part("its pixels", count * math.prod(shape), cure)
    memory.refuse_unless_fits(f"A collection of {count} images {shape}", [part], memory.host())
    return np.empty((count, *shape), np.uint8)
