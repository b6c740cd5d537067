"""Vision transformers: ViT-tiny and ViT-base with patches of 16 as in timm (Dosovitskiy et al., arXiv 2010.11929), and
P-diff's SimpleViT (Beyer et al., arXiv 2205.01580), 80,714 parameters on 64x64 images of 10 classes."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.nets.resize import image_shape
from jaxweights.nn.convolution import Conv, Patches, patches
from jaxweights.nn.dense import MLP, Chain, Dense
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.normalization import LayerNorm, standardise
from jaxweights.nn.parameters import normal, parameter
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


class SimpleViT(nn.Module):
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
        x = (x if isinstance(x, Patches) else self.prepare(x)).rows
        positions = sincos_positions(*x.shape[1:3], self.width)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
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


def build(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int,
    heads: int,
    depth: int = 12,
    patch: int = 16,
    init: str = "published",
) -> tuple[ViT, WeightSpec]:
    """A vision transformer and its spec.

    The values of a token are one permutation group, as are each block's hidden units, its heads, and the places within
    a head (of query, key and value together, since they are one tensor). None can be rescaled.

    Args:
      input_shape: `(H, W, C)`, multiples of the patch.
      num_classes: number of classes.
      width: values per token.
      heads: of attention; they divide the width.
      depth: blocks.
      patch: side of the squares in pixels.
      init: "published" (timm: normal dense layers without bias) or "torch" (PyTorch's default of each layer).

    Raises:
      UserError: sizes that do not divide one another, an unknown `init`, or inputs that are no images.
    """
    height, columns, inputs = _checked(input_shape, patch, "vit")
    if init not in INITIALISERS:
        raise UserError(f"Unknown net.init {init!r} of a vit; known: {', '.join(INITIALISERS)}.")
    if heads < 1 or depth < 1 or width % heads:
        raise UserError(f"A vit of width {width} cannot have {heads} heads in {depth} blocks; choose a divisor.")
    leaves = Leaves()
    stream = leaves.group(width)
    leaves.tensor("cls_token", (1, 1, width), (FIXED, FIXED, stream), (0, 0, 1))
    tokens = 1 + (height // patch) * (columns // patch)
    leaves.tensor("pos_embed", (1, tokens, width), (FIXED, FIXED, stream), (0, 0, 1))
    leaves.conv("patch_embed/proj", patch, inputs, width, FIXED, stream)
    for i in range(depth):
        _block_leaves(leaves, f"blocks/{i}", width, heads, width // heads, _EXPANSION * width, stream, True)
    leaves.norm("norm", width, stream)
    leaves.dense("head", width, num_classes, stream)
    return ViT(patch, width, depth, heads, num_classes, init), leaves.spec()


vit_tiny = functools.partial(build, width=192, heads=3)
vit_base = functools.partial(build, width=768, heads=12)


def build_simple(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 64,
    heads: int = 4,
    head_dim: int = 8,
    hidden: int = 64,
    depth: int = 4,
    patch: int = 8,
) -> tuple[SimpleViT, WeightSpec]:
    """P-diff's SimpleViT and its spec, in the order of its state dict.

    The positions are fixed, so the values of a token cannot be permuted; heads, the places within a head and hidden
    units can, as in `build`.

    Args:
      input_shape: `(H, W, C)`, multiples of the patch.
      num_classes: number of classes.
      width: values per token, a multiple of 4, at least 8.
      heads: of attention.
      head_dim: values per head.
      hidden: hidden units of a block's dense layers.
      depth: blocks.
      patch: side of the squares in pixels.

    Raises:
      UserError: sizes that do not divide one another, or inputs that are no images.
    """
    _, _, inputs = _checked(input_shape, patch, "pdiff_vit")
    if width % 4 or width < 8 or min(heads, head_dim, hidden, depth) < 1:
        raise UserError(
            f"The pdiff_vit network has net.width {width}, which must be a multiple of 4 and at least 8, with at least "
            "one head, place in a head, hidden unit and block."
        )
    leaves = Leaves()
    leaves.norm("patch_norm", patch**2 * inputs)
    leaves.dense("patch_embed", patch**2 * inputs, width)
    leaves.norm("embed_norm", width)
    leaves.norm("norm", width)
    for i in range(depth):
        _block_leaves(leaves, f"blocks/{i}", width, heads, head_dim, hidden, FIXED, False)
    leaves.dense("head", width, num_classes)
    return SimpleViT(patch, width, depth, heads, head_dim, hidden, num_classes), leaves.spec()


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


def _checked(input_shape, patch, name):
    shape = image_shape(input_shape, name)
    if patch < 1 or shape[0] % patch or shape[1] % patch:
        raise UserError(
            f"Images of {shape[0]}x{shape[1]} pixels do not split into patches of {patch}x{patch} for the {name} "
            "network; set net.patch to a common divisor, or resize the images."
        )
    return shape
