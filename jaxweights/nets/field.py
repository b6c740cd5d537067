"""Neural fields: HyperDiffusion's occupancy network (36,737 parameters in three dimensions), image fields, SIREN."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.nets.settings import NetSettings
from jaxweights.nn.dense import Dense
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.parameters import Initialiser
from jaxweights.settings import setting
from jaxweights.spec import FIXED, WeightSpec

# Activation name to the symmetry that its units have under rescaling, and to the default frequencies of the encoding.
SCALINGS = {"relu": "positive", "sine": "sign"}
OCTAVES = {"relu": 4, "sine": 0}

_OMEGA = 30.0  # of SIREN (Sitzmann et al., arXiv 2006.09661, section 3.2): sin(omega (W x + b))


def encode(points: jax.Array, octaves: int) -> jax.Array:
    """Coordinates, then per octave their sines and cosines at frequencies 1, 2, 4, ... (no pi, as published).

    Args:
      points: `[..., d]`.
      octaves: number of frequencies.

    Returns:
      `[..., d * (1 + 2 * octaves)]`: `x, sin(x), cos(x), sin(2x), cos(2x), sin(4x), ...`, each of d entries.
    """
    features = [points]
    for octave in range(octaves):
        features += [jnp.sin(2.0**octave * points), jnp.cos(2.0**octave * points)]
    return jnp.concatenate(features, axis=-1)


def encode_columns(points: jax.Array, octaves: int) -> jax.Array:
    """`encode` of points `[d, B]` as columns `[d * (1 + 2 * octaves), B]`, by the formulas of the double angle.

    An order faster; sines and cosines of the fourth octave are right to 2e-6.
    """
    features = [points]
    sine, cosine = jnp.sin(points), jnp.cos(points)
    for _ in range(octaves):
        features += [sine, cosine]
        sine, cosine = 2.0 * sine * cosine, 1.0 - 2.0 * sine * sine
    return jnp.concatenate(features)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def dense_columns(weight: jax.Array, bias: jax.Array, x: jax.Array, dtype: str) -> jax.Array:
    """`weight @ x + bias` for columns `[in, B]`; products of `dtype` summed in float32, and so are the gradients'.

    With points as columns the gradient of the weights contracts the last axes of both factors. That and the plain
    product are what XLA's library for CPUs does best: it takes four times as long for a transposed left factor.
    """
    return _dense_columns(weight, bias, x, dtype)[0]


def _dense_columns(weight, bias, x, dtype):
    low = x.astype(dtype)
    return _product(weight.astype(dtype), low, 0) + bias[:, None], (weight, low)


def _dense_columns_gradient(dtype, kept, gradient):
    weight, x = kept
    low = gradient.astype(dtype)
    # A product with the identity, since XLA folds any other transposition into the product that follows.
    transposed = _product(jnp.eye(weight.shape[1], dtype=dtype), weight.astype(dtype), 1).astype(dtype)
    summed = jnp.sum(low.astype(jnp.float32), axis=1)
    return _product(low, x, 1), summed, _product(transposed, low, 0).astype(jnp.float32)


def _product(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
    """Contracts the last axis of `a` with this axis of `b`, summing in float32."""
    return jax.lax.dot_general(a, b, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)


dense_columns.defvjp(_dense_columns, _dense_columns_gradient)


class Field(nn.Module):
    """Layers layers_0, layers_1, ... on the encoded coordinates, an activation after each but the last.

    A SIREN sees coordinates from -1 to 1, as published, where the signals lie between -0.5 and 0.5.

    Attributes:
      hidden: widths of the hidden layers.
      outputs: 1 logit of occupancy, or the values of an image at a point.
      signal: "occupancy" or "image".
      activation: "relu" or "sine".
      octaves: frequencies of the encoding.
    """

    hidden: tuple[int, ...]
    outputs: int
    signal: str = "occupancy"
    activation: str = "relu"
    octaves: int = 4

    @nn.compact
    def __call__(self, points: jax.Array) -> jax.Array:
        x = self.encode(points)
        for i, width in enumerate(self.hidden):
            x = self.activate(Dense(width, self._initialiser(i), name=f"layers_{i}")(x))
        last = len(self.hidden)
        return Dense(self.outputs, self._initialiser(last), name=f"layers_{last}")(x)

    def encode(self, points: jax.Array) -> jax.Array:
        """What the first layer sees of points `[..., d]`."""
        return encode(2.0 * points if self.activation == "sine" else points, self.octaves)

    def columns(self, params: Mapping[str, Any], points: jax.Array, dtype: str) -> jax.Array:
        """The same function for training, `[outputs, B]` at points `[d, B]`, with the products of `dtype`."""
        x = encode_columns(2.0 * points if self.activation == "sine" else points, self.octaves)
        for i in range(len(self.hidden) + 1):
            layer = params[f"layers_{i}"]
            inputs = self.activate(x) if i else x
            x = cast(jax.Array, dense_columns(layer["weight"], layer["bias"], inputs, dtype))
        return x

    def activate(self, x: jax.Array) -> jax.Array:
        """The activation function."""
        return nn.relu(x) if self.activation == "relu" else jnp.sin(_OMEGA * x)

    def _initialiser(self, layer: int) -> Initialiser:
        """Uniform initial values up to PyTorch's bounds; those of SIREN's weights are its own (section 3.2 and
        supplement 1)."""

        def weight_bound(inputs: int) -> float:
            if self.activation == "relu":
                return 1 / math.sqrt(inputs)
            return math.sqrt(6 / inputs) / _OMEGA if layer else 1 / inputs

        return Initialiser(lambda u, i, o: weight_bound(i) * u, lambda u, i, o: 1 / math.sqrt(i) * u)


@dataclasses.dataclass(frozen=True)
class FieldSettings(NetSettings):
    """Settings of the `field` network.

    Attributes:
      name: name of the network.
      hidden: widths of the hidden layers.
      activation: "relu" (HyperDiffusion, Erkoc et al., arXiv 2303.17015) or "sine" (SIREN).
      octaves: frequencies of the encoding; None for 4, or 0 with "sine".
      signal: what the field represents, "occupancy" or "image".
    """

    name: Literal["field"] = "field"
    hidden: tuple[int, ...] = setting((128, 128, 128), at_least=1, length=(1, None))
    activation: Literal["relu", "sine"] = "relu"
    octaves: int | None = setting(None, at_least=0, at_most=126)
    signal: Literal["occupancy", "image"] = "occupancy"


def build(settings: FieldSettings, input_shape: tuple[int, ...], num_outputs: int) -> tuple[Field, WeightSpec]:
    """A field and its spec; every hidden layer is one permutation group.

    The flat vector is the concatenation of the published state dict: `layers.0.weight` `[out, in]`, `layers.0.bias`,
    and so on.

    Args:
      settings: sizes and functions.
      input_shape: `(d,)`.
      num_outputs: 1 for occupancy, values per point for images.

    Raises:
      UserError: data that are no signals, or of another kind than `settings.signal`.
    """
    if len(input_shape) != 1:
        raise UserError(
            f"The field network is fitted to signals at points, but the data have inputs of shape {tuple(input_shape)}."
            " Choose data that are shapes, or images as signals, or set net.name to a classifier."
        )
    if settings.signal == "occupancy" and num_outputs != 1:
        raise UserError(
            f"An occupancy field has one output, but the data have {num_outputs} values per point. Set net.signal to "
            "image."
        )
    octaves = OCTAVES[settings.activation] if settings.octaves is None else settings.octaves
    widths = (input_shape[0] * (1 + 2 * octaves), *settings.hidden, num_outputs)
    leaves, reads = Leaves(), FIXED
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        writes = leaves.group(outputs, SCALINGS[settings.activation]) if i < len(settings.hidden) else FIXED
        leaves.dense(f"layers_{i}", inputs, outputs, reads, writes)
        reads = writes
    return Field(settings.hidden, num_outputs, settings.signal, settings.activation, octaves), leaves.spec()
