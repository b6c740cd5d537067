"""Semantic segmentation by any such model of `transformers`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from jaxweights.bias.adapters import colours, inputs, models
from jaxweights.bias.adapters.base import Adapter
from jaxweights.bias.adapters.folder import Input, Running
from jaxweights.bias.adapters.inputs import Prepared
from jaxweights.bias.adapters.models import ModelSettings
from jaxweights.bias.transformations.base import Augmentation
from jaxweights.settings import setting

MODEL = "facebook/mask2former-swin-large-ade-semantic"
"""Mask2Former on ADE20K, as published, but with Swin-L in place of ViT-Adapter-L with BEiTv2 weights."""
_BY_QUERIES = ("mask2former", "maskformer")
_NOT_OFFERED = ("oneformer", "eomt", "eomt_dinov3")


class Segmented(NamedTuple):
    """What an image shows where.

    Attributes:
      classes: `[H, W]` int16, numbers of classes.
      names: of all classes of the model, in their order.
    """

    classes: np.ndarray
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Segmentation(Adapter):
    """Every pixel in the colour of its class.

    Attributes:
      palette: "ade20k": the colours of that data set's 150 classes, in which a model of other classes is painted as
        well, those beyond 150 in white; "distinct": a colour of its own for every class.
      channels_of: "colour"; "class": a channel of 0 and 255 for each of the first `classes` classes.
      classes: number of these channels.
    """

    KIND: ClassVar[str] = "segmentation"
    AUGMENTATION: ClassVar[Augmentation] = Augmentation("crop", False, True)

    model: str = MODEL
    batch_size: int = setting(4, at_least=1)
    palette: Literal["ade20k", "distinct"] = "ade20k"
    channels_of: Literal["colour", "class"] = "colour"
    classes: int = setting(150, at_least=1, at_most=255)

    def channels(self, channels: int) -> int:
        """See `Transformation.channels`."""
        return self.classes if self.channels_of == "class" else super().channels(channels)

    def begin(self) -> Running:
        """See `Adapter.begin`."""
        running = segmenter(self)

        def run(batch: Sequence[Prepared]) -> list[np.ndarray]:
            return [self._picture(found) for found in running.run(batch)]

        return dataclasses.replace(running, run=run)

    def _picture(self, found: Segmented) -> np.ndarray:
        if self.channels_of == "class":
            return np.minimum(found.classes, 255).astype(np.uint8)
        ade20k = self.palette == "ade20k"
        return colours.painted(found.classes, colours.ade20k() if ade20k else colours.distinct(len(found.names)))

    def as_channels(self, picture: np.ndarray) -> np.ndarray:
        """See `Adapter.as_channels`."""
        if self.channels_of == "colour":
            return super().as_channels(picture)
        return (picture[..., None] == np.arange(self.classes)).astype(np.uint8) * 255


def segmenter(settings: ModelSettings, named: bool = False) -> Running:
    """A model that makes a `Segmented` of every image.

    Args:
      settings: of the model.
      named: whether names of classes are needed.

    Raises:
      UserError: see `models.load`, and `models.class_names` where names are needed; or a model that needs more than an
        image.
    """
    config = models.from_pretrained(settings, "transformers", "AutoConfig")
    if config.model_type in _NOT_OFFERED:
        settings.refuse("model", f"models of the kind {config.model_type} need more than an image; choose another kind")
    by_queries = config.model_type in _BY_QUERIES
    kind = "AutoModelForUniversalSegmentation" if by_queries else "AutoModelForSemanticSegmentation"
    loaded = models.load(settings, "transformers", kind)
    processor, torch = models.processor(settings), models.torch()
    by_number = models.class_names(settings, loaded.model) if named else loaded.model.config.id2label
    names = tuple(str(name) for _, name in sorted(by_number.items()))

    def prepare(given: Input) -> Prepared:
        return inputs.prepared(processor, given.image)

    def run(batch: Sequence[Prepared]) -> list[Segmented]:
        with torch.inference_mode():
            found = loaded.model(**inputs.stacked(batch, loaded))
            scores = _of_queries(torch, found) if by_queries else found.logits.float()
            each = [_classes(torch, one, of) for one, of in zip(scores, batch, strict=True)]
            return [Segmented(one.to(torch.int16).cpu().numpy(), names) for one in each]

    return Running(run, prepare, inputs.shapes, loaded.weights)


def _of_queries(torch: Any, found: Any) -> Any:
    """Scores of classes `[B, K, h, w]` of masks and their classes (Cheng et al., 2021, semantic inference)."""
    classes = found.class_queries_logits.float().softmax(dim=-1)[..., :-1]  # the last one is no object
    return torch.einsum("bqk,bqhw->bkhw", classes, found.masks_queries_logits.float().sigmoid())


def _classes(torch: Any, scores: Any, given: Prepared) -> Any:
    """Classes of the pixels of an image from scores `[K, h, w]`, which may reach beyond it where it was padded."""
    height, width = given.size
    mask, padded = given.tensors.get("pixel_mask"), (height, width)
    if mask is not None:
        inside = int(mask.any(dim=1).sum()), int(mask.any(dim=0).sum())
        padded = round(height * mask.shape[0] / inside[0]), round(width * mask.shape[1] / inside[1])
    large = torch.nn.functional.interpolate(scores[None], padded, mode="bilinear", align_corners=False)
    return large[0, :, :height, :width].argmax(dim=0)
