"""Dense layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights import sharding
from jaxweights.nn.activations import activation
from jaxweights.nn.parameters import Convention, Initialiser, kernel_and_bias
from jaxweights.sharding import Kernel


def matmul(x: jax.Array, kernel: Kernel, dtype: str = "float32") -> jax.Array:
    """`[..., in]` times `[in, out]`; products of `dtype` summed in float32."""
    return sharding.apply(lambda whole, x: _matmul(x, whole, dtype), kernel, x)


def _matmul(x: jax.Array, kernel: jax.Array, dtype: str) -> jax.Array:
    # Rows in one axis: the kernel's gradient over several is four times as slow in loops on CPU.
    rows = x.astype(dtype).reshape(-1, x.shape[-1])
    out = jnp.matmul(rows, kernel.astype(dtype), preferred_element_type=jnp.float32)
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


def biased(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """`[..., features]` with a bias `[features]` added, where there is one."""
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


class Dense(nn.Module):
    """A dense layer over the last axis of `[..., in]`.

    The weight is `[out, in]`, as in PyTorch and in the flat vectors of task networks. With few units its gradient is
    three times as fast in this layout as in Flax's `[in, out]`, which generators use (CPU, batch 64, 784 inputs, 10
    units: 9 against 31 microseconds).

    Attributes:
      features: number of outputs.
      initialiser: a name of `parameters.INITIALISERS`, or an initialiser.
      use_bias: whether there is a bias.
      convention: names and layout of the parameters.
      dtype: type of the products, which are summed in float32.
    """

    features: int
    initialiser: str | Initialiser = "torch"
    use_bias: bool = True
    convention: Convention = "torch"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., in]` to `[..., features]`."""
        fans = x.shape[-1], self.features
        torch = self.convention == "torch"
        name, shape = ("weight", fans[::-1]) if torch else ("kernel", fans)
        kernel, bias = kernel_and_bias(self, name, shape, fans, self.initialiser, self.use_bias)
        y = matmul(x, sharding.whole(kernel).T if torch else kernel, self.dtype)
        return biased(y, bias)


class UnitDense(nn.Module):
    """A dense layer whose outputs are units first, `[features, B]`, with the parameters of a `Dense`.

    For many small models at once: the products of the forward pass and of both gradients then read weights `[out, in]`
    and batches as they are stored, batched over models or with a batch that all models share, and everything between
    them runs over contiguous examples, however few units there are.

    Attributes:
      features: number of outputs.
      initialiser: a name of `parameters.INITIALISERS`.
    """

    features: int
    initialiser: str = "torch"

    @nn.compact
    def __call__(self, x: jax.Array, *, units_first: bool = True) -> jax.Array:
        """Maps `[in, B]`, or `[B, in]` where it is not `units_first`, to `[features, B]`."""
        axis = 0 if units_first else 1
        fans = x.shape[axis], self.features
        weight, bias = kernel_and_bias(self, "weight", fans[::-1], fans, self.initialiser, True)
        y = jax.lax.dot_general(sharding.whole(weight), x, (((1,), (axis,)), ((), ())))
        return y if bias is None else y + bias[:, None]


class MLP(nn.Module):
    """Two dense layers with GELU between them, over the last axis.

    Attributes:
      hidden: number of hidden units.
      initialiser: initialiser of both layers.
    """

    hidden: int
    initialiser: str = "torch"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., d]`."""
        y = activation("gelu")(Dense(self.hidden, self.initialiser, name="fc1")(x))
        return Dense(x.shape[-1], self.initialiser, name="fc2")(y)


class Chain(nn.Module):
    """Layers one after the other, named "0", "1", ...

    Attributes:
      layers: functions that make a layer of a given `name`.
    """

    layers: tuple[Callable[..., nn.Module], ...]

    @nn.compact
    def __call__(self, x: Any) -> jax.Array:
        """Applies the layers in order."""
        for i, layer in enumerate(self.layers):
            x = layer(name=str(i))(x)
        return x
