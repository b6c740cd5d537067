"""Encoders, generators and critics of images: the networks of Zhao et al. (2018) and small ones for two cores.

Published: kernels of 4 x 4, and 5 x 5 for CLEVR, "SAME" padding; batch normalisation in some of the networks alone,
so that their sizes are not the only difference between them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.nn.dense import Dense
from jaxweights.nn.normalization import SignalNorm, Statistics
from jaxweights.nn.parameters import FAN_IN_UNIFORM, Initialiser, normal
from jaxweights.nn.strided import Resampled, Resampling

_EPSILON = 1e-3  # of batch normalisation
_PUBLISHED = Initialiser(lambda u, i, o: normal(0.02)(u), lambda u, i, o: jnp.zeros_like(u))
_HE = Initialiser(lambda u, i, o: normal(math.sqrt(2 / i))(u), lambda u, i, o: jnp.zeros_like(u))
Shape = tuple[int, int, int]


class Layers(NamedTuple):
    """Layers of one network, from the image inwards: convolutions that halve maps, then dense layers.

    Attributes:
      widths: output channels of the convolutions.
      dense: units of the dense layers.
      norm: which layers are followed by batch normalisation.
    """

    widths: tuple[int, ...]
    dense: tuple[int, ...]
    norm: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of all networks of an image model.

    Attributes:
      encoder: of a variational autoencoder.
      critic: of adversarial training.
      dense: units of the generator's dense layers.
      base: channels of the generator's smallest map, as large as the encoder's; 0 where there are no maps.
      ups: output channels and resampling of its convolutions, besides the last, which doubles the map.
      norm: whether its layers have batch normalisation.
      window: rows and columns of all windows.
      leak: slope of the encoder's and the critic's units below 0.
      tanh: whether generated images are made by tanh, and critics see images in [-1, 1] (`seen`).
      initialiser: of all layers but each network's last.
    """

    encoder: Layers
    critic: Layers
    dense: tuple[int, ...]
    base: int
    ups: tuple[tuple[int, Resampling], ...]
    norm: bool = False
    window: int = 4
    leak: float = 0.1
    tanh: bool = False
    initialiser: Initialiser = _PUBLISHED

    @property
    def multiple(self) -> int:
        """What sides of images are a multiple of."""
        doublings = sum(kind == "double" for _, kind in self.ups) + 1 if self.base else 0
        return 2 ** max(doublings, len(self.encoder.widths), len(self.critic.widths))

    def seen(self, images: jax.Array) -> jax.Array:
        """Images in [0, 1] as critics see them."""
        return 2 * images - 1 if self.tanh else images

    def check(self, shape: Shape, section: str) -> None:
        """Raises `UserError` for images that it cannot halve as often."""
        if shape[0] % self.multiple or shape[1] % self.multiple:
            raise UserError(
                f"{section} makes images whose sides are a multiple of {self.multiple}, but these are {shape[0]} x "
                f"{shape[1]}. Choose another size of the model or of the images."
            )


def _fully_connected(units: tuple[int, ...], norm: bool, initialiser: Initialiser) -> Architecture:
    encoder = Layers((), units, tuple(range(len(units))) if norm else ())
    return Architecture(encoder, Layers((), units), units, 0, (), norm, initialiser=initialiser)


_ALL = (0, 1, 2, 3, 4)
_DCGAN = Layers((64, 128, 256, 512), (1024,), (1, 2, 3))
ARCHITECTURES: dict[str, Architecture] = {
    "conv": Architecture(
        Layers((64, 128, 192, 256), (1024,), _ALL),
        Layers((64, 128, 192, 256), (1024,)),
        (1024,),
        256,
        ((192, "double"), (128, "double"), (128, "same"), (64, "double")),
        norm=True,
    ),
    "small": Architecture(
        Layers((32, 64, 96, 128), (512,), _ALL),
        Layers((48, 96, 128, 192), (768,)),
        (768,),
        192,
        ((128, "double"), (96, "double"), (96, "same"), (48, "double")),
    ),
    "large": Architecture(
        Layers((128, 256, 384, 512), (2048,), _ALL),
        Layers((128, 256, 384, 512), (2048,)),
        (2048,),
        512,
        ((384, "double"), (256, "double"), (256, "same"), (128, "double")),
    ),
    "fc": _fully_connected((1024,) * 4, True, _PUBLISHED),
    # The critic's normalisation makes examples of a batch depend on each other, which the gradient penalty ignores.
    "clevr": Architecture(
        _DCGAN,
        _DCGAN,
        (),
        1024,
        ((512, "double"), (256, "double"), (128, "double"), (64, "double")),
        norm=True,
        window=5,
        leak=0.2,
        tanh=True,
    ),
    "tiny": Architecture(
        Layers((16, 32, 64), (128,)),
        Layers((16, 32, 64), (128,)),
        (128,),
        64,
        ((32, "double"), (16, "double")),
        initialiser=_HE,
    ),
    "fc_tiny": _fully_connected((512, 512), False, _HE),
}
"""Networks by name: "conv", "small", "large", "fc" and "clevr" as published, "tiny" and "fc_tiny" for images of 16 to
32 pixels on two cores."""

Size = Literal["conv", "small", "large", "fc", "clevr", "tiny", "fc_tiny"]


class Inward(nn.Module):
    """From images to numbers: an encoder, or a critic.

    Attributes:
      layers: before the last one.
      outputs: numbers per image.
      architecture: what all networks share.
    """

    layers: Layers
    outputs: int
    architecture: Architecture

    @nn.compact
    def __call__(self, x: jax.Array, axis_name: Any = None) -> jax.Array:
        """Maps `[n, H, W, C]` to `[n, outputs]`; batch normalisation is by the batch, over the device axes given."""
        of, (widths, dense, norm) = self.architecture, self.layers
        for i, size in enumerate((*widths, *dense)):
            if i < len(widths):
                x = Resampled(size, of.window, "half", of.initialiser, name=f"conv_{i}")(x)
            else:
                x = _dense(size, of.initialiser, f"dense_{i - len(widths)}")(x.reshape(len(x), -1))
            if i in norm:
                x = SignalNorm(epsilon=_EPSILON, name=f"norm_{i}")(x, "batch", axis_name)
            x = nn.leaky_relu(x, of.leak)
        return _dense(self.outputs, FAN_IN_UNIFORM, "out")(x.reshape(len(x), -1))


class Outward(nn.Module):
    """From latents to images.

    Attributes:
      architecture: sizes.
      shape: of an image.
      momentum: weight of a batch in the running statistics.
    """

    architecture: Architecture
    shape: Shape
    momentum: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, statistics: Statistics = "running", axis_name: Any = None) -> jax.Array:
        """Maps `[n, Z]` to `[n, *shape]` in [0, 1]; batch normalisation by the batch or by running statistics."""
        of, (height, width, channels) = self.architecture, self.shape
        count = 0

        def unit(x: jax.Array) -> jax.Array:
            nonlocal count
            if of.norm:
                x = SignalNorm(self.momentum, _EPSILON, name=f"norm_{count}")(x, statistics, axis_name)
                count += 1
            return nn.relu(x)

        for i, size in enumerate(of.dense):
            x = unit(_dense(size, of.initialiser, f"dense_{i}")(x))
        if not of.base:
            return _image(_dense(math.prod(self.shape), FAN_IN_UNIFORM, "out")(x).reshape(-1, *self.shape), of.tanh)
        factor = 2 ** (1 + sum(kind == "double" for _, kind in of.ups))
        height, width = height // factor, width // factor
        x = _dense(height * width * of.base, of.initialiser, "base")(x)
        x = unit(x).reshape(-1, height, width, of.base)
        for i, (size, kind) in enumerate(of.ups):
            x = unit(Resampled(size, of.window, kind, of.initialiser, name=f"conv_{i}")(x))
        return _image(Resampled(channels, of.window, "double", FAN_IN_UNIFORM, name="out")(x), of.tanh)


def _image(x: jax.Array, tanh: bool) -> jax.Array:
    return 0.5 * jnp.tanh(x) + 0.5 if tanh else nn.sigmoid(x)


def _dense(features: int, initialiser: Initialiser, name: str) -> Dense:
    return Dense(features, initialiser, convention="flax", name=name)


def apply_inward(module: Inward, params: Any, images: jax.Array, axis_name: Any = None) -> jax.Array:
    """Outputs `[n, outputs]` of images; batch normalisation is always by the batch, so nothing is kept of it."""
    out: Any = module.apply({"params": params}, images, axis_name, mutable=["batch_stats"])
    return out[0]


def apply_outward(
    module: Outward, params: Any, statistics: Any, latents: jax.Array, axis_name: Any = None
) -> tuple[jax.Array, Any]:
    """Images of latents normalised by the batch, and the running statistics after it."""
    variables = {"params": params, "batch_stats": statistics}
    images, changed = module.apply(variables, latents, "batch", axis_name, mutable=["batch_stats"])
    return images, changed.get("batch_stats", {})  # type: ignore[return-value]
