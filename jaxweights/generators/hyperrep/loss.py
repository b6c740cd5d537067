"""Losses of the weight autoencoder: layer-wise reconstruction, contrast of two views, and the projection head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxweights.generators.hyperrep.layout import UnitLayout
from jaxweights.nn.dense import Dense
from jaxweights.nn.normalization import SignalNorm, Statistics

Reduction = Literal["global_mean", "layer_mean"]

# Standard deviations of layers are at least this, as published, so that constant layers can be divided by theirs.
MIN_STD = 1e-4
_BLOCK_ROWS = 1024


class Moments(NamedTuple):
    """What training rows say about the loss.

    Attributes:
      mean: `[P]` float32 mean weight vector.
      std: `[P]` float32; every weight carries the unbiased standard deviation of all entries of its layer, at least
        `MIN_STD`.
    """

    mean: np.ndarray
    std: np.ndarray


def moments(layout: UnitLayout, weights: np.ndarray) -> Moments:
    """Mean vector and layer-wise standard deviations of `[N, P]` training rows, summed in float64."""
    rows = len(weights)
    mean: Any = sum(block.sum(axis=0, dtype=np.float64) for block in _blocks(weights)) / rows
    squares: Any = sum(np.square(block - mean).sum(axis=0) for block in _blocks(weights))
    stds = []
    for layer in layout.layers:
        spans = layout.spans(layer)
        centre = sum(mean[span].sum() for span in spans) / layer.size
        total = sum((squares[span] + rows * np.square(mean[span] - centre)).sum() for span in spans)
        stds.append(max(np.sqrt(total / max(rows * layer.size - 1, 1)), MIN_STD))
    return Moments(mean.astype(np.float32), layout.spread(np.array(stds)))


def mean_losses(layout: UnitLayout, weights: np.ndarray, mean: np.ndarray, std: np.ndarray, **settings) -> np.ndarray:
    """The reconstruction loss of predicting the mean vector for every training row, which R^2 is measured against.

    Args:
      layout: layout of the vectors.
      weights: `[N, P]` float32.
      mean: `[P]`.
      std: `[P]`, see `reconstruction_loss`.
      **settings: `reduction`, `layer_weights` and `error_threshold` of `reconstruction_loss`.

    Returns:
      `[1 + num_layers]` float32: the total, then each layer.
    """
    threshold = settings["error_threshold"]
    errors = np.zeros(layout.num_params)
    for block in _blocks(weights):
        error = np.square((block - mean[None, :].astype(np.float64)) / std[None, :])
        errors += (np.minimum(error, threshold) if threshold else error).sum(axis=0)
    total, layers = _reduce(layout, errors / len(weights), settings["reduction"], settings["layer_weights"])
    return np.array([total, *layers], np.float32)


def _blocks(weights: np.ndarray):
    """Float64 blocks of rows, since a whole population may not fit."""
    for start in range(0, len(weights), _BLOCK_ROWS):
        yield np.asarray(weights[start : start + _BLOCK_ROWS], np.float64)


def reconstruction_loss(
    layout: UnitLayout,
    outputs: jax.Array,
    targets: jax.Array,
    std: jax.Array,
    *,
    reduction: Reduction = "global_mean",
    layer_weights: Sequence[float] | None = None,
    error_threshold: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Layer-wise mean squared error.

    Args:
      layout: layout of the vectors.
      outputs: `[n, P]`.
      targets: `[n, P]`.
      std: `[P]` that both are divided by; ones for none.
      reduction: "global_mean" (every weight counts the same: a layer's share of the mean over all weights) or
        "layer_mean" (every layer counts the same: the mean over its weights).
      layer_weights: factor of each layer in the total, ones by default.
      error_threshold: squared errors above it count as this much and have no gradient; None for no limit.

    Returns:
      The total, and the unweighted losses of the layers `[num_layers]`.
    """
    error = jnp.square((outputs - targets) / std[None, :])
    if error_threshold:
        error = jnp.minimum(error, error_threshold)
    total, layers = _reduce(layout, jnp.mean(error, axis=0), reduction, layer_weights)
    return total, jnp.stack(layers)


def _reduce(layout: UnitLayout, errors, reduction: Reduction, layer_weights: Sequence[float] | None):
    """Mean squared errors `[P]` to the total and a list of one loss per layer."""
    sums = layout.per_layer(errors)
    sizes = [layer.size if reduction == "layer_mean" else layout.num_params for layer in layout.layers]
    layers = [value / size for value, size in zip(sums, sizes, strict=True)]
    factors = layer_weights or (1.0,) * len(layers)
    total: Any = sum(factor * loss for factor, loss in zip(factors, layers, strict=True))
    return total, layers


def r2(losses: jax.Array, baseline: jax.Array) -> jax.Array:
    """Explained share: 1 minus reconstruction losses over those of predicting the mean vector (`mean_losses`).

    Args:
      losses: `[1 + num_layers]`, or any shape.
      baseline: the same shape.
    """
    return 1 - losses / jnp.maximum(baseline, jnp.finfo(jnp.float32).tiny)


def latent_variance(z: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Unbiased variance of latents `[b, latent_dim]` over the whole batch, averaged over dimensions."""

    def mean_over(values: jax.Array) -> jax.Array:
        mean = jnp.mean(values, axis=0)
        return mean if axis_name is None else lax.pmean(mean, axis_name)

    count = z.shape[0] * (1 if axis_name is None else lax.axis_size(axis_name))
    biased = mean_over(jnp.square(z - mean_over(z)[None, :]))
    return jnp.mean(biased) * (count / max(count - 1, 1))


class ProjectionHead(nn.Module):
    """Dense layers from latents to the embeddings that are contrasted; the last batch normalisation is always there.

    Attributes:
      layers: hidden layers.
      hidden: their size.
      features: size of the embeddings.
      batch_norm: whether hidden layers are normalised.
      initialiser: initialiser of the dense layers, a name of `nn.parameters.INITIALISERS`.
    """

    layers: int
    hidden: int
    features: int
    batch_norm: bool
    initialiser: str = "kaiming_normal"

    @nn.compact
    def __call__(self, z: jax.Array, statistics: Statistics, axis_name: str | None = None) -> jax.Array:
        """Maps `[n, latent_dim]` to `[n, features]`; see `SignalNorm` for the last two arguments."""
        for i in range(self.layers):
            z = Dense(self.hidden, self.initialiser, convention="flax", name=f"dense_{i}")(z)
            if self.batch_norm:
                z = SignalNorm(name=f"norm_{i}")(z[:, None, :], statistics, axis_name)[:, 0]
            z = nn.relu(z)
        z = Dense(self.features, self.initialiser, convention="flax", name=f"dense_{self.layers}")(z)
        return SignalNorm(name=f"norm_{self.layers}")(z[:, None, :], statistics, axis_name)[:, 0]
