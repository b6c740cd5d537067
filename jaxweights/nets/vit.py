"""Vision transformers: ViT-tiny and ViT-base with patches of 16 as in timm (Dosovitskiy et al., arXiv 2010.11929), and
P-diff's SimpleViT (Beyer et al., arXiv 2205.01580), 80,714 parameters on 64x64 images of 10 classes."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.nets.base import PreparedModule
from jaxweights.nets.settings import ImageSettings, image_shape
from jaxweights.nn.convolution import Conv, Patches, patches
from jaxweights.nn.dense import MLP, Chain, Dense
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.normalization import LayerNorm, standardise
from jaxweights.nn.parameters import normal, parameter
from jaxweights.settings import setting
from jaxweights.spec import FIXED, WeightSpec

# Name to initialisation of dense layers in a block.
INITIALISERS = {"published": "normal_0.02", "torch": "torch"}

_TIMM_EPSILON, _SIMPLE_EPSILON = 1e-6, 1e-5
_TEMPERATURE = 10_000.0  # of the sine and cosine positions
_EXPANSION = 4  # of hidden units over the width, in timm's
_TOKEN_STD, _POSITION_STD = 1e-6, 0.02  # initial values in timm

_standard_normal = normal(1.0)


class Attention(nn.Module):
    """Attention of all tokens `[B, n, D]` to all."""

    heads: int
    head_dim: int
    initialiser: str
    use_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inner = self.heads * self.head_dim
        qkv = Dense(3 * inner, self.initialiser, self.use_bias, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(x.shape[:2] + (3, self.heads, self.head_dim)), 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q / math.sqrt(self.head_dim), k)
        out = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), v)
        return Dense(x.shape[-1], self.initialiser, self.use_bias, name="proj")(out.reshape(x.shape[:2] + (inner,)))


class Block(nn.Module):
    """Pre-norm attention and dense layers, each added to the tokens."""

    heads: int
    head_dim: int
    hidden: int
    initialiser: str
    use_bias: bool
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = functools.partial(LayerNorm, x.shape[-1:], self.epsilon)
        attention = Attention(self.heads, self.head_dim, self.initialiser, self.use_bias, name="attn")
        x = x + attention(norm(name="norm1")(x))
        return x + MLP(self.hidden, self.initialiser, name="mlp")(norm(name="norm2")(x))


class ViT(nn.Module):
    """Embedded patches behind a class token, with learned positions; blocks; the class token's values give logits."""

    side: int
    width: int
    depth: int
    heads: int
    num_classes: int
    initialiser: str = "published"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense, width = INITIALISERS[self.initialiser], self.width
        x = Patch(self.side, width, name="patch_embed")(x)
        token = parameter(self, "cls_token", (1, 1, width), lambda u: _TOKEN_STD * _standard_normal(u))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, width)), x], axis=1)
        x = x + parameter(self, "pos_embed", (1,) + x.shape[1:], lambda u: _POSITION_STD * _standard_normal(u))
        block = functools.partial(
            Block, self.heads, width // self.heads, _EXPANSION * width, dense, True, _TIMM_EPSILON
        )
        x = Chain((block,) * self.depth, name="blocks")(x)
        return Dense(self.num_classes, dense, name="head")(LayerNorm((width,), _TIMM_EPSILON, name="norm")(x[:, 0]))


class Patch(nn.Module):
    """Tokens `[B, n, D]` of the squares of an image, by a convolution."""

    side: int
    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Conv(self.features, self.side, self.side, name="proj")(x)
        return x.reshape(x.shape[0], -1, self.features)


class SimpleViT(PreparedModule):
    """Embedded patches with sine and cosine positions; blocks whose attention has no biases; the mean over tokens.

    An image's squares are normalised before they are embedded, which `prepare` does without weights.
    """

    side: int
    width: int
    depth: int
    heads: int
    head_dim: int
    hidden: int
    num_classes: int

    def prepare(self, images: jax.Array) -> Patches:
        """The squares of images `[B, H, W, C]`, standardised; `__call__` takes them in the images' place."""
        return Patches(standardise(patches(images, self.side).rows, (-1,), _SIMPLE_EPSILON))

    @nn.compact
    def __call__(self, x: jax.Array | Patches) -> jax.Array:
        squares = (x if isinstance(x, Patches) else self.prepare(x)).rows
        _, rows, cols, _ = squares.shape
        positions = sincos_positions(rows, cols, self.width)
        x = squares.reshape(squares.shape[0], -1, squares.shape[-1])
        x = LayerNorm(x.shape[-1:], standardised=True, name="patch_norm")(x)
        x = Dense(self.width, name="patch_embed")(x)
        x = LayerNorm((self.width,), _SIMPLE_EPSILON, name="embed_norm")(x) + positions[None]
        block = functools.partial(Block, self.heads, self.head_dim, self.hidden, "torch", False, _SIMPLE_EPSILON)
        x = Chain((block,) * self.depth, name="blocks")(x)
        x = LayerNorm((self.width,), _SIMPLE_EPSILON, name="norm")(x)
        return Dense(self.num_classes, name="head")(jnp.mean(x, axis=1))


def sincos_positions(rows: int, cols: int, width: int) -> np.ndarray:
    """`[rows * cols, width]` float32: sines and cosines of the column, then those of the row, at `width / 4`
    frequencies from 1 down to 1 / 10,000."""
    y, x = np.mgrid[:rows, :cols].astype(np.float32).reshape(2, -1, 1)
    frequencies = (1.0 / _TEMPERATURE ** (np.arange(width // 4, dtype=np.float32) / (width // 4 - 1)))[None]
    return np.concatenate([f(p * frequencies) for p in (x, y) for f in (np.sin, np.cos)], axis=1).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class ViTSettings(ImageSettings):
    """Settings of the vision transformers.

    Attributes:
      name: name of the network.
      width: values per token.
      heads: heads of attention, which divide the width.
      depth: number of blocks.
      patch: side of the patches in pixels.
      init: "published" (timm: normal dense layers without bias) or "torch" (PyTorch's default of each layer).
    """

    width: int = setting(192, at_least=1)
    heads: int = setting(3, at_least=1)
    depth: int = setting(12, at_least=1, at_most=1000)
    patch: int = setting(16, at_least=1)
    init: Literal["published", "torch"] = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            self.refuse("heads", f"choose a divisor of net.width, which is {self.width}")


@dataclasses.dataclass(frozen=True)
class ViTTinySettings(ViTSettings):
    """Settings of the `vit_tiny` network."""

    name: Literal["vit_tiny"] = "vit_tiny"


@dataclasses.dataclass(frozen=True)
class ViTBaseSettings(ViTSettings):
    """Settings of the `vit_base` network."""

    name: Literal["vit_base"] = "vit_base"
    width: int = setting(768, at_least=1)
    heads: int = setting(12, at_least=1)


def build(settings: ViTSettings, input_shape: tuple[int, ...], num_classes: int) -> tuple[ViT, WeightSpec]:
    """A vision transformer and its spec.

    The values of a token are one permutation group, as are each block's hidden units, its heads, and the places within
    a head (of query, key and value together, since they are one tensor). None can be rescaled.

    Raises:
      UserError: images that do not split into patches, or inputs that are no images.
    """
    width, heads, patch = settings.width, settings.heads, settings.patch
    height, columns, inputs = _image_of_patches(input_shape, patch, settings.name)
    leaves = Leaves()
    stream = leaves.group(width)
    leaves.tensor("cls_token", (1, 1, width), (FIXED, FIXED, stream), (0, 0, 1))
    tokens = 1 + (height // patch) * (columns // patch)
    leaves.tensor("pos_embed", (1, tokens, width), (FIXED, FIXED, stream), (0, 0, 1))
    leaves.conv("patch_embed/proj", patch, inputs, width, FIXED, stream)
    for i in range(settings.depth):
        _block_leaves(leaves, f"blocks/{i}", width, heads, width // heads, _EXPANSION * width, stream, True)
    leaves.norm("norm", width, stream)
    leaves.dense("head", width, num_classes, stream)
    return ViT(patch, width, settings.depth, heads, num_classes, settings.init), leaves.spec()


@dataclasses.dataclass(frozen=True)
class SimpleViTSettings(ImageSettings):
    """Settings of the `pdiff_vit` network.

    Attributes:
      name: name of the network.
      width: values per token, a multiple of 4.
      heads: heads of attention.
      head_dim: values per head.
      hidden: hidden units of a block's dense layers.
      depth: number of blocks.
      patch: side of the patches in pixels.
    """

    name: Literal["pdiff_vit"] = "pdiff_vit"
    width: int = setting(64, at_least=8)
    heads: int = setting(4, at_least=1)
    head_dim: int = setting(8, at_least=1)
    hidden: int = setting(64, at_least=1)
    depth: int = setting(4, at_least=1, at_most=1000)
    patch: int = setting(8, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 4:
            self.refuse("width", "set it to a multiple of 4, since its positions are sines and cosines of two axes")


def build_simple(
    settings: SimpleViTSettings, input_shape: tuple[int, ...], num_classes: int
) -> tuple[SimpleViT, WeightSpec]:
    """P-diff's SimpleViT and its spec, in the order of its state dict.

    The positions are fixed, so the values of a token cannot be permuted; heads, the places within a head and hidden
    units can, as in `build`.

    Raises:
      UserError: images that do not split into patches, or inputs that are no images.
    """
    width, patch = settings.width, settings.patch
    heads, head_dim, hidden = settings.heads, settings.head_dim, settings.hidden
    _, _, inputs = _image_of_patches(input_shape, patch, settings.name)
    leaves = Leaves()
    leaves.norm("patch_norm", patch**2 * inputs)
    leaves.dense("patch_embed", patch**2 * inputs, width)
    leaves.norm("embed_norm", width)
    leaves.norm("norm", width)
    for i in range(settings.depth):
        _block_leaves(leaves, f"blocks/{i}", width, heads, head_dim, hidden, FIXED, False)
    leaves.dense("head", width, num_classes)
    return SimpleViT(patch, width, settings.depth, heads, head_dim, hidden, num_classes), leaves.spec()


def _block_leaves(leaves, name, width, heads, head_dim, hidden, stream, use_bias):
    head, place, units = leaves.group(heads), leaves.group(head_dim), leaves.group(hidden)
    split, inner = (heads, head_dim), heads * head_dim
    leaves.norm(f"{name}/norm1", width, stream)
    axes, groups = (3,) + split + (width,), (FIXED, head, place, stream)
    leaves.tensor(f"{name}/attn/qkv/weight", axes, groups, (0, 1, 1, -1), shape=(3 * inner, width))
    if use_bias:
        leaves.tensor(f"{name}/attn/qkv/bias", axes[:3], groups[:3], (0, 1, 1), shape=(3 * inner,))
    leaves.tensor(f"{name}/attn/proj/weight", (width,) + split, (stream, head, place), (1, -1, -1), (width, inner))
    if use_bias:
        leaves.vector(f"{name}/attn/proj/bias", width, stream)
    leaves.norm(f"{name}/norm2", width, stream)
    leaves.dense(f"{name}/mlp/fc1", width, hidden, stream, units)
    leaves.dense(f"{name}/mlp/fc2", hidden, width, units, stream)


def _image_of_patches(input_shape, patch, name):
    height, width, channels = image_shape(input_shape, name)
    if height % patch or width % patch:
        raise UserError(
            f"Images of {height}x{width} pixels do not split into patches of {patch}x{patch} for the {name} network; "
            "set net.patch to a common divisor, or resize the images."
        )
    return height, width, channels
