"""Images made anew from captions: what a caption keeps of an image, drawn by one model for all collections."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from jaxweights import files
from jaxweights.bias import reading
from jaxweights.bias.adapters import models
from jaxweights.bias.adapters.base import Adapter
from jaxweights.bias.adapters.folder import Failure, Input, Running
from jaxweights.bias.adapters.sd_vae import SIZE, to_size
from jaxweights.bias.transformations.base import FULL, Augmentation
from jaxweights.errors import UserError
from jaxweights.settings import setting

_CAPTION, _IMAGE, _DIGEST = "caption", "image", "digest"


class _Asked(NamedTuple):
    caption: str
    seed: int


@dataclasses.dataclass(frozen=True)
class TextToImage(Adapter):
    """A picture of an image's caption, by any text-to-image pipeline of `diffusers`.

    Attributes:
      captions: table of captions (`.jsonl`, `.csv`): `caption`, and `image`, the path below the folder that is
        converted, or `digest`, the hash of an image's pixels; see `launch.annotate`.
      steps: steps of a sample.
      guidance: weight of the caption; 0 for models that were distilled to need none.
      drawn_size: side of the pictures that the model makes; 0 for its own.
      size: side to which they are resized.
      variant: of the weights' files, such as "fp16"; empty for none.
    """

    KIND: ClassVar[str] = "text_to_image"
    AUGMENTATION: ClassVar[Augmentation] = FULL

    model: str = "stabilityai/sdxl-turbo"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    captions: str = ""
    steps: int = setting(1, at_least=1)
    guidance: float = setting(0.0, at_least=0)
    drawn_size: int = setting(0, at_least=0)
    size: int = setting(SIZE, at_least=8)
    variant: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """See `ModelSettings.facts`; the content of the captions counts, not their path."""
        path = self._path
        if not path.is_file():
            self.refuse("captions", "there is no such file; launch.annotate writes one")
        return {**super().facts, "captions": files.sha256(path)}

    @property
    def _path(self) -> pathlib.Path:
        return pathlib.Path(self.captions).expanduser()

    def begin(self) -> Running:
        """See `Adapter.begin`."""
        known, torch = read_captions(self._path), models.torch()
        options = {"variant": self.variant} if self.variant else {}
        loaded = models.load(self, "diffusers", "AutoPipelineForText2Image", **options)
        loaded.model.set_progress_bar_config(disable=True)
        sizes = {"height": self.drawn_size, "width": self.drawn_size} if self.drawn_size else {}

        def prepare(given: Input) -> _Asked | Failure:
            caption = known.get(given.digest) or known.get(given.name)
            return _Asked(caption, given.seed) if caption else Failure(f"has no caption in {self.captions}")

        def run(batch: Sequence[_Asked]) -> list[np.ndarray]:
            drawn = loaded.model(
                prompt=[asked.caption for asked in batch],
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                generator=[torch.Generator("cpu").manual_seed(asked.seed) for asked in batch],
                output_type="np",
                **sizes,
            ).images
            levels = np.round(np.clip(drawn, 0, 1) * 255).astype(np.uint8)
            return [to_size(picture, (self.size, self.size)) for picture in levels]

        return Running(run, prepare, weights=loaded.weights)


def read_captions(path: pathlib.Path) -> dict[str, str]:
    """Captions of a table, by the path of their image and by its digest, whichever are there. Where tables of several
    collections stand one behind the other, a path that is in two of them is left out and the digests count.

    Raises:
      UserError: no table of captions and images, or two captions of one image.
    """
    found, doubtful = dict[str, str](), set[str]()
    for row in reading.rows(path, (_CAPTION,)):
        caption, image, digest = str(row[_CAPTION]), row.get(_IMAGE), row.get(_DIGEST)
        if not image and not digest:
            raise UserError(f"{path} has a caption without {_IMAGE} or {_DIGEST}: {caption[:40]!r}. Add one.")
        for name in filter(None, (image, digest)):
            if found.setdefault(name, caption) == caption:
                continue
            if name == digest or not digest:
                raise UserError(f"{path} has two captions of {name}. Leave one.")
            doubtful.add(name)
    return {name: caption for name, caption in found.items() if name not in doubtful}
