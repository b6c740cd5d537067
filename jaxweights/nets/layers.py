"""Layers of the small task networks: Flax Linen modules with explicit names and selectable initialisers and
activations."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.nets.conv import Unfolded, conv_pool_batch_minor, conv_pool_unfolded, pad_map

# Activation name to (function, scaling symmetry of the units before it).
ACTIVATIONS: dict[str, tuple[Callable, str]] = {
    "relu": (nn.relu, "positive"),
    "leaky_relu": (lambda x: nn.leaky_relu(x, 0.01), "positive"),
    "tanh": (jnp.tanh, "sign"),
    "sigmoid": (nn.sigmoid, "none"),
    "silu": (nn.silu, "none"),
    "gelu": (lambda x: nn.gelu(x, approximate=False), "none"),
    "selu": (nn.selu, "none"),
}


def activation(name: str) -> Callable:
    """The activation function of a name; `UserError` lists the known ones."""
    return _lookup(ACTIVATIONS, name, "activation")[0]


def scaling(name: str, pooled: bool = False) -> str:
    """The rescaling that units before this activation admit; a sign flip does not commute with a maximum over
    pixels."""
    symmetry = _lookup(ACTIVATIONS, name, "activation")[1]
    return "none" if symmetry == "sign" and pooled else symmetry


def _orthogonal(gain: float) -> tuple[Callable, Callable]:
    """Orthonormal rows or columns, whichever are fewer, times a gain, as `torch.nn.init.orthogonal_`; biases as
    "torch"."""

    def kernel(u, i, o):
        wide = u.shape[0] < u.shape[1]
        columns = _orthonormal(_normal(u.T if wide else u))
        return gain * (columns.T if wide else columns)

    return kernel, lambda u, i, o: u / math.sqrt(i)


def _orthonormal(a: jax.Array) -> jax.Array:
    """Gram-Schmidt on the columns of `[n, k]`, k <= n: the Q of a QR decomposition whose R has a positive diagonal.

    Not `jnp.linalg.qr`: LAPACK calls of several CPU devices wait for the threads of one pool, and for each other.
    """

    def column(j, done):
        v = a[:, j]
        for _ in range(2):  # the second time removes what rounding left
            v = v - done @ (done.T @ v)
        return done.at[:, j].set(v / jnp.linalg.norm(v))

    return jax.lax.fori_loop(0, a.shape[1], column, jnp.zeros_like(a))


# Name to (kernel, bias), each `(u, fan_in, fan_out) -> values` of uniform draws u in (-1, 1). "torch" is PyTorch's
# default for linear and convolution layers; the next ones are those of the Hyper-Representations zoos, where every bias
# starts at 0.01.
INITIALISERS: dict[str, tuple[Callable, Callable]] = {
    "torch": (lambda u, i, o: u / math.sqrt(i), lambda u, i, o: u / math.sqrt(i)),
    "uniform": (lambda u, i, o: (u + 1) / 2, lambda u, i, o: jnp.full_like(u, 0.01)),
    "normal": (lambda u, i, o: _normal(u), lambda u, i, o: jnp.full_like(u, 0.01)),
    "xavier_uniform": (lambda u, i, o: math.sqrt(6 / (i + o)) * u, lambda u, i, o: jnp.full_like(u, 0.01)),
    "xavier_normal": (lambda u, i, o: math.sqrt(2 / (i + o)) * _normal(u), lambda u, i, o: jnp.full_like(u, 0.01)),
    "kaiming_uniform": (lambda u, i, o: math.sqrt(6 / i) * u, lambda u, i, o: jnp.full_like(u, 0.01)),
    "kaiming_normal": (lambda u, i, o: math.sqrt(2 / i) * _normal(u), lambda u, i, o: jnp.full_like(u, 0.01)),
    # Gains of reinforcement learning, from hidden layers to critics' and actors' outputs; for matrices only.
    "orthogonal": _orthogonal(math.sqrt(2)),
    "orthogonal_1": _orthogonal(1.0),
    "orthogonal_0.01": _orthogonal(0.01),
}

# Variable collection in which a caller may hand every parameter its uniform draws, all from one call of the generator:
# compiling one threefry call per tensor takes longer than training a small network.
DRAWS = "draws"


def uniform_draws(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform float32 draws from the open interval (-1, 1), from which every initialiser is made."""
    return jax.random.uniform(key, shape, jnp.float32, float(np.nextafter(np.float32(-1), np.float32(0))), 1.0)


def _normal(u: jax.Array) -> jax.Array:
    """Standard normal values of uniform draws in (-1, 1), by the inverse of the distribution function."""
    return math.sqrt(2) * jax.lax.erf_inv(u)


def initialisers(name: str) -> tuple[Callable, Callable]:
    """Kernel and bias initialisers of a name; `UserError` lists the known ones."""
    return _lookup(INITIALISERS, name, "init")


def _lookup(table, name, what):
    if name not in table:
        raise UserError(f"Unknown {what} {name!r} of a network; known: {', '.join(sorted(table))}.")
    return table[name]


class Dense(nn.Module):
    """`x @ weight.T + bias` for inputs `[B, in]`.

    The weight is `[out, in]`, as in PyTorch and in the flat vector. With few units its gradient is three times as fast
    in this layout as in Flax's `[in, out]` (CPU, batch 64, 784 inputs, 10 units: 9 against 31 microseconds).
    """

    features: int
    initialiser: str = "torch"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = x.shape[-1]
        weight = _parameter(self, "weight", (self.features, inputs), inputs, self.features)
        bias = _parameter(self, "bias", (self.features,), inputs, self.features)
        return x @ weight.T + bias[None, :]


class Conv(nn.Module):
    """Convolution, bias where `use_bias`, 2x2 max-pooling where `pool`, and the named activation function, for
    batch-minor inputs `[C, H, W, B]` with `padding` zeros put around them.

    Between convolutions the batch is the last axis (see `nets/conv.py`); `to_batch_minor` and `from_batch_minor`
    convert. Inputs that `unfold` has made ready for this window, pooling and padding are taken as well.
    """

    features: int
    window: int
    pool: bool
    activation: str
    initialiser: str = "torch"
    padding: int = 0
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array | Unfolded) -> jax.Array:
        area, unfolded = self.window**2, isinstance(x, Unfolded)
        inputs = x.columns.shape[0] // area if unfolded else x.shape[0]
        shape, fans = (self.window, self.window, inputs, self.features), (area * inputs, area * self.features)
        kernel = _parameter(self, "kernel", shape, *fans)
        bias = _parameter(self, "bias", (self.features,), *fans) if self.use_bias else None
        if unfolded:
            return conv_pool_unfolded(x, kernel, bias, activation(self.activation))
        x = pad_map(x, self.padding)
        return activation(self.activation)(conv_pool_batch_minor(x, kernel, bias, pool=self.pool))


def _parameter(module: nn.Module, name: str, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
    """A parameter by the module's initialiser: the bias by its second function, anything else by its first."""

    def start(key):
        given = module.has_variable(DRAWS, name)
        draws = module.get_variable(DRAWS, name) if given else uniform_draws(key, shape)
        return initialisers(module.initialiser)[name == "bias"](draws, fan_in, fan_out)

    return module.param(name, start)
