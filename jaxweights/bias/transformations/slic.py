"""Contours of superpixels, a stand-in for those of Segment Anything that needs no trained model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from jaxweights import extras
from jaxweights.bias.resizing import at_most
from jaxweights.bias.transformations.base import CROP_FLIP, Augmentation, Library
from jaxweights.bias.transformations.grey import repeated
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class SLIC(Library):
    """White contours between the superpixels of scikit-image's SLIC, on black.

    Attributes:
      segments: superpixels that are asked for.
      compactness: weight of places against colours.
      side: larger images are resized to this short side first; 0 to leave them.
    """

    KIND: ClassVar[str] = "slic"
    TINY: ClassVar[Mapping[str, Any]] = {"segments": 4}
    AUGMENTATION: ClassVar[Augmentation] = CROP_FLIP
    LIBRARY: ClassVar[str] = "skimage"

    segments: int = setting(100, at_least=2)
    compactness: float = setting(10.0, above=0.0)
    side: int = setting(500, at_least=0)

    def one(self, image: np.ndarray, seed: int) -> np.ndarray:
        """See `Library.one`."""
        del seed
        with extras.importing("bias"):
            from skimage.segmentation import slic

        small = at_most(image, self.side)
        # Grey images as colours, so that SLIC measures both in Lab.
        colours = np.repeat(small, 3, axis=-1) if small.shape[-1] == 1 else small[..., :3]
        regions = slic(colours, self.segments, self.compactness, start_label=0, channel_axis=-1)
        return repeated(contours(np.asarray(regions)), image.shape[-1])


def contours(regions: np.ndarray) -> np.ndarray:
    """255 where one of a pixel's four neighbours is in another region, else 0; the border of the image is always 0.

    Args:
      regions: `[H, W]` numbers of regions.

    Returns:
      `[H, W]` uint8.
    """
    edge = np.zeros(regions.shape, bool)
    down, across = regions[1:] != regions[:-1], regions[:, 1:] != regions[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[[0, -1]] = edge[:, [0, -1]] = False
    return edge.astype(np.uint8) * 255
