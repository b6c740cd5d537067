"""The transformer of the flow: neurons are tokens, and the time of the flow modulates every block (adaLN-Zero; Peebles
and Xie, 2023, arXiv 2212.09748)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxweights.generators.neuron_flow.tokens import NeuronTokens
from jaxweights.nn.activations import gelu
from jaxweights.nn.dense import Dense, matmul
from jaxweights.nn.normalization import standardise
from jaxweights.nn.parameters import FAN_IN_UNIFORM, constant, normal, parameter
from jaxweights.nn.transformer import INIT_STD, Architecture, attention, scalar_features

_EXPANSION = 4  # hidden size of a block's dense layers over its width
_EPSILON = 1e-5
_PARTS = 6  # of a modulation: shift, scale and gate of the attention and of the dense layers


class Transformer(nn.Module):
    """Maps noised networks, seen in several coordinates, to one number for each of their parameters; 0 at
    initialisation.

    Units of one group share all parameters but their position. Without positions the map is equivariant: units in
    another order give the same numbers in that order.

    Attributes:
      tokens: how vectors are cut.
      architecture: sizes.
      positions: whether every token has a learned position.
    """

    tokens: NeuronTokens
    architecture: Architecture
    positions: bool

    @nn.compact
    def __call__(self, views: list[jax.Array], times: jax.Array, table: jax.Array) -> jax.Array:
        """Maps views `[n, P]` of the same networks and scalars `[n]` of their times, embedded by a table of
        frequencies, to `[n, P]` float32."""
        a, kinds = self.architecture, self.tokens.kinds
        x = jnp.concatenate([self._embedded(number, parts) for number, parts in enumerate(self._split(views))], axis=1)
        if self.positions:
            x = x + parameter(self, "positions", (self.tokens.num_tokens, a.width), normal(INIT_STD))[None, :, :]
        hidden = nn.silu(
            Dense(a.width, FAN_IN_UNIFORM, convention="flax", name="time_1")(scalar_features(times, table))
        )
        condition = nn.silu(Dense(a.width, FAN_IN_UNIFORM, convention="flax", name="time_2")(hidden))
        x = Blocks(a, name="blocks")(x, condition)
        shift, scale = jnp.split(self._zeros("modulation", condition, 2 * a.width), 2, axis=-1)
        x = modulated(x, shift, scale)
        ends = np.cumsum([0, *(len(kind.index) for kind in kinds)])
        parts = [
            self._zeros(f"out_{number}", x[:, start:end], kind.index.shape[1])
            for number, (kind, start, end) in enumerate(zip(kinds, ends[:-1], ends[1:], strict=True))
        ]
        return self.tokens.join(parts)

    def _split(self, views: list[jax.Array]) -> list[jax.Array]:
        """All views of the tokens of every kind, `[n, tokens, views * size]`."""
        parts = zip(*(self.tokens.split(view) for view in views), strict=True)
        return [jnp.concatenate(part, axis=-1) for part in parts]

    def _embedded(self, number: int, parts: jax.Array) -> jax.Array:
        dense = Dense(self.architecture.width, FAN_IN_UNIFORM, convention="flax", name=f"in_{number}")
        return dense(parts)

    def _zeros(self, name: str, x: jax.Array, features: int) -> jax.Array:
        return zeros(self, name, x, features, self.architecture.dtype)


def zeros(module: nn.Module, name: str, x: jax.Array, features: int, dtype: str) -> jax.Array:
    """A dense layer of a module over `[..., in]` that begins at zero."""
    weights = parameter(module, f"{name}_kernel", (x.shape[-1], features), constant(0.0))
    bias = parameter(module, f"{name}_bias", (features,), constant(0.0))
    return matmul(x, weights, dtype) + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def modulated(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Arrays `[n, ..., d]` standardised, then scaled and shifted by `[n, d]` each."""
    return standardise(x, (-1,), _EPSILON) * (1 + beside(scale, x)) + beside(shift, x)


def beside(condition: jax.Array, x: jax.Array) -> jax.Array:
    """`[n, d]` with an axis of one for each of those between in `[n, ..., d]`."""
    return condition.reshape(len(condition), *(1,) * (x.ndim - 2), -1)


class Blocks(nn.Module):
    """Transformer blocks whose parameters are stacked `[blocks, ...]`, each modulated by a condition.

    Attributes:
      architecture: sizes.
    """

    architecture: Architecture

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """Maps `[n, tokens, width]` under conditions `[n, width]` to `[n, tokens, width]`."""
        a = self.architecture
        d, wide = a.width, _EXPANSION * a.width
        shapes = {"qkv": (d, 3 * d), "out": (d, d), "up": (d, wide), "down": (wide, d), "modulation": (d, _PARTS * d)}
        params: dict[str, jax.Array] = {}
        for name, shape in shapes.items():
            initial = constant(0.0) if name == "modulation" else normal(shape[0] ** -0.5)
            params[f"{name}_kernel"] = parameter(self, f"{name}_kernel", (a.blocks, *shape), initial)
            params[f"{name}_bias"] = parameter(self, f"{name}_bias", (a.blocks, shape[1]), constant(0.0))

        def body(x: jax.Array, p: Mapping[str, Any]) -> tuple[jax.Array, None]:
            return _block(x, condition, p, a), None

        return lax.scan(jax.checkpoint(body) if a.remat else body, x, params)[0]


def _block(x: jax.Array, condition: jax.Array, p: Mapping[str, Any], a: Architecture) -> jax.Array:
    def dense(name: str, x: jax.Array) -> jax.Array:
        bias = p[f"{name}_bias"]
        return matmul(x, p[f"{name}_kernel"], a.dtype) + bias.reshape((1,) * (x.ndim - 1) + (-1,))

    parts = jnp.split(dense("modulation", condition), _PARTS, axis=-1)
    q, k, v = lax.split(dense("qkv", modulated(x, *parts[:2])), (a.width,) * 3, axis=2)
    x = x + parts[2][:, None, :] * dense("out", attention(q, k, v, a, None))
    hidden = gelu(dense("up", modulated(x, *parts[3:5])))
    return x + parts[5][:, None, :] * dense("down", hidden)
