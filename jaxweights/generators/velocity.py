"""DeepWeightFlow's network: three hidden layers, the middle one half as wide, of a vector and an embedding of time, and
where there is one of a condition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.nn import dropout
from jaxweights.nn.activations import gelu
from jaxweights.nn.dense import Dense
from jaxweights.nn.normalization import LayerNorm
from jaxweights.nn.parameters import FAN_IN_UNIFORM, Initialiser

_ZERO = Initialiser(lambda u, i, o: jnp.zeros_like(u), lambda u, i, o: jnp.zeros_like(u))


class Velocity(nn.Module):
    """The velocity of vectors, zero before training (arXiv 2601.05052, released code).

    Attributes:
      width: units of the first and the last hidden layer; half as many of the one between.
      time_width: units of the embedding of time.
      extra: further hidden layers of the full width after the first, one for BERT.
      dropout: share of the units that training drops after all hidden layers but the last.
    """

    width: int
    time_width: int
    extra: int = 0
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, times: jax.Array, keys: jax.Array | None = None, condition: jax.Array | None = None
    ) -> jax.Array:
        """Maps `[n, D]` at `times` `[n]` to `[n, D]`; `keys` `[n]` are those of dropout, in training, and `condition`
        `[n, E]` is the embedding of what else the velocity depends on."""
        size = x.shape[1]
        embedded = self._dense(self.time_width, "time_1")(gelu(self._dense(self.time_width, "time_0")(times[:, None])))
        h = jnp.concatenate([x, embedded] if condition is None else [x, embedded, condition], axis=1)
        widths = [self.width] * (1 + self.extra) + [self.width // 2, self.width]
        for number, width in enumerate(widths):
            h = gelu(LayerNorm(name=f"norm_{number}", convention="flax")(self._dense(width, f"dense_{number}")(h)))
            if keys is not None and self.dropout and number < len(widths) - 1:
                kept = dropout.keep(
                    jax.vmap(lambda key, i=number: jax.random.fold_in(key, i))(keys), (width,), self.dropout
                )
                h = dropout.drop(h, kept, self.dropout)
        return Dense(size, _ZERO, convention="flax", name="out")(h)

    def _dense(self, width: int, name: str) -> Dense:
        return Dense(width, FAN_IN_UNIFORM, convention="flax", name=name)
