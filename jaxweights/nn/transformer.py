"""Transformers over the pieces of weight vectors, the part that G.pt and HyperDiffusion share.

A vector is cut into tokens (`TokenLayout`), each embedded by a matrix of its own; scalars are embedded as sines and
cosines; pre-norm blocks without a mask follow.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxweights import sharding
from jaxweights.nn.activations import gelu
from jaxweights.nn.dense import matmul
from jaxweights.nn.dropout import drop, keep
from jaxweights.nn.normalization import layer_norm
from jaxweights.nn.parameters import Initial, constant, kernel, normal, parameter
from jaxweights.sharding import Kernel
from jaxweights.spec import WeightSpec

INIT_STD = 0.02
"""Standard deviation of the initial entries of matrices, as in the published code."""

_EXPANSION = 4  # hidden size of a block's dense layers over its width
_UNROLLED = 8  # on a CPU, blocks of a stack that are compiled one by one


class Group(NamedTuple):
    """Tokens of the same size, which are embedded in one batched product.

    Attributes:
      size: values per token.
      tokens: numbers of the tokens.
    """

    size: int
    tokens: tuple[int, ...]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class TokenLayout:
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
    """Sizes of a transformer.

    Attributes:
      width: values per token.
      blocks: number of blocks.
      heads: heads of attention.
      num_frequencies: frequencies of embedded scalars.
      dtype: type of the matrix products; parameters, normalisations and softmax are float32.
      remat: compute each block again for its gradient instead of keeping its intermediate values.
      dropout: probability of dropping a value of the tokens, of the attention weights, or of what a block adds.
    """

    width: int
    blocks: int
    heads: int
    num_frequencies: int
    dtype: Literal["float32", "bfloat16"]
    remat: bool = False
    dropout: float = 0.0

    @property
    def scalar_size(self) -> int:
        """Features of an embedded scalar."""
        return 2 * self.num_frequencies + 1


def frequencies(count: int, max_log2: float) -> np.ndarray:
    """Returns `[count]` float32: 2 to equally spaced powers from 0 to `max_log2`, rounded from float64.

    PyTorch's own table differs by some units of the last place, depending on how PyTorch was built. Timesteps of
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


def products(indices: str, x: jax.Array, y: jax.Array, dtype: str) -> jax.Array:
    """Batched products of `dtype`, summed in float32."""
    return jnp.einsum(indices, x.astype(dtype), y.astype(dtype), preferred_element_type=jnp.float32)


class Embedding(nn.Module):
    """Weight vectors to tokens, each token by its own matrix without a bias.

    Attributes:
      layout: tokens of the vectors.
      width: values per token.
      dtype: type of the products.
    """

    layout: TokenLayout
    width: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, P]` to `[n, tokens, width]`."""
        parts = []
        for group, part in zip(self.layout.groups, self.layout.split(x), strict=True):
            shape = (len(group.tokens), group.size, self.width)
            weights = parameter(self, f"size_{group.size}_kernel", shape, normal(INIT_STD))
            parts.append(products("gns,gsd->gnd", part, weights, self.dtype))
        return jnp.stack(self.layout.in_order(parts), axis=1)


class Unembedding(nn.Module):
    """Tokens to weight vectors, each token by its own matrix without a bias.

    Attributes:
      layout: tokens of the vectors.
      dtype: type of the products.
      std: standard deviation of the initial entries.
    """

    layout: TokenLayout
    dtype: str
    std: float = INIT_STD

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps `[n, tokens, width]` to `[n, P]`."""
        parts = []
        for group in self.layout.groups:
            shape = (len(group.tokens), tokens.shape[-1], group.size)
            weights = kernel(self, f"size_{group.size}_kernel", shape, normal(self.std))
            part = jnp.stack([tokens[:, t] for t in group.tokens])
            parts.append(sharding.apply(lambda w, part: products("gnd,gds->gns", part, w, self.dtype), weights, part))
        return jnp.concatenate(self.layout.in_order(parts), axis=1)


class Blocks(nn.Module):
    """A stack of pre-norm transformer blocks whose parameters are stacked `[blocks, ...]`.

    Attributes:
      architecture: sizes of the transformer.
      read: number of leading tokens whose outcome is wanted; the last block computes no others.
    """

    architecture: Architecture
    read: int

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Maps `[n, tokens, width]` to `[n, read, width]`, with dropout where `keys` `[n]` are given."""
        a = self.architecture
        d, wide = a.width, _EXPANSION * a.width
        params: dict[str, Any] = {
            "qkv_kernel": self._stacked("qkv_kernel", (d, 3 * d), normal(INIT_STD)),
            "out_kernel": self._stacked("out_kernel", (d, d), normal(INIT_STD)),
            "up_kernel": self._stacked("up_kernel", (d, wide), normal(INIT_STD)),
            "down_kernel": self._stacked("down_kernel", (wide, d), normal(INIT_STD)),
        }
        for name, size in {"qkv": 3 * d, "out": d, "up": wide, "down": d, "norm_1": d, "norm_2": d}.items():
            params[f"{name}_bias"] = self._stacked(f"{name}_bias", (size,), constant(0.0))
        for name in ("norm_1_scale", "norm_2_scale"):
            params[name] = self._stacked(name, (d,), constant(1.0))
        if keys is not None and a.dropout:
            # All masks from one draw: drawing in every place multiplies the time to compile.
            n, tokens, _ = x.shape
            size = sum(math.prod(shape) for shape in _masked(a, tokens))
            kept = keep(keys, (tokens * d + a.blocks * size,), a.dropout)
            x = drop(x, kept[:, : tokens * d].reshape(x.shape), a.dropout)
            params["keep"] = jnp.swapaxes(kept[:, tokens * d :].reshape(n, a.blocks, size), 0, 1)
        block = jax.checkpoint(_block, static_argnums=(2, 3)) if a.remat else _block
        # Not where memory is to be saved: XLA may compute again early what no loop holds back.
        if a.blocks <= _UNROLLED and not a.remat and jax.default_backend() == "cpu":
            *first, last = _apart(params, a.blocks)
            for p in first:
                x = block(x, p, a, x.shape[1])
            return block(x, last, a, self.read)
        first, last = (jax.tree.map(operator.itemgetter(part), params) for part in (slice(-1), -1))
        x = lax.scan(lambda x, p: (block(x, p, a, x.shape[1]), None), x, first)[0]
        return block(x, last, a, self.read)

    def _stacked(self, name: str, shape: tuple[int, ...], initial: Initial) -> Kernel:
        return kernel(self, name, (self.architecture.blocks, *shape), initial)


def _apart(params: Any, count: int) -> list[Any]:
    """Arrays `[count, ...]` as a list of trees. Split, not indexed: the gradient is one concatenation instead of a
    padded sum."""
    leaves, tree = jax.tree.flatten(params)
    parts = [[lax.squeeze(part, (0,)) for part in lax.split(leaf, (1,) * count)] for leaf in leaves]
    return [tree.unflatten(part) for part in zip(*parts, strict=True)]


def _block(x: jax.Array, p: Mapping[str, Any], a: Architecture, read: int) -> jax.Array:
    """Maps `[n, tokens, width]` to the first `read` tokens after one block."""
    mixed_from, mixing, dense = _masks(p.get("keep"), a, x.shape[1], read)
    d = a.width
    hidden = layer_norm(x, p["norm_1_scale"], p["norm_1_bias"])

    def project(kernel: jax.Array, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_queries, of_others = jnp.split(kernel, [d], axis=-1)
        return matmul(hidden[:, :read], of_queries, a.dtype), matmul(hidden, of_others, a.dtype)

    q, kv = sharding.apply(project, p["qkv_kernel"], hidden)
    biases = jnp.split(p["qkv_bias"], [d])
    q, kv = q + biases[0][None, None, :], kv + biases[1][None, None, :]
    # Split, not indexed: the gradient is one concatenation instead of two padded sums.
    k, v = lax.split(kv, (d, d), axis=2)
    mixed = attention(q, k, v, a, mixed_from)
    mixed = matmul(mixed, p["out_kernel"], a.dtype) + p["out_bias"][None, None, :]
    x = x[:, :read] + drop(mixed, mixing, a.dropout)
    hidden = layer_norm(x, p["norm_2_scale"], p["norm_2_bias"])
    # Computed again for the gradient, which reads what the product wrote instead of two further arrays of its size.
    activated = jax.checkpoint(lambda hidden, bias: gelu(hidden + bias[None, None, :]))
    hidden = activated(matmul(hidden, p["up_kernel"], a.dtype), p["up_bias"])
    hidden = matmul(hidden, p["down_kernel"], a.dtype) + p["down_bias"][None, None, :]
    return x + drop(hidden, dense, a.dropout)


def _masked(a: Architecture, tokens: int) -> list[tuple[int, ...]]:
    """Shapes of what a block drops values of: attention weights, the attention's output, that of the dense layers."""
    return [(a.heads, tokens, tokens), (tokens, a.width), (tokens, a.width)]


def _masks(kept: jax.Array | None, a: Architecture, tokens: int, read: int) -> list[jax.Array | None]:
    """Cuts `[n, size]` into one mask for each of `_masked`, of the first `read` tokens."""
    if kept is None:
        return [None, None, None]
    shapes = _masked(a, tokens)
    parts = jnp.split(kept, np.cumsum([math.prod(shape) for shape in shapes])[:-1], axis=1)
    parts = [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
    return [part[..., :read, :] for part in parts]


def attention(q: jax.Array, k: jax.Array, v: jax.Array, a: Architecture, kept: jax.Array | None) -> jax.Array:
    """Softmax attention of queries `[n, read, width]` to keys and values `[n, tokens, width]`."""
    # Heads before tokens: the products of XLA's CPU backend are half as fast over strided rows.
    q, k, v = (part.reshape(*part.shape[:2], a.heads, -1).transpose(0, 2, 1, 3) for part in (q, k, v))
    scores = products("bhid,bhjd->bhij", q, k, a.dtype) / math.sqrt(q.shape[-1])
    mixed = products("bhij,bhjd->bhid", drop(jax.nn.softmax(scores, axis=-1), kept, a.dropout), v, a.dtype)
    return mixed.transpose(0, 2, 1, 3).reshape(mixed.shape[0], mixed.shape[2], a.width)


def is_matrix(params: Any) -> Any:
    """Whether a parameter is a matrix of a dense layer, by its name; a tree of bools."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)
