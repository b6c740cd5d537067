"""Images and texts in one space, by a CLIP model of transformers (Radford et al., arXiv 2103.00020)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from jaxweights.bias import embeddings
from jaxweights.bias.adapters import models
from jaxweights.bias.adapters.folder import JSON, Failure, Input, Running, Step
from jaxweights.bias.adapters.table import TableTask
from jaxweights.errors import UserError
from jaxweights.settings import setting

_TEXTS = 64  # embedded at a time
_KIND = "CLIPModel"


@dataclasses.dataclass(frozen=True)
class EmbedSettings(TableTask):
    """Embeddings of images by a CLIP model."""

    SECTION: ClassVar[str] = "embed"

    batch_size: int = setting(32, at_least=1)

    def step(self) -> Step:
        """What makes `{"embedding"}` of every image, see `embeddings.encoded`."""

        def begin() -> Running:
            loaded = models.load(self, "transformers", _KIND)
            processor, torch = models.processor(self), models.torch()

            def prepare(given: Input) -> np.ndarray:
                return processor(images=given.image, return_tensors="np")["pixel_values"][0]

            def run(pixels: Sequence[np.ndarray]) -> list[dict[str, str] | Failure]:
                batch = torch.from_numpy(np.stack(pixels)).to(loaded.device, loaded.dtype)
                with torch.inference_mode():
                    found = loaded.model.get_image_features(pixel_values=batch).pooler_output
                return [_row(vector) for vector in found.float().cpu().numpy()]

            return Running(run, prepare, weights=loaded.weights)

        return Step("embeddings", self.facts, begin, self.batch_size, form=JSON)


def _row(vector: np.ndarray) -> dict[str, str] | Failure:
    usable = np.isfinite(vector).all() and vector.any()
    return {"embedding": embeddings.encoded(vector)} if usable else Failure("got an embedding of no direction")


def embed_texts(model: embeddings.Model, texts: Sequence[str]) -> np.ndarray:
    """Embeddings of texts by the model that embedded images.

    Args:
      model: of `embeddings.read`.
      texts: n of them; what is longer than the model reads is cut off.

    Returns:
      `[n, D]` float32 of length 1.

    Raises:
      UserError: see `models.load`; or its weights are not those that embedded the images.
    """
    settings = EmbedSettings(model=model.name, revision=model.revision, dtype=model.dtype)  # type: ignore[arg-type]
    loaded = models.load(settings, "transformers", _KIND)
    if loaded.weights != model.weights:
        raise UserError(
            f"{model.name} has other weights ({loaded.weights}) than those that embedded the images ({model.weights}). "
            "Embed the images anew with launch.annotate --task=embed."
        )
    tokenizer: Any = models.from_pretrained(settings, "transformers", "AutoTokenizer")
    torch, found = models.torch(), []
    for start in range(0, len(texts), _TEXTS):
        given = tokenizer(list(texts[start : start + _TEXTS]), padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            vectors = loaded.model.get_text_features(**given.to(loaded.device)).pooler_output
        found.append(vectors.float().cpu().numpy())
    vectors = np.concatenate(found)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
