"""Task networks: the small classifiers, policies and neural fields whose weights everything here is about.

To add one: a Linen module with explicitly named layers, a function that lists its leaves and groups, one line in
`NETWORKS`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.environments import CartPole
from jaxweights.errors import UserError
from jaxweights.nets import actor, cnn, convnet, convnext, field, mlp, pdiff, resnet, vit
from jaxweights.nets.layers import DRAWS, uniform_draws
from jaxweights.spec import WeightSpec


@dataclasses.dataclass(frozen=True)
class TaskNet:
    """A pure network on flat weight vectors.

    Attributes:
      name: registry name, a key of `NETWORKS`.
      module: the Linen module.
      spec: meaning of a flat vector.
      input_shape: `(H, W, C)` of an image, `(4,)` of an observation, or `(d,)` of a point.
      num_classes: number of logits, of actions, or of a field's values at a point.
    """

    name: str
    module: nn.Module
    spec: WeightSpec
    input_shape: tuple[int, ...]
    num_classes: int

    def init(self, key: jax.Array) -> jax.Array:
        """A freshly initialised weight vector `[P]`."""
        draws = self.spec.unflatten(uniform_draws(key, (self.spec.num_params,)))
        image = jnp.zeros((1,) + self.input_shape)
        _, variables = self.module.apply({DRAWS: draws}, image, rngs={"params": key}, mutable=["params"])
        return self.spec.flatten(variables["params"])

    def apply(self, vector: jax.Array, images: jax.Array) -> jax.Array:
        """Logits `[B, num_classes]` of standardised images `[B, H, W, C]`, or of what `prepare` made of them, under the
        weights `[P]`; for a policy mean actions of observations `[B, 4]`; for a field logits of occupancy, or values of
        an image, `[B, k]` at points `[B, d]`."""
        return self.module.apply({"params": self.spec.unflatten(vector)}, images)

    def prepare(self, images: jax.Array):
        """The part of `apply` that depends on the images alone, for many models that see the same ones."""
        return self.module.prepare(images) if self.convolutional else images

    @property
    def environment(self) -> CartPole | None:
        """Where the network acts, for a policy; None for others."""
        return getattr(self.module, "environment", None)

    @property
    def field(self) -> field.Field | None:
        """The module of a neural field; None for others."""
        return self.module if isinstance(self.module, field.Field) else None

    @property
    def convolutional(self) -> bool:
        """Whether the first layers are convolutions, which have images to prepare."""
        return hasattr(self.module, "prepare")

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

        shapes = jax.eval_shape(outputs, jnp.zeros(self.spec.num_params), jnp.zeros((1,) + self.input_shape))
        return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


NETWORKS: dict[str, Callable[..., tuple[nn.Module, WeightSpec]]] = {
    "mlp": mlp.build,
    "cnn": cnn.build,
    "convnet": convnet.build,
    "actor": actor.build,
    "field": field.build,
    "pdiff_mlp": pdiff.mlp,
    "pdiff_convnet": pdiff.convnet,
    "pdiff_resnet": pdiff.resnet,
    "pdiff_vit": vit.build_simple,
    "pdiff_convnext": convnext.convnext_small,
    "cnn_medium": pdiff.cnn_medium,
    "resnet18": resnet.resnet18,
    "resnet50": resnet.resnet50,
    "vit_tiny": vit.vit_tiny,
    "vit_base": vit.vit_base,
    "convnext_tiny": convnext.convnext_tiny,
    "convnext_base": convnext.convnext_base,
}


def build(config: Mapping[str, Any], input_shape: Sequence[int], num_classes: int) -> TaskNet:
    """Builds the network that a config names.

    Args:
      config: `name` and the keyword arguments of that network's `build`.
      input_shape: `(H, W, C)`, `(4,)` of a cart-pole, or `(d,)` of signals.
      num_classes: number of classes, of actions, or of a signal's values.

    Raises:
      UserError: unknown name (the message lists the known ones) or unknown settings.
    """
    settings = dict(config)
    name = settings.pop("name", None)
    if name not in NETWORKS:
        raise UserError(f"Unknown network {name!r}; known: {', '.join(sorted(NETWORKS))}.")
    try:
        module, spec = NETWORKS[name](tuple(input_shape), num_classes, **settings)
    except TypeError as error:
        raise UserError(f"The network {name!r} does not take these settings: {error}.") from error
    return TaskNet(name, module, spec, tuple(input_shape), num_classes)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy in nats, `[..., K]` logits and `[...]` integer labels to `[...]`.

    The label's logit is picked by a one-hot product: the gradient of an indexed pick is a scatter, which XLA runs
    serially on CPU.
    """
    picked = jnp.sum(logits * jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - picked
