"""What every transformation of images offers: where in the pipeline it stands, what it stores, what it does on access.

The pipeline of a source classifier is: stored images, augmentation, transformation on access, normalisation. A
transformation that stands before the augmentation is computed once and stored in place of the images (`stored`); one
that stands behind it is computed on device whenever an image is used (`apply`). A transformation does one of the two,
except for combinations of both.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxweights.errors import UserError
from jaxweights.settings import Settings


class Stage(enum.IntEnum):
    """Where in the pipeline a transformation stands, the earliest first."""

    OFFLINE = 0
    """Before the augmentation; made once from whole images and kept on disk."""
    BEFORE = 1
    """Before the augmentation, in memory."""
    AFTER = 2
    """Behind the augmentation, on device, at every access."""


class Augmentation(NamedTuple):
    """How the images of a transformation are augmented and normalised (arXiv 2412.01876, table 2, and its code).

    Attributes:
      group: "full" (random resized crop, flip, RandAugment), "crop_flip" or "crop".
      normalise_train: whether training images are standardised by ImageNet's moments.
      normalise_eval: whether evaluated images are.
    """

    group: Literal["full", "crop_flip", "crop"]
    normalise_train: bool
    normalise_eval: bool


FULL = Augmentation("full", True, True)
CROP_FLIP = Augmentation("crop_flip", False, False)
CROP = Augmentation("crop", False, False)


@dataclasses.dataclass(frozen=True)
class Transformation(Settings, abc.ABC):
    """A transformation of images, with its parameters. `transformations.transform` applies it to whole sets."""

    KIND: ClassVar[str]
    """Its key in the registry."""
    STAGE: ClassVar[Stage]
    AUGMENTATION: ClassVar[Augmentation]
    RANDOM: ClassVar[bool] = False
    """Whether `apply` draws anew at every access, also in evaluation."""
    TINY: ClassVar[Mapping[str, Any]] = {}
    """Settings under which it runs in a moment on 16 x 16 pixels; for tests."""

    @property
    def section(self) -> str:
        """Where a config has the settings."""
        return f"bias.transformations.{self.KIND}"

    @property
    def stage(self) -> Stage:
        """Where it stands; an instance may say it better than its class."""
        return self.STAGE

    @property
    def augmentation(self) -> Augmentation:
        """How its images are augmented."""
        return self.AUGMENTATION

    @property
    def random(self) -> bool:
        """Whether `apply` draws anew at every access."""
        return self.RANDOM

    def channels(self, channels: int) -> int:
        """Channels of what it makes of images with so many."""
        return channels

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raises `UserError` where it cannot transform images of a shape `(H, W, C)`."""
        del shape


class Arithmetic(Transformation):
    """A transformation that is computed on device."""

    BYTES: ClassVar[bool] = False
    """Whether `apply` also takes uint8, and then returns it, so that transformed sets are kept as bytes."""

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """What `apply` is to get in place of an image `[H, W, C]` uint8, such as the image at another size; made on the
        host, in threads, for those that stand before the augmentation."""
        return image

    @abc.abstractmethod
    def apply(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Transforms images `[B, H, W, C]` float32 in [0, 1] to `[B, H', W', C']` float32.

        Pure, and compatible with `jit` and `vmap`; an image depends on itself and its own key `[B]` alone.
        """


class Library(Transformation):
    """A transformation that a library for the host computes, image by image."""

    STAGE: ClassVar[Stage] = Stage.OFFLINE
    LIBRARY: ClassVar[str]
    """Name of the package that is imported."""

    @abc.abstractmethod
    def one(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Transforms an image `[H, W, C]` uint8 to `[H', W', C']` uint8; called from several threads.

        Args:
          image: the image.
          seed: the image's own, below 2**31; for those that draw.
        """


class Pretrained(Transformation):
    """A transformation by a large model that others trained; computed once, a file for each image where a folder is
    given. See `jaxweights.bias.adapters`."""

    STAGE: ClassVar[Stage] = Stage.OFFLINE
    PER_COLLECTION: ClassVar[bool] = False
    """Whether every collection has a model of its own."""

    def check_collections(self, collections: Sequence[str]) -> None:
        """Raises `UserError` where it has models of collections, and not one for each of these names."""
        del collections

    @abc.abstractmethod
    def ready(self, collections: Sequence[str]) -> None:
        """Raises `UserError` where a package or weights that images of these collections need are absent."""

    def channels(self, channels: int) -> int:
        """See `Transformation.channels`; pictures of models are in colour."""
        del channels
        return 3

    @abc.abstractmethod
    def of_images(
        self, images: np.ndarray, digests: Sequence[str], collection: str, folder: pathlib.Path | None
    ) -> np.ndarray:
        """Transforms images of one size.

        Args:
          images: `[n, H, W, C]` uint8.
          digests: `[n]`, of the images as they came from their source.
          collection: name of the collection that they are of; for those that have a model each.
          folder: where outputs are kept, so that they are computed once; None to keep nothing.

        Returns:
          `[n, H', W', 3]` uint8.

        Raises:
          UserError: a package or weights are absent, or an image cannot be transformed.
        """


class Fitted(Transformation):
    """A transformation with parameters that are learned from the collections."""

    STAGE: ClassVar[Stage] = Stage.OFFLINE

    @abc.abstractmethod
    def fit(
        self,
        images: Sequence[np.ndarray],
        key: jax.Array,
        mesh: Mesh | None = None,
        folder: pathlib.Path | None = None,
    ) -> list[Any]:
        """Learns from collections.

        Args:
          images: `[n, H, W, C]` uint8 of every collection, as many of each as the smallest has. Leave out those that
            classifiers are evaluated on.
          key: PRNG key.
          mesh: devices, all by default.
          folder: folder of checkpoints, from which an interrupted training goes on; for one set of arguments alone,
            see `pipeline.fit`. None to keep nothing.

        Returns:
          One state, a pytree of arrays, per collection.
        """

    @abc.abstractmethod
    def apply(self, state: Any, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Like `Arithmetic.apply`, under the state of the images' collection."""


def as_floats(images: jax.Array) -> jax.Array:
    """Stored images of any type as float32, bytes in [0, 1]."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def as_levels(images: jax.Array) -> jax.Array:
    """Images, uint8 or float32 in [0, 1], as whole numbers 0 ... 255 in float32."""
    return images.astype(jnp.float32) if images.dtype == jnp.uint8 else jnp.round(images * 255)


def from_levels(levels: jax.Array, like: jax.Array) -> jax.Array:
    """Whole numbers 0 ... 255 as images of the type of others; inverse of `as_levels`."""
    return levels.astype(jnp.uint8) if like.dtype == jnp.uint8 else levels / 255


def divides(transformation: Transformation, field: str, shape: tuple[int, int, int]) -> None:
    """Raises `UserError` unless both sides of images are multiples of a setting."""
    side = getattr(transformation, field)
    if shape[0] % side or shape[1] % side:
        raise UserError(
            f"{transformation.section}.{field} is {side}, but the images are {shape[0]} x {shape[1]}; set it to a "
            "divisor of both sides, or read the images at another size."
        )
