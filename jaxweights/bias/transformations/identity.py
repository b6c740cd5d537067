"""The images themselves."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax

from jaxweights.bias.transformations.base import FULL, Arithmetic, Augmentation, Stage


@dataclasses.dataclass(frozen=True)
class Identity(Arithmetic):
    """The images as they are, the reference of all transformations."""

    KIND: ClassVar[str] = "identity"
    STAGE: ClassVar[Stage] = Stage.BEFORE
    AUGMENTATION: ClassVar[Augmentation] = FULL
    BYTES: ClassVar[bool] = True

    def apply(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Returns the images."""
        del keys
        return images
