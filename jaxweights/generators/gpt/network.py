"""The transformer of G.pt (Peebles et al., "Learning to Learn with Generative Models of Neural Network Checkpoints").

It sees a noised weight vector, the vector of the checkpoint to start from, and four scalars (diffusion timestep, asked
change of the metric, asked metric, metric of the start), each cut into tokens, and predicts the clean vector.
`importer` reads published checkpoints.

The published code also cuts the embedded scalars where they are longer than a chunk. No published model has such short
chunks; here a scalar is always one token.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Mapping
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxweights.generators.layers import Initial, constant, gelu, matmul, normal, parameter
from jaxweights.spec import WeightSpec

_INIT_STD = 0.02
_NORM_EPSILON = 1e-5
_EXPANSION = 4  # hidden size of a block's dense layers over its width
SCALARS = 4
"""Embedded scalars: timestep, change of the metric, asked metric, metric of the start."""


class Group(NamedTuple):
    """Tokens of the same size, which are embedded in one batched product.

    Attributes:
      size: values per token.
      tokens: their numbers.
    """

    size: int
    tokens: tuple[int, ...]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Layout:
    """How a flat vector is cut into tokens; static in pytrees, so that a generator's constants can hold it.

    Attributes:
      spec: meaning of the vector.
      scheme: "chunk" (pieces of each tensor) or "tensor" (whole ones).
      chunk: longest piece.
    """

    spec: WeightSpec
    scheme: Literal["chunk", "tensor"]
    chunk: int

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Values per token; tokens follow one another in the flat vector."""
        return tuple(int(size) for size in self.spec.tokens(self.scheme, self.chunk).mask.sum(axis=1))

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """The tokens by size, in flat order within a size."""
        members: dict[int, list[int]] = {}
        for token, size in enumerate(self.sizes):
            members.setdefault(size, []).append(token)
        return tuple(Group(size, tuple(tokens)) for size, tokens in members.items())

    @property
    def num_params(self) -> int:
        """Length of the flat vector, P."""
        return self.spec.num_params

    @property
    def num_tokens(self) -> int:
        """Tokens of one vector."""
        return len(self.sizes)

    def split(self, x: jax.Array) -> list[jax.Array]:
        """Vectors `[n, P]` to one array `[tokens, n, size]` per group."""
        starts = np.cumsum((0, *self.sizes))
        return [jnp.stack([x[:, starts[t] : starts[t] + group.size] for t in group.tokens]) for group in self.groups]

    def in_order(self, parts: list[jax.Array]) -> list[jax.Array]:
        """One array `[tokens, n, ...]` per group to one `[n, ...]` per token."""
        found = {t: part[i] for group, part in zip(self.groups, parts, strict=True) for i, t in enumerate(group.tokens)}
        return [found[t] for t in range(self.num_tokens)]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of the transformer; `GPT` says what each is."""

    width: int
    blocks: int
    heads: int
    num_frequencies: int
    dtype: Literal["float32", "bfloat16"]
    remat: bool = False

    @property
    def scalar_size(self) -> int:
        """Features of an embedded scalar."""
        return 2 * self.num_frequencies + 1


def frequencies(count: int, max_log2: float) -> np.ndarray:
    """Returns `[count]` float32: 2 to equally spaced powers from 0 to `max_log2`, rounded from float64.

    PyTorch's own table differs by up to 5 units of the last place, depending on how PyTorch was built. Timesteps of
    some hundred turn one such unit at the highest frequencies into a phase of one or two radians, so a published
    checkpoint has to be run with the table that it holds (see `importer`).
    """
    return np.exp2(np.linspace(0.0, max_log2, count)).astype(np.float32)


def scalar_features(values: jax.Array, table: jax.Array) -> jax.Array:
    """Embeds scalars `[...]` as the sines and cosines of their products with a table of frequencies, and themselves.

    The products are float32: rounding moves the phase of a value v at frequency f by up to half a unit of the last
    place of `v f`, which is 0.5 for a timestep of 999 at 2 ** 14. The highest frequencies of large values are thus a
    fixed pseudo-random code rather than a phase, in the published code as well.

    Args:
      values: float32.
      table: `[count]` float32 frequencies.

    Returns:
      `[..., 2 * count + 1]` float32.
    """
    phases = values[..., None] * table.reshape((1,) * values.ndim + (-1,))
    return jnp.concatenate([jnp.sin(phases), jnp.cos(phases), values[..., None]], axis=-1)


def time_features(num_timesteps: int, table: np.ndarray) -> np.ndarray:
    """`scalar_features` of all timesteps, `[num_timesteps, 2 * count + 1]` float32, made on the host.

    Sines and cosines are those of the float32 products in float64, so that no backend's range reduction of large
    arguments matters.
    """
    values = np.arange(num_timesteps, dtype=np.float32)[:, None]
    phases = (values * table[None, :]).astype(np.float64)
    return np.concatenate([np.sin(phases), np.cos(phases), values], axis=1).astype(np.float32)


def metric_features(asked: jax.Array, start: jax.Array, table: jax.Array) -> jax.Array:
    """Embeds the asked change of the metric, the asked metric and that of the start, each `[n]`, to `[n, 3, size]`."""
    return scalar_features(jnp.stack([asked - start, asked, start], axis=1), table)


def _products(indices: str, x: jax.Array, y: jax.Array, dtype: str) -> jax.Array:
    """Batched products of `dtype`, summed in float32."""
    return jnp.einsum(indices, x.astype(dtype), y.astype(dtype), preferred_element_type=jnp.float32)


def _norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    factor = lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + _NORM_EPSILON)
    lead = (1,) * (x.ndim - 1)
    return centred * factor * scale.reshape(*lead, -1) + bias.reshape(*lead, -1)


class Norm(nn.Module):
    """Layer normalisation of the last axis."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `[..., width]`."""
        scale = parameter(self, "scale", (x.shape[-1],), constant(1.0))
        return _norm(x, scale, parameter(self, "bias", (x.shape[-1],), constant(0.0)))


class Embedding(nn.Module):
    """Weight vectors to tokens, each token by its own matrix without a bias.

    Attributes:
      layout: of the vectors.
      width: of the tokens.
      dtype: of the products.
    """

    layout: Layout
    width: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, P]` to `[n, tokens, width]`."""
        parts = []
        for group, part in zip(self.layout.groups, self.layout.split(x), strict=True):
            shape = (len(group.tokens), group.size, self.width)
            kernel = parameter(self, f"size_{group.size}_kernel", shape, normal(_INIT_STD))
            parts.append(_products("gns,gsd->gnd", part, kernel, self.dtype))
        return jnp.stack(self.layout.in_order(parts), axis=1)


class Unembedding(nn.Module):
    """Tokens to weight vectors, each token by its own matrix without a bias; zero at initialisation.

    Attributes:
      layout: of the vectors.
      dtype: of the products.
    """

    layout: Layout
    dtype: str

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps `[n, tokens, width]` to `[n, P]`."""
        parts = []
        for group in self.layout.groups:
            shape = (len(group.tokens), tokens.shape[-1], group.size)
            kernel = parameter(self, f"size_{group.size}_kernel", shape, constant(0.0))
            part = jnp.stack([tokens[:, t] for t in group.tokens])
            parts.append(_products("gnd,gds->gns", part, kernel, self.dtype))
        return jnp.concatenate(self.layout.in_order(parts), axis=1)


class Blocks(nn.Module):
    """A stack of pre-norm transformer blocks whose parameters are stacked `[blocks, ...]`.

    Attributes:
      architecture: of the transformer.
      read: number of leading tokens whose outcome is wanted; the last block computes no others.
    """

    architecture: Architecture
    read: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, tokens, width]` to `[n, read, width]`."""
        a = self.architecture
        d, wide = a.width, _EXPANSION * a.width
        params = {
            "qkv_kernel": self._stacked("qkv_kernel", (d, 3 * d), normal(_INIT_STD)),
            "out_kernel": self._stacked("out_kernel", (d, d), normal(_INIT_STD)),
            "up_kernel": self._stacked("up_kernel", (d, wide), normal(_INIT_STD)),
            "down_kernel": self._stacked("down_kernel", (wide, d), normal(_INIT_STD)),
        }
        for name, size in {"qkv": 3 * d, "out": d, "up": wide, "down": d, "norm_1": d, "norm_2": d}.items():
            params[f"{name}_bias"] = self._stacked(f"{name}_bias", (size,), constant(0.0))
        for name in ("norm_1_scale", "norm_2_scale"):
            params[name] = self._stacked(name, (d,), constant(1.0))
        block = jax.checkpoint(_block, static_argnums=(2, 3)) if a.remat else _block
        first, last = (jax.tree.map(operator.itemgetter(part), params) for part in (slice(-1), -1))
        x = lax.scan(lambda x, p: (block(x, p, a, x.shape[1]), None), x, first)[0]
        return block(x, last, a, self.read)

    def _stacked(self, name: str, shape: tuple[int, ...], initial: Initial) -> jax.Array:
        return parameter(self, name, (self.architecture.blocks, *shape), initial)


def _block(x: jax.Array, p: Mapping[str, jax.Array], a: Architecture, read: int) -> jax.Array:
    """Maps `[n, tokens, width]` to the first `read` tokens after one block."""
    d = a.width
    hidden = _norm(x, p["norm_1_scale"], p["norm_1_bias"])
    kernels, biases = (jnp.split(p[f"qkv_{name}"], [d], axis=-1) for name in ("kernel", "bias"))
    q = matmul(hidden[:, :read], kernels[0], a.dtype) + biases[0][None, None, :]
    kv = matmul(hidden, kernels[1], a.dtype) + biases[1][None, None, :]
    # Split, not indexed: the gradient is one concatenation instead of two padded sums.
    mixed = _attention(q, *lax.split(kv, (d, d), axis=2), a)
    x = x[:, :read] + matmul(mixed, p["out_kernel"], a.dtype) + p["out_bias"][None, None, :]
    hidden = _norm(x, p["norm_2_scale"], p["norm_2_bias"])
    hidden = gelu(matmul(hidden, p["up_kernel"], a.dtype) + p["up_bias"][None, None, :])
    return x + matmul(hidden, p["down_kernel"], a.dtype) + p["down_bias"][None, None, :]


def _attention(q: jax.Array, k: jax.Array, v: jax.Array, a: Architecture) -> jax.Array:
    """Softmax attention of queries `[n, read, width]` to keys and values `[n, tokens, width]`."""
    # Heads before tokens: the products of XLA's CPU backend are half as fast over strided rows.
    q, k, v = (part.reshape(*part.shape[:2], a.heads, -1).transpose(0, 2, 1, 3) for part in (q, k, v))
    scores = _products("bhid,bhjd->bhij", q, k, a.dtype) / math.sqrt(q.shape[-1])
    mixed = _products("bhij,bhjd->bhid", jax.nn.softmax(scores, axis=-1), v, a.dtype)
    return mixed.transpose(0, 2, 1, 3).reshape(mixed.shape[0], mixed.shape[2], a.width)


class Transformer(nn.Module):
    """Predicts clean weight vectors from noised ones; made by `initialise`.

    The tokens are, in order: the noised vector's, the start's, the timestep's, and one each for the asked change of the
    metric, the asked metric and the start's. All but the first and the timestep's stay the same while a sample is
    drawn, so `condition` and `embed_times` are for once per sample and `denoise` for every step.

    Attributes:
      layout: of the vectors.
      architecture: sizes.
    """

    layout: Layout
    architecture: Architecture

    def setup(self) -> None:
        """Builds the parts."""
        a, tokens = self.architecture, self.layout.num_tokens
        self.noised_embedding = Embedding(self.layout, a.width, a.dtype)
        self.start_embedding = Embedding(self.layout, a.width, a.dtype)
        self.scalar_kernel = parameter(self, "scalar_kernel", (SCALARS, a.scalar_size, a.width), normal(_INIT_STD))
        self.norm_in = Norm()
        self.positions = parameter(self, "positions", (2 * tokens + SCALARS, a.width), constant(0.0))
        self.blocks = Blocks(a, tokens)
        self.norm_out = Norm()
        self.unembedding = Unembedding(self.layout, a.dtype)

    def __call__(self, x_t: jax.Array, start: jax.Array, times: jax.Array, metrics: jax.Array) -> jax.Array:
        """Predicts clean vectors.

        Args:
          x_t: `[n, P]` noised vectors.
          start: `[n, P]` vectors to start from.
          times: `[n, size]` embedded timesteps, see `time_features`.
          metrics: `[n, 3, size]`, see `metric_features`.

        Returns:
          `[n, P]` float32; `start` itself at initialisation.
        """
        scalars = self._embed_scalars(jnp.concatenate([times[:, None, :], metrics], axis=1), self.scalar_kernel)
        embedded = [self.noised_embedding(x_t), self.start_embedding(start), scalars]
        tokens = self.norm_in(jnp.concatenate(embedded, axis=1)) + self.positions[None, :, :]
        return self._decode(tokens, start)

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
        embedded = _products("kns,ksd->knd", jnp.swapaxes(features, 0, 1), kernel, self.architecture.dtype)
        return jnp.swapaxes(embedded, 0, 1)

    def _decode(self, tokens: jax.Array, start: jax.Array) -> jax.Array:
        return self.unembedding(self.norm_out(self.blocks(tokens))) + start


def example_inputs(layout: Layout, architecture: Architecture) -> tuple[jax.Array, ...]:
    """Arguments of `Transformer` for one example, all zero."""
    vector, size = jnp.zeros((1, layout.num_params)), architecture.scalar_size
    return vector, vector, jnp.zeros((1, size)), jnp.zeros((1, SCALARS - 1, size))
