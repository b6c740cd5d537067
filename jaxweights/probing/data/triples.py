"""Three real digits side by side: which combinations of them come out?"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import data as datasets
from jaxweights.data.known import KNOWN
from jaxweights.errors import UserError
from jaxweights.probing.data.base import DesignedData, each, left_open
from jaxweights.probing.features import Design, Feature
from jaxweights.settings import setting

DIGITS, CLASSES = 3, 10


@dataclasses.dataclass(frozen=True)
class Triples(DesignedData):
    """Three images of real digits side by side, each a random one of its class, bright on black.

    Features: `left`, `middle` and `right`, 0 ... 9; one that is left open is uniform.

    Attributes:
      source: name of a set of ten classes of grey images: digits (embedded, 8 x 8 pixels), mnist, or what else
        `jaxweights.data.load` finds.
      data_dir: folder of sets that are not embedded; None for that of tensorflow-datasets.
      resize: side of a digit's image; 0 for images as they are.
      per_class: images of every class, at most, the first ones.
      part: "train" or "test" images of the set.
    """

    KIND: ClassVar[str] = "triples"

    source: str = "digits"
    data_dir: str | None = None
    resize: int = setting(0, at_least=0, at_most=64)
    per_class: int = setting(500, at_least=1, at_most=5000)
    part: str = setting("train", one_of=("train", "test"))

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `DesignedData.shape`."""
        height, width = self.images.shape[2:4]
        return height, DIGITS * width, 1

    @property
    def features(self) -> tuple[Feature, ...]:
        """See `DesignedData.features`."""
        return tuple(Feature.counted(name, 0, CLASSES - 1) for name in ("left", "middle", "right"))

    @property
    def images(self) -> np.ndarray:
        """The digits that there are, `[10, m, H, W, 1]` uint8, repeated where a class has fewer.

        Raises:
          UserError: an unknown or absent set, or one of other images.
        """
        return _classes(self)

    def unseen(self) -> DesignedData:
        """Triples of test images, which an estimator does not learn from."""
        return self.replace(part="test")

    def check(self, design: Design) -> None:
        """See `DesignedData.check`."""
        super().check(design)
        given = design.values[~np.isnan(design.values)]
        if ((given != np.round(given)) | (given < 0) | (given >= CLASSES)).any():
            raise UserError("A design of triples asks for other digits than whole numbers from 0 to 9.")

    def render(self, values: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `DesignedData.render`."""
        return each(functools.partial(_one, jnp.asarray(self.images)), values, keys)


def _one(images: jax.Array, values: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    digits, which = jax.random.split(key)
    exact = left_open(values, jax.random.randint(digits, (DIGITS,), 0, CLASSES).astype(jnp.float32))
    chosen = jax.random.randint(which, (DIGITS,), 0, images.shape[1])
    side_by_side = images[exact.astype(jnp.int32), chosen].transpose(1, 0, 2, 3)
    image = side_by_side.reshape(images.shape[2], DIGITS * images.shape[3], 1)
    return image.astype(jnp.float32) / 255, exact


def of_set(data: Triples) -> datasets.Dataset:
    """The labelled digits, of bytes from 0 to 255.

    Raises:
      UserError: see `Triples.images`.
    """
    loaded = datasets.load(data.source, data.data_dir, resize=data.resize, grey=True)
    if loaded.num_classes != CLASSES or loaded.train_images.dtype != np.uint8:
        raise UserError(
            f"{data.section}.source is {data.source!r}, of {loaded.num_classes} classes and "
            f"{loaded.train_images.dtype} pixels; give a set of {CLASSES} classes of bytes, such as digits or mnist."
        )
    full = KNOWN[loaded.name].full_scale if loaded.name in KNOWN else 255.0
    train, test = (np.round(x * (255 / full)).astype(np.uint8) for x in (loaded.train_images, loaded.test_images))
    return dataclasses.replace(
        loaded, train_images=train, test_images=test, scale=loaded.scale * np.float32(full / 255)
    )


@functools.lru_cache(maxsize=4)
def _classes(data: Triples) -> np.ndarray:
    loaded = of_set(data)
    images, labels = {
        "train": (loaded.train_images, loaded.train_labels),
        "test": (loaded.test_images, loaded.test_labels),
    }[data.part]
    rows = [np.flatnonzero(labels == digit)[: data.per_class] for digit in range(CLASSES)]
    most = max(map(len, rows))
    return images[np.stack([np.resize(own, most) for own in rows])]
