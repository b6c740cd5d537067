"""ResNet-18 and ResNet-50 as in timm (He et al., arXiv 1512.03385; bottlenecks stride in their 3x3 convolution).

With 1,000 classes they have 11,689,512 and 25,557,032 trainable parameters, and 9,600 and 53,120 running statistics.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, Literal

import jax
from flax import linen as nn

from jaxweights.nets.settings import ImageSettings, image_shape
from jaxweights.nn.convolution import Conv
from jaxweights.nn.dense import Chain, Dense
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.normalization import BatchNorm
from jaxweights.nn.pooling import MapMean
from jaxweights.settings import setting
from jaxweights.spec import FIXED, WeightSpec

# Name to (convolutions, last batch normalisation's weights of a block). timm begins with blocks that add nothing.
INITIALISERS = {"published": ("kaiming_normal_out", 0.0), "torch": ("torch", 1.0)}

_EXPANSION = 4  # of a bottleneck's output over its width


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 in a bottleneck; their input is added, strided and projected where the
    shape changes."""

    width: int
    stride: int
    bottleneck: bool
    initialiser: str
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernels, last = INITIALISERS[self.initialiser]
        conv = functools.partial(Conv, use_bias=False, initialiser=kernels)
        norm = functools.partial(BatchNorm, axis_name=self.axis_name)
        outputs = self.width * (_EXPANSION if self.bottleneck else 1)
        shortcut = x
        if self.bottleneck:
            x = nn.relu(norm(name="bn1")(conv(self.width, 1, name="conv1")(x)))
            x = nn.relu(norm(name="bn2")(conv(self.width, 3, self.stride, 1, name="conv2")(x)))
            x = norm(last, name="bn3")(conv(outputs, 1, name="conv3")(x))
        else:
            x = nn.relu(norm(name="bn1")(conv(self.width, 3, self.stride, 1, name="conv1")(x)))
            x = norm(last, name="bn2")(conv(outputs, 3, 1, 1, name="conv2")(x))
        if projects(shortcut.shape[-1], outputs, self.stride):
            shortcut = Chain((functools.partial(conv, outputs, 1, self.stride), norm), name="downsample")(shortcut)
        return nn.relu(x + shortcut)


class ResNet(nn.Module):
    """The stem, stages layer1, layer2, ..., each but the first of half the resolution, the mean over the map, fc."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_classes: int
    bottleneck: bool
    stem: str = "imagenet"
    initialiser: str = "published"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        window, stride, padding = (7, 2, 3) if self.stem == "imagenet" else (3, 1, 1)
        kernels = INITIALISERS[self.initialiser][0]
        x = Conv(self.widths[0], window, stride, padding, use_bias=False, initialiser=kernels, name="conv1")(x)
        x = nn.relu(BatchNorm(axis_name=self.axis_name, name="bn1")(x))
        if self.stem == "imagenet":
            border: Any = ((1, 1), (1, 1))
            x = nn.max_pool(x, (3, 3), (2, 2), border)
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            block = functools.partial(
                Block, width, bottleneck=self.bottleneck, initialiser=self.initialiser, axis_name=self.axis_name
            )
            strides = (2 if i else 1,) + (1,) * (depth - 1)
            x = Chain(tuple(functools.partial(block, stride=stride) for stride in strides), name=f"layer{i + 1}")(x)
        return Dense(self.num_classes, name="fc")(MapMean(name="mean")(x))


def projects(inputs: int, outputs: int, stride: int) -> bool:
    """Whether a block's shortcut needs a projection."""
    return stride > 1 or inputs != outputs


@dataclasses.dataclass(frozen=True)
class ResNetSettings(ImageSettings):
    """Settings of the residual networks.

    Attributes:
      name: name of the network.
      widths: widths of the stages.
      depths: blocks per stage.
      stem: "imagenet" (7x7 convolution of stride 2, 3x3 pooling of stride 2) or "cifar" (3x3 convolution, no pooling).
      init: "published" (timm: normal kernels, the last normalisation of a block zero) or "torch" (PyTorch's default of
        each layer).
    """

    BOTTLENECK: ClassVar[bool] = False
    """Whether a block is a bottleneck, whose output has four times its width."""

    widths: tuple[int, ...] = setting((64, 128, 256, 512), at_least=1, length=(1, None))
    depths: tuple[int, ...] = setting((2, 2, 2, 2), at_least=1, at_most=1000)
    stem: Literal["imagenet", "cifar"] = "imagenet"
    init: Literal["published", "torch"] = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.depths) != len(self.widths):
            self.refuse("depths", f"give {len(self.widths)} entries, as many net.depths as net.widths")


@dataclasses.dataclass(frozen=True)
class ResNet18Settings(ResNetSettings):
    """Settings of the `resnet18` network."""

    name: Literal["resnet18"] = "resnet18"


@dataclasses.dataclass(frozen=True)
class ResNet50Settings(ResNetSettings):
    """Settings of the `resnet50` network."""

    BOTTLENECK: ClassVar[bool] = True

    name: Literal["resnet50"] = "resnet50"
    depths: tuple[int, ...] = setting((3, 4, 6, 3), at_least=1, at_most=1000)


def build(settings: ResNetSettings, input_shape: tuple[int, ...], num_classes: int) -> tuple[ResNet, WeightSpec]:
    """A ResNet and its spec.

    The channels that a stage's blocks add to are one permutation group, as are the channels inside each block. Batch
    normalisation undoes rescalings, so there are none.

    Raises:
      UserError: inputs that are no images.
    """
    _, _, inputs = image_shape(input_shape, settings.name)
    widths, depths, bottleneck = settings.widths, settings.depths, settings.BOTTLENECK
    leaves = Leaves()
    reads, channels = leaves.group(widths[0]), widths[0]
    leaves.conv("conv1", 7 if settings.stem == "imagenet" else 3, inputs, channels, FIXED, reads, use_bias=False)
    leaves.norm("bn1", channels, reads, statistics=True)
    for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        outputs = width * (_EXPANSION if bottleneck else 1)
        for j in range(depth):
            project = projects(channels, outputs, 2 if i and not j else 1)
            stream = leaves.group(outputs) if project else reads
            _block_leaves(leaves, f"layer{i + 1}/{j}", channels, width, outputs, reads, stream, bottleneck, project)
            reads, channels = stream, outputs
    leaves.dense("fc", channels, num_classes, reads)
    return ResNet(widths, depths, num_classes, bottleneck, settings.stem, settings.init), leaves.spec()


def _block_leaves(leaves, name, inputs, width, outputs, reads, stream, bottleneck, project):
    layers = [(width, 1 if bottleneck else 3), (width, 3), (outputs, 1)] if bottleneck else [(width, 3), (outputs, 3)]
    channels, group = inputs, reads
    for i, (features, window) in enumerate(layers):
        writes = stream if i == len(layers) - 1 else leaves.group(features)
        leaves.conv(f"{name}/conv{i + 1}", window, channels, features, group, writes, use_bias=False)
        leaves.norm(f"{name}/bn{i + 1}", features, writes, statistics=True)
        channels, group = features, writes
    if project:
        leaves.conv(f"{name}/downsample/0", 1, inputs, outputs, reads, stream, use_bias=False)
        leaves.norm(f"{name}/downsample/1", outputs, stream, statistics=True)
