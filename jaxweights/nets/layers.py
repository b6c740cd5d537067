"""Layers of the small task networks: Flax Linen modules with explicit names and selectable initialisers and activations."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.nets.conv import conv_pool

# Activation name to (function, scaling symmetry of the units before it).
ACTIVATIONS: dict[str, tuple[Callable, str]] = {
    "relu": (nn.relu, "positive"),
    "leaky_relu": (lambda x: nn.leaky_relu(x, 0.01), "positive"),
    "tanh": (jnp.tanh, "sign"),
    "sigmoid": (nn.sigmoid, "none"),
    "silu": (nn.silu, "none"),
    "gelu": (lambda x: nn.gelu(x, approximate=False), "none"),
}


def activation(name: str) -> Callable:
    """The activation function of a name; `UserError` lists the known ones."""
    return _lookup(ACTIVATIONS, name, "activation")[0]


def scaling(name: str, pooled: bool = False) -> str:
    """The rescaling that units before this activation admit; a sign flip does not commute with a maximum over pixels."""
    symmetry = _lookup(ACTIVATIONS, name, "activation")[1]
    return "none" if symmetry == "sign" and pooled else symmetry


def _uniform_fan_in(gain: float):
    return lambda key, shape, fan_in, fan_out: _uniform(key, shape, gain / math.sqrt(fan_in))


def _uniform(key, shape, bound):
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


# Name to (kernel initialiser, bias initialiser), each `(key, shape, fan_in, fan_out)`. "torch" is PyTorch's default for
# linear and convolution layers; the others are those of the Hyper-Representations zoos, where every bias starts at 0.01.
def _constant_bias(key, shape, fan_in, fan_out):
    return jnp.full(shape, 0.01)


INITIALISERS: dict[str, tuple[Callable, Callable]] = {
    "torch": (_uniform_fan_in(1.0), _uniform_fan_in(1.0)),
    "uniform": (lambda k, s, i, o: jax.random.uniform(k, s), _constant_bias),
    "normal": (lambda k, s, i, o: jax.random.normal(k, s), _constant_bias),
    "xavier_uniform": (lambda k, s, i, o: _uniform(k, s, math.sqrt(6 / (i + o))), _constant_bias),
    "xavier_normal": (lambda k, s, i, o: math.sqrt(2 / (i + o)) * jax.random.normal(k, s), _constant_bias),
    "kaiming_uniform": (_uniform_fan_in(math.sqrt(6.0)), _constant_bias),
    "kaiming_normal": (lambda k, s, i, o: math.sqrt(2 / i) * jax.random.normal(k, s), _constant_bias),
}


def initialisers(name: str) -> tuple[Callable, Callable]:
    """Kernel and bias initialisers of a name; `UserError` lists the known ones."""
    return _lookup(INITIALISERS, name, "init")


def _lookup(table, name, what):
    if name not in table:
        raise UserError(f"Unknown {what} {name!r} of a network; known: {', '.join(sorted(table))}.")
    return table[name]


class Dense(nn.Module):
    """`x @ kernel + bias` for inputs `[B, in]`."""

    features: int
    initialiser: str = "torch"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = _parameters(self, (x.shape[-1], self.features), x.shape[-1], self.features)
        return x @ kernel + bias[None, :]


class Conv(nn.Module):
    """Convolution (stride 1, no padding), bias, and 2x2 max-pooling where `pool`, for inputs `[B, H, W, C]`."""

    features: int
    window: int
    pool: bool = False
    initialiser: str = "torch"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        area = self.window**2
        shape = (self.window, self.window, x.shape[-1], self.features)
        kernel, bias = _parameters(self, shape, area * x.shape[-1], area * self.features)
        return conv_pool(x, kernel, bias, pool=self.pool)


def _parameters(module, shape, fan_in, fan_out):
    kernel_init, bias_init = initialisers(module.initialiser)
    kernel = module.param("kernel", lambda key: kernel_init(key, shape, fan_in, fan_out))
    bias = module.param("bias", lambda key: bias_init(key, shape[-1:], fan_in, fan_out))
    return kernel, bias
