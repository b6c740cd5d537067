"""Layers of published image classifiers, with PyTorch's names, conventions and initial values, and the spec of their
weights.

Maps are `[B, H, W, C]`. A leaf's name is that of PyTorch's state dict with "/" for "."; in flat order and layout, too,
the leaves are the state dict's floating-point tensors one after the other.

Batch normalisation keeps its running statistics among the parameters, under names that begin with `running_`: they are
part of a network's function, so of its flat vector. (`num_batches_tracked`, an integer without effect, is not.)
Evaluation uses them and sends no gradient to them. Where the collection `STATISTICS` is mutable, a network is in
training mode: `apply_in_training`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from jaxweights.errors import UserError
from jaxweights.nets.layers import DRAWS, activation, initialisers, uniform_draws
from jaxweights.spec import FIXED, Group, Leaf, WeightSpec, dense_leaves

STATISTICS = "statistics"
"""Collection that receives the running statistics after a batch, in training mode."""

_MOMENTUM = 0.1  # weight of a new batch in the running statistics; PyTorch's default
_RUNNING = "running_"

# Kernel and bias of layers that are not PyTorch's default, as `layers.INITIALISERS`. timm cuts the normal distribution
# off at 2, a hundred standard deviations.
_INITIALISERS: dict[str, tuple[Callable, Callable]] = {
    "normal_0.02": (lambda u, i, o: 0.02 * normal(u), lambda u, i, o: jnp.zeros_like(u)),
    "kaiming_normal_out": (lambda u, i, o: math.sqrt(2 / o) * normal(u), lambda u, i, o: jnp.zeros_like(u)),
}


def normal(draws: jax.Array) -> jax.Array:
    """Standard normal values of uniform draws in (-1, 1)."""
    return math.sqrt(2) * lax.erf_inv(draws)


def parameter(module: nn.Module, name: str, shape: Sequence[int], initial: Callable[[jax.Array], jax.Array]):
    """Declares a parameter, whose initial values are made of uniform draws in (-1, 1) of its shape."""

    def start(key):
        given = module.has_variable(DRAWS, name)
        return initial(module.get_variable(DRAWS, name) if given else uniform_draws(key, tuple(shape)))

    return module.param(name, start)


def constant(value: float) -> Callable[[jax.Array], jax.Array]:
    """Initial values that are all the same."""
    return lambda draws: jnp.full_like(draws, value)


def kernel_and_bias(
    module: nn.Module, shape: tuple[int, ...], initialiser: str, fans: tuple[int, int], use_bias: bool
) -> tuple[jax.Array, jax.Array | None]:
    """Parameters `weight` and, where wanted, `bias` of a layer whose initial values depend on its fans in and out."""
    of_kernel, of_bias = _INITIALISERS.get(initialiser) or initialisers(initialiser)
    kernel = parameter(module, "weight", shape, lambda draws: of_kernel(draws, *fans))
    if not use_bias:
        return kernel, None
    outputs = shape[0] if len(shape) == 2 else shape[-1]
    return kernel, parameter(module, "bias", (outputs,), lambda draws: of_bias(draws, *fans))


class Chain(nn.Module):
    """Layers one after the other, named "0", "1", ..., each made by a function that takes its name."""

    layers: tuple[Callable[..., nn.Module], ...]

    @nn.compact
    def __call__(self, x: Any) -> jax.Array:
        for i, layer in enumerate(self.layers):
            x = layer(name=str(i))(x)
        return x


class Linear(nn.Module):
    """`x @ weight.T + bias` over the last axis of `[..., in]`."""

    features: int
    initialiser: str = "torch"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fans = x.shape[-1], self.features
        weight, bias = kernel_and_bias(self, fans[::-1], self.initialiser, fans, self.use_bias)
        return _product(x, weight.T, bias)


class MLP(nn.Module):
    """Two dense layers with GELU between them, over the last axis."""

    hidden: int
    initialiser: str = "torch"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = activation("gelu")(Linear(self.hidden, self.initialiser, name="fc1")(x))
        return Linear(x.shape[-1], self.initialiser, name="fc2")(y)


class Conv(nn.Module):
    """Convolution of `[B, H, W, C]` with a square window, zeros padded around the map; of `Patches` where these fit.

    Windows side by side are a matrix product, which stays one under `vmap` over weights, where a convolution becomes a
    grouped one.
    """

    features: int
    window: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    initialiser: str = "torch"

    @nn.compact
    def __call__(self, x: jax.Array | Patches) -> jax.Array:
        area, side_by_side = self.window**2, not self.padding and self.window in (1, self.stride)
        inputs = x.rows.shape[-1] // area if isinstance(x, Patches) else x.shape[-1]
        shape, fans = (self.window, self.window, inputs, self.features), (area * inputs, area * self.features)
        kernel, bias = kernel_and_bias(self, shape, self.initialiser, fans, self.use_bias)
        if side_by_side:
            if not isinstance(x, Patches):
                x = patches(x[:, :: self.stride, :: self.stride] if self.window == 1 else x, self.window)
            return _product(x.rows, kernel.reshape(fans[0], self.features), bias)
        y = convolve(x, kernel, self.stride, self.padding)
        return y if bias is None else y + bias[None, None, None, :]


def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Cross-correlates `[B, H, W, C]` with `[k, k, C, F]`, zeros padded around the map.

    On CPU both derivatives are stride-1 convolutions in XLA's own order of axes, or, of the kernel under strides,
    products of shifted maps: left to itself, XLA took 15 and 50 times as long for them (64 maps of 32x32x16).
    """
    taps, borders = zip(*(_reached(n, kernel.shape[0], stride, padding) for n in x.shape[1:3]), strict=True)
    if jax.default_backend() != "cpu" or set(taps) != {(0, kernel.shape[0])}:
        (top, bottom), (left, right) = taps
        return _convolve(x, kernel[top:bottom, left:right], (stride, stride), borders)
    return _convolve_on_cpu(x, _varying_as(kernel, x), stride, padding)


def _reached(size: int, window: int, stride: int, padding: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The range of a window's rows that ever lie on a map of so many rows, and the zeros that these need around it.

    A 3x3 window sees a map of one pixel, the last of deep networks on small images, with its middle alone; XLA would
    multiply eight ninths of zeros.
    """
    last = (size + 2 * padding - window) // stride * stride  # where the last window begins, in the padded map
    first, end = max(0, padding - last), min(window, size + padding)
    return (first, end), (padding - first, last + end - padding - size)


def _varying_as(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """Under shard_map a replicated kernel becomes one per device here, where JAX adds the sum over devices that its
    gradient needs; inside a custom derivative it does not."""
    axes = jax.typeof(x).manual_axis_type.varying - jax.typeof(kernel).manual_axis_type.varying
    return lax.pcast(kernel, tuple(axes), to="varying") if axes else kernel


def _convolve(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_on_cpu(x, kernel, stride, padding):
    return _convolve(x, kernel, (stride, stride), ((padding, padding),) * 2)


def _convolve_forward(x, kernel, stride, padding):
    return _convolve_on_cpu(x, kernel, stride, padding), (x, kernel)


def _convolve_backward(stride, padding, residuals, cotangent):
    x, kernel = residuals
    size = kernel.shape[0]
    before = size - 1 - padding
    spans = [(n - 1) * stride + 1 for n in cotangent.shape[1:3]]
    after = [n + size - 1 - before - span for n, span in zip(x.shape[1:3], spans, strict=True)]
    spread = lax.pad(cotangent, 0.0, ((0, 0, 0), *((0, 0, stride - 1),) * 2, (0, 0, 0)))
    to_x = _convolve(spread, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1), [(before, n) for n in after])
    if stride == 1:
        products = _convolve(
            x.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3), (1, 1), ((padding, padding),) * 2
        )
        return to_x, products.transpose(1, 2, 0, 3)
    bordered = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = cotangent.reshape(-1, cotangent.shape[-1])
    shifts = [(i, j) for i in range(size) for j in range(size)]
    taps = [bordered[:, i : i + spans[0] : stride, j : j + spans[1] : stride] for i, j in shifts]
    products = [tap.reshape(-1, tap.shape[-1]).T @ rows for tap in taps]
    return to_x, jnp.stack(products).reshape(kernel.shape)


_convolve_on_cpu.defvjp(_convolve_forward, _convolve_backward)


class DepthwiseConv(nn.Module):
    """Convolution of every channel of `[B, H, W, C]` with a window of its own, an odd number wide; the map keeps its
    size."""

    window: int
    initialiser: str = "torch"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        area, channels = self.window**2, x.shape[-1]
        # PyTorch divides the fan out, too, by the number of groups.
        kernel, bias = kernel_and_bias(
            self, (self.window, self.window, 1, channels), self.initialiser, (area, area), True
        )
        return depthwise(x, _varying_as(kernel, x)) + bias[None, None, None, :]


def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[B, H, W, C]` by `[k, k, 1, C]`, k odd, as a sum of shifted products.

    This is one pass over the map. XLA's grouped convolution took 18 to 31 times as long on CPU, with derivatives 2 to 6
    times (16 maps each of 16x16x16 and 8x8x32 for 8 models, and of 16x16x96 for one).
    """
    return _depthwise(x, kernel)


@jax.jit  # so that all layers of a shape are traced once
def _shifted_products(x, kernel):
    height, width, size = x.shape[1], x.shape[2], kernel.shape[0]
    bordered = _bordered(x, size)
    shifts = [(i, j) for i in range(size) for j in range(size)]
    return sum(bordered[:, i : i + height, j : j + width] * kernel[i, j][None, None] for i, j in shifts)


@jax.custom_vjp
def _depthwise(x, kernel):
    return _shifted_products(x, kernel)


def _depthwise_forward(x, kernel):
    return _shifted_products(x, kernel), (x, kernel)


def _depthwise_backward(residuals, cotangent):
    x, kernel = residuals
    size = kernel.shape[0]
    bordered = _bordered(x, size)

    def tap(position):
        shifted = lax.dynamic_slice(bordered, (0, position // size, position % size, 0), x.shape)
        return jnp.sum(shifted * cotangent, axis=(0, 1, 2))

    to_kernel = lax.map(tap, jnp.arange(size**2)).reshape(kernel.shape)
    return _shifted_products(cotangent, kernel[::-1, ::-1]), to_kernel


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _bordered(x, size):
    border = (size // 2, size // 2)
    return jnp.pad(x, ((0, 0), border, border, (0, 0)))


class Patches(NamedTuple):
    """An image cut into squares.

    Attributes:
      rows: `[B, H / p, W / p, p * p * C]`, a square's values in the order (y, x, c).
    """

    rows: jax.Array


def patches(x: jax.Array, side: int) -> Patches:
    """Cuts `[B, H, W, C]` into squares; rows and columns beyond the last whole square are left out."""
    batch, height, width, channels = x.shape
    rows, cols = height // side, width // side
    x = x[:, : rows * side, : cols * side].reshape(batch, rows, side, cols, side, channels)
    return Patches(x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, cols, -1))


class LayerNorm(nn.Module):
    """Normalisation over the last axes, as many as `shape` has, then a weight and a bias of that shape.

    Attributes:
      shape: of the last axes.
      epsilon: added to the variance.
      standardised: whether inputs come standardised already.
    """

    shape: tuple[int, ...]
    epsilon: float = 1e-5
    standardised: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        lead, axes = (1,) * (x.ndim - len(self.shape)), tuple(range(-len(self.shape), 0))
        weight = parameter(self, "weight", self.shape, constant(1.0)).reshape(lead + self.shape)
        bias = parameter(self, "bias", self.shape, constant(0.0)).reshape(lead + self.shape)
        return (x if self.standardised else standardise(x, axes, self.epsilon)) * weight + bias


def standardise(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """Mean 0 and variance 1 over the axes."""
    x = x - jnp.mean(x, axis=axes, keepdims=True)
    return x * lax.rsqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True) + epsilon)


class BatchNorm(nn.Module):
    """Normalisation of the channels of `[B, H, W, C]`: by running statistics, or by the batch's in training mode.

    Attributes:
      initial: of the weights.
      axis_name: device axis that a batch is split over, for statistics of the whole batch.
      epsilon: added to the variance.
    """

    initial: float = 1.0
    axis_name: str | None = None
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        start = {"weight": self.initial, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        weight, bias, mean, var = (parameter(self, k, x.shape[-1:], constant(v)) for k, v in start.items())
        if self.is_mutable_collection(STATISTICS) and not self.is_initializing():
            running = {"running_mean": mean, "running_var": var}
            mean = self._mean(x)
            var = self._mean(jnp.square(x - mean[None, None, None, :]))
            count = math.prod(x.shape[:3]) * (1 if self.axis_name is None else lax.axis_size(self.axis_name))
            batch = {"running_mean": mean, "running_var": var * (count / (count - 1))}
            for name, old in running.items():
                new = old + _MOMENTUM * (batch[name] - old)
                self.put_variable(STATISTICS, name, lax.stop_gradient(new))
        else:
            mean, var = lax.stop_gradient((mean, var))
        factor = lax.rsqrt(var + self.epsilon) * weight
        return (x - mean[None, None, None, :]) * factor[None, None, None, :] + bias[None, None, None, :]

    def _mean(self, x):
        mean = jnp.mean(x, axis=(0, 1, 2))
        return mean if self.axis_name is None else lax.pmean(mean, self.axis_name)


def apply_in_training(
    module: nn.Module, params: Mapping[str, Any], images: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    """A network in training mode: batch normalisation by the batch's own statistics.

    Under a device axis, `module.clone(axis_name=...)` takes the statistics of the whole batch.

    Args:
      module: of a task network (`TaskNet.module`), with or without batch normalisation.
      params: its parameters, running statistics among them.
      images: `[B, H, W, C]`; more than one value per channel must reach every batch normalisation.

    Returns:
      Logits `[B, num_classes]`, and the parameters with the running statistics after this batch (moved by a tenth
      towards its mean and unbiased variance; no gradient goes through them). Leaving those where they were is PyTorch's
      training mode without tracking.
    """
    logits, updates = module.apply({"params": params}, images, mutable=[STATISTICS])
    return logits, _merged(params, updates.get(STATISTICS, {}))


def _merged(params, updates):
    return {
        key: (_merged(value, updates[key]) if isinstance(value, Mapping) else updates[key]) if key in updates else value
        for key, value in params.items()
    }


def take_statistics(params: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with the running statistics of others.

    For trainers: an optimizer step moves every parameter, running statistics by weight decay; what they are after the
    step is what `apply_in_training` returned (or, where they are frozen, what they were before).
    """
    return {
        key: take_statistics(value, source[key])
        if isinstance(value, Mapping)
        else (source[key] if is_statistic(key) else value)
        for key, value in params.items()
    }


def is_statistic(name: str) -> bool:
    """Whether a leaf of this name is a running statistic, which optimizers must leave alone."""
    return name.rpartition("/")[2].startswith(_RUNNING)


def trainable(spec: WeightSpec) -> np.ndarray:
    """`[P]` bool, False where the flat vector holds running statistics."""
    return np.concatenate([np.full(leaf.size, not is_statistic(leaf.name)) for leaf in spec.leaves])


def _product(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    # Rows in one axis: the kernel's gradient over several is four times as slow in loops on CPU.
    y = x.reshape(-1, x.shape[-1]) @ kernel
    y = y if bias is None else y + bias[None, :]
    return y.reshape(x.shape[:-1] + y.shape[-1:])


class Leaves:
    """Collects the leaves and groups of a network in flat order."""

    def __init__(self):
        self._leaves: list[Leaf] = []
        self._groups: list[Group] = []

    def group(self, size: int, scaling: str = "none") -> int:
        """A new group of hidden units; its id."""
        self._groups.append(Group(size, scaling))
        return len(self._groups) - 1

    def tensor(
        self,
        name: str,
        axes: Sequence[int],
        groups: Sequence[int],
        roles: Sequence[int],
        shape: Sequence[int] | None = None,
        order: Sequence[int] | None = None,
    ) -> None:
        """A leaf with the fields of `spec.Leaf`; roles count where there is a group."""
        roles = tuple(0 if group == FIXED else role for group, role in zip(groups, roles, strict=True))
        shape, order = axes if shape is None else shape, range(len(axes)) if order is None else order
        self._leaves.append(Leaf(name, tuple(shape), tuple(axes), tuple(groups), roles, tuple(order)))

    def dense(
        self,
        name: str,
        inputs: int | Sequence[int],
        outputs: int,
        reads: int = FIXED,
        writes: int = FIXED,
        use_bias: bool = True,
    ) -> None:
        """Of `Linear`; `inputs` as in `spec.dense_leaves`."""
        self._leaves += dense_leaves(name, inputs, outputs, reads, writes)[: 1 + use_bias]

    def conv(
        self,
        name: str,
        window: int,
        inputs: int,
        outputs: int,
        reads: int = FIXED,
        writes: int = FIXED,
        use_bias: bool = True,
    ) -> None:
        """Of `Conv`; `inputs` is 1 for `DepthwiseConv`, which writes the group that it reads."""
        axes, groups = (window, window, inputs, outputs), (FIXED, FIXED, reads, writes)
        self.tensor(f"{name}/weight", axes, groups, (0, 0, -1, 1), order=(3, 2, 0, 1))
        if use_bias:
            self.vector(f"{name}/bias", outputs, writes)

    def vector(self, name: str, size: int, writes: int = FIXED) -> None:
        """One value per unit."""
        self.tensor(name, (size,), (writes,), (1,))

    def norm(self, name: str, shape: int | Sequence[int], writes: int = FIXED, statistics: bool = False) -> None:
        """Weight and bias of a normalisation, whose first axis is the group's, and running statistics."""
        axes = (shape,) if isinstance(shape, int) else tuple(shape)
        groups = (writes,) + (FIXED,) * (len(axes) - 1)
        for part in ("weight", "bias") + ("running_mean", "running_var") * statistics:
            self.tensor(f"{name}/{part}", axes, groups, (1,) + (0,) * (len(axes) - 1))

    def spec(self) -> WeightSpec:
        """The spec of what was collected."""
        return WeightSpec(tuple(self._leaves), tuple(self._groups))


def image_shape(input_shape: Sequence[int], name: str) -> tuple[int, int, int]:
    """`(H, W, C)`.

    Raises:
      UserError: inputs that are no images.
    """
    if len(input_shape) != 3:
        raise UserError(
            f"The {name} network classifies images, but the data have inputs of shape {tuple(input_shape)}. Choose "
            "data that are images, or another net.name."
        )
    return tuple(input_shape)
