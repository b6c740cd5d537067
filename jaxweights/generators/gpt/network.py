"""The transformer of G.pt (Peebles et al., "Learning to Learn with Generative Models of Neural Network Checkpoints").

It sees a noised weight vector, the vector of the checkpoint to start from, and four scalars (diffusion timestep, asked
change of the metric, asked metric, metric of the start), each cut into tokens, and predicts the clean vector.
`importer` reads published checkpoints.

The published code also cuts the embedded scalars where they are longer than a chunk. No published model has such short
chunks; here a scalar is always one token.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxweights.nn.dense import matmul
from jaxweights.nn.normalization import LayerNorm
from jaxweights.nn.parameters import constant, normal, parameter
from jaxweights.nn.transformer import (
    INIT_STD,
    Architecture,
    Blocks,
    Embedding,
    TokenLayout,
    Unembedding,
    products,
    scalar_features,
)

SCALARS = 4
"""Embedded scalars: timestep, change of the metric, asked metric, metric of the start."""


def metric_features(asked: jax.Array, start: jax.Array, table: jax.Array) -> jax.Array:
    """Embeds the asked change of the metric, the asked metric and that of the start, each `[n]`, to `[n, 3, size]`."""
    return scalar_features(jnp.stack([asked - start, asked, start], axis=1), table)


class Transformer(nn.Module):
    """Predicts clean weight vectors from noised ones; made by `initialise`.

    The tokens are, in order: the noised vector's, the start's, the timestep's, and one each for the asked change of the
    metric, the asked metric and the start's. All but the first and the timestep's stay the same while a sample is
    drawn, so `condition` and `embed_times` are for once per sample and `denoise` for every step.

    Attributes:
      layout: tokens of the vectors.
      architecture: sizes.
    """

    layout: TokenLayout
    architecture: Architecture

    def setup(self) -> None:
        """Builds the parts."""
        a, tokens = self.architecture, self.layout.num_tokens
        self.noised_embedding = Embedding(self.layout, a.width, a.dtype)
        self.start_embedding = Embedding(self.layout, a.width, a.dtype)
        self.scalar_kernel = parameter(self, "scalar_kernel", (SCALARS, a.scalar_size, a.width), normal(INIT_STD))
        self.norm_in = LayerNorm(convention="flax")
        self.positions = parameter(self, "positions", (2 * tokens + SCALARS, a.width), constant(0.0))
        self.blocks = Blocks(a, tokens)
        self.norm_out = LayerNorm(convention="flax")
        self.unembedding = Unembedding(self.layout, a.dtype, std=0.0)

    def __call__(
        self,
        x_t: jax.Array,
        start: jax.Array,
        times: jax.Array,
        metrics: jax.Array,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Predicts clean vectors.

        Args:
          x_t: `[n, P]` noised vectors.
          start: `[n, P]` vectors to start from.
          times: `[n, size]` embedded timesteps, see `time_features`.
          metrics: `[n, 3, size]`, see `metric_features`.
          keys: `[n]` typed PRNG keys of dropout, or None for none.

        Returns:
          `[n, P]` float32; `start` itself at initialisation.
        """
        scalars = self._embed_scalars(jnp.concatenate([times[:, None, :], metrics], axis=1), self.scalar_kernel)
        embedded = [self.noised_embedding(x_t), self.start_embedding(start), scalars]
        tokens = self.norm_in(jnp.concatenate(embedded, axis=1)) + self.positions[None, :, :]
        return self._decode(tokens, start, keys)

    def condition(self, start: jax.Array, metrics: jax.Array) -> jax.Array:
        """Tokens `[n, tokens + 3, width]` of the start `[n, P]` and of the metrics `[n, 3, size]`."""
        count = self.layout.num_tokens
        embedded = [self.start_embedding(start), self._embed_scalars(metrics, self.scalar_kernel[1:])]
        positions = jnp.concatenate([self.positions[count : 2 * count], self.positions[2 * count + 1 :]])
        return self.norm_in(jnp.concatenate(embedded, axis=1)) + positions[None, :, :]

    def embed_times(self, times: jax.Array) -> jax.Array:
        """Tokens `[n, width]` of embedded timesteps `[n, size]`."""
        embedded = matmul(times, self.scalar_kernel[0], self.architecture.dtype)
        return self.norm_in(embedded) + self.positions[2 * self.layout.num_tokens][None, :]

    def denoise(self, x_t: jax.Array, start: jax.Array, times: jax.Array, conditions: jax.Array) -> jax.Array:
        """Predicts clean vectors `[n, P]` from `x_t` and `start` `[n, P]` and the tokens of the two methods above."""
        positions = self.positions[: self.layout.num_tokens]
        noised = self.norm_in(self.noised_embedding(x_t)) + positions[None, :, :]
        # Positions are in already and attention has no mask: beyond the first tokens, the order no longer matters.
        return self._decode(jnp.concatenate([noised, conditions, times[:, None, :]], axis=1), start)

    def _embed_scalars(self, features: jax.Array, kernel: jax.Array) -> jax.Array:
        """`[n, scalars, size]` times `[scalars, size, width]`."""
        # The batched axis first on both sides: XLA's CPU backend refuses bfloat16 products in another order.
        embedded = products("kns,ksd->knd", jnp.swapaxes(features, 0, 1), kernel, self.architecture.dtype)
        return jnp.swapaxes(embedded, 0, 1)

    def _decode(self, tokens: jax.Array, start: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return self.unembedding(self.norm_out(self.blocks(tokens, keys))) + start


def example_inputs(layout: TokenLayout, architecture: Architecture) -> tuple[jax.Array, ...]:
    """Arguments of `Transformer` for one example, all zero."""
    vector, size = jnp.zeros((1, layout.num_params)), architecture.scalar_size
    return vector, vector, jnp.zeros((1, size)), jnp.zeros((1, SCALARS - 1, size))
