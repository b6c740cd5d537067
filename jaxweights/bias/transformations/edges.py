"""Edges by Canny's detector."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from jaxweights import extras
from jaxweights.bias.resizing import at_most
from jaxweights.bias.transformations.base import CROP, Augmentation, Library
from jaxweights.bias.transformations.grey import repeated
from jaxweights.settings import setting

LOW, HIGH, SIDE = 85, 255, 500
"""Thresholds and the longest short side of arXiv 2412.01876's code."""


@dataclasses.dataclass(frozen=True)
class Canny(Library):
    """White edges on black: OpenCV's Canny of the image, all channels together, blurred by a 3 x 3 Gaussian (1/4, 1/2,
    1/4). Sobel windows of 3 x 3, gradients measured as sums of absolute values.

    Attributes:
      low: gradient above which a pixel continues an edge.
      high: gradient above which it begins one.
      side: larger images are resized to this short side first; 0 to leave them.
    """

    KIND: ClassVar[str] = "canny"
    AUGMENTATION: ClassVar[Augmentation] = CROP
    LIBRARY: ClassVar[str] = "cv2"

    low: float = setting(LOW, at_least=0)
    high: float = setting(HIGH, at_least=0)
    side: int = setting(SIDE, at_least=0)

    def one(self, image: np.ndarray, seed: int) -> np.ndarray:
        """See `Library.one`."""
        del seed
        with extras.importing("bias"):
            import cv2

        # Sigma 0 lets OpenCV choose the kernel by its size: 1/4, 1/2, 1/4.
        blurred = cv2.GaussianBlur(at_most(image, self.side), (3, 3), 0)
        edges = cv2.Canny(blurred, self.low, self.high, apertureSize=3, L2gradient=False)
        return repeated(edges, image.shape[-1])
