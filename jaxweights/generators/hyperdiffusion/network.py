"""The transformer of HyperDiffusion (Erkoç et al., "HyperDiffusion: Generating Implicit Neural Fields with Weight-Space
Diffusion", arXiv 2303.17015).

It sees a noised weight vector, one token per tensor, and the diffusion timestep as the last token, and predicts the
clean vector. `importer` reads published checkpoints.
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
)


class Transformer(nn.Module):
    """Predicts clean weight vectors from noised ones; made by `initialise`.

    The timesteps' tokens do not depend on the vectors, so `embed_times` is for once per timestep, and `denoise` for
    every step of sampling.

    Attributes:
      layout: tokens of the vectors.
      architecture: sizes.
    """

    layout: TokenLayout
    architecture: Architecture

    def setup(self) -> None:
        """Builds the parts."""
        a, tokens = self.architecture, self.layout.num_tokens
        self.embedding = Embedding(self.layout, a.width, a.dtype)
        self.time_kernel = parameter(self, "time_kernel", (a.scalar_size, a.width), normal(INIT_STD))
        self.norm_in = LayerNorm(convention="flax")
        self.positions = parameter(self, "positions", (tokens + 1, a.width), constant(0.0))
        self.blocks = Blocks(a, tokens)
        self.norm_out = LayerNorm(convention="flax")
        self.unembedding = Unembedding(self.layout, a.dtype)

    def __call__(self, x_t: jax.Array, times: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Predicts clean vectors.

        Args:
          x_t: `[n, P]` noised vectors.
          times: `[n, size]` embedded timesteps, see `transformer.time_features`.
          keys: `[n]` typed PRNG keys of dropout, or None for none.

        Returns:
          `[n, P]` float32.
        """
        return self.denoise(x_t, self.embed_times(times), keys)

    def embed_times(self, times: jax.Array) -> jax.Array:
        """Tokens `[n, width]` of embedded timesteps `[n, size]`."""
        embedded = matmul(times, self.time_kernel, self.architecture.dtype)
        return self.norm_in(embedded) + self.positions[-1][None, :]

    def denoise(self, x_t: jax.Array, times: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Predicts clean vectors `[n, P]` from `x_t` `[n, P]` and the tokens `[n, width]` of `embed_times`."""
        noised = self.norm_in(self.embedding(x_t)) + self.positions[:-1][None, :, :]
        tokens = jnp.concatenate([noised, times[:, None, :]], axis=1)
        return self.unembedding(self.norm_out(self.blocks(tokens, keys)))


def example_inputs(layout: TokenLayout, architecture: Architecture) -> tuple[jax.Array, jax.Array]:
    """Arguments of `Transformer` for one example, all zero."""
    return jnp.zeros((1, layout.num_params)), jnp.zeros((1, architecture.scalar_size))
