"""The task network that everything passes around: a pure network on flat weight vectors."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.nets.resize import Resize
from jaxweights.nn.parameters import DRAWS, uniform_draws
from jaxweights.spec import WeightSpec


class PreparedModule(nn.Module):
    """A module of images of which a part depends on the images alone, computed once for many models."""

    def prepare(self, images: jax.Array) -> Any:
        """What `__call__` takes in the place of the images `[B, H, W, C]`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class TaskNet:
    """A pure network on flat weight vectors.

    Attributes:
      name: registry name, a key of `NETWORKS`.
      module: the Linen module.
      spec: meaning of a flat vector.
      input_shape: `(H, W, C)` of an image, `(4,)` of an observation, or `(d,)` of a point.
      num_classes: number of logits, of actions, or of a field's values at a point.
      resize: what `apply` and `prepare` do to images of `input_shape` first; None for nothing.
      task: what the network is for, a `tasks.Task`; None where nothing asks.
    """

    name: str
    module: nn.Module
    spec: WeightSpec
    input_shape: tuple[int, ...]
    num_classes: int
    resize: Resize | None = dataclasses.field(default=None, kw_only=True)
    task: Any = dataclasses.field(default=None, kw_only=True)

    def __hash__(self) -> int:
        """Without the module, which may hold a list of layers (`nn.Sequential`)."""
        return hash((self.name, self.spec, self.input_shape, self.num_classes))

    def init(self, key: jax.Array) -> jax.Array:
        """A freshly initialised weight vector `[P]`."""
        draws = self.spec.unflatten(uniform_draws(key, (self.spec.num_params,)))
        image = jnp.zeros((1,) + self.image_shape)
        _, variables = self.module.apply({DRAWS: draws}, image, rngs={"params": key}, mutable=["params"])
        return self.spec.flatten(variables["params"])

    def apply(self, vector: jax.Array, images: jax.Array) -> jax.Array:
        """Logits `[B, num_classes]` of standardised images `[B, H, W, C]`, or of what `prepare` made of them, under the
        weights `[P]`; for a policy mean actions of observations `[B, 4]`; for a field logits of occupancy, or values of
        an image, `[B, k]` at points `[B, d]`."""
        return cast(jax.Array, self.module.apply({"params": self.spec.unflatten(vector)}, self.resized(images)))

    def prepare(self, images: jax.Array):
        """The part of `apply` that depends on the images alone, for many models that see the same ones."""
        images = self.resized(images)
        return self.module.prepare(images) if isinstance(self.module, PreparedModule) else images

    def resized(self, images: Any) -> Any:
        """What the module takes: images `[B, *input_shape]` resized to `[B, *image_shape]`, anything else as it is."""
        if self.resize is None or getattr(images, "shape", ())[1:] != self.input_shape:
            return images
        return self.resize(images)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """`input_shape`, or that of the resized images."""
        return self.input_shape if self.resize is None else (self.resize.crop,) * 2 + self.input_shape[2:]

    @property
    def frozen(self) -> Any:
        """Arrays besides the vector that `apply` and `prepare` read: the frozen leaves of a `PartialNet`, else none.
        A program takes them as an argument and calls `bind` inside, so that they are no constants of it."""
        return ()

    def bind(self, frozen: Any) -> TaskNet:
        """This network with other, say traced, arrays in the place of `frozen`."""
        del frozen
        return self

    @property
    def convolutional(self) -> bool:
        """Whether the first layers are convolutions, which have images to prepare."""
        return isinstance(self.module, PreparedModule)

    @functools.cached_property
    def prepared_size(self) -> int:
        """Floats that `prepare` makes of one image."""
        prepared = jax.eval_shape(self.prepare, jax.ShapeDtypeStruct((1,) + self.input_shape, jnp.float32))
        return sum(math.prod(x.shape) for x in jax.tree.leaves(prepared))

    @functools.cached_property
    def activation_size(self) -> int:
        """Floats that the layers put out per image, for sizing blocks of work."""

        def outputs(vector, images):
            variables = {"params": self.spec.unflatten(vector)}
            return self.module.apply(variables, images, capture_intermediates=True, mutable=["intermediates"])[1]

        shapes = jax.eval_shape(outputs, jnp.zeros(self.spec.num_params), jnp.zeros((1,) + self.image_shape))
        return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
