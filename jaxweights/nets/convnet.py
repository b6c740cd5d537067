"""The convolutional network of G.pt's CIFAR-10 data set: 5,370 parameters on 32x32 colour images."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.nets.base import PreparedModule
from jaxweights.nets.settings import ImageSettings, image_shape
from jaxweights.nn.activations import ACTIVATIONS, scaling
from jaxweights.nn.conv_pool import Unfolded, pad_map, to_batch_minor, unfold
from jaxweights.nn.dense import Dense
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.maps import MapConv
from jaxweights.nn.parameters import CONVOLUTION_INITIALISERS
from jaxweights.settings import setting
from jaxweights.spec import FIXED, WeightSpec

WINDOW, PADDING = 3, 1


class ConvNet(PreparedModule):
    """3x3 convolutions conv1, conv2, ... without bias, the first with stride 2, an activation after each; the mean
    over the map; the dense layer fc (Peebles et al., arXiv 2209.12892)."""

    channels: tuple[int, ...]
    num_classes: int
    activation: str = "relu"
    initialiser: str = "torch"

    def prepare(self, images: jax.Array) -> Unfolded:
        """What the first convolution sees of images `[B, H, W, C]`; `__call__` takes it in their place."""
        return unfold(pad_map(to_batch_minor(images), PADDING), (WINDOW, WINDOW), pool=False, stride=2)

    @nn.compact
    def __call__(self, x: jax.Array | Unfolded) -> jax.Array:
        conv = functools.partial(
            MapConv,
            window=WINDOW,
            activation=self.activation,
            initialiser=self.initialiser,
            padding=PADDING,
            use_bias=False,
            convention="flax",
        )
        first, *others = (conv(features, name=f"conv{i + 1}") for i, features in enumerate(self.channels))
        maps = first(x if isinstance(x, Unfolded) else self.prepare(x))
        for layer in others:
            maps = layer(maps)
        return Dense(self.num_classes, self.initialiser, name="fc")(jnp.mean(maps, axis=(1, 2)).T)


@dataclasses.dataclass(frozen=True)
class ConvNetSettings(ImageSettings):
    """Settings of the `convnet` network.

    Attributes:
      name: name of the network.
      channels: output channels of the convolutions.
      activation: activation function after each convolution.
      init: distribution of the initial weights.
    """

    name: Literal["convnet"] = "convnet"
    channels: tuple[int, ...] = setting((16, 32), at_least=1, length=(1, None))
    activation: str = setting("relu", one_of=ACTIVATIONS)
    init: str = setting("torch", one_of=CONVOLUTION_INITIALISERS)


def build(settings: ConvNetSettings, input_shape: tuple[int, ...], num_classes: int) -> tuple[ConvNet, WeightSpec]:
    """The network and its spec; every convolution's channels are one permutation group.

    Raises:
      UserError: inputs that are no images.
    """
    _, _, inputs = image_shape(input_shape, settings.name)
    leaves, reads = Leaves(), FIXED
    for i, features in enumerate(settings.channels):
        writes = leaves.group(features, scaling(settings.activation))
        leaves.conv(f"conv{i + 1}", WINDOW, inputs, features, reads, writes, use_bias=False, convention="flax")
        inputs, reads = features, writes
    leaves.dense("fc", inputs, num_classes, reads)
    return ConvNet(settings.channels, num_classes, settings.activation, settings.init), leaves.spec()
