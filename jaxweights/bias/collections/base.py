"""Collections of images: what is classified by source."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """Images of one source, brought to one size.

    Attributes:
      name: name of the collection, the label that a classifier is asked for.
      images: `[n, H, W, C]` uint8.
      digests: `[n]`, a hash of the pixels as they came from the source, before resizing and re-encoding: the group of
        an example, which never lies on both sides of a split.
      source: provenance: what was read, and what was done to it.
      formats: number of images by the format that they are stored in, e.g. `{"JPEG": 90, "PNG": 10}`.
      modes: number of images by the kind of pixels that they are stored with, as Pillow calls them.
      sizes: `[n, 2]` int32, height and width before resizing.
      shrink: short side to which larger images were resized before all others; 0 for none.
      quality: of the JPEG that all images went through after resizing; 0 for none.
      labels: `[n]` int32 classes of what the images show; None where they are not known.
      skipped: bad items that were left out, one sentence each.
    """

    name: str
    images: np.ndarray
    digests: np.ndarray
    source: str
    formats: Mapping[str, int]
    modes: Mapping[str, int]
    sizes: np.ndarray
    shrink: int = 0
    quality: int = 0
    labels: np.ndarray | None = None
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of an image."""
        return self.images.shape[1], self.images.shape[2], self.images.shape[3]

    def take(self, rows: np.ndarray, name: str | None = None) -> Collection:
        """Some of the images, in a given order, maybe under another name. The counts of formats stay those of all."""
        return dataclasses.replace(
            self,
            name=self.name if name is None else name,
            images=self.images[rows],
            digests=self.digests[rows],
            sizes=self.sizes[rows],
            labels=None if self.labels is None else self.labels[rows],
        )


def digest(image: np.ndarray) -> str:
    """Hash of an image's shape and pixels, 32 hexadecimal digits."""
    found = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    found.update(np.ascontiguousarray(image).data)
    return found.hexdigest()


def from_arrays(name: str, images: np.ndarray, labels: np.ndarray | None = None, source: str = "") -> Collection:
    """A collection of images `[n, H, W, C]` uint8 that are in memory."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(images.shape[-1], f"{images.shape[-1]} channels")
    return Collection(
        name=name,
        images=images,
        digests=np.array([digest(image) for image in images], dtype="U32"),
        source=source or f"{len(images)} images in memory",
        formats={"array": len(images)},
        modes={mode: len(images)},
        sizes=np.tile(np.array([images.shape[1:3]], np.int32), (len(images), 1)),
        labels=labels,
    )
