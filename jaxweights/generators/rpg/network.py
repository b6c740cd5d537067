"""RPG's two networks: the recurrent one, which makes prototypes of tokens, and the denoiser of single tokens."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights import sharding
from jaxweights.nn.conv1d import Conv
from jaxweights.nn.dense import Dense, biased, matmul
from jaxweights.nn.mamba import Mamba2
from jaxweights.nn.normalization import LayerNorm, SignalNorm, Statistics
from jaxweights.nn.parameters import FAN_IN_UNIFORM, constant, kernel_and_bias, parameter
from jaxweights.nn.timesteps import timestep_features

Recurrence = Literal["mamba", "lstm", "mlp"]
"""Layers of the recurrent network; "mlp" sees every token by itself."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of the recurrent network.

    Attributes:
      recurrence: kind of the layers.
      width: size of the prototypes.
      layers: number of layers.
      state: state of a Mamba-2 head.
      window: positions that Mamba-2's convolution sees.
      expand: inner width over width, of Mamba-2 and of the gated MLP.
      head_size: inputs of a Mamba-2 head.
    """

    recurrence: Recurrence
    width: int
    layers: int
    state: int
    window: int
    expand: int
    head_size: int


class Prototypes(nn.Module):
    """The prototypes of all tokens of a network: layers of one kind in sequence, without residuals or norms between.

    Attributes:
      architecture: sizes.
      rows: rows of the table of permutation states.
    """

    architecture: Architecture
    rows: int

    @nn.compact
    def __call__(self, places: jax.Array, rows: jax.Array) -> jax.Array:
        """Prototypes `[m, tokens, width]` for the code of places `[tokens, width]` and rows of the table `[m]`."""
        a = self.architecture
        # The condition of the published unconditional model is a bias: its input is zero.
        condition = Dense(a.width, FAN_IN_UNIFORM, convention="flax", name="to_condition")(jnp.zeros((1, 1)))
        table = parameter(self, "permutation_states", (self.rows, a.width), constant(1 / a.width))
        x = places[None] + (condition + table[rows])[:, None, :]
        for number in range(a.layers):
            x = _layer(a, f"layer_{number}")(x)
        return x


def _layer(a: Architecture, name: str) -> nn.Module:
    if a.recurrence == "mamba":
        return Mamba2(a.state, a.window, a.expand, a.head_size, name=name)
    return LSTM(name=name) if a.recurrence == "lstm" else GatedMLP(a.expand, name=name)


class LSTM(nn.Module):
    """An LSTM layer with PyTorch's parameters, kernels `[in, 4 * width]`, gates in its order."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, length, width]` to the same shape."""
        width = x.shape[-1]
        inputs = Dense(4 * width, FAN_IN_UNIFORM, convention="flax", name="inputs")(x)
        recurrent = Recurrent(4 * width, name="hidden")
        kernel, bias = recurrent(width)

        def step(carried: tuple[jax.Array, jax.Array], own: jax.Array) -> tuple[tuple, jax.Array]:
            hidden, cell = carried
            i, f, g, o = jnp.split(own + biased(matmul(hidden, kernel), bias), 4, axis=-1)
            cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
            hidden = nn.sigmoid(o) * jnp.tanh(cell)
            return (hidden, cell), hidden

        start = 0.0 * inputs[:, 0, :width]
        _, y = jax.lax.scan(step, (start, start), jnp.swapaxes(inputs, 0, 1))
        return jnp.swapaxes(y, 0, 1)


class Recurrent(nn.Module):
    """The parameters of a dense layer.

    Attributes:
      features: number of outputs.
    """

    features: int

    @nn.compact
    def __call__(self, inputs: int) -> tuple[jax.Array, jax.Array | None]:
        """The kernel `[inputs, features]` and the bias `[features]`."""
        shape = (inputs, self.features)
        kernel, bias = kernel_and_bias(self, "kernel", shape, shape, FAN_IN_UNIFORM)
        return sharding.whole(kernel), bias


class GatedMLP(nn.Module):
    """Two projections, one of which gates the other, a third back, and layer normalisation.

    Attributes:
      expand: inner width over width.
    """

    expand: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., width]` to the same shape."""
        width = x.shape[-1]
        dense = functools.partial(Dense, initialiser=FAN_IN_UNIFORM, convention="flax")
        inner, gate = (dense(self.expand * width, use_bias=False, name=f"proj_{i}")(x) for i in (1, 2))
        return LayerNorm(convention="flax", name="norm")(dense(width, name="proj_3")(inner * nn.sigmoid(gate)))


class Denoiser(nn.Module):
    """A convolutional network that sees a token as a signal with one channel, with additive skip connections.

    Attributes:
      size: entries of a token.
      channels: output channels of the convolutions up to the widest; the rest mirrors them.
      kernel_size: odd.
    """

    size: int
    channels: tuple[int, ...]
    kernel_size: int

    def setup(self) -> None:
        """Declares the layers."""
        dense = functools.partial(Dense, self.size, FAN_IN_UNIFORM, convention="flax")
        self.time_in, self.time_out, self.prototype = dense(), dense(), dense()
        widths = self.channels + self.channels[-2::-1]
        self.convs = [Conv(features, self.kernel_size) for features in (*widths, 1)]
        self.norms = [SignalNorm() for _ in widths]

    def embed_times(self, timesteps: jax.Array) -> jax.Array:
        """Embeds timesteps `[n]`: `[n, size]`."""
        return self.time_out(nn.silu(self.time_in(timestep_features(timesteps))))

    def embed_prototypes(self, prototypes: jax.Array) -> jax.Array:
        """Embeds prototypes `[..., width]`: `[..., size]`."""
        return self.prototype(prototypes)

    def __call__(
        self,
        x: jax.Array,
        times: jax.Array,
        prototypes: jax.Array,
        statistics: Statistics,
        axis_name: str | None = None,
    ) -> jax.Array:
        """The noise that is predicted in tokens.

        Every convolution sees the sum of its input and the prototype, times the embedding of the time.

        Args:
          x: `[n, size]` noised tokens.
          times: `[n, size]`, of `embed_times`.
          prototypes: `[n, size]`, of `embed_prototypes`.
          statistics: see `SignalNorm`; "batch" are those of all tokens and entries.
          axis_name: device axis that the batch is split over.

        Returns:
          `[n, size]`.
        """
        x, times, prototypes = (value[:, :, None] for value in (x, times, prototypes))
        outputs: list[jax.Array] = []
        last = len(self.channels)
        for number, conv in enumerate(self.convs):
            if number > last:
                x = x + outputs[2 * last - 1 - number]
            x = conv((x + prototypes) * times)
            if number < len(self.norms):
                x = nn.elu(self.norms[number](x, statistics, axis_name))
            outputs.append(x)
        return x[:, :, 0]

    def start(self, prototypes: jax.Array) -> jax.Array:
        """All of it, once, of prototypes `[n, width]` at timestep 0: what its parameters are made by."""
        times = self.embed_times(jnp.zeros(len(prototypes), jnp.int32))
        return self(jnp.zeros((len(prototypes), self.size)), times, self.embed_prototypes(prototypes), "running")
