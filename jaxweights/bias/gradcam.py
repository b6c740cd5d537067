"""Grad-CAM: where an image has what a classifier takes for a class (Selvaraju et al. 2017, arXiv 1610.02391).

The last map of features, `nn.pooling.MapMean`'s argument, is weighted channel by channel with the mean of the class
score's derivative, summed over channels, and cut off at 0.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.nn.pooling import MapMean


def maps(module: nn.Module, params: Any, inputs: jax.Array, classes: jax.Array) -> jax.Array | None:
    """Grad-CAM of images, at the size of the images.

    Args:
      module: a network from inputs to logits `[B, K]`.
      params: its parameters.
      inputs: `[B, H, W, C]`, as the network takes them.
      classes: `[B]` int, the class whose score is explained.

    Returns:
      `[B, H, W]` float32, of every image the largest value is 1, or all are 0 where nothing speaks for the class; None
      for a network that takes no mean over a map.
    """
    if last_map(module, params, inputs) is None:
        return None
    return _maps(module, params, inputs, jnp.asarray(classes))


def last_map(module: nn.Module, params: Any, inputs: jax.Array) -> jax.ShapeDtypeStruct | None:
    """Shape of the last map of features of inputs `[B, H, W, C]`; None for a network without one."""
    return jax.eval_shape(lambda: shifted(module, params, inputs, 0.0)[1])


def weighted(module: nn.Module, params: Any, inputs: jax.Array, classes: jax.Array) -> jax.Array:
    """The weighted sum over channels `[B, h, w]` before it is cut off at 0; arguments as of `maps`."""

    def score(shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, seen = shifted(module, params, inputs, shift)
        return jnp.sum(jnp.take_along_axis(logits, classes[:, None], axis=1)), cast(jax.Array, seen)

    shape = cast(jax.ShapeDtypeStruct, last_map(module, params, inputs))
    slopes, seen = jax.grad(score, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    return jnp.sum(jnp.mean(slopes, axis=(1, 2), keepdims=True) * seen, axis=-1)


def shifted(
    module: nn.Module, params: Any, inputs: jax.Array, shift: jax.Array | float
) -> tuple[jax.Array, jax.Array | None]:
    """Logits `[B, K]` where the last map of features has a shift, which it broadcasts with; and the map without it."""
    seen: list[jax.Array] = []

    def intercept(following, args, kwargs, context):
        if isinstance(context.module, MapMean) and context.method_name == "__call__":
            seen.append(args[0])
            return following(args[0] + shift)
        return following(*args, **kwargs)

    with nn.intercept_methods(intercept):
        logits: Any = module.apply({"params": params}, inputs)
    return logits, seen[-1] if seen else None


@functools.partial(jax.jit, static_argnums=0)
def _maps(module: nn.Module, params: Any, inputs: jax.Array, classes: jax.Array) -> jax.Array:
    found = jax.nn.relu(weighted(module, params, inputs, classes))
    found = jax.image.resize(found, inputs.shape[:3], "bilinear")
    most = jnp.max(found, axis=(1, 2), keepdims=True)
    return jnp.where(most > 0, found / jnp.where(most > 0, most, 1.0), 0.0)
