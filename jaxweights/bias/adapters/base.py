"""A transformation of images by a large pre-trained model."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Self

import numpy as np

from jaxweights import extras, parallel, settings
from jaxweights.bias.adapters import folder as folders
from jaxweights.bias.adapters import models
from jaxweights.bias.adapters.folder import Converted, Running, Step
from jaxweights.bias.adapters.models import ModelSettings
from jaxweights.bias.collections.base import digest
from jaxweights.bias.transformations.base import Pretrained
from jaxweights.errors import UserError
from jaxweights.settings import setting

SIDE = 500
"""The longest short side of arXiv 2412.01876's code."""


@dataclasses.dataclass(frozen=True)
class Adapter(Pretrained, ModelSettings):
    """A transformation by a model of `transformers` or `diffusers`.

    Attributes:
      side: larger images are resized to this short side first; 0 to leave them.
    """

    side: int = setting(SIDE, at_least=0)

    @abc.abstractmethod
    def begin(self) -> Running:
        """Loads the model; its outputs are pictures `[H, W]` or `[H, W, 3]` uint8.

        Raises:
          UserError: see `models.load`.
        """

    def of_collection(self, collection: str) -> Self:
        """These settings with the model of a collection, where each has its own; empty for images of none.

        Raises:
          UserError: there is none for this collection.
        """
        del collection
        return self

    def ready(self, collections: Sequence[str]) -> None:
        """See `Pretrained.ready`."""
        models.torch()
        for name in collections:
            models.find(self.of_collection(name))

    def step(self, collection: str = "") -> Step:
        """What is done to the images of a collection."""
        own = self.of_collection(collection)
        return Step(
            name=self.KIND,
            facts=settings.plain(own.facts),
            begin=lambda: models.within_memory(own, own.begin()),
            batch_size=self.batch_size,
            side=self.side,
        )

    def of_images(
        self, images: np.ndarray, digests: Sequence[str], collection: str, folder: pathlib.Path | None
    ) -> np.ndarray:
        """See `Pretrained.of_images`."""
        if folder is None:
            with tempfile.TemporaryDirectory() as temporary:
                return self.of_images(images, digests, collection, pathlib.Path(temporary))
        step = self.step(collection)
        name = hashlib.blake2b(json.dumps(step.facts, sort_keys=True).encode(), digest_size=10).hexdigest()
        # Of the pixels too: one image may come in several forms.
        own = [_name(digest(image), origin) for image, origin in zip(images, digests, strict=True)]
        made = folders.convert(
            step,
            dict(zip(own, images, strict=True)),
            folder / f"{self.KIND}-{name}",
            dict(zip(own, digests, strict=True)),
        )
        if made.failed:
            raise UserError(f"{self.section}: {folders.complaint(made)} Remove these images.")
        return _read([made.outputs[name] for name in own], self.as_channels)

    def as_channels(self, picture: np.ndarray) -> np.ndarray:
        """A picture `[H, W]` or `[H, W, 3]` as it was written, as `[H, W, C]` uint8."""
        return np.repeat(picture[..., None], 3, axis=-1) if picture.ndim == 2 else picture


def convert_folder(
    transformation: Adapter, source: pathlib.Path | str, target: pathlib.Path | str, collection: str = ""
) -> Converted:
    """Transforms the images below a folder; see `folder.convert`.

    Args:
      transformation: what is done.
      source: folder of images of any sizes.
      target: outside of it, gets a PNG for every image under the image's path.
      collection: name of the collection that they are of, where each has a model of its own.

    Raises:
      UserError: no images, a target of something else, or a model that cannot be loaded.
    """
    folders.refuse_within(source, target)
    return folders.convert(transformation.step(collection), folders.listed(source), target)


def _name(pixels: str, origin: str) -> str:
    """Path of an output below the folder of its transformation: few files in one folder."""
    name = hashlib.blake2b(f"{pixels} {origin}".encode(), digest_size=16).hexdigest()
    return f"{name[:2]}/{name}"


def _read(paths: Sequence[pathlib.Path], form: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Pictures of one size, each brought to a form, as `[n, H, W, C]` uint8."""
    with extras.importing("adapters"):
        from PIL import Image

    def one(path: pathlib.Path) -> np.ndarray:
        try:
            with Image.open(path) as picture:
                return form(np.asarray(picture))
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"{path} is no picture any more ({error}). Remove it and run again.") from error

    first = one(paths[0])
    out = np.empty((len(paths), *first.shape), np.uint8)
    with futures.ThreadPoolExecutor(parallel.num_cores()) as pool:
        for row, picture in enumerate(pool.map(one, paths)):
            out[row] = picture
    return out
