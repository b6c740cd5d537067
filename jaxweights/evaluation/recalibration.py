"""Running statistics of batch normalisation, taken anew from images: for networks whose own do not fit them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxweights import nets, parallel, programs
from jaxweights.nn import normalization

_BATCH = 128


def recalibrated(net: nets.TaskNet, weights: Any, images: Any, mesh: Mesh | None = None) -> np.ndarray:
    """Networks with the mean statistics of batches of 128 images in training mode, as PyTorch's cumulative average.

    Args:
      net: a whole network.
      weights: `[N, P]`.
      images: standardised images `[B, H, W, C]`, in order; a last batch that is not full is left out.
      mesh: devices, all by default.

    Returns:
      `[N, P]` float32; as they are where the network has no running statistics.
    """
    weights = np.asarray(weights, np.float32)
    if normalization.trainable(net.spec).all():
        return weights
    mesh = parallel.make_mesh() if mesh is None else mesh
    size = min(_BATCH, len(images))
    count = len(images) // size
    batches = np.asarray(images[: count * size]).reshape(count, size, *np.shape(images)[1:])
    return np.asarray(_program(net, mesh)(jnp.asarray(batches), jnp.asarray(weights)))


@programs.shared
def _program(net: nets.TaskNet, mesh: Mesh) -> Callable[[jax.Array, jax.Array], jax.Array]:
    statistics = ~normalization.trainable(net.spec)

    def one(batches: jax.Array, vector: jax.Array) -> jax.Array:
        blank = net.spec.unflatten(jnp.where(statistics, 0.0, vector))

        def add(total: jax.Array, images: jax.Array) -> tuple[jax.Array, None]:
            _, moved = normalization.apply_in_training(net.module, blank, net.resized(images))
            return total + net.spec.flatten(moved), None

        total, _ = jax.lax.scan(add, jnp.zeros_like(vector), batches)
        # From zero a batch moves statistics by a tenth of its own.
        return jnp.where(statistics, total / (normalization.MOMENTUM * len(batches)), vector)

    return parallel.map_rows(lambda batches, rows: jax.lax.map(lambda row: one(batches, row), rows), mesh)
