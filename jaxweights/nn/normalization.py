"""Layer and batch normalisation, and the running statistics of task networks.

A task network keeps running statistics among its parameters, under names that begin with `running_`: they are part of
its function, so of its flat vector. (`num_batches_tracked`, an integer without effect, is not.) Evaluation uses them
and sends no gradient to them. Where the collection `STATISTICS` is mutable, a network is in training mode:
`apply_in_training`. A generator keeps them in a collection of their own, which no optimizer sees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from jaxweights.errors import UserError
from jaxweights.nn.parameters import Convention, constant, parameter
from jaxweights.spec import WeightSpec

STATISTICS = "statistics"
"""Collection that receives a task network's running statistics after a batch, in training mode."""

Statistics = Literal["batch", "running", "instance"]
"""What a generator's signals are normalised by: the statistics of the batch, the running ones, or each example's."""

MOMENTUM = 0.1  # weight of a new batch in the running statistics; PyTorch's default
_RUNNING = "running_"


def standardise(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """Mean 0 and variance 1 over the axes."""
    x = x - jnp.mean(x, axis=axes, keepdims=True)
    return x * lax.rsqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True) + epsilon)


def layer_norm(x: jax.Array, weight: jax.Array, bias: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Layer normalisation over the last axes of `x`, which are those of the weight and the bias."""
    lead = (1,) * (x.ndim - weight.ndim)
    axes = tuple(range(-weight.ndim, 0))
    return standardise(x, axes, epsilon) * weight.reshape(lead + weight.shape) + bias.reshape(lead + bias.shape)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axes.

    Attributes:
      shape: shape of the last axes; None for the last axis alone.
      epsilon: added to the variance.
      standardised: whether inputs come standardised already.
      convention: whether the factor is named `weight` or `scale`.
    """

    shape: tuple[int, ...] | None = None
    epsilon: float = 1e-5
    standardised: bool = False
    convention: Convention = "torch"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `[..., *shape]`."""
        shape = x.shape[-1:] if self.shape is None else self.shape
        name = "weight" if self.convention == "torch" else "scale"
        weight = parameter(self, name, shape, constant(1.0))
        bias = parameter(self, "bias", shape, constant(0.0))
        if self.standardised:
            lead = (1,) * (x.ndim - len(shape))
            return x * weight.reshape(lead + shape) + bias.reshape(lead + shape)
        return layer_norm(x, weight, bias, self.epsilon)


class BatchNorm(nn.Module):
    """Batch normalisation of a task network's channels, the last axis: by running statistics, or by the batch's in
    training mode.

    Attributes:
      initial: initial value of the weights.
      axis_name: device axis that a batch is split over, for statistics of the whole batch.
      epsilon: added to the variance.
    """

    initial: float = 1.0
    axis_name: str | None = None
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `[..., channels]`."""
        start = {"weight": self.initial, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        weight, bias, mean, var = (parameter(self, k, x.shape[-1:], constant(v)) for k, v in start.items())
        if self.is_mutable_collection(STATISTICS) and not self.is_initializing():
            running = {"running_mean": mean, "running_var": var}
            mean, var, unbiased = _batch_statistics(x, self.axis_name)
            batch = {"running_mean": mean, "running_var": unbiased}
            for name, old in running.items():
                new = old + MOMENTUM * (batch[name] - old)
                self.put_variable(STATISTICS, name, lax.stop_gradient(new))
        else:
            mean, var = lax.stop_gradient((mean, var))
        # One factor per channel, broadcast afterwards: `SignalNorm` broadcasts first, and gradients round differently.
        factor = lax.rsqrt(var + self.epsilon) * weight
        return (x - _lead(mean, x)) * _lead(factor, x) + _lead(bias, x)


class SignalNorm(nn.Module):
    """Batch normalisation of a generator's signals, with PyTorch's running statistics.

    The collection `batch_stats` holds `mean` and `var`; in "batch" mode, where the collection is mutable, they move
    towards the batch's mean and its unbiased variance (the normalisation itself uses the biased one). Statistics are
    averaged over `axis_name` when it is given, so that the result does not depend on how a batch is split over devices.

    Attributes:
      momentum: weight of the new batch in the running statistics.
      epsilon: added to the variance.
    """

    momentum: float = MOMENTUM
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
        scale = parameter(self, "scale", x.shape[-1:], constant(1.0))
        bias = parameter(self, "bias", x.shape[-1:], constant(0.0))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:])
        running_var = self.variable("batch_stats", "var", jnp.ones, x.shape[-1:])
        if statistics == "batch":
            mean, var, unbiased = _batch_statistics(x, axis_name)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
            mean, var = _lead(mean, x), _lead(var, x)
        elif statistics == "running":
            mean, var = _lead(running_mean.value, x), _lead(running_var.value, x)
        elif statistics == "instance":
            mean = jnp.mean(x, axis=1, keepdims=True)
            var = jnp.mean(jnp.square(x - mean), axis=1, keepdims=True)
        else:
            raise ValueError(f'statistics must be "batch", "running" or "instance", not {statistics!r}')
        factor = lax.rsqrt(var + self.epsilon) * _lead(scale, x)
        return (x - mean) * factor + _lead(bias, x)


def _batch_statistics(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, variance and unbiased variance of every channel, over all other axes and devices."""

    def average(values: jax.Array) -> jax.Array:
        mean = jnp.mean(values, axis=tuple(range(values.ndim - 1)))
        return mean if axis_name is None else lax.pmean(mean, axis_name)

    mean = average(x)
    var = average(jnp.square(x - _lead(mean, x)))
    count = math.prod(x.shape[:-1]) * (1 if axis_name is None else lax.axis_size(axis_name))
    if count < 2:
        raise UserError(
            "Batch normalisation needs at least two values per channel, but a batch has one. Raise the batch size."
        )
    return mean, var, var * (count / (count - 1))


def _lead(values: jax.Array, x: jax.Array) -> jax.Array:
    """`[channels]` with leading axes of size 1, as many as `x` has."""
    return values.reshape((1,) * (x.ndim - 1) + (-1,))


def apply_in_training(
    module: nn.Module, params: Mapping[str, Any], images: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    """A network in training mode: batch normalisation by the batch's own statistics.

    Under a device axis, `module.clone(axis_name=...)` takes the statistics of the whole batch.

    Args:
      module: the module of a task network (`TaskNet.module`), with or without batch normalisation.
      params: parameters of the module, running statistics among them.
      images: `[B, H, W, C]`; more than one value per channel must reach every batch normalisation.

    Returns:
      Logits `[B, num_classes]`, and the parameters with the running statistics after this batch (moved by a tenth
      towards its mean and unbiased variance; no gradient goes through them). Leaving those where they were is PyTorch's
      training mode without tracking.
    """
    logits, updates = module.apply({"params": params}, images, mutable=[STATISTICS])
    return logits, _merged(params, updates.get(STATISTICS) or {})


def _merged(params: Mapping[str, Any], updates: Mapping[str, Any]) -> dict[str, Any]:
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
