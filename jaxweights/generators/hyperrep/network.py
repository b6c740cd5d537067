"""The transformer autoencoder of flat weight vectors (Schuerholt et al., "Hyper-Representations", 2021 and 2022).

Every neuron of the task network (or every weight) is a token; pre-norm transformer blocks, a bottleneck, and the same
way back. `importer` reads published checkpoints.

Options of the published code that do not do what their names say are left out. `transformer_type="pytorch"` hands
`[batch, tokens, width]` to layers that expect the tokens first, so that attention runs across the examples of a batch.
The attention embedder makes the same mistake, and what it returns does not depend on the weights at all.
`debedder_layers > 1`, and the bottleneck "mlp" with the decompression "repeat", stop with an error there.
`compression_token` has no effect there; `compression="token"` is what it names.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxweights import draws
from jaxweights.generators.hyperrep.layout import Layer, UnitLayout
from jaxweights.nn.dense import Dense, matmul
from jaxweights.nn.dropout import drop
from jaxweights.nn.parameters import FAN_IN_UNIFORM, Initial, constant, fan_in_uniform, kernel, normal, parameter
from jaxweights.sharding import Kernel

_NORM_EPSILON = 1e-6
_UNROLLED = 4  # blocks of a stack that are compiled one by one


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes and variants of the autoencoder; `HyperRep` says what each is."""

    encoding: Literal["neuron", "weight", "neuron_in_out"]
    width: int
    feed_forward: int
    blocks: int
    heads: int
    latent_dim: int
    dropout: float
    normalize: bool
    compression: Literal["linear", "average", "token"]
    decompression: Literal["linear", "repeat"]
    bottleneck: Literal["linear", "linear_bounded", "mlp"]
    bottleneck_layers: int
    decoder_bias: bool
    identical_blocks: bool
    dtype: Literal["float32", "bfloat16"]
    remat: bool = False

    def num_tokens(self, layout: UnitLayout) -> int:
        """Tokens of a weight vector, without a compression token."""
        return layout.num_params if self.encoding == "weight" else sum(layer.units for layer in layout.layers)


def _products(x: jax.Array, y: jax.Array, dtype: str) -> jax.Array:
    """`[n, heads, i, j]` times `[n, heads, j, k]`; products of `dtype`, summed in float32."""
    return jnp.matmul(x.astype(dtype), y.astype(dtype), preferred_element_type=jnp.float32)


def _dense(features: int, dtype: str, name: str) -> Dense:
    return Dense(features, FAN_IN_UNIFORM, convention="flax", dtype=dtype, name=name)


class Embedding(nn.Module):
    """Weight vectors to tokens.

    Attributes:
      layout: layers and units of the vectors.
      architecture: sizes and variants of the autoencoder.
    """

    layout: UnitLayout
    architecture: Architecture

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, P]` to `[n, tokens, width]`."""
        a = self.architecture
        if a.encoding == "weight":
            return _dense(a.width, a.dtype, name="weight")(x[:, :, None])
        tokens = []
        for i, layer in enumerate(self.layout.layers):
            rows = _rows(x, layer, a.encoding == "neuron_in_out")
            tokens.append(_dense(a.width, a.dtype, name=f"layer_{i}")(rows))
        return jnp.concatenate(tokens, axis=1)


def _rows(x: jax.Array, layer: Layer, with_outgoing: bool) -> jax.Array:
    """What belongs to each unit of a layer: `[n, P]` to `[n, units, values]`."""
    n = x.shape[0]
    parts = [x[:, start : start + layer.units * fan].reshape(n, layer.units, fan) for start, fan in layer.parts]
    if with_outgoing and layer.outgoing is not None:
        start, outputs, fan = layer.outgoing
        outgoing = x[:, start : start + outputs * layer.units * fan].reshape(n, outputs, layer.units, fan)
        parts.append(jnp.swapaxes(outgoing, 1, 2).reshape(n, layer.units, outputs * fan))
    return jnp.concatenate(parts, axis=-1)


class Unembedding(nn.Module):
    """Tokens to weight vectors.

    With the encoding "neuron_in_out" most weights are predicted by two tokens. As in the published code the predictions
    are added and everything from the second layer up to the last one is halved, which leaves the biases there at half
    and the last layer's weights at the sum; the layers before can make up for both.

    Attributes:
      layout: layers and units of the vectors.
      architecture: sizes and variants of the autoencoder.
    """

    layout: UnitLayout
    architecture: Architecture

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps `[n, tokens, width]` to `[n, P]`."""
        a, layers = self.architecture, self.layout.layers
        if a.encoding == "weight":
            return _dense(1, a.dtype, name="weight")(tokens)[:, :, 0]
        n = tokens.shape[0]
        pieces: dict[int, jax.Array] = {}
        first = 0
        for i, layer in enumerate(layers):
            start, outputs, fan = layer.outgoing or (0, 0, 0)
            outgoing = outputs * fan if a.encoding == "neuron_in_out" else 0
            dense = _dense(layer.fan + outgoing, a.dtype, name=f"layer_{i}")
            rows = dense(tokens[:, first : first + layer.units])
            first += layer.units
            column = 0
            for part, size in layer.parts:
                piece = rows[:, :, column : column + size].reshape(n, -1)
                pieces[part] = piece + pieces[part] if part in pieces else piece
                column += size
            if outgoing:
                piece = rows[:, :, column:].reshape(n, layer.units, outputs, fan)
                pieces[start] = jnp.swapaxes(piece, 1, 2).reshape(n, -1)
        out = jnp.concatenate([pieces[start] for start in sorted(pieces)], axis=-1)
        if a.encoding == "neuron_in_out" and len(layers) > 2:
            factor = np.ones(self.layout.num_params, np.float32)
            factor[layers[1].parts[0][0] : layers[-1].parts[0][0]] = 0.5
            out = out * factor[None, :]
        return out


class Blocks(nn.Module):
    """A stack of pre-norm transformer blocks whose parameters are stacked `[blocks, ...]`.

    The normalisation divides by the unbiased standard deviation plus epsilon, as the published one does; there is none
    after the last block.

    Attributes:
      architecture: sizes and variants of the autoencoder.
    """

    architecture: Architecture

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Maps `[n, tokens, width]` to the same shape, with dropout where `keys` `[n]` are given."""
        a = self.architecture
        d, wide = a.width, a.feed_forward
        params: dict[str, Any] = {
            "qkv_kernel": self._stacked("qkv_kernel", (d, 3 * d), fan_in_uniform(d)),
            "qkv_bias": self._stacked("qkv_bias", (3 * d,), fan_in_uniform(d)),
            "out_kernel": self._stacked("out_kernel", (d, d), fan_in_uniform(d)),
            "out_bias": self._stacked("out_bias", (d,), fan_in_uniform(d)),
            "up_kernel": self._stacked("up_kernel", (d, wide), fan_in_uniform(d)),
            "up_bias": self._stacked("up_bias", (wide,), fan_in_uniform(d)),
            "down_kernel": self._stacked("down_kernel", (wide, d), fan_in_uniform(wide)),
            "down_bias": self._stacked("down_bias", (d,), fan_in_uniform(wide)),
        }
        if a.normalize:
            for name in ("norm_1", "norm_2"):
                params[f"{name}_scale"] = self._stacked(f"{name}_scale", (d,), constant(1.0))
                params[f"{name}_bias"] = self._stacked(f"{name}_bias", (d,), constant(0.0))

        def block(x: jax.Array, index: jax.Array, p: Mapping[str, Any]) -> jax.Array:
            return _block(x, p, _masks(keys, index, x.shape, a), a)

        block = jax.checkpoint(block) if a.remat else block

        # Unrolled where the stack is low: a tenth faster on CPU, and no slower to compile.
        scanned = (jnp.arange(a.blocks), params)
        return lax.scan(lambda x, given: (block(x, *given), None), x, scanned, unroll=a.blocks <= _UNROLLED)[0]

    def _stacked(self, name: str, shape: tuple[int, ...], initial: Initial) -> Kernel:
        shape = (self.architecture.blocks, *shape)
        if self.architecture.identical_blocks:
            return kernel(self, name, shape, lambda draws: jnp.broadcast_to(initial(draws[:1]), shape))
        return kernel(self, name, shape, initial)


def _block(x: jax.Array, p: Mapping[str, Any], masks: tuple, a: Architecture) -> jax.Array:
    n, tokens, d = x.shape
    hidden = _norm(x, p["norm_1_scale"], p["norm_1_bias"]) if a.normalize else x
    qkv = matmul(hidden, p["qkv_kernel"], a.dtype) + p["qkv_bias"][None, None, :]
    # Split, not indexed: the gradient is one concatenation instead of three padded sums.
    parts = lax.split(qkv, (d, d, d), axis=2)
    q, k, v = (part.reshape(n, tokens, a.heads, d // a.heads).transpose(0, 2, 1, 3) for part in parts)
    scores = _products(q / math.sqrt(d // a.heads), jnp.swapaxes(k, 2, 3), a.dtype)
    # The softmax's division waits until after the product with v, which is smaller than the attention matrix.
    attention = jnp.exp(scores - lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(attention, axis=-1)
    mixed = _products(drop(attention, masks[0], a.dropout), v, a.dtype) / total[:, :, :, None]
    mixed = mixed.transpose(0, 2, 1, 3).reshape(n, tokens, d)
    mixed = matmul(mixed, p["out_kernel"], a.dtype) + p["out_bias"][None, None, :]
    x = x + drop(mixed, masks[1], a.dropout)
    hidden = _norm(x, p["norm_2_scale"], p["norm_2_bias"]) if a.normalize else x
    hidden = nn.relu(matmul(hidden, p["up_kernel"], a.dtype) + p["up_bias"][None, None, :])
    hidden = drop(hidden, masks[2], a.dropout)
    hidden = matmul(hidden, p["down_kernel"], a.dtype) + p["down_bias"][None, None, :]
    return x + drop(hidden, masks[3], a.dropout)


def _norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    std = jnp.sqrt(jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / (x.shape[-1] - 1))
    return scale[None, None, :] * centred / (std + _NORM_EPSILON) + bias[None, None, :]


def _masks(keys: jax.Array | None, index: jax.Array, shape: tuple[int, ...], a: Architecture) -> tuple:
    """What the four dropouts of a block keep: attention weights, attention output, feed-forward, its output."""
    if keys is None or not a.dropout:
        return None, None, None, None
    n, tokens, d = shape
    shapes = [(a.heads, tokens, tokens), (tokens, d), (tokens, a.feed_forward), (tokens, d)]
    keep = keep_mask(keys, index, sum(math.prod(s) for s in shapes), a.dropout)
    masks, end = [], 0
    for s in shapes:
        masks.append(keep[:, end : end + math.prod(s)].reshape(n, *s))
        end += math.prod(s)
    return tuple(masks)


def keep_mask(keys: jax.Array, index: jax.Array | int, size: int, rate: float) -> jax.Array:
    """Which of `size` values of every example dropout keeps, `[n, size]` bool; of each example's own key alone.

    Args:
      keys: `[n]` typed PRNG keys.
      index: which dropout of the network, so that one key serves all.
      size: values per example.
      rate: probability of dropping, rounded to a multiple of 2 ** -16.
    """
    words = draws.bits(jax.vmap(lambda key: jax.random.fold_in(key, index))(keys), ((size + 1) // 2,))
    halves = lax.bitcast_convert_type(words, jnp.uint16).reshape(len(words), -1)[:, :size]
    return halves >= round(rate * 2**16)


class Encoder(nn.Module):
    """Weight vectors to latents.

    Attributes:
      layout: layers and units of the vectors.
      architecture: sizes and variants of the autoencoder.
    """

    layout: UnitLayout
    architecture: Architecture

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Maps `[n, P]` to `[n, latent_dim]`, with dropout where `keys` `[n]` are given."""
        a = self.architecture
        tokens = Embedding(self.layout, a, name="embedding")(x)
        if a.compression == "token":
            token = parameter(self, "token", (a.width,), normal(1.0))
            token = jnp.broadcast_to(token[None, None, :], (x.shape[0], 1, a.width))
            tokens = jnp.concatenate([token, tokens], axis=1)
        tokens = tokens + parameter(self, "positions", tokens.shape[1:], normal(1.0))[None, :, :]
        tokens = Blocks(a, name="blocks")(tokens, keys)
        if a.compression == "token":
            flat = tokens[:, 0]
        elif a.compression == "average":
            flat = jnp.mean(tokens, axis=1)
        else:
            flat = tokens.reshape(tokens.shape[0], -1)
        if a.bottleneck == "mlp":
            widths = _mlp_widths(flat.shape[-1], a)
            return jnp.tanh(MLP(widths[1:], a.dropout, a.blocks, name="to_latent")(flat, keys))
        z = _dense(a.latent_dim, a.dtype, name="to_latent")(flat)
        return jnp.tanh(z) if a.bottleneck == "linear_bounded" else z


class Decoder(nn.Module):
    """Latents to weight vectors.

    Attributes:
      layout: layers and units of the vectors.
      architecture: sizes and variants of the autoencoder.
    """

    layout: UnitLayout
    architecture: Architecture

    @nn.compact
    def __call__(self, z: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Maps `[n, latent_dim]` to `[n, P]`, with dropout where `keys` `[n]` are given."""
        a = self.architecture
        shape = (a.num_tokens(self.layout), a.width)
        if a.decoder_bias:
            z = z + parameter(self, "latent_bias", (a.latent_dim,), normal(1e-3))[None, :]
        if a.bottleneck == "mlp":
            widths = _mlp_widths(math.prod(shape), a)
            tokens = MLP(widths[-2::-1], a.dropout, a.blocks, name="from_latent")(z, keys)
        else:
            size = a.width if a.decompression == "repeat" else math.prod(shape)
            tokens = _dense(size, a.dtype, name="from_latent")(z)
        tokens = tokens.reshape(z.shape[0], -1, a.width) + parameter(self, "positions", shape, normal(1.0))[None, :, :]
        tokens = Blocks(a, name="blocks")(tokens, keys)
        return Unembedding(self.layout, a, name="unembedding")(tokens)


def _mlp_widths(inputs: int, a: Architecture) -> tuple[int, ...]:
    """Layer sizes of the bottleneck "mlp" from the tokens to the latent, equally spaced."""
    return tuple(int(w) for w in np.linspace(inputs, a.latent_dim, a.bottleneck_layers + 2))


class MLP(nn.Module):
    """Dense layers with leaky rectifiers and dropout between them.

    Attributes:
      widths: output sizes.
      dropout: rate.
      index: number of the first dropout, see `keep_mask`.
    """

    widths: tuple[int, ...]
    dropout: float
    index: int

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Maps `[n, in]` to `[n, widths[-1]]`, with dropout where `keys` `[n]` are given."""
        for i, width in enumerate(self.widths):
            x = Dense(width, "kaiming_normal", convention="flax", name=f"dense_{i}")(x)
            if i < len(self.widths) - 1:
                x = nn.leaky_relu(x, 0.01)
                if keys is not None and self.dropout:
                    x = drop(x, keep_mask(keys, self.index + i, width, self.dropout), self.dropout)
        return x


class Autoencoder(nn.Module):
    """The autoencoder.

    Attributes:
      layout: layers and units of the vectors.
      architecture: sizes and variants.
    """

    layout: UnitLayout
    architecture: Architecture

    def setup(self) -> None:
        """Builds the two halves."""
        self.encoder = Encoder(self.layout, self.architecture)
        self.decoder = Decoder(self.layout, self.architecture)

    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Returns latents `[n, latent_dim]` and reconstructions `[n, P]`, all float32.

        Args:
          x: `[n, P]` weight vectors.
          keys: `[n]` typed PRNG keys for dropout, or None for none.
        """
        z = self.encode(x, keys)
        return z, self.decode(z, keys)

    def encode(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Latents `[n, latent_dim]` of weight vectors `[n, P]`."""
        return self.encoder(x, None if keys is None else _keys_of(keys, 0))

    def decode(self, z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Weight vectors `[n, P]` of latents `[n, latent_dim]`."""
        return self.decoder(z, None if keys is None else _keys_of(keys, 1))


def _keys_of(keys: jax.Array, part: int) -> jax.Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, part))(keys)
