"""Running candidates of a search: the references with the smallest scores, kept per device and put together on the
host."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxweights import parallel
from jaxweights.auditing.rows import placed


def no_candidates(mesh: Mesh, count: int, kept: int) -> tuple[jax.Array, jax.Array]:
    """Returns the scores (infinite) and indices (-1) `[devices, count, kept]` that a search starts with."""
    shape = (mesh.size, count, kept)
    return (
        placed(mesh, np.full(shape, np.inf, np.float32), parallel.AXIS),
        placed(mesh, np.full(shape, -1, np.int32), parallel.AXIS),
    )


def keep_smallest(
    scores: jax.Array, indices: jax.Array, new_scores: jax.Array, first: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Merges the scores `[Q, B]` of references `first`, `first + 1`, … into the smallest `[Q, kept]` so far.

    Among equal scores the references with the lower indices are kept. Infinite scores keep the index -1.
    """
    kept = scores.shape[1]
    values, positions = jax.lax.top_k(-new_scores, min(kept, new_scores.shape[1]))
    values = jnp.concatenate([-scores, values], axis=1)
    positions = jnp.concatenate([indices, first + positions], axis=1)
    values, order = jax.lax.top_k(values, kept)
    return -values, jnp.where(jnp.isinf(values), -1, jnp.take_along_axis(positions, order, axis=1))


def gather_candidates(best: tuple[jax.Array, jax.Array], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts the candidates of all devices together: the smallest scores `[count, kept]`, ascending, and indices."""
    kept = best[0].shape[2]
    scores, indices = (np.concatenate(np.asarray(part), axis=1)[:count] for part in best)
    return smallest(scores, indices.astype(np.int64), kept)


def smallest(values: np.ndarray, labels: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k smallest values of every row `[Q, K]` with their labels, ties in the order of the labels."""
    order = np.lexsort((labels, values), axis=-1)[:, :k]
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(labels, order, axis=1)
