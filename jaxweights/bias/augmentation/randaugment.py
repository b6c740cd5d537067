"""RandAugment (Cubuk et al., arXiv 1909.13719) in the form of timm's `rand-m9-mstd0.5-inc1`.

Fifteen operations of Pillow on bytes, each of which is one of three: a table of 256 values for every channel, a blend
with a simpler image, an affine map. So every image goes through each of the three and keeps the one that was drawn.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxweights.bias.augmentation.crops import whole
from jaxweights.settings import Settings, setting

OPERATIONS = (
    "auto_contrast",
    "equalize",
    "invert",
    "posterize",
    "solarize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
_TABLES, _BLENDS = 6, 10  # where the operations of each kind end
_LEVELS = 10.0
FILL = (124.0, 116.0, 104.0)
"""ImageNet's mean in bytes, outside of the image."""
_LUMINANCE = (19595, 38470, 7471)  # of 65536, Pillow's


@dataclasses.dataclass(frozen=True)
class RandAugment(Settings):
    """How much images are changed.

    Attributes:
      operations: drawn for every image, one after the other.
      magnitude: mean level of the operations, of 10.
      magnitude_std: its standard deviation.
      probability: that a drawn operation takes place.
    """

    SECTION: ClassVar[str] = "bias.classifier.augment"

    operations: int = setting(2, at_least=0, at_most=10)
    magnitude: float = setting(9.0, at_least=0, at_most=10)
    magnitude_std: float = setting(0.5, at_least=0)
    probability: float = setting(0.5, at_least=0, at_most=1)


def rand_augment(images: jax.Array, keys: jax.Array, settings: RandAugment) -> jax.Array:
    """Images changed by operations that are drawn for each.

    Args:
      images: `[B, H, W, 3]` float32, numbers that bytes have.
      keys: `[B]`.
      settings: see `RandAugment`.

    Returns:
      The same shape and range.
    """

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        for step in range(settings.operations):
            which, whether, level, sign = jax.random.split(jax.random.fold_in(key, step), 4)
            number = jax.random.randint(which, (), 0, len(OPERATIONS))
            drawn = settings.magnitude + settings.magnitude_std * jax.random.normal(level)
            changed = apply(image, number, jnp.clip(drawn, 0, _LEVELS), jax.random.rademacher(sign, (), jnp.float32))
            image = jnp.where(jax.random.uniform(whether) <= settings.probability, changed, image)
        return image

    return jax.vmap(one)(images, keys)


def apply(image: jax.Array, number: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """One operation on one image.

    Args:
      image: `[H, W, 3]` float32, numbers that bytes have.
      number: index in `OPERATIONS`.
      level: 0 ... 10.
      sign: 1 or -1, the direction of those that have one.
    """
    by_table = _looked_up(image, number, level)
    blended = _blended(image, number, jnp.maximum(0.1, 1.0 + sign * 0.9 * level / _LEVELS))
    moved = _moved(image, _matrix(number, sign * level / _LEVELS, image.shape[:2]))
    return jnp.where(number < _TABLES, by_table, jnp.where(number < _BLENDS, blended, moved))


def _looked_up(image: jax.Array, number: jax.Array, level: jax.Array) -> jax.Array:
    values, pixels = jnp.arange(256), image.astype(jnp.int32)
    per_channel = [pixels[..., c].reshape(-1) for c in range(image.shape[-1])]
    counts = [jnp.zeros(256, jnp.int32).at[channel].add(1) for channel in per_channel]
    bits = 4 - jnp.floor(level / _LEVELS * 4).astype(jnp.int32)
    threshold = 256 - jnp.minimum(256, jnp.floor(level / _LEVELS * 256).astype(jnp.int32))
    added = jnp.minimum(128, jnp.floor(level / _LEVELS * 110).astype(jnp.int32))
    common = [
        255 - values,
        (values >> (8 - bits)) << (8 - bits),
        jnp.where(values < threshold, values, 255 - values),
        jnp.where(values < 128, jnp.minimum(255, values + added), values),
    ]
    out = []
    for channel, count in zip(per_channel, counts, strict=True):
        tables = jnp.stack([_stretching(count), _equalising(count), *common])
        out.append(tables[jnp.minimum(number, _TABLES - 1)][channel])
    return jnp.stack(out, axis=-1).reshape(image.shape).astype(jnp.float32)


def _stretching(counts: jax.Array) -> jax.Array:
    """The table that brings the least value to 0 and the largest to 255."""
    values = jnp.arange(256)
    there = counts > 0
    low, high = jnp.argmax(there), 255 - jnp.argmax(there[::-1])
    stretched = jnp.clip((values - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
    return jnp.where(high > low, stretched, values)


def _equalising(counts: jax.Array) -> jax.Array:
    """The table that makes all values about equally frequent."""
    values = jnp.arange(256)
    last = counts[255 - jnp.argmax((counts > 0)[::-1])]
    step = (jnp.sum(counts) - last) // 255
    before = jnp.cumsum(counts) - counts + step // 2
    return jnp.where(step > 0, jnp.clip(before // jnp.maximum(step, 1), 0, 255), values)


def _blended(image: jax.Array, number: jax.Array, factor: jax.Array) -> jax.Array:
    red, green, blue = (image[..., c].astype(jnp.int32) * _LUMINANCE[c] for c in range(3))
    grey = ((red + green + blue + (1 << 15)) >> 16).astype(jnp.float32)
    mean = jnp.floor(jnp.mean(grey) + 0.5)
    simpler = jnp.stack(
        [
            jnp.broadcast_to(grey[..., None], image.shape),
            jnp.broadcast_to(mean, image.shape),
            jnp.zeros_like(image),
            _smooth(image),
        ]
    )[jnp.clip(number - _TABLES, 0, 3)]
    return jnp.clip(jnp.floor(simpler + factor * (image - simpler)), 0, 255)


def _smooth(image: jax.Array) -> jax.Array:
    """Pillow's `SMOOTH`: the middle weighs 5, each of 8 neighbours 1; the border stays."""
    height, width, _ = image.shape
    total = sum(image[i : i + height - 2, j : j + width - 2] for i in range(3) for j in range(3))
    inner = whole((total + 4 * image[1:-1, 1:-1]) / 13)
    return image.at[1:-1, 1:-1].set(inner)


def _matrix(number: jax.Array, share: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """`[2, 3]` from new pixels (column, row, 1) to old ones, in coordinates whose origin is a corner."""
    height, width = size
    angle = -share * math.radians(30.0)
    cos, sin, zero, one = jnp.cos(angle), jnp.sin(angle), jnp.zeros(()), jnp.ones(())
    x, y = width / 2, height / 2
    maps = [
        (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y),
        (one, 0.3 * share, zero, zero, one, zero),
        (one, zero, zero, 0.3 * share, one, zero),
        (one, zero, 0.45 * share * width, zero, one, zero),
        (one, zero, zero, zero, one, 0.45 * share * height),
    ]
    return jnp.stack([jnp.stack(entries) for entries in maps])[jnp.clip(number - _BLENDS, 0, 4)].reshape(2, 3)


def _moved(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Pillow's `transform(AFFINE, resample=BICUBIC)`, whose cubic has sharpness -1, over a background of `FILL`."""
    height, width, _ = image.shape
    rows, columns = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    across = matrix[0, 0] * columns + matrix[0, 1] * rows + matrix[0, 2]
    down = matrix[1, 0] * columns + matrix[1, 1] * rows + matrix[1, 2]
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    left, dx = jnp.floor(across - 0.5), across - 0.5 - jnp.floor(across - 0.5)
    top, dy = jnp.floor(down - 0.5), down - 0.5 - jnp.floor(down - 0.5)
    by_row = []
    for i in range(-1, 3):
        row = jnp.clip(top + i, 0, height - 1).astype(jnp.int32)
        taps = [image[row, jnp.clip(left + j, 0, width - 1).astype(jnp.int32)] for j in range(-1, 3)]
        by_row.append(_cubic(taps, dx[..., None]))
    found = jnp.clip(jnp.floor(_cubic(by_row, dy[..., None])), 0, 255)
    return jnp.where(inside[..., None], found, jnp.array(FILL)[None, None, :])


def _cubic(taps: list[jax.Array], d: jax.Array) -> jax.Array:
    """The cubic through the middle two of four taps, at a share of the way between them."""
    a, b, c, e = taps
    return b + d * ((c - a) + d * (2 * (a - b) + c - e + d * (b - a - c + e)))
