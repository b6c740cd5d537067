"""Detected objects: boxes and names by any object detector of `transformers`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from jaxweights import extras
from jaxweights.bias.adapters import colours, folder, inputs, models
from jaxweights.bias.adapters.base import Adapter
from jaxweights.bias.adapters.folder import Form, Input, Running, Step
from jaxweights.bias.adapters.inputs import Prepared
from jaxweights.bias.adapters.models import EXTRA, ModelSettings
from jaxweights.bias.transformations.base import FULL, Augmentation
from jaxweights.settings import setting

MODEL = "facebook/deformable-detr-box-supervised"
"""A detector of the 1,203 classes of LVIS that is in transformers, which the published one, ViTDet-H, is not. The
script of transformers that converted it gives it LVIS's names and a backbone of its own, without timm."""
THRESHOLD = 0.5
_LINE = 2  # pixels of an outline
_LETTERS = 12  # pixels of a name's height


class Detections(NamedTuple):
    """Objects of an image, the surest first.

    Attributes:
      boxes: `[k, 4]` float32, left, top, right, bottom in pixels of the image.
      names: k names.
      scores: `[k]` float32.
      labels: `[k]` int64, numbers of their classes.
      size: height and width of the image.
      num_classes: of the model.
    """

    boxes: np.ndarray
    names: tuple[str, ...]
    scores: np.ndarray
    labels: np.ndarray
    size: tuple[int, int]
    num_classes: int


@dataclasses.dataclass(frozen=True)
class Detection(Adapter):
    """Outlines of objects with their names on white, a colour for each class; white where there are none.

    Attributes:
      threshold: least score of an object.
      named: whether names are written, as published; without them the layout alone is left.
    """

    KIND: ClassVar[str] = "detection"
    AUGMENTATION: ClassVar[Augmentation] = FULL

    model: str = MODEL
    batch_size: int = setting(4, at_least=1)
    threshold: float = setting(THRESHOLD, at_least=0, at_most=1)
    named: bool = True

    def begin(self) -> Running:
        """See `Adapter.begin`; its outputs are `Detections`, which are drawn as they are written."""
        return detector(self, self.threshold, self.named)

    def step(self, collection: str = "") -> Step:
        """See `Adapter.step`."""
        return dataclasses.replace(super().step(collection), form=Form(folder.PICTURE.suffix, self._write))

    def _write(self, path: pathlib.Path, found: Detections) -> None:
        folder.PICTURE.write(path, drawn(found, self.named))


def detector(settings: ModelSettings, threshold: float = THRESHOLD, named: bool = True) -> Running:
    """A model that makes `Detections` of every image.

    Args:
      settings: of the model.
      threshold: least score of an object.
      named: whether names are needed; else classes without any are numbered.

    Raises:
      UserError: see `models.load`, and `models.class_names` where names are needed.
    """
    loaded = models.load(settings, "transformers", "AutoModelForObjectDetection")
    processor, torch = models.processor(settings), models.torch()
    names = models.class_names(settings, loaded.model) if named else loaded.model.config.id2label

    def prepare(given: Input) -> Prepared:
        return inputs.prepared(processor, given.image)

    def run(batch: Sequence[Prepared]) -> list[Detections]:
        with torch.inference_mode():
            found = loaded.model(**inputs.stacked(batch, loaded))
            sizes = [given.size for given in batch]
            kept = processor.post_process_object_detection(found, threshold=threshold, target_sizes=sizes)
        return [_detections(one, names, size) for one, size in zip(kept, sizes, strict=True)]

    return Running(run, prepare, inputs.shapes, loaded.weights)


def _detections(found: dict, names: dict[int, str], size: tuple[int, int]) -> Detections:
    scores, labels, boxes = (found[key].float().cpu().numpy() for key in ("scores", "labels", "boxes"))
    order = np.argsort(-scores, kind="stable")
    labels = labels[order].astype(np.int64)
    named = tuple(str(names[int(label)]) for label in labels)
    return Detections(boxes[order].reshape(-1, 4), named, scores[order], labels, size, len(names))


def drawn(found: Detections, named: bool) -> np.ndarray:
    """Outlines, and names if wanted, on white: `[H, W, 3]` uint8; the surest objects on top."""
    with extras.importing(EXTRA):
        from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (found.size[1], found.size[0]), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_LETTERS)
    palette = colours.distinct(found.num_classes)
    for box, name, label in list(zip(found.boxes, found.names, found.labels, strict=True))[::-1]:
        left, top, right, bottom = np.round(box).astype(int).tolist()
        colour = tuple(palette[label].tolist())
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=_LINE)
        if named:
            draw.text((left + _LINE + 1, top + _LINE), name, fill=colour, font=font)
    return np.asarray(picture)
