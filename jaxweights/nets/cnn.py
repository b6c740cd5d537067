"""The convolutional network of the Hyper-Representations zoos: 2,464 parameters on 28x28 grey images."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.nets.base import PreparedModule
from jaxweights.nets.settings import ImageSettings, image_shape
from jaxweights.nn.activations import ACTIVATIONS, activation, scaling
from jaxweights.nn.conv_pool import Unfolded, from_batch_minor, to_batch_minor, unfold
from jaxweights.nn.dense import Dense
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.maps import MapConv
from jaxweights.nn.parameters import CONVOLUTION_INITIALISERS
from jaxweights.settings import setting
from jaxweights.spec import FIXED, WeightSpec


class CNN(PreparedModule):
    """Convolution, then pooling where asked, then activation, for each of conv1, conv2, ...; then fc1 and fc2."""

    channels: tuple[int, ...]
    windows: tuple[int, ...]
    pools: tuple[bool, ...]
    hidden: int
    num_classes: int
    activation: str = "tanh"
    initialiser: str = "uniform"

    def prepare(self, images: jax.Array) -> Unfolded:
        """What the first convolution sees of images `[B, H, W, C]`; `__call__` takes it in their place."""
        return unfold(to_batch_minor(images), (self.windows[0], self.windows[0]), pool=self.pools[0])

    @nn.compact
    def __call__(self, x: jax.Array | Unfolded) -> jax.Array:
        act = activation(self.activation)
        conv = functools.partial(MapConv, activation=self.activation, initialiser=self.initialiser, convention="flax")
        first, *others = (
            conv(features, window, pool, name=f"conv{i + 1}")
            for i, (features, window, pool) in enumerate(zip(self.channels, self.windows, self.pools, strict=True))
        )
        maps = first(x if isinstance(x, Unfolded) else to_batch_minor(x))
        for layer in others:
            maps = layer(maps)
        flat = from_batch_minor(maps).reshape(maps.shape[-1], -1)
        hidden = act(Dense(self.hidden, self.initialiser, name="fc1")(flat))
        return Dense(self.num_classes, self.initialiser, name="fc2")(hidden)


@dataclasses.dataclass(frozen=True)
class CNNSettings(ImageSettings):
    """Settings of the `cnn` network.

    Attributes:
      name: name of the network.
      channels: output channels of the convolutions.
      windows: rows and columns of each convolution's window.
      pools: whether 2x2 max-pooling follows each convolution.
      hidden: width of the hidden layer.
      activation: activation function after each convolution and the hidden layer.
      init: distribution of the initial weights.
    """

    name: Literal["cnn"] = "cnn"
    channels: tuple[int, ...] = setting((8, 6, 4), at_least=1, length=(1, None))
    windows: tuple[int, ...] = setting((5, 5, 2), at_least=1)
    pools: tuple[bool, ...] = (True, True, False)
    hidden: int = setting(20, at_least=1)
    activation: str = setting("tanh", one_of=ACTIVATIONS)
    init: str = setting("uniform", one_of=CONVOLUTION_INITIALISERS)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("windows", "pools"):
            if len(getattr(self, field)) != len(self.channels):
                self.refuse(field, f"give one entry for each of the {len(self.channels)} entries of net.channels")


def build(
    settings: CNNSettings, input_shape: tuple[int, ...], num_classes: int, *, kind: type[CNN] = CNN
) -> tuple[CNN, WeightSpec]:
    """The CNN and its spec; every convolution's channels and the hidden layer are one permutation group each.

    Args:
      settings: sizes and functions.
      input_shape: `(H, W, C)`.
      num_classes: number of classes.
      kind: class of the module.

    Raises:
      UserError: a feature map that shrinks to nothing, or inputs that are no images.
    """
    height, width, inputs = image_shape(input_shape, settings.name)
    leaves, reads, act = Leaves(), FIXED, settings.activation
    for i, (features, window, pool) in enumerate(zip(settings.channels, settings.windows, settings.pools, strict=True)):
        writes = leaves.group(features, scaling(act, pooled=pool))
        leaves.conv(f"conv{i + 1}", window, inputs, features, reads, writes, convention="flax")
        height, width = ((size - window + 1) // (2 if pool else 1) for size in (height, width))
        inputs, reads = features, writes
        if min(height, width) < 1:
            raise UserError(
                f"Images of {input_shape[0]}x{input_shape[1]} pixels are too small for layer conv{i + 1} of the cnn."
            )
    units = leaves.group(settings.hidden, scaling(act))
    leaves.dense("fc1", (height, width, inputs), settings.hidden, reads, units)
    leaves.dense("fc2", settings.hidden, num_classes, units)
    module = kind(settings.channels, settings.windows, settings.pools, settings.hidden, num_classes, act, settings.init)
    return module, leaves.spec()
