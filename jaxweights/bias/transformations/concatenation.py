"""Several transformations of an image, one behind the other on the channel axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.bias.transformations.base import (
    CROP,
    CROP_FLIP,
    FULL,
    Augmentation,
    Fitted,
    Pretrained,
    Stage,
    Transformation,
    as_floats,
)
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class Concatenation(Transformation):
    """The outcomes of two transformations or more, as channels of one image: what one of them adds to another.

    What is computed before the augmentation is stored for every part; parts that act on access find their images as
    stored channels. The augmentation is the weakest of the parts'.

    Attributes:
      parts: kinds, or mappings with `kind` and settings; their outcomes have one height and width.
    """

    KIND: ClassVar[str] = "concatenation"
    STAGE: ClassVar[Stage] = Stage.AFTER
    AUGMENTATION: ClassVar[Augmentation] = FULL

    parts: tuple[Any, ...] = setting(("identity", "canny"), length=(2, 8))

    def __post_init__(self) -> None:
        super().__post_init__()
        # Plain and hashable, whatever a config gives.
        object.__setattr__(self, "parts", tuple(map(_frozen, self.parts)))
        if any(isinstance(part, Concatenation | Fitted) or _per_collection(part) for part in self.transformations):
            self.refuse("parts", "concatenations of concatenations and of models of a collection are not offered")

    @property
    def transformations(self) -> tuple[Transformation, ...]:
        """The parts."""
        from jaxweights.bias.transformations import make  # the registry has this class in it

        return tuple(
            make(part if isinstance(part, str) else dict(part), f"{self.section}.parts") for part in self.parts
        )

    @property
    def stage(self) -> Stage:
        """The latest of the parts'."""
        return max(part.stage for part in self.transformations)

    @property
    def augmentation(self) -> Augmentation:
        """The weakest of the parts'."""
        groups = [CROP, CROP_FLIP, FULL]
        return min((part.augmentation for part in self.transformations), key=lambda found: groups.index(found))

    @property
    def random(self) -> bool:
        """Whether any part draws at every access."""
        return any(part.random for part in self.transformations)

    def channels(self, channels: int) -> int:
        """See `Transformation.channels`."""
        return sum(part.channels(channels) for part in self.transformations)

    def check(self, shape: tuple[int, int, int]) -> None:
        """See `Transformation.check`."""
        for part in self.transformations:
            part.check(shape)

    def join(self, made: list[np.ndarray]) -> np.ndarray:
        """Stored images of all parts on one channel axis: bytes, or float32 where any part is.

        Raises:
          UserError: the parts have several heights or widths.
        """
        sizes = {images.shape[1:3] for images in made}
        if len(sizes) > 1:
            self.refuse("parts", f"their images have several sizes, {sorted(sizes)}; set side alike, or to 0")
        if any(images.dtype != np.uint8 for images in made):
            made = [images.astype(np.float32) / 255 if images.dtype == np.uint8 else images for images in made]
        return np.concatenate(made, axis=-1)

    def on_access(
        self, programs: list[Callable[[jax.Array, jax.Array], jax.Array]]
    ) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """Applies to equal shares of the stored channels the program of each part, see `pipeline.accessed`."""

        def run(images: jax.Array, keys: jax.Array) -> jax.Array:
            shares = jnp.split(as_floats(images), len(programs), axis=-1)
            drawn = [jax.vmap(jax.random.fold_in, (0, None))(keys, number) for number in range(len(programs))]
            return jnp.concatenate([p(x, k) for p, x, k in zip(programs, shares, drawn, strict=True)], axis=-1)

        return run


def _per_collection(part: Transformation) -> bool:
    return isinstance(part, Pretrained) and part.PER_COLLECTION


def _frozen(part: Any) -> Any:
    if not isinstance(part, Mapping):
        return part if isinstance(part, str) else tuple(map(tuple, part))
    return tuple(sorted((key, tuple(v) if isinstance(v, list) else v) for key, v in part.items()))
