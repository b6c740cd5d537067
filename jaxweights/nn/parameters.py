"""Parameters, their initialisers, and initialisation from one random draw.

Every initial value is made of uniform draws in (-1, 1). A caller may hand a module all of its draws in the collection
`DRAWS`: compiling one call of the random number generator per tensor takes longer than training a small network.
Within `drawn_apart` every tensor has a call of its own, of the same values.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.extend.random import threefry2x32_p

from jaxweights import sharding
from jaxweights.errors import UserError
from jaxweights.sharding import Kernel

DRAWS = "draws"
"""Variable collection with the uniform draws of every parameter, in the tree of the parameters."""

_LEAST = np.nextafter(np.float32(-1), np.float32(0))
_POSITIONS = 2**32

Convention = Literal["torch", "flax"]
"""Names and layout of a layer's parameters: PyTorch's (`weight`, dense layers `[out, in]`) or Flax's (`kernel`
`[in, out]`, `scale` of a normalisation)."""

Initial = Callable[[jax.Array], jax.Array]
"""Makes a parameter's initial values from uniform draws in (-1, 1) of its shape."""


class Initialiser(NamedTuple):
    """Initial values of a layer, each `(draws, fan_in, fan_out) -> values` of uniform draws in (-1, 1).

    Attributes:
      kernel: makes kernels.
      bias: makes biases.
    """

    kernel: Callable[[jax.Array, int, int], jax.Array]
    bias: Callable[[jax.Array, int, int], jax.Array]


def uniform_draws(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform float32 draws from the open interval (-1, 1), from which every initialiser is made."""
    return jax.random.uniform(key, shape, jnp.float32, float(_LEAST), 1.0)


_apart = contextvars.ContextVar("drawn apart", default=False)


@contextlib.contextmanager
def drawn_apart() -> Iterator[None]:
    """Within it, `initialise` draws every tensor by itself: so a tensor that is split over devices is drawn in parts,
    each by the device that keeps it. The values are the same."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def _draws_from(key: jax.Array, first: int, shape: tuple[int, ...]) -> jax.Array:
    """The entries of `uniform_draws(key, ...)` from the position `first` on, in a shape.

    The bits of an entry are a hash of its position (Salmon et al. 2011, Threefry), which JAX calculates for whole
    arrays alone.
    """
    if jax.random.key_impl(key) != "threefry2x32" or first + math.prod(shape) > _POSITIONS:
        raise UserError(
            f"Parameters are drawn in parts with JAX's generator threefry2x32, and at most {_POSITIONS:,} of them. "
            "Leave jax_default_prng_impl as it is, or set parameter_shards to 1."
        )
    position = jnp.full(shape, first, jnp.uint32)
    for axis in range(len(shape)):
        stride = np.uint32(math.prod(shape[axis + 1 :]))
        position = position + stride * lax.broadcasted_iota(jnp.uint32, shape, axis)
    first_half, second_half = jax.random.key_data(key)
    bits = lax.bitwise_xor(*threefry2x32_p.bind(first_half, second_half, jnp.zeros_like(position), position))
    one = np.float32(1).view(np.uint32)
    values = lax.bitcast_convert_type(lax.shift_right_logical(bits, np.uint32(9)) | one, jnp.float32) - 1
    return jnp.maximum(_LEAST, values * (1 - _LEAST) + _LEAST)


def uniform(bound: float) -> Initial:
    """U(-bound, bound)."""
    return lambda draws: bound * draws


def fan_in_uniform(fan_in: int) -> Initial:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for weights and biases."""
    return uniform(fan_in**-0.5)


def normal(std: float) -> Initial:
    """N(0, std ** 2), by the inverse of the distribution function."""
    return lambda draws: std * math.sqrt(2) * lax.erf_inv(draws)


def constant(value: float) -> Initial:
    """The same value everywhere."""
    return lambda draws: jnp.full_like(draws, value)


_standard_normal = normal(1.0)


def _orthogonal(gain: float) -> Initialiser:
    """Orthonormal rows or columns, whichever are fewer, times a gain, as `torch.nn.init.orthogonal_`; biases as
    "torch"."""

    def kernel(u, i, o):
        wide = u.shape[0] < u.shape[1]
        columns = _orthonormal(_standard_normal(u.T if wide else u))
        return gain * (columns.T if wide else columns)

    return Initialiser(kernel, lambda u, i, o: u / math.sqrt(i))


def _orthonormal(a: jax.Array) -> jax.Array:
    """Gram-Schmidt on the columns of `[n, k]`, k <= n: the Q of a QR decomposition whose R has a positive diagonal.

    Not `jnp.linalg.qr`: LAPACK calls of several CPU devices wait for the threads of one pool, and for each other.
    """

    def column(j, done):
        v = a[:, j]
        for _ in range(2):  # the second time removes what rounding left
            v = v - done @ (done.T @ v)
        return done.at[:, j].set(v / jnp.linalg.norm(v))

    return lax.fori_loop(0, a.shape[1], column, jnp.zeros_like(a))


def _small_bias(u: jax.Array, i: int, o: int) -> jax.Array:
    return jnp.full_like(u, 0.01)


def _no_bias(u: jax.Array, i: int, o: int) -> jax.Array:
    return jnp.zeros_like(u)


# "torch" is PyTorch's default for linear and convolution layers; the next ones are those of the Hyper-Representations
# zoos, where every bias starts at 0.01.
INITIALISERS: dict[str, Initialiser] = {
    "torch": Initialiser(lambda u, i, o: u / math.sqrt(i), lambda u, i, o: u / math.sqrt(i)),
    "uniform": Initialiser(lambda u, i, o: (u + 1) / 2, _small_bias),
    "normal": Initialiser(lambda u, i, o: _standard_normal(u), _small_bias),
    "xavier_uniform": Initialiser(lambda u, i, o: math.sqrt(6 / (i + o)) * u, _small_bias),
    "xavier_normal": Initialiser(lambda u, i, o: math.sqrt(2 / (i + o)) * _standard_normal(u), _small_bias),
    "kaiming_uniform": Initialiser(lambda u, i, o: math.sqrt(6 / i) * u, _small_bias),
    "kaiming_normal": Initialiser(lambda u, i, o: math.sqrt(2 / i) * _standard_normal(u), _small_bias),
    # DeepWeightFlow's zoos of MLPs.
    "kaiming_uniform_no_bias": Initialiser(lambda u, i, o: math.sqrt(6 / i) * u, _no_bias),
    # Gains of reinforcement learning, from hidden layers to critics' and actors' outputs; for matrices only.
    "orthogonal": _orthogonal(math.sqrt(2)),
    "orthogonal_1": _orthogonal(1.0),
    "orthogonal_0.01": _orthogonal(0.01),
    # Those of timm, which cuts the normal distribution off at 2, a hundred standard deviations.
    "normal_0.02": Initialiser(lambda u, i, o: 0.02 * _standard_normal(u), _no_bias),
    "kaiming_normal_out": Initialiser(lambda u, i, o: math.sqrt(2 / o) * _standard_normal(u), _no_bias),
}

FAN_IN_UNIFORM = Initialiser(lambda u, i, o: fan_in_uniform(i)(u), lambda u, i, o: fan_in_uniform(i)(u))
"""`fan_in_uniform` for kernel and bias, of the generators; "torch" divides and so rounds differently."""

MATRIX_INITIALISERS = ("orthogonal", "orthogonal_1", "orthogonal_0.01")
CONVOLUTION_INITIALISERS = tuple(name for name in INITIALISERS if name not in MATRIX_INITIALISERS)


def initialiser(name: str | Initialiser) -> Initialiser:
    """The initialiser of a name; `UserError` lists the known ones."""
    if isinstance(name, Initialiser):
        return name
    if name not in INITIALISERS:
        raise UserError(f"Unknown init {name!r} of a network; known: {', '.join(sorted(INITIALISERS))}.")
    return INITIALISERS[name]


def parameter(module: nn.Module, name: str, shape: Sequence[int], initial: Initial) -> jax.Array:
    """Declares a parameter of `module`, whose initial values are made of its uniform draws.

    One that is split over devices (`sharding.Part`) is gathered; matrices of products are declared by `kernel`.
    """
    return sharding.whole(kernel(module, name, shape, initial))


def kernel(module: nn.Module, name: str, shape: Sequence[int], initial: Initial) -> Kernel:
    """Declares a parameter as `parameter` does, for `sharding.apply`: one that is split over devices comes as it is."""
    if not module.is_initializing() and module.has_variable("params", name):
        found = module.get_variable("params", name)
        if isinstance(found, sharding.Part):
            return found

    def start(key: jax.Array) -> jax.Array:
        given = module.has_variable(DRAWS, name)
        return initial(module.get_variable(DRAWS, name) if given else uniform_draws(key, tuple(shape)))

    return module.param(name, start)


def kernel_and_bias(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    fans: tuple[int, int],
    init: str | Initialiser,
    use_bias: bool = True,
) -> tuple[Any, jax.Array | None]:
    """Declares the parameters of a layer.

    Args:
      module: the layer.
      name: name of its kernel; "weight" of a matrix is `[out, in]`.
      shape: shape of the kernel.
      fans: fans in and out, which initial values depend on.
      init: an initialiser or its name.
      use_bias: whether there is a parameter `bias`.

    Returns:
      The kernel, see `kernel`, and the bias `[out]` or None.
    """
    of_kernel, of_bias = initialiser(init)
    weights = kernel(module, name, shape, lambda draws: of_kernel(draws, *fans))
    if not use_bias:
        return weights, None
    outputs = shape[0] if name == "weight" and len(shape) == 2 else shape[-1]
    return weights, parameter(module, "bias", (outputs,), lambda draws: of_bias(draws, *fans))


def initialise(module: nn.Module, key: jax.Array, *inputs: Any, method: str | None = None) -> dict[str, Any]:
    """Returns the variables of a module whose parameters are declared by `parameter`, from one draw for all of them.

    A draw for each parameter gives the same distributions and takes six times as long to compile.

    Args:
      module: the module, in a mode that does not update running statistics.
      key: typed PRNG key.
      *inputs: example inputs.
      method: what is called with them, by default the module.
    """
    shapes = jax.eval_shape(lambda k: module.init(k, *inputs, method=method), key)["params"]
    leaves, treedef = jax.tree.flatten(shapes)
    ends = np.cumsum([0, *(leaf.size for leaf in leaves)]).tolist()
    if _apart.get():
        draws = [_draws_from(key, end, leaf.shape) for end, leaf in zip(ends, leaves, strict=False)]
    else:
        draw = uniform_draws(key, (ends[-1],))
        draws = [draw[end : end + leaf.size].reshape(leaf.shape) for end, leaf in zip(ends, leaves, strict=False)]
    variables = {DRAWS: jax.tree.unflatten(treedef, draws)}
    mutable = ["params", "batch_stats"]
    return dict(module.apply(variables, *inputs, rngs={"params": key}, mutable=mutable, method=method)[1])
