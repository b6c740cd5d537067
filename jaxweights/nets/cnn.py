"""The convolutional network of the Hyper-Representations zoos: 2,464 parameters on 28x28 grey images."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.nn.activations import activation, scaling
from jaxweights.nn.conv_pool import Unfolded, from_batch_minor, to_batch_minor, unfold
from jaxweights.nn.dense import Dense
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.maps import MapConv
from jaxweights.spec import FIXED, WeightSpec


class CNN(nn.Module):
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
        return unfold(to_batch_minor(images), (self.windows[0],) * 2, pool=self.pools[0])

    @nn.compact
    def __call__(self, x: jax.Array | Unfolded) -> jax.Array:
        act = activation(self.activation)
        x = x if isinstance(x, Unfolded) else to_batch_minor(x)
        for i, (features, window, pool) in enumerate(zip(self.channels, self.windows, self.pools, strict=True)):
            conv = MapConv(
                features, window, pool, self.activation, self.initialiser, convention="flax", name=f"conv{i + 1}"
            )
            x = conv(x)
        x = from_batch_minor(x)
        x = x.reshape(x.shape[0], -1)
        x = act(Dense(self.hidden, self.initialiser, name="fc1")(x))
        return Dense(self.num_classes, self.initialiser, name="fc2")(x)


def build(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    channels: Sequence[int] = (8, 6, 4),
    windows: Sequence[int] = (5, 5, 2),
    pools: Sequence[bool] = (True, True, False),
    hidden: int = 20,
    activation: str = "tanh",
    init: str = "uniform",
) -> tuple[CNN, WeightSpec]:
    """The CNN and its spec; every convolution's channels and the hidden layer are one permutation group each.

    Raises:
      UserError: settings of different lengths, or a feature map that shrinks to nothing.
    """
    if not len(channels) == len(windows) == len(pools) > 0:
        raise UserError("The cnn network needs as many windows and pools as channels, and at least one.")
    height, width, inputs = input_shape
    leaves, reads = Leaves(), FIXED
    for i, (features, window, pool) in enumerate(zip(channels, windows, pools, strict=True)):
        writes = leaves.group(features, scaling(activation, pooled=pool))
        leaves.conv(f"conv{i + 1}", window, inputs, features, reads, writes, convention="flax")
        height, width = ((size - window + 1) // (2 if pool else 1) for size in (height, width))
        inputs, reads = features, writes
        if min(height, width) < 1:
            raise UserError(
                f"Images of {input_shape[0]}x{input_shape[1]} pixels are too small for layer conv{i + 1} of the cnn."
            )
    units = leaves.group(hidden, scaling(activation))
    leaves.dense("fc1", (height, width, inputs), hidden, reads, units)
    leaves.dense("fc2", hidden, num_classes, units)
    module = CNN(tuple(channels), tuple(windows), tuple(bool(p) for p in pools), hidden, num_classes, activation, init)
    return module, leaves.spec()
