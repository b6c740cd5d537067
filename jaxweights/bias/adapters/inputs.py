"""Images as a processor of `transformers` prepares them, one by one in threads, and batches of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxweights.bias.adapters import models
from jaxweights.bias.adapters.models import Loaded


class Prepared(NamedTuple):
    """An image for a model.

    Attributes:
      tensors: what the model takes, by name, without the axis of the batch.
      size: height and width of the image before it was prepared.
    """

    tensors: dict[str, Any]
    size: tuple[int, int]


def prepared(processor: Any, image: np.ndarray) -> Prepared:
    """An image `[H, W, 3]` uint8 by a processor."""
    made = processor(images=image, return_tensors="pt", input_data_format="channels_last")
    return Prepared({name: values[0] for name, values in made.items()}, (image.shape[0], image.shape[1]))


def shapes(given: Prepared) -> Hashable:
    """What images of a batch have in common."""
    return tuple((name, tuple(values.shape)) for name, values in given.tensors.items())


def stacked(batch: Sequence[Prepared], loaded: Loaded) -> dict[str, Any]:
    """Images on the device of a model, pixels in its numbers."""
    torch = models.torch()
    whole = {name: torch.stack([given.tensors[name] for given in batch]) for name in batch[0].tensors}
    return {
        name: values.to(loaded.device, loaded.dtype if values.is_floating_point() else None)
        for name, values in whole.items()
    }
