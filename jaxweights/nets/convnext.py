"""ConvNeXt-tiny and -base as in timm (Liu et al., arXiv 2201.03545), and P-diff's small one, 74,970 parameters with 10
classes."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar, Literal

import jax
from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.nets.base import PreparedModule
from jaxweights.nets.settings import ImageSettings, image_shape
from jaxweights.nn.convolution import Conv, DepthwiseConv, Patches, patches
from jaxweights.nn.dense import MLP, Chain, Dense
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.normalization import LayerNorm
from jaxweights.nn.parameters import constant, parameter
from jaxweights.nn.pooling import MapMean
from jaxweights.settings import setting
from jaxweights.spec import FIXED, WeightSpec

# Name to initialisation of convolutions and dense layers.
INITIALISERS = {"published": "normal_0.02", "torch": "torch"}

_STEM, _WINDOW, _EXPANSION = 4, 7, 4
_EPSILON = 1e-6
_LAYER_SCALE = 1e-6  # initial


class Block(nn.Module):
    """Depthwise convolution, normalisation and dense layers at every pixel, scaled by channel, added to the map."""

    initialiser: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        gamma = parameter(self, "gamma", (channels,), constant(_LAYER_SCALE))
        y = DepthwiseConv(_WINDOW, self.initialiser, name="conv_dw")(x)
        y = LayerNorm((channels,), _EPSILON, name="norm")(y)
        y = MLP(_EXPANSION * channels, self.initialiser, name="mlp")(y)
        return x + gamma[None, None, None, :] * y


class Stage(nn.Module):
    """Half the resolution, but in the first stage; then blocks."""

    width: int
    depth: int
    first: bool
    initialiser: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.first:
            norm = functools.partial(LayerNorm, x.shape[-1:], _EPSILON)
            conv = functools.partial(Conv, self.width, 2, 2, initialiser=self.initialiser)
            x = Chain((norm, conv), name="downsample")(x)
        return Chain((functools.partial(Block, self.initialiser),) * self.depth, name="blocks")(x)


class Head(nn.Module):
    """Normalisation and the dense layer."""

    num_classes: int
    initialiser: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = LayerNorm(x.shape[-1:], _EPSILON, name="norm")(x)
        return Dense(self.num_classes, self.initialiser, name="fc")(x)


class ConvNeXt(nn.Module):
    """The stem (squares of 4x4 pixels, normalisation), stages, the mean over the map, the head."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_classes: int
    initialiser: str = "published"

    @nn.compact
    def __call__(self, x: jax.Array | Patches) -> jax.Array:
        init = INITIALISERS[self.initialiser]
        conv = functools.partial(Conv, self.widths[0], _STEM, _STEM, initialiser=init)
        x = Chain((conv, functools.partial(LayerNorm, self.widths[:1], _EPSILON)), name="stem")(x)
        stages = [
            functools.partial(Stage, width, depth, i == 0, init)
            for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True))
        ]
        x = Chain(tuple(stages), name="stages")(x)
        return Head(self.num_classes, init, name="head")(MapMean(name="mean")(x))


class SmallConvNeXt(ConvNeXt, PreparedModule):
    """The same where many models see the same images."""

    def prepare(self, images: jax.Array) -> Patches:
        """The squares of images `[B, H, W, C]`; `__call__` takes them in the images' place."""
        return patches(images, _STEM)


@dataclasses.dataclass(frozen=True)
class ConvNeXtSettings(ImageSettings):
    """Settings of the ConvNeXt networks.

    Attributes:
      name: name of the network.
      widths: channels per stage.
      depths: blocks per stage.
      init: "published" (normal kernels, no biases) or "torch" (PyTorch's default of each layer).
    """

    SMALL: ClassVar[bool] = False
    """Whether the leaves are in the order of P-diff's state dict, where everything between the stages comes first."""

    widths: tuple[int, ...] = setting((96, 192, 384, 768), at_least=1, length=(1, None))
    depths: tuple[int, ...] = setting((3, 3, 9, 3), at_least=1, at_most=1000)
    init: Literal["published", "torch"] = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.depths) != len(self.widths):
            self.refuse("depths", f"give {len(self.widths)} entries, as many net.depths as net.widths")


@dataclasses.dataclass(frozen=True)
class TinySettings(ConvNeXtSettings):
    """Settings of the `convnext_tiny` network."""

    name: Literal["convnext_tiny"] = "convnext_tiny"


@dataclasses.dataclass(frozen=True)
class BaseSettings(ConvNeXtSettings):
    """Settings of the `convnext_base` network."""

    name: Literal["convnext_base"] = "convnext_base"
    widths: tuple[int, ...] = setting((128, 256, 512, 1024), at_least=1, length=(1, None))
    depths: tuple[int, ...] = setting((3, 3, 27, 3), at_least=1, at_most=1000)


@dataclasses.dataclass(frozen=True)
class SmallSettings(ConvNeXtSettings):
    """Settings of the `pdiff_convnext` network."""

    SMALL: ClassVar[bool] = True

    name: Literal["pdiff_convnext"] = "pdiff_convnext"
    widths: tuple[int, ...] = setting((16, 32, 32, 32), at_least=1, length=(1, None))
    depths: tuple[int, ...] = setting((1, 2, 2, 2), at_least=1, at_most=1000)


def build(settings: ConvNeXtSettings, input_shape: tuple[int, ...], num_classes: int) -> tuple[ConvNeXt, WeightSpec]:
    """A ConvNeXt and its spec.

    The channels of a stage are one permutation group, as are the hidden units of each block. None can be rescaled.

    Raises:
      UserError: images that are too small, or inputs that are no images.
    """
    height, columns, inputs = image_shape(input_shape, settings.name)
    widths, depths = settings.widths, settings.depths
    shrinks = _STEM * 2 ** (len(widths) - 1)
    if min(height, columns) < shrinks:
        raise UserError(
            f"Images of {height}x{columns} pixels are too small for a convnext of {len(widths)} stages, which needs "
            f"{shrinks}; resize them, or give fewer net.widths and net.depths."
        )
    leaves = Leaves()
    streams = [leaves.group(width) for width in widths]
    leaves.conv("stem/0", _STEM, inputs, widths[0], FIXED, streams[0])
    leaves.norm("stem/1", widths[0], streams[0])
    stages = range(len(widths))
    parts = (
        [(i, part) for part in ("downsample", "blocks") for i in stages]
        if settings.SMALL
        else [(i, part) for i in stages for part in ("downsample", "blocks")]
    )
    for i, part in parts:
        name = f"stages/{i}/{part}"
        if part == "blocks":
            for j in range(depths[i]):
                _block_leaves(leaves, f"{name}/{j}", widths[i], streams[i])
        elif i:
            leaves.norm(f"{name}/0", widths[i - 1], streams[i - 1])
            leaves.conv(f"{name}/1", 2, widths[i - 1], widths[i], streams[i - 1], streams[i])
    leaves.norm("head/norm", widths[-1], streams[-1])
    leaves.dense("head/fc", widths[-1], num_classes, streams[-1])
    kind = SmallConvNeXt if settings.SMALL else ConvNeXt
    return kind(widths, depths, num_classes, settings.init), leaves.spec()


def _block_leaves(leaves, name, width, stream):
    hidden = leaves.group(_EXPANSION * width)
    leaves.vector(f"{name}/gamma", width, stream)
    leaves.conv(f"{name}/conv_dw", _WINDOW, 1, width, FIXED, stream)
    leaves.norm(f"{name}/norm", width, stream)
    leaves.dense(f"{name}/mlp/fc1", width, _EXPANSION * width, stream, hidden)
    leaves.dense(f"{name}/mlp/fc2", _EXPANSION * width, width, hidden, stream)
