"""Layers with PyTorch's conventions as Flax Linen modules, and their initialisation from one random draw."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxweights.nets.layers import initialisers, uniform_draws

Statistics = Literal["batch", "running", "instance"]

# Makes a parameter's initial values from draws of U(-1, 1) of its shape.
Initial = Callable[[jax.Array], jax.Array]

_DRAWS = "draws"

# erf(x) / x as a ratio of polynomials of x^2 up to where float32 rounds erf to 1: a minimax fit of the relative error
# (2e-8), lowest power first.
_ERF_LIMIT = 3.92
_ERF_NUMERATOR = (1.1283792, 0.19037758, 0.052745578, 0.0037645548, 2.8489025e-4, 2.0507314e-6)
_ERF_DENOMINATOR = (1.0, 0.50205044, 0.11409778, 0.014967074, 0.0011623357, 3.8098754e-5)


def uniform(fan_in: int) -> Initial:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for weights and biases."""
    return lambda draws: draws * fan_in**-0.5


def normal(std: float) -> Initial:
    """N(0, std ** 2), by the inverse of the distribution function."""
    return lambda draws: std * math.sqrt(2) * lax.erf_inv(draws)


def constant(value: float) -> Initial:
    """The same value everywhere."""
    return lambda draws: jnp.full_like(draws, value)


def parameter(module: nn.Module, name: str, shape: tuple[int, ...], initial: Initial) -> jax.Array:
    """Declares a parameter of `module`, whose initial values `initialise` makes from its share of one draw."""

    def start(key: jax.Array) -> jax.Array:
        given = module.has_variable(_DRAWS, name)
        draws = module.get_variable(_DRAWS, name) if given else uniform_draws(key, shape)
        return initial(draws)

    return module.param(name, start)


def initialise(module: nn.Module, key: jax.Array, *inputs: Any) -> dict[str, Any]:
    """Returns the variables of a module built of the layers below, from one draw for all parameters.

    A draw for each parameter gives the same distributions and takes six times as long to compile.

    Args:
      module: the module, in a mode that does not update running statistics.
      key: typed PRNG key.
      *inputs: of the module.
    """
    shapes = jax.eval_shape(lambda k: module.init(k, *inputs), key)["params"]
    leaves, treedef = jax.tree.flatten(shapes)
    draw = uniform_draws(key, (sum(leaf.size for leaf in leaves),))
    draws, end = [], 0
    for leaf in leaves:
        draws.append(draw[end : end + leaf.size].reshape(leaf.shape))
        end += leaf.size
    variables = {_DRAWS: jax.tree.unflatten(treedef, draws)}
    mutable = ["params", "batch_stats"]
    return dict(module.apply(variables, *inputs, rngs={"params": key}, mutable=mutable)[1])


def matmul(x: jax.Array, kernel: jax.Array, dtype: str) -> jax.Array:
    """`[..., in]` times `[in, out]`; products of `dtype` summed in float32."""
    # Rows in one axis: the kernel's gradient over several is four times as slow in loops on CPU.
    rows = x.astype(dtype).reshape(-1, x.shape[-1])
    out = jnp.matmul(rows, kernel.astype(dtype), preferred_element_type=jnp.float32)
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


def erf(x: jax.Array) -> jax.Array:
    """The error function to four units of the last place of float32.

    `lax.erf` of JAX 0.12 is refused inside `shard_map`, whose check of varying axes it does not pass.
    """
    x = jnp.clip(x, -_ERF_LIMIT, _ERF_LIMIT)
    square = jnp.square(x)
    return x * _polynomial(square, _ERF_NUMERATOR) / _polynomial(square, _ERF_DENOMINATOR)


def _polynomial(x: jax.Array, coefficients: tuple[float, ...]) -> jax.Array:
    return functools.reduce(lambda value, c: value * x + c, reversed(coefficients[:-1]), coefficients[-1])


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function, not its usual approximation by tanh."""
    return x * _normal_cdf(x)


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    below, density = _normal_cdf(x), jnp.exp(-0.5 * jnp.square(x)) / math.sqrt(2 * math.pi)
    # As one factor, which is all that the backward pass keeps.
    return x * below, (below + x * density) * tangent


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * erf(x * math.sqrt(0.5))


class Dense(nn.Module):
    """A dense layer; made by `initialise`.

    Attributes:
      features: output size.
      initialiser: a name of `nets.layers.INITIALISERS`.
    """

    features: int
    initialiser: str = "torch"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, in]` to `[n, features]`."""
        fans = x.shape[-1], self.features
        kernel_init, bias_init = initialisers(self.initialiser)
        kernel = parameter(self, "kernel", fans, lambda draws: kernel_init(draws, *fans))
        bias = parameter(self, "bias", (self.features,), lambda draws: bias_init(draws, *fans))
        return x @ kernel + bias[None, :]


class BatchNorm(nn.Module):
    """Batch normalisation over examples and positions, with PyTorch's running statistics.

    The collection `batch_stats` holds `mean` and `var`; in "batch" mode, where the collection is mutable, they move
    towards the batch's mean and its unbiased variance (the normalisation itself uses the biased one). Statistics are
    averaged over `axis_name` when it is given, so that the result does not depend on how a batch is split over devices.

    Attributes:
      momentum: weight of the new batch in the running statistics.
      epsilon: added to the variance.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, statistics: Statistics, axis_name: str | None = None) -> jax.Array:
        """Normalises `[n, length, channels]`.

        Args:
          x: signals.
          statistics: "batch" (of all examples and positions), "running", or "instance" (of each example's positions).
          axis_name: device axis that the batch is split over.

        Raises:
          ValueError: for another value of `statistics`.
        """
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,))
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if statistics == "batch":
            mean = _mean_over(x, axis_name)
            var = _mean_over(jnp.square(x - mean[None, None, :]), axis_name)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                count = x.shape[0] * x.shape[1] * (1 if axis_name is None else lax.axis_size(axis_name))
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (var * (count / (count - 1)) - running_var.value)
            mean, var = mean[None, None, :], var[None, None, :]
        elif statistics == "running":
            mean, var = running_mean.value[None, None, :], running_var.value[None, None, :]
        elif statistics == "instance":
            mean = jnp.mean(x, axis=1, keepdims=True)
            var = jnp.mean(jnp.square(x - mean), axis=1, keepdims=True)
        else:
            raise ValueError(f'statistics must be "batch", "running" or "instance", not {statistics!r}')
        factor = lax.rsqrt(var + self.epsilon) * scale[None, None, :]
        return (x - mean) * factor + bias[None, None, :]


def _mean_over(x: jax.Array, axis_name: str | None) -> jax.Array:
    mean = jnp.mean(x, axis=(0, 1))
    return mean if axis_name is None else lax.pmean(mean, axis_name)
