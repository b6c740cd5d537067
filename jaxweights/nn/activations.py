"""Activation functions by name, and the GELU of generators."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.errors import UserError

# Name to (function, scaling symmetry of the units before it).
ACTIVATIONS: dict[str, tuple[Callable[[jax.Array], jax.Array], str]] = {
    "relu": (nn.relu, "positive"),
    "leaky_relu": (lambda x: nn.leaky_relu(x, 0.01), "positive"),
    "tanh": (jnp.tanh, "sign"),
    "sigmoid": (nn.sigmoid, "none"),
    "silu": (nn.silu, "none"),
    "gelu": (lambda x: nn.gelu(x, approximate=False), "none"),
    "selu": (nn.selu, "none"),
}

# erf(x) / x as a ratio of polynomials of x^2 up to where float32 rounds erf to 1: a minimax fit of the relative error
# (2e-8), lowest power first.
_ERF_LIMIT = 3.92
_ERF_NUMERATOR = (1.1283792, 0.19037758, 0.052745578, 0.0037645548, 2.8489025e-4, 2.0507314e-6)
_ERF_DENOMINATOR = (1.0, 0.50205044, 0.11409778, 0.014967074, 0.0011623357, 3.8098754e-5)


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The activation function of a name; `UserError` lists the known ones."""
    return _entry(name)[0]


def scaling(name: str, pooled: bool = False) -> str:
    """The rescaling that units before this activation admit; a sign flip does not commute with a maximum over
    pixels."""
    symmetry = _entry(name)[1]
    return "none" if symmetry == "sign" and pooled else symmetry


def _entry(name: str) -> tuple[Callable[[jax.Array], jax.Array], str]:
    if name not in ACTIVATIONS:
        raise UserError(f"Unknown activation {name!r} of a network; known: {', '.join(sorted(ACTIVATIONS))}.")
    return ACTIVATIONS[name]


def erf(x: jax.Array) -> jax.Array:
    """The error function to four units of the last place of float32.

    `lax.erf` of JAX 0.12 is refused inside `shard_map`, whose check of varying axes it does not pass.
    """
    x = jnp.clip(x, -_ERF_LIMIT, _ERF_LIMIT)
    square = jnp.square(x)
    return x * _polynomial(square, _ERF_NUMERATOR) / _polynomial(square, _ERF_DENOMINATOR)


def _polynomial(x: jax.Array, coefficients: tuple[float, ...]) -> jax.Array:
    *rest, before, last = coefficients
    return functools.reduce(lambda value, c: value * x + c, reversed(rest), last * x + before)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function, not its usual approximation by tanh; for generators, which train inside
    `shard_map` (see `erf`). Task networks use Flax's."""
    return x * _normal_cdf(x)


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    below, density = _normal_cdf(x), jnp.exp(-0.5 * jnp.square(x)) / math.sqrt(2 * math.pi)
    # As one factor, which is all that the backward pass keeps.
    return x * below, (below + x * density) * tangent


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * erf(x * math.sqrt(0.5))
