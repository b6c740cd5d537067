"""Contours of what Segment Anything finds: automatic masks of a grid of points (Kirillov et al., 2023)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from jaxweights.bias.adapters import inputs, models
from jaxweights.bias.adapters.base import Adapter
from jaxweights.bias.adapters.folder import Input, Running
from jaxweights.bias.adapters.inputs import Prepared
from jaxweights.bias.adapters.models import Loaded
from jaxweights.bias.transformations.base import CROP_FLIP, Augmentation
from jaxweights.bias.transformations.slic import contours
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class SAM(Adapter):
    """White contours between the masks of Segment Anything, on black. Masks are painted over one another into one map
    of regions; a pixel is on a contour where one of its four neighbours is in another region.

    Attributes:
      points_per_side: points of the grid along each side of an image.
      points_per_batch: points that are asked for at a time.
      least_iou: least quality of a mask that the model predicts.
      least_stability: least overlap of a mask drawn at a threshold above and below the usual one.
      stability_offset: distance of these thresholds.
      most_overlap: overlap of boxes above which the worse mask is left out.
      top: which mask is seen where several overlap: the one of the "highest" predicted quality, or the "lowest", as
        the published code paints them, whose description says the opposite.
    """

    KIND: ClassVar[str] = "sam"
    AUGMENTATION: ClassVar[Augmentation] = CROP_FLIP

    model: str = "facebook/sam-vit-large"
    batch_size: int = setting(4, at_least=1)
    points_per_side: int = setting(32, at_least=1)
    points_per_batch: int = setting(64, at_least=1)
    least_iou: float = setting(0.88, at_least=0, at_most=1)
    least_stability: float = setting(0.95, at_least=0, at_most=1)
    stability_offset: float = setting(1.0, at_least=0)
    most_overlap: float = setting(0.7, at_least=0, at_most=1)
    top: Literal["highest", "lowest"] = "highest"

    def begin(self) -> Running:
        """See `Adapter.begin`."""
        loaded = models.load(self, "transformers", "SamModel")
        processor, torch = models.processor(self), models.torch()

        def prepare(given: Input) -> Prepared:
            return inputs.prepared(processor, given.image)

        def run(batch: Sequence[Prepared]) -> list[np.ndarray]:
            with torch.inference_mode():
                pixels = inputs.stacked([_pixels(given) for given in batch], loaded)
                embedded = loaded.model.get_image_embeddings(**pixels)
                return [self._contours(loaded, one[None], of) for one, of in zip(embedded, batch, strict=True)]

        return Running(run, prepare, inputs.shapes, loaded.weights)

    def _contours(self, loaded: Loaded, embedded: Any, given: Prepared) -> np.ndarray:
        torch, reshaped = models.torch(), given.tensors["reshaped_input_sizes"].tolist()
        places = torch.from_numpy(grid(self.points_per_side) * np.float32(reshaped[::-1]))
        parts = [
            self._masks(loaded, embedded, points.to(loaded.device, loaded.dtype), given)
            for points in places.split(self.points_per_batch)
        ]
        masks, scores = (torch.cat(each) for each in zip(*parts, strict=True))
        kept = distinct(boxes(torch, masks).cpu().numpy(), scores.cpu().numpy(), self.most_overlap)
        if self.top == "highest":
            kept = kept[::-1]
        regions = torch.zeros(given.size, dtype=torch.int16, device=masks.device)
        for number, mask in enumerate(masks[torch.from_numpy(kept.copy()).to(masks.device)], 1):
            regions[mask] = number
        return contours(regions.cpu().numpy())

    def _masks(self, loaded: Loaded, embedded: Any, points: Any, given: Prepared) -> tuple[Any, Any]:
        """Good masks `[k, H, W]` bool of some points, and their predicted qualities `[k]`."""
        torch = models.torch()
        found = loaded.model(image_embeddings=embedded, input_points=points[None, :, None, :])
        scores = found.iou_scores[0].flatten().float()
        good = scores > self.least_iou
        low, scores = found.pred_masks[0].flatten(0, 1)[good].float(), scores[good]
        values = _enlarged(torch, low, given)
        inner = (values > self.stability_offset).sum(dim=(1, 2))
        outer = (values > -self.stability_offset).sum(dim=(1, 2))
        stable = inner > self.least_stability * outer
        return values[stable] > 0, scores[stable]


def _pixels(given: Prepared) -> Prepared:
    return given._replace(tensors={"pixel_values": given.tensors["pixel_values"]})


def _enlarged(torch: Any, low: Any, given: Prepared) -> Any:
    """Masks `[k, h, w]` of the padded square at the size of the image, `[k, H, W]`."""
    if not len(low):
        return low.new_zeros((0, *given.size))
    square = tuple(given.tensors["pixel_values"].shape[-2:])
    height, width = given.tensors["reshaped_input_sizes"].tolist()
    whole = torch.nn.functional.interpolate(low[:, None], square, mode="bilinear", align_corners=False)
    inside = whole[..., :height, :width]
    return torch.nn.functional.interpolate(inside, given.size, mode="bilinear", align_corners=False)[:, 0]


def grid(per_side: int) -> np.ndarray:
    """`[per_side ** 2, 2]` float32, centres of equal cells of the unit square: x, y."""
    centres = (np.arange(per_side, dtype=np.float32) + 0.5) / per_side
    return np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)


def boxes(torch: Any, masks: Any) -> Any:
    """`[k, 4]` float32 left, top, right, bottom, the last two inclusive, of masks `[k, H, W]` with a pixel each."""

    def ends(along: Any) -> tuple[Any, Any]:
        count = along.shape[1]
        return along.int().argmax(dim=1), count - 1 - along.flip(1).int().argmax(dim=1)

    (left, right), (top, bottom) = ends(masks.any(dim=1)), ends(masks.any(dim=2))
    return torch.stack([left, top, right, bottom], dim=1).float()


def distinct(found: np.ndarray, scores: np.ndarray, most_overlap: float) -> np.ndarray:
    """Rows of boxes `[k, 4]`, the best first, without those that overlap a better one that is kept by more
    (non-maximum suppression)."""
    order = np.argsort(-scores, kind="stable")
    hides = _overlapping(found[order], most_overlap)
    kept = np.ones(len(order), bool)
    while True:  # the first n rows are final after n rounds, most often all of them after a few
        now = np.logical_not(np.any(hides & kept[:, None], axis=0))
        if np.array_equal(now, kept):
            return order[kept].astype(np.int64)
        kept = now


def _overlapping(boxes: np.ndarray, most_overlap: float) -> np.ndarray:
    """`[k, k]` bool, whether a box, the row, overlaps a later one, the column, by more."""
    left, top, right, bottom = boxes.T
    areas = (right - left) * (bottom - top)
    wide = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    tall = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
    shared = np.maximum(wide, 0) * np.maximum(tall, 0)
    return np.triu(shared > most_overlap * (areas[:, None] + areas - shared), k=1)
