"""Examples of the data sets that networks were trained on: those of the classes that they were taught."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Context(NamedTuple):
    """Examples of the data set that a network is asked for.

    Attributes:
      images: `[n, m, D]` float32, flat and standardised.
      labels: `[n, m]` int32.
      shown: `[n]` bool, whether there are any.
    """

    images: jax.Array
    labels: jax.Array
    shown: jax.Array


def constants(labels: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Where the examples of every class are: `by_class` `[M]` int32 is all of them by class, and those of class k are
    `count[k]` entries from `first[k]` on, `[K]` int32."""
    count = np.bincount(labels, minlength=num_classes)
    order = np.argsort(labels, kind="stable")
    found = {"by_class": order, "first": np.cumsum(count) - count, "count": count}
    return {name: value.astype(np.int32) for name, value in found.items()}


def drawn(constants: Mapping[str, Any], taught: jax.Array, keys: jax.Array, count: int) -> Context:
    """Random examples of the classes that networks were taught, all classes alike.

    Args:
      constants: `by_class`, `first` and `count` of `constants`, `inputs` `[M, ...]` and `labels` `[M]`.
      taught: `[n, K]` bool; none where nothing is shown.
      keys: `[n]` typed PRNG keys.
      count: examples for each.
    """
    names = "by_class", "first", "count", "inputs", "labels"
    by_class, first, sizes, inputs, labels = (jnp.asarray(constants[name]) for name in names)
    there = taught & (sizes > 0)[None, :]

    def draw(key: jax.Array, row: jax.Array) -> jax.Array:
        which, place = jax.random.split(key)
        chosen = jax.random.categorical(which, jnp.where(row, 0.0, -jnp.inf), shape=(count,))
        places = jnp.floor(jax.random.uniform(place, (count,)) * sizes[chosen]).astype(jnp.int32)
        return by_class[first[chosen] + places]

    shown = there.any(axis=1)
    rows = jax.vmap(draw)(keys, there | ~shown[:, None])
    return Context(inputs[rows].reshape(*rows.shape, -1), labels[rows], shown)
