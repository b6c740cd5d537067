"""The class that an image classifier of transformers names first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from jaxweights.bias.adapters import models
from jaxweights.bias.adapters.folder import JSON, Input, Running, Step
from jaxweights.bias.adapters.table import TableTask
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class LabelSettings(TableTask):
    """The first class of every image: of ImageNet as published, or a collection where the classifier was trained to
    tell these apart.

    Attributes:
      collection: name of the collection that the images are of, where classes are collections: tables of several
        collections, one behind the other, are then what `objects.reference` reads.
    """

    SECTION: ClassVar[str] = "label"

    batch_size: int = setting(32, at_least=1)
    collection: str = ""

    def step(self) -> Step:
        """What makes `{"name", "score"}` of every image, and `{"collection", "predicted"}` where one is given."""

        def begin() -> Running:
            loaded = models.load(self, "transformers", "AutoModelForImageClassification")
            processor, torch = models.processor(self), models.torch()
            names = models.class_names(self, loaded.model)

            def prepare(given: Input) -> np.ndarray:
                return processor(images=given.image, return_tensors="np")["pixel_values"][0]

            def run(pixels: Sequence[np.ndarray]) -> list[dict[str, Any]]:
                batch = torch.from_numpy(np.stack(pixels)).to(loaded.device, loaded.dtype)
                with torch.inference_mode():
                    found = loaded.model(pixel_values=batch).logits.float().softmax(dim=-1).max(dim=-1)
                told = zip(found.indices.tolist(), found.values.tolist(), strict=True)
                return [self._row(names[index], score) for index, score in told]

            return Running(run, prepare, weights=loaded.weights)

        return Step("labels", self.facts, begin, self.batch_size, form=JSON)

    def _row(self, name: str, score: float) -> dict[str, Any]:
        reference = {"collection": self.collection, "predicted": name} if self.collection else {}
        return {"name": name, "score": round(score, 6), **reference}
