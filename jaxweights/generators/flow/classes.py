"""Velocities of networks of several classes, such as those of several data sets."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.generators.velocity import Velocity
from jaxweights.nn.activations import gelu
from jaxweights.nn.dense import Dense
from jaxweights.nn.parameters import FAN_IN_UNIFORM, normal, parameter

ClassInput = Literal["embedding", "scalar"]


class ClassVelocity(nn.Module):
    """DeepWeightFlow's network with the class of the networks as one more input.

    Attributes:
      width: see `Velocity`, as are `time_width`, `extra` and `dropout`.
      class_width: size of the embedding of a class.
      num_classes: number of classes.
      read: "embedding" for a vector per class, or "scalar" for what two layers make of the number of the class, as
        released.
    """

    width: int
    time_width: int
    extra: int
    dropout: float
    class_width: int
    num_classes: int
    read: ClassInput

    @nn.compact
    def __call__(
        self, x: jax.Array, times: jax.Array, keys: jax.Array | None = None, classes: jax.Array | None = None
    ) -> jax.Array:
        """Maps `[n, D]` at `times` `[n]` to `[n, D]` for `classes` `[n]`, integers from 0 on."""
        classes = jnp.zeros(len(x), jnp.int32) if classes is None else classes
        if self.read == "embedding":
            table = parameter(self, "classes", (self.num_classes, self.class_width), normal(1.0))
            condition = table[classes]
        else:
            hidden = gelu(self._dense("class_0")(classes[:, None].astype(x.dtype)))
            condition = self._dense("class_1")(hidden)
        velocity = Velocity(self.width, self.time_width, self.extra, self.dropout, name="velocity")
        return velocity(x, times, keys, condition)

    def _dense(self, name: str) -> Dense:
        return Dense(self.class_width, FAN_IN_UNIFORM, convention="flax", name=name)
