"""The small convolutional network, for two CPU cores."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.bias.classifiers.base import Classifier
from jaxweights.errors import UserError
from jaxweights.nn.dense import Dense, biased
from jaxweights.nn.parameters import kernel_and_bias
from jaxweights.nn.pooling import MapMean
from jaxweights.settings import setting

_WINDOW, _STRIDE, _PADDING = 3, 2, 1


class StridedConv(nn.Module):
    """Convolution with a 3x3 window and stride 2, zeros around the map, as one matrix product.

    Under `vmap` over weights it stays one, where a convolution becomes a grouped one; on CPU, one network at a time, it
    takes 0.7 of the time of `nn.convolution` with its derivatives (32 pixels, three channels).
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, ceil(H / 2), ceil(W / 2), features]`."""
        batch, height, width, channels = x.shape
        shape, area = (_WINDOW, _WINDOW, channels, self.features), _WINDOW**2
        kernel, bias = kernel_and_bias(
            self, "weight", shape, (area * channels, area * self.features), "kaiming_uniform"
        )
        x = jnp.pad(x, ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0)))
        shifts = [(i, j) for i in range(_WINDOW) for j in range(_WINDOW)]
        seen = [x[:, i : i + height : _STRIDE, j : j + width : _STRIDE] for i, j in shifts]
        rows = jnp.concatenate(seen, axis=-1).reshape(-1, area * channels)
        y = (rows @ kernel.reshape(area * channels, self.features)).reshape(*seen[0].shape[:3], self.features)
        return biased(y, bias)


class SmallCNN(nn.Module):
    """Strided convolutions with ReLU, the mean over the map, a dense layer."""

    channels: tuple[int, ...]
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, features in enumerate(self.channels):
            x = nn.relu(StridedConv(features, name=f"conv{i + 1}")(x))
        return Dense(self.num_classes, name="fc")(MapMean(name="mean")(x))


@dataclasses.dataclass(frozen=True)
class CNN(Classifier):
    """A convolutional network of 3x3 windows with stride 2 and the mean over the last map; 23,779 parameters for three
    collections of colour images.

    Attributes:
      channels: output channels of the convolutions.
    """

    KIND: ClassVar[str] = "cnn"
    IMAGES: ClassVar[bool] = True

    channels: tuple[int, ...] = setting((16, 32, 64), at_least=1, length=(1, None))
    epochs: int = setting(10, at_least=1)
    learning_rate: float = setting(3e-3, above=0)

    def module(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        if len(input_shape) != 3:
            raise UserError(
                f"The classifier {self.KIND} takes images, but the examples have the shape {input_shape}. Set "
                "bias.classifier.kind to mlp or linear."
            )
        return SmallCNN(self.channels, num_classes)
