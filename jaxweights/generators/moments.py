"""Running mean and variance of all latents that a generator in a latent space has seen."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_MIN_STD = 1e-6  # a latent dimension that varies less is constant up to rounding


def update(moments: dict[str, jax.Array], latents: jax.Array, axis_name: str | None) -> dict[str, jax.Array]:
    """Adds a batch `[n, latent_dim]` to the mean and variance of all latents seen so far.

    The encoder is fixed while these are gathered, so they settle on the training set's within the first few batches.
    """

    def mean_over(values: jax.Array) -> jax.Array:
        mean = jnp.mean(values, axis=0)
        return mean if axis_name is None else jax.lax.pmean(mean, axis_name)

    batch_count = latents.shape[0] * (1 if axis_name is None else jax.lax.axis_size(axis_name))
    batch_mean = mean_over(latents)
    batch_var = mean_over(jnp.square(latents - batch_mean[None, :]))
    count = moments["count"] + batch_count
    share = batch_count / count
    shift = batch_mean - moments["mean"]
    return {
        "count": count,
        "mean": moments["mean"] + share * shift,
        "var": (1 - share) * moments["var"] + share * batch_var + share * (1 - share) * jnp.square(shift),
    }


def of(moments: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation, each `[1, latent_dim]`."""
    std = jnp.maximum(jnp.sqrt(moments["var"]), _MIN_STD)
    return moments["mean"][None, :], std[None, :]
