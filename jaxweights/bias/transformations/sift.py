"""Key points of SIFT, drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from jaxweights import extras
from jaxweights.bias.resizing import resized
from jaxweights.bias.transformations.base import CROP_FLIP, Augmentation, Library
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class SIFT(Library):
    """Key points of OpenCV's SIFT (its defaults) on black: a circle of the point's scale, a radius in its direction.

    Attributes:
      colours: "fixed" draws in white; "random" gives every key point a colour of OpenCV's generator, as the published
        code does, here seeded image by image.
      side: images are resized to this short side first; 0 to leave them.
    """

    KIND: ClassVar[str] = "sift"
    TINY: ClassVar[Mapping[str, Any]] = {"side": 32}
    AUGMENTATION: ClassVar[Augmentation] = CROP_FLIP
    LIBRARY: ClassVar[str] = "cv2"

    colours: Literal["fixed", "random"] = "fixed"
    side: int = setting(500, at_least=0)

    def one(self, image: np.ndarray, seed: int) -> np.ndarray:
        """See `Library.one`."""
        with extras.importing("bias"):
            import cv2

        image = np.ascontiguousarray(resized(image, self.side)[..., :3])
        points = cv2.SIFT_create().detect(image, None)  # type: ignore[attr-defined]
        cv2.setRNGSeed(seed)  # of this thread's generator
        colour = (255, 255, 255) if self.colours == "fixed" else (-1, -1, -1)
        flags = cv2.DRAW_MATCHES_FLAGS_DRAW_RICH_KEYPOINTS
        black = np.zeros(image.shape, np.uint8)
        drawn = cv2.drawKeypoints(black, points, None, color=colour, flags=flags)  # type: ignore[call-overload]
        return drawn[..., : image.shape[-1]]
