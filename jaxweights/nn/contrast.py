"""Contrastive losses of two views of every example."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

_TINY = 1e-8


def nt_xent(z_i: jax.Array, z_j: jax.Array, temperature: float, axis_name: str | None = None) -> jax.Array:
    """Normalised temperature-scaled cross-entropy (SimCLR) of two views.

    Every one of the 2 B embeddings has to pick its other view among the 2 B - 1 others by cosine similarity. The
    candidates are those of the whole batch, over all devices.

    Args:
      z_i: `[b, features]` embeddings of the first views, this device's share.
      z_j: `[b, features]`, the second views in the same order.
      temperature: that similarities are divided by.
      axis_name: device axis that the batch is split over.

    Returns:
      The mean over this share's 2 b embeddings.
    """
    share = z_i.shape[0]
    z_i, z_j = _unit(z_i), _unit(z_j)
    all_i, all_j, first = z_i, z_j, 0
    if axis_name is not None:
        all_i, all_j = (lax.all_gather(z, axis_name, tiled=True) for z in (z_i, z_j))
        first = lax.axis_index(axis_name) * share
    whole = all_i.shape[0]
    anchors = jnp.concatenate([z_i, z_j])
    similarity = anchors @ jnp.concatenate([all_i, all_j]).T / temperature
    own = first + jnp.arange(share)
    own = jnp.concatenate([own, own + whole])
    is_self = own[:, None] == jnp.arange(2 * whole)[None, :]
    positive = jnp.sum(z_i * z_j, axis=-1) / temperature
    candidates = jax.nn.logsumexp(jnp.where(is_self, -jnp.inf, similarity), axis=-1)
    return jnp.mean(candidates - jnp.concatenate([positive, positive]))


def positive_contrast(z_i: jax.Array, z_j: jax.Array, temperature: float, axis_name: str | None = None) -> jax.Array:
    """The published contrast "positive": mean squared similarity of the two views, divided by 2 B.

    It has no negatives, and as it is minimised it drives the two views' embeddings to be orthogonal, not alike: the
    published code compares the similarities with 0. It is here to reproduce runs that used it.

    Args:
      z_i: `[b, features]` embeddings of the first views, this device's share.
      z_j: `[b, features]`, the second views in the same order.
      temperature: that cosine similarities are divided by.
      axis_name: device axis that the batch is split over.
    """
    whole = z_i.shape[0] * (1 if axis_name is None else lax.axis_size(axis_name))
    similarity = jnp.sum(_unit(z_i) * _unit(z_j), axis=-1) / temperature
    return jnp.mean(jnp.square(similarity)) / (2 * whole)


def _unit(z: jax.Array) -> jax.Array:
    return z * lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(z), axis=-1, keepdims=True), _TINY**2))
