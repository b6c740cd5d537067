"""Names of what images show: of objects by a detector, of classes by a semantic segmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from jaxweights.bias.adapters import detection, segmentation
from jaxweights.bias.adapters.base import SIDE
from jaxweights.bias.adapters.detection import Detections
from jaxweights.bias.adapters.folder import JSON, Running, Step
from jaxweights.bias.adapters.segmentation import Segmented
from jaxweights.bias.adapters.table import TableTask
from jaxweights.settings import setting

_DIGITS = 6  # of a score


@dataclasses.dataclass(frozen=True)
class DetectSettings(TableTask):
    """Objects by a detector, the surest first; an object that is there several times has several names.

    Attributes:
      threshold: least score of an object; `objects.least_score` may leave out more.
    """

    SECTION: ClassVar[str] = "detect"

    model: str = detection.MODEL
    batch_size: int = setting(4, at_least=1)
    threshold: float = setting(detection.THRESHOLD, at_least=0.0, at_most=1.0)

    def step(self) -> Step:
        """What makes `{"names", "scores"}` of every image."""
        return _step("objects", self, lambda: _told(detection.detector(self, self.threshold), _objects))


@dataclasses.dataclass(frozen=True)
class SegmentSettings(TableTask):
    """Classes by a semantic segmentation, the largest first; the score is the share of an image's pixels."""

    SECTION: ClassVar[str] = "segment"

    model: str = segmentation.MODEL
    batch_size: int = setting(4, at_least=1)

    def step(self) -> Step:
        """What makes `{"names", "scores"}` of every image."""
        return _step("classes", self, lambda: _told(segmentation.segmenter(self, named=True), _classes))


def _step(name: str, task: TableTask, begin: Callable[[], Running]) -> Step:
    return Step(name, task.facts, begin, task.batch_size, SIDE, JSON)


def _told(running: Running, row: Callable[[Any], dict[str, Any]]) -> Running:
    """A model whose outputs become rows."""

    def run(batch: Sequence[Any]) -> list[dict[str, Any]]:
        return [row(found) for found in running.run(batch)]

    return dataclasses.replace(running, run=run)


def _objects(found: Detections) -> dict[str, Any]:
    return {"names": list(found.names), "scores": [round(float(score), _DIGITS) for score in found.scores]}


def _classes(found: Segmented) -> dict[str, Any]:
    numbers, counts = np.unique(found.classes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shares = counts[order] / found.classes.size
    return {"names": [found.names[i] for i in numbers[order]], "scores": [round(float(s), _DIGITS) for s in shares]}
