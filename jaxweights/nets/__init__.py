"""Task networks: the small classifiers, policies and neural fields whose weights everything here is about.

To add one: a Linen module with explicitly named layers, a function that lists its leaves and groups, one line in
`NETWORKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.nets import actor, cnn, convnet, convnext, field, mlp, pdiff, resize, resnet, vit
from jaxweights.nets.base import TaskNet
from jaxweights.nets.partial import PartialNet, Prepared, load_partial, partial
from jaxweights.spec import WeightSpec

__all__ = [
    "NETWORKS",
    "PartialNet",
    "Prepared",
    "TaskNet",
    "build",
    "cross_entropy",
    "load_partial",
    "partial",
]


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
      config: `name`, `resize` and `crop` of images (see `resize.checked`), and the keyword arguments of that network's
        `build`.
      input_shape: `(H, W, C)`, `(4,)` of a cart-pole, or `(d,)` of signals.
      num_classes: number of classes, of actions, or of a signal's values.

    Raises:
      UserError: unknown name (the message lists the known ones), unknown settings, or impossible sizes.
    """
    settings = dict(config)
    name = settings.pop("name", None)
    if name not in NETWORKS:
        raise UserError(f"Unknown network {name!r}; known: {', '.join(sorted(NETWORKS))}.")
    input_shape = tuple(input_shape)
    fitted = resize.checked(settings.pop("resize", 0), settings.pop("crop", 0), input_shape)
    image_shape = input_shape if fitted is None else (fitted.crop, fitted.crop, input_shape[2])
    try:
        module, spec = NETWORKS[name](image_shape, num_classes, **settings)
    except TypeError as error:
        raise UserError(f"The network {name!r} does not take these settings: {error}.") from error
    return TaskNet(name, module, spec, input_shape, num_classes, resize=fitted)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy in nats, `[..., K]` logits and `[...]` integer labels to `[...]`.

    The label's logit is picked by a one-hot product: the gradient of an indexed pick is a scatter, which XLA runs
    serially on CPU.
    """
    picked = jnp.sum(logits * jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - picked
