"""Depth maps by Depth Anything, or any depth estimator of `transformers`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from jaxweights.bias.adapters import inputs, models
from jaxweights.bias.adapters.base import Adapter
from jaxweights.bias.adapters.folder import Input, Running
from jaxweights.bias.adapters.inputs import Prepared
from jaxweights.bias.transformations.base import CROP_FLIP, Augmentation


@dataclasses.dataclass(frozen=True)
class Depth(Adapter):
    """Estimated depth, from the least of an image in black to its largest in white.

    Attributes:
      swap_channels: gives the model blue, green, red, as the published code does, which passes colours to a function
        that expects them in OpenCV's order.
    """

    KIND: ClassVar[str] = "depth"
    AUGMENTATION: ClassVar[Augmentation] = CROP_FLIP

    model: str = "depth-anything/Depth-Anything-V2-Large-hf"
    swap_channels: bool = False

    def begin(self) -> Running:
        """See `Adapter.begin`."""
        loaded = models.load(self, "transformers", "AutoModelForDepthEstimation")
        processor, torch = models.processor(self), models.torch()

        def prepare(given: Input) -> Prepared:
            return inputs.prepared(processor, given.image[..., ::-1] if self.swap_channels else given.image)

        def run(batch: Sequence[Prepared]) -> list[np.ndarray]:
            with torch.inference_mode():
                depths = loaded.model(**inputs.stacked(batch, loaded)).predicted_depth.float()
                return [levels(_resized(torch, depth, of.size)) for depth, of in zip(depths, batch, strict=True)]

        return Running(run, prepare, inputs.shapes, loaded.weights)


def _resized(torch: Any, depth: Any, size: tuple[int, int]) -> np.ndarray:
    """A map `[h, w]` at the size of its image, as the published model's own code resizes it."""
    large = torch.nn.functional.interpolate(depth[None, None], size, mode="bilinear", align_corners=True)
    return large[0, 0].cpu().numpy()


def levels(depth: np.ndarray) -> np.ndarray:
    """A map `[H, W]` from its least value to its largest as truncated bytes; zeros where all values are one."""
    least, largest = depth.min(), depth.max()
    if not largest > least:
        return np.zeros(depth.shape, np.uint8)
    return ((depth - least) / (largest - least) * 255).astype(np.uint8)
