"""The convolutional network of G.pt's CIFAR-10 data set: 5,370 parameters on 32x32 colour images."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.nn.activations import scaling
from jaxweights.nn.conv_pool import Unfolded, pad_map, to_batch_minor, unfold
from jaxweights.nn.dense import Dense
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.maps import MapConv
from jaxweights.spec import FIXED, WeightSpec

WINDOW, PADDING = 3, 1


class ConvNet(nn.Module):
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
        x = x if isinstance(x, Unfolded) else self.prepare(x)
        for i, features in enumerate(self.channels):
            x = MapConv(
                features,
                WINDOW,
                activation=self.activation,
                initialiser=self.initialiser,
                padding=PADDING,
                use_bias=False,
                convention="flax",
                name=f"conv{i + 1}",
            )(x)
        return Dense(self.num_classes, self.initialiser, name="fc")(jnp.mean(x, axis=(1, 2)).T)


def build(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    channels: Sequence[int] = (16, 32),
    activation: str = "relu",
    init: str = "torch",
) -> tuple[ConvNet, WeightSpec]:
    """The network and its spec; every convolution's channels are one permutation group.

    Raises:
      UserError: no convolution.
    """
    if not channels:
        raise UserError("The convnet network needs at least one number of channels.")
    leaves, inputs, reads = Leaves(), input_shape[-1], FIXED
    for i, features in enumerate(channels):
        writes = leaves.group(features, scaling(activation))
        leaves.conv(f"conv{i + 1}", WINDOW, inputs, features, reads, writes, use_bias=False, convention="flax")
        inputs, reads = features, writes
    leaves.dense("fc", inputs, num_classes, reads)
    return ConvNet(tuple(channels), num_classes, activation, init), leaves.spec()
