"""The autoencoder of SANE: pre-norm transformers without biases, learned positions, a latent for every token."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxweights.nn.activations import gelu
from jaxweights.nn.dense import Dense, matmul
from jaxweights.nn.normalization import LayerNorm, standardise
from jaxweights.nn.parameters import Initial, constant, kernel, normal, parameter
from jaxweights.nn.transformer import INIT_STD, attention
from jaxweights.nn.transformer import Architecture as Sizes
from jaxweights.sharding import Kernel

PROJECTED = 30
"""Size of the embeddings that are contrasted."""
_EXPANSION = 4  # hidden size of a block's dense layers over its width
_EPSILON = 1e-5
_INITIALISER = "normal_0.02"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of the autoencoder.

    Attributes:
      token_size: numbers per token.
      width, blocks, heads, latent_dim, dtype, remat: see `Sane`.
      max_positions: rows of the three tables of positions.
    """

    token_size: int
    width: int
    blocks: int
    heads: int
    latent_dim: int
    max_positions: tuple[int, int, int]
    dtype: Literal["float32", "bfloat16"]
    remat: bool


class Positions(nn.Module):
    """Adds learned positions: those of the token and of the layer in one half of the width, of the channel in the
    other.

    Attributes:
      rows: rows of the three tables.
      width: size of the tokens.
    """

    rows: tuple[int, int, int]
    width: int

    def setup(self) -> None:
        """Declares the tables."""
        names = ("sequence", "layer", "channel")
        self.tables = [
            parameter(self, name, (rows, self.width // 2), normal(INIT_STD))
            for name, rows in zip(names, self.rows, strict=True)
        ]

    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """Adds to `[n, w, width]` those of positions `[n or 1, w, 3]`, integers."""
        token, layer, channel = (jnp.asarray(table)[positions[..., i]] for i, table in enumerate(self.tables))
        return x + jnp.concatenate([token + layer, channel], axis=-1)


class Blocks(nn.Module):
    """Pre-norm transformer blocks without biases, whose parameters are stacked `[blocks, ...]`.

    Attributes:
      architecture: sizes.
    """

    architecture: Architecture

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, w, width]` to the same shape."""
        a = self.architecture
        d, wide = a.width, _EXPANSION * a.width
        last = normal(INIT_STD / (2 * a.blocks) ** 0.5)  # of what is added to the tokens
        params: dict[str, Any] = {
            "qkv_kernel": self._stacked("qkv_kernel", (d, 3 * d), normal(INIT_STD)),
            "out_kernel": self._stacked("out_kernel", (d, d), last),
            "up_kernel": self._stacked("up_kernel", (d, wide), normal(INIT_STD)),
            "down_kernel": self._stacked("down_kernel", (wide, d), last),
            "norm_1_scale": self._stacked("norm_1_scale", (d,), constant(1.0)),
            "norm_2_scale": self._stacked("norm_2_scale", (d,), constant(1.0)),
        }

        def body(x: jax.Array, p: Mapping[str, Any]) -> tuple[jax.Array, None]:
            return _block(x, p, a), None

        return lax.scan(jax.checkpoint(body) if a.remat else body, x, params)[0]

    def _stacked(self, name: str, shape: tuple[int, ...], initial: Initial) -> Kernel:
        return kernel(self, name, (self.architecture.blocks, *shape), initial)


def _block(x: jax.Array, p: Mapping[str, Any], a: Architecture) -> jax.Array:
    sizes = Sizes(a.width, a.blocks, a.heads, 0, a.dtype)
    qkv = matmul(_norm(x, p["norm_1_scale"]), p["qkv_kernel"], a.dtype)
    q, k, v = lax.split(qkv, (a.width,) * 3, axis=2)
    mixed = attention(q, k, v, sizes, None)
    x = x + matmul(mixed, p["out_kernel"], a.dtype)
    hidden = gelu(matmul(_norm(x, p["norm_2_scale"]), p["up_kernel"], a.dtype))
    return x + matmul(hidden, p["down_kernel"], a.dtype)


def _norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    return standardise(x, (-1,), _EPSILON) * scale[None, None, :]


class Projection(nn.Module):
    """The latents of a whole window to the embedding that is contrasted."""

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Maps `[n, w, latent_dim]` to `[n, PROJECTED]`."""
        x = z.reshape(z.shape[0], -1)
        for i in range(2):
            x = Dense(PROJECTED, _INITIALISER, use_bias=False, convention="flax", name=f"dense_{i}")(x)
            x = nn.relu(LayerNorm(convention="flax", name=f"norm_{i}")(x))
        return x


class Autoencoder(nn.Module):
    """Tokens to a latent each, and back.

    Attributes:
      architecture: sizes.
    """

    architecture: Architecture

    def setup(self) -> None:
        """Builds the parts."""
        a = self.architecture
        self.embedding = self._dense(a.width)
        self.positions = Positions(a.max_positions, a.width)
        self.encoder = Blocks(a)
        self.to_latent = self._dense(a.latent_dim)
        self.from_latent = self._dense(a.width)
        self.decoder = Blocks(a)
        self.unembedding = self._dense(a.token_size)
        self.projection = Projection()

    def _dense(self, features: int) -> Dense:
        return Dense(features, _INITIALISER, convention="flax", dtype=self.architecture.dtype)

    def __call__(self, x: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Latents, reconstructions and embeddings of windows.

        Args:
          x: `[n, w, token_size]`, w as in training.
          positions: `[n or 1, w, 3]` integers.

        Returns:
          `[n, w, latent_dim]`, `[n, w, token_size]` and `[n, PROJECTED]`, float32.
        """
        z = self.encode(x, positions)
        return z, self.decode(z, positions), self.projection(z)

    def encode(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """Latents `[n, w, latent_dim]` of tokens `[n, w, token_size]`, for windows of any length."""
        return self.to_latent(self.encoder(self.positions(self.embedding(x), positions)))

    def decode(self, z: jax.Array, positions: jax.Array) -> jax.Array:
        """Tokens `[n, w, token_size]` of latents `[n, w, latent_dim]`, for windows of any length."""
        return self.unembedding(self.decoder(self.positions(self.from_latent(z), positions)))
