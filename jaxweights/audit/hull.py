"""Interpolation residual: how far a model lies from the best mixture of its nearest training models.

The nearest point of a convex hull is a small quadratic programme on the simplex that knows the k neighbours only
through the inner products of their differences to the query, `[k, k]`. It is solved by Wolfe's active-set method for
many queries at once, on the host: a sample inside the hull has residual zero, and only float64 tells zero from small.
"""

from __future__ import annotations

import numpy as np

from jaxweights.audit.distances import MEMORY_BYTES, Progress, counter, row_blocks
from jaxweights.errors import UserError

_RELATIVE_GAP = 1e-12
_RIDGE = 1e-14  # keeps systems solvable where neighbours coincide


def interpolation_residual(
    queries: np.ndarray,
    neighbours: np.ndarray,
    *,
    progress: Progress | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds for every query the nearest point of the convex hull of its neighbours.

    The duality gap of the squared distance is brought below 1e-12 of the squared distance to the farthest neighbour;
    `residual_gap` tells what was reached.

    Args:
      queries: `[M, P]` floats.
      neighbours: `[M, k, P]` floats, each query's own nearest training models, aligned to it where wanted.
      progress: called with (blocks done, blocks in all).
      memory_bytes: working memory beside inputs and results.

    Returns:
      The distances `[M]` from the queries to their best combinations, float64, and the weights `[M, k]` of these,
      float64, not negative, each row summing to one.

    Raises:
      UserError: if shapes do not fit or a number is not finite.
    """
    queries, neighbours = _checked(queries, neighbours)
    residuals, weights = np.empty(len(queries)), np.empty(neighbours.shape[:2])
    blocks = list(row_blocks(len(queries), _block_size(neighbours, memory_bytes)))
    tick = counter(progress, len(blocks))
    for rows in blocks:
        differences, gram = _differences(queries[rows], neighbours[rows])
        if not np.isfinite(gram).all():
            row = rows.start + int(np.flatnonzero(~np.isfinite(gram).all(axis=(1, 2)))[0])
            raise UserError(f"Query {row} or one of its neighbours is not finite. Drop diverged models first.")
        weights[rows] = minimise_on_simplex(gram)
        # Measured on the combination itself: the quadratic form cancels where the query lies inside the hull.
        residuals[rows] = np.linalg.norm(np.einsum("mk,mkp->mp", weights[rows], differences), axis=1)
        tick()
    return residuals, weights


def residual_gap(
    queries: np.ndarray, neighbours: np.ndarray, weights: np.ndarray, *, memory_bytes: int = MEMORY_BYTES
) -> np.ndarray:
    """Bounds by how much the residuals of these weights exceed the smallest possible ones `[M]`, from the duality gap.

    Args:
      queries: `[M, P]`.
      neighbours: `[M, k, P]`.
      weights: `[M, k]`, of `interpolation_residual` or of anyone else.
      memory_bytes: working memory beside inputs and results.

    Raises:
      UserError: if shapes do not fit.
    """
    queries, neighbours = _checked(queries, neighbours)
    gaps = np.empty(len(queries))
    for rows in row_blocks(len(queries), _block_size(neighbours, memory_bytes)):
        _, gram = _differences(queries[rows], neighbours[rows])
        gradient = np.einsum("mij,mj->mi", gram, weights[rows])
        squared = np.einsum("mi,mi->m", weights[rows], gradient)
        # By convexity the optimum is at least w'Gw - 2 (w'Gw - min_i (Gw)_i).
        smallest = np.maximum(2.0 * gradient.min(axis=1) - squared, 0.0)
        gaps[rows] = np.sqrt(np.maximum(squared, 0.0)) - np.sqrt(np.minimum(smallest, np.maximum(squared, 0.0)))
    return gaps


def _checked(queries: np.ndarray, neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    queries, neighbours = np.asarray(queries), np.asarray(neighbours)
    if queries.ndim != 2 or neighbours.ndim != 3 or neighbours.shape[::2] != queries.shape or 0 in neighbours.shape:
        raise UserError(
            f"Queries of shape {queries.shape} and neighbours of shape {neighbours.shape} do not fit; give [M, P] and "
            "[M, k, P] with at least one query and one neighbour."
        )
    return queries, neighbours


def _block_size(neighbours: np.ndarray, memory_bytes: int) -> int:
    return max(1, memory_bytes // (32 * neighbours.shape[1] * neighbours.shape[2]))


def _differences(queries: np.ndarray, neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns neighbours minus queries `[B, k, P]` and their inner products `[B, k, k]`, in float64."""
    differences = np.subtract(neighbours, queries[:, None, :], dtype=np.float64)
    return differences, differences @ differences.transpose(0, 2, 1)


def minimise_on_simplex(gram: np.ndarray) -> np.ndarray:
    """Minimises `w' G w` over weights that are not negative and sum to one, for many problems at once.

    Wolfe's method (Finding the nearest point in a polytope, 1976): minimise over the affine hull of the points in use;
    where a weight would become negative, stop at the boundary and drop that point; otherwise add the point that
    promises most, until none does.

    Args:
      gram: `[B, k, k]` float64, symmetric and positive semi-definite.

    Returns:
      Weights `[B, k]`, float64.
    """
    count, k, _ = gram.shape
    diagonal = np.einsum("bii->bi", gram)
    scale = diagonal.max(axis=1)
    gram = gram / np.where(scale > 0, scale, 1.0)[:, None, None]
    weights = np.zeros((count, k))
    weights[np.arange(count), diagonal.argmin(axis=1)] = 1.0
    support = weights > 0
    running = np.arange(count)
    # Every point enters and leaves a few times at most; the gap that the caller computes tells if that was not enough.
    for _ in range(20 * k + 20):
        if not running.size:
            break
        now, used, used_gram = weights[running], support[running], gram[running]
        target = _affine_minimum(used_gram, used)
        outside = used & (target <= 0.0)
        ratios = np.divide(now, now - target, out=np.full(now.shape, np.inf), where=outside)
        step = np.minimum(ratios.min(axis=1), 1.0)
        blocked = outside.any(axis=1)
        dropped = blocked[:, None] & outside & (ratios <= step[:, None])
        used &= ~dropped
        now = np.where(used, np.maximum(now + step[:, None] * (target - now), 0.0), 0.0)
        now /= now.sum(axis=1, keepdims=True)

        gradient = np.einsum("bij,bj->bi", used_gram, now)
        promising = gradient.argmin(axis=1)
        gap = np.einsum("bi,bi->b", now, gradient) - gradient[np.arange(len(now)), promising]
        # A step of length zero drops the point just added: rounding, not progress, would add it again.
        finished = np.where(blocked, step == 0.0, gap <= _RELATIVE_GAP / 2.0)
        grows = ~blocked & ~finished
        used[grows, promising[grows]] = True
        weights[running], support[running] = now, used
        running = running[~finished]
    return weights


def _affine_minimum(gram: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Minimises `z' G z` over `z` that sum to one and vanish outside `used` `[B, k]`."""
    both = used[:, :, None] & used[:, None, :]
    identity = np.eye(gram.shape[1])[None]
    # Adding the squared sum, which is fixed, makes the system regular even where the minimum is zero.
    system = np.where(both, gram + 1.0, 0.0) + np.where(used, _RIDGE, 1.0)[:, :, None] * identity
    solution = np.linalg.solve(system, used[:, :, None].astype(np.float64))[:, :, 0]
    return solution / solution.sum(axis=1, keepdims=True)
