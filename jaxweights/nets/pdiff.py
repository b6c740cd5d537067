"""The small networks that P-diff generates whole (Wang et al., arXiv 2402.13144): its MLP, ConvNet, ResNet and
CNN-medium, of 66,970, 24,262, 25,138 and 10,853 parameters on RGB images of 10 classes, 64x64 pixels, CNN-medium 32x32.

Flat vectors are the published state dicts' tensors one after the other; names are our own. Maps are batch-minor,
`[C, H, W, B]` (see `nn/conv_pool.py`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.nets import cnn
from jaxweights.nets.base import PreparedModule
from jaxweights.nets.settings import ImageSettings, image_shape
from jaxweights.nn.activations import activation
from jaxweights.nn.conv_pool import Unfolded, from_batch_minor, pad_map, to_batch_minor, unfold
from jaxweights.nn.dense import Dense
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.maps import MapConv, MapNorm, max_pool
from jaxweights.nn.normalization import LayerNorm
from jaxweights.settings import setting
from jaxweights.spec import FIXED, WeightSpec

_ACTIVATION = "leaky_relu"
_SCALING = "positive"  # of units that leaky ReLU follows at once
_STEM_CHANNELS, _POOL = 8, 2

_leaky_relu = activation(_ACTIVATION)


class MLP(nn.Module):
    """Means over 2x2 pixels and all channels; layers fc1, fc2, ..., each normalised (norm1, ...) and leaky; head."""

    hidden: tuple[int, ...]
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        rows, cols = height // _POOL, width // _POOL
        x = x[:, : rows * _POOL, : cols * _POOL].reshape(batch, rows, _POOL, cols, _POOL, channels)
        x = jnp.mean(x, axis=(2, 4, 5)).reshape(batch, -1)
        for i, size in enumerate(self.hidden):
            x = _leaky_relu(LayerNorm((size,), name=f"norm{i + 1}")(Dense(size, name=f"fc{i + 1}")(x)))
        return Dense(self.num_classes, name="head")(x)


@dataclasses.dataclass(frozen=True)
class MLPSettings(ImageSettings):
    """Settings of the `pdiff_mlp` network.

    Attributes:
      name: name of the network.
      hidden: widths of the hidden layers.
    """

    name: Literal["pdiff_mlp"] = "pdiff_mlp"
    hidden: tuple[int, ...] = setting((64, 16), at_least=1)


def mlp(settings: MLPSettings, input_shape: tuple[int, ...], num_classes: int) -> tuple[MLP, WeightSpec]:
    """The MLP and its spec; every hidden layer is one permutation group.

    Raises:
      UserError: inputs that are no images.
    """
    height, width, _ = image_shape(input_shape, settings.name)
    leaves, inputs, reads = Leaves(), (height // _POOL) * (width // _POOL), FIXED
    for i, size in enumerate(settings.hidden):
        group = leaves.group(size)
        leaves.dense(f"fc{i + 1}", inputs, size, reads, group)
        leaves.norm(f"norm{i + 1}", size, group)
        inputs, reads = size, group
    leaves.dense("head", inputs, num_classes, reads)
    return MLP(settings.hidden, num_classes), leaves.spec()


class Head(nn.Module):
    """The flattened map, a leaky hidden layer fc1, and fc2."""

    hidden: int
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = from_batch_minor(x)
        x = _leaky_relu(Dense(self.hidden, name="fc1")(x.reshape(x.shape[0], -1)))
        return Dense(self.num_classes, name="fc2")(x)


def _head_leaves(leaves: Leaves, features: tuple[int, int, int], hidden: int, num_classes: int, reads: int) -> None:
    group = leaves.group(hidden, _SCALING)
    leaves.dense("head/fc1", features, hidden, reads, group)
    leaves.dense("head/fc2", hidden, num_classes, group)


class ConvNet(PreparedModule):
    """Convolutions conv1 (stride 2), conv2, ..., each normalised, leaky and pooled; head."""

    channels: tuple[int, ...]
    windows: tuple[int, ...]
    hidden: int
    num_classes: int

    def prepare(self, images: jax.Array) -> Unfolded:
        """What the first convolution sees of images `[B, H, W, C]`; `__call__` takes it in their place."""
        return _strided(images, self.windows[0])

    @nn.compact
    def __call__(self, x: jax.Array | Unfolded) -> jax.Array:
        first, *others = (
            MapConv(features, window, padding=window // 2, name=f"conv{i + 1}")
            for i, (features, window) in enumerate(zip(self.channels, self.windows, strict=True))
        )
        maps = first(x if isinstance(x, Unfolded) else self.prepare(x))
        maps = max_pool(_leaky_relu(MapNorm(name="norm1")(maps)))
        for i, layer in enumerate(others):
            maps = max_pool(_leaky_relu(MapNorm(name=f"norm{i + 2}")(layer(maps))))
        return Head(self.hidden, self.num_classes, name="head")(maps)


@dataclasses.dataclass(frozen=True)
class ConvNetSettings(ImageSettings):
    """Settings of the `pdiff_convnet` network.

    Attributes:
      name: name of the network.
      channels: output channels of the convolutions.
      windows: rows and columns of each convolution's window, odd.
      hidden: width of the hidden layer.
    """

    name: Literal["pdiff_convnet"] = "pdiff_convnet"
    channels: tuple[int, ...] = setting((8, 8, 4), at_least=1, length=(1, None))
    windows: tuple[int, ...] = setting((7, 3, 3), at_least=1)
    hidden: int = setting(16, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.windows) != len(self.channels) or any(window % 2 == 0 for window in self.windows):
            self.refuse("windows", f"give {len(self.channels)} odd windows, one for each entry of net.channels")


def convnet(settings: ConvNetSettings, input_shape: tuple[int, ...], num_classes: int) -> tuple[ConvNet, WeightSpec]:
    """The ConvNet and its spec; every convolution's channels and the hidden layer are one permutation group each.

    Raises:
      UserError: images that are too small, or inputs that are no images.
    """
    height, width, inputs = image_shape(input_shape, settings.name)
    leaves, reads = Leaves(), FIXED
    for i, (features, window) in enumerate(zip(settings.channels, settings.windows, strict=True)):
        height, width = (height, width) if i else _halved(height, width)
        group = leaves.group(features)
        leaves.conv(f"conv{i + 1}", window, inputs, features, reads, group)
        leaves.norm(f"norm{i + 1}", (features, height, width), group)
        height, width, inputs, reads = height // _POOL, width // _POOL, features, group
    _check_size(input_shape, height, width, settings.name)
    _head_leaves(leaves, (height, width, inputs), settings.hidden, num_classes, reads)
    return ConvNet(settings.channels, settings.windows, settings.hidden, num_classes), leaves.spec()


class ResBlock(nn.Module):
    """Two leaky convolutions, conv1 to fewer channels and conv2 back, added to the map."""

    middle: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = _leaky_relu(MapConv(self.middle, 3, padding=1, name="conv1")(x))
        return x + _leaky_relu(MapConv(x.shape[0], 3, padding=1, name="conv2")(y))


class ResNet(PreparedModule):
    """A leaky convolution of stride 2, then residual blocks; a normalisation and pooling after each; head."""

    channels: int
    middle: int
    blocks: int
    hidden: int
    num_classes: int

    def prepare(self, images: jax.Array) -> Unfolded:
        """What the first convolution sees of images `[B, H, W, C]`; `__call__` takes it in their place."""
        return _strided(images, 3)

    @nn.compact
    def __call__(self, x: jax.Array | Unfolded) -> jax.Array:
        seen = x if isinstance(x, Unfolded) else self.prepare(x)
        maps = _leaky_relu(MapConv(self.channels, 3, padding=1, name="conv")(seen))
        maps = max_pool(MapNorm(name="norm")(maps))
        for i in range(self.blocks):
            maps = ResBlock(self.middle, name=f"block{i + 1}")(maps)
            maps = max_pool(MapNorm(name=f"norm{i + 1}")(maps))
        return Head(self.hidden, self.num_classes, name="head")(maps)


@dataclasses.dataclass(frozen=True)
class ResNetSettings(ImageSettings):
    """Settings of the `pdiff_resnet` network.

    Attributes:
      name: name of the network.
      channels: channels that the blocks add to.
      middle: channels inside a block.
      blocks: number of blocks.
      hidden: width of the hidden layer.
    """

    name: Literal["pdiff_resnet"] = "pdiff_resnet"
    channels: int = setting(8, at_least=1)
    middle: int = setting(4, at_least=1)
    blocks: int = setting(2, at_least=0, at_most=1000)
    hidden: int = setting(16, at_least=1)


def resnet(settings: ResNetSettings, input_shape: tuple[int, ...], num_classes: int) -> tuple[ResNet, WeightSpec]:
    """The ResNet and its spec; the channels that blocks add to are one permutation group, as are those inside each
    block and the hidden layer.

    Raises:
      UserError: images that are too small, or inputs that are no images.
    """
    height, width, inputs = image_shape(input_shape, settings.name)
    channels, middle = settings.channels, settings.middle
    leaves = Leaves()
    stream = leaves.group(channels)
    height, width = _halved(height, width)
    leaves.conv("conv", 3, inputs, channels, FIXED, stream)
    leaves.norm("norm", (channels, height, width), stream)
    for i in range(settings.blocks):
        height, width = height // _POOL, width // _POOL
        inside = leaves.group(middle, _SCALING)
        leaves.conv(f"block{i + 1}/conv1", 3, channels, middle, stream, inside)
        leaves.conv(f"block{i + 1}/conv2", 3, middle, channels, inside, stream)
        leaves.norm(f"norm{i + 1}", (channels, height, width), stream)
    height, width = height // _POOL, width // _POOL
    _check_size(input_shape, height, width, settings.name)
    _head_leaves(leaves, (height, width, channels), settings.hidden, num_classes, stream)
    return ResNet(channels, middle, settings.blocks, settings.hidden, num_classes), leaves.spec()


def _strided(images: jax.Array, window: int) -> Unfolded:
    return unfold(pad_map(to_batch_minor(images), window // 2), (window, window), pool=False, stride=2)


def _halved(height: int, width: int) -> tuple[int, int]:
    """Size of a map after a convolution of stride 2."""
    return math.ceil(height / 2), math.ceil(width / 2)


def _check_size(input_shape, height, width, name):
    if min(height, width) < 1:
        raise UserError(
            f"Images of {input_shape[0]}x{input_shape[1]} pixels are too small for the {name} network; resize them."
        )


class CNNMedium(cnn.CNN):
    """The CNN on three channels, which grey images fill with copies, as published."""

    def prepare(self, images: jax.Array) -> Unfolded:
        """What the first convolution sees of images `[B, H, W, 1 or 3]`; `__call__` takes it in their place."""
        return super().prepare(_rgb(images))

    def __call__(self, x: jax.Array | Unfolded) -> jax.Array:
        return super().__call__(x if isinstance(x, Unfolded) else _rgb(x))


@dataclasses.dataclass(frozen=True)
class CNNMediumSettings(ImageSettings):
    """Settings of the `cnn_medium` network.

    Attributes:
      name: name of the network.
      channels: output channels of the convolutions.
      hidden: width of the hidden layer.
    """

    name: Literal["cnn_medium"] = "cnn_medium"
    channels: tuple[int, ...] = setting((16, 32, 15), at_least=1, length=(1, None))
    hidden: int = setting(20, at_least=1)


def cnn_medium(
    settings: CNNMediumSettings, input_shape: tuple[int, ...], num_classes: int
) -> tuple[cnn.CNN, WeightSpec]:
    """CNN-medium and its spec: 3x3 convolutions without padding, each pooled and leaky, and a hidden layer.

    Raises:
      UserError: images that are too small, or inputs that are no images.
    """
    height, width, inputs = image_shape(input_shape, settings.name)
    count = len(settings.channels)
    small = cnn.CNNSettings(
        channels=settings.channels,
        windows=(3,) * count,
        pools=(True,) * count,
        hidden=settings.hidden,
        activation=_ACTIVATION,
        init="torch",
    )
    return cnn.build(small, (height, width, 3 if inputs == 1 else inputs), num_classes, kind=CNNMedium)


def _rgb(images: jax.Array) -> jax.Array:
    return jnp.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
