"""Interpolation residual: how far a model lies from the best mixture of training models.

The nearest point of a convex hull is a small quadratic programme on the simplex that knows the points only through the
inner products of their differences to the query. It is solved by Wolfe's active-set method for many queries at once, on
the host: a sample inside the hull has residual zero, and only float64 tells zero from small. The points are either each
query's own neighbours, or one set for all queries, whose inner products are then taken once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxweights.auditing.rows import MEMORY_BYTES, Progress, counter, row_blocks
from jaxweights.errors import UserError

_RELATIVE_GAP = 1e-12
_RIDGE = 1e-14  # keeps systems solvable where neighbours coincide
_STARTING_RIDGE = 1e-11  # spreads the weights evenly where many mixtures are equally good, so that few are negative


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
            raise UserError(f"Query {row} or one of its neighbours is not finite. Remove such networks first.")
        weights[rows] = _minimise_on_simplex(_Products.build(gram, np.zeros(gram.shape[:2]), np.zeros(len(gram))))
        # Measured on the combination itself: the quadratic form cancels where the query lies inside the hull.
        residuals[rows] = np.linalg.norm(np.einsum("mk,mkp->mp", weights[rows], differences), axis=1)
        tick()
    return residuals, weights


def residual_of_all(
    queries: np.ndarray,
    points: np.ndarray,
    excluded: np.ndarray | None = None,
    *,
    memory_bytes: int = MEMORY_BYTES,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds for every query the nearest point of the convex hull of one set of points, as `interpolation_residual`.

    A mean of any of the points has residual zero, which their nearest few cannot promise. The points' inner products
    `[N, N]` are taken once, around the points' mean.

    Args:
      queries: `[M, P]` floats.
      points: `[N, P]` floats.
      excluded: `[M, N]` booleans, points that a query's mixture must not use; at least one must be left.
      memory_bytes: working memory beside inputs and results.

    Returns:
      The distances `[M]` from the queries to their best combinations, float64, and the weights `[M, N]` of these,
      float64, not negative, each row summing to one.

    Raises:
      UserError: if shapes do not fit, a number is not finite, or a query may use no point.
    """
    queries, points = np.asarray(queries), np.asarray(points)
    count, width = queries.shape if queries.ndim == 2 else (0, 0)
    if points.ndim != 2 or points.shape[1] != width or 0 in (count, points.size):
        raise UserError(
            f"Queries of shape {queries.shape} and points of shape {points.shape} do not fit; give [M, P] and [N, P] "
            "with at least one query and one point."
        )
    allowed = np.ones((count, len(points)), bool) if excluded is None else ~np.asarray(excluded)
    if not allowed.any(axis=1).all():
        raise UserError(
            f"Query {int(allowed.any(axis=1).argmin())} may use none of the {len(points)} points once its own are left "
            "out. Use a reference with more models."
        )
    columns = list(row_blocks(width, max(1, memory_bytes // (32 * (count + len(points))))))
    gram, cross, own = np.zeros((len(points),) * 2), np.zeros((count, len(points))), np.zeros(count)
    for span in columns:
        near, ours = _around_mean(points[:, span], queries[:, span])
        gram += near @ near.T
        cross += ours @ near.T
        own += np.einsum("mp,mp->m", ours, ours)
    if not np.isfinite(own).all() or not np.isfinite(gram).all():
        raise UserError("A query or a point is not finite. Remove such networks first.")
    weights = np.empty(cross.shape)
    for rows in row_blocks(count, max(1, memory_bytes // (48 * gram.size))):
        weights[rows] = _minimise_on_simplex(_Products.build(gram, cross[rows], own[rows]), allowed[rows])
    squared = np.zeros(count)
    for span in columns:
        near, ours = _around_mean(points[:, span], queries[:, span])
        missed = weights @ near - ours
        squared += np.einsum("mp,mp->m", missed, missed)
    return np.sqrt(squared), weights


def _around_mean(points: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets relative to the points' mean, in float64: products of far-away vectors would cancel."""
    centre = points.mean(axis=0, keepdims=True, dtype=np.float64)
    return points - centre, queries - centre


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
    _, k, width = neighbours.shape
    return max(1, memory_bytes // (32 * k * (k + width)))


def _differences(queries: np.ndarray, neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns neighbours minus queries `[B, k, P]` and their inner products `[B, k, k]`, in float64."""
    differences = np.subtract(neighbours, queries[:, None, :], dtype=np.float64)
    return differences, differences @ differences.transpose(0, 2, 1)


@dataclass(frozen=True)
class _Products:
    """Inner products of the points as seen from B queries, `(x_i - q) . (x_j - q)`, over the largest of each query.

    Attributes:
      gram: `x_i . x_j`, `[B, k, k]` or, the same for all queries, `[k, k]`.
      cross: `x_i . q` `[B, k]`; own: `q . q` `[B]`.
      squared: squared distances of the points `[B, k]`.
      scale: the largest of them `[B]`, or 1 where all are zero.
    """

    gram: np.ndarray
    cross: np.ndarray
    own: np.ndarray
    squared: np.ndarray
    scale: np.ndarray

    @classmethod
    def build(cls, gram: np.ndarray, cross: np.ndarray, own: np.ndarray) -> _Products:
        """With the scale that belongs to them; `cross` and `own` are zero for points that are relative to the query."""
        squared = np.einsum("...ii->...i", gram) - 2.0 * cross + own[:, None]
        farthest = squared.max(axis=1)
        return cls(gram, cross, own, squared, np.where(farthest > 0, farthest, 1.0))

    def of(self, rows: np.ndarray) -> _Products:
        """Those of some queries."""
        gram = self.gram[rows] if self.gram.ndim > 2 else self.gram
        return _Products(gram, self.cross[rows], self.own[rows], self.squared[rows], self.scale[rows])

    def among(self, index: np.ndarray) -> np.ndarray:
        """Products among the points `index` `[B, s]` of every query, `[B, s, s]`."""
        left, right = index[:, :, None], index[:, None, :]
        found = (
            self.gram[left, right]
            if self.gram.ndim == 2
            else self.gram[np.arange(len(index))[:, None, None], left, right]
        )
        cross = np.take_along_axis(self.cross, index, axis=1)
        found += self.own[:, None, None] - cross[:, :, None] - cross[:, None, :]
        return found / self.scale[:, None, None]

    def gradient(self, weights: np.ndarray) -> np.ndarray:
        """Products of every point with the mixture of these weights `[B, k]`, which sum to one; `[B, k]`."""
        found = weights @ self.gram if self.gram.ndim == 2 else np.einsum("bij,bj->bi", self.gram, weights)
        found += (self.own - np.einsum("bi,bi->b", self.cross, weights))[:, None] - self.cross
        return found / self.scale[:, None]


def _minimise_on_simplex(products: _Products, allowed: np.ndarray | None = None) -> np.ndarray:
    """Minimises `w' G w` over weights that are not negative and sum to one, for many problems at once.

    Wolfe's method (Finding the nearest point in a polytope, 1976): minimise over the affine hull of the points in use;
    where a weight would become negative, stop at the boundary and drop that point; otherwise add the point that
    promises most, until none does. It starts from all points less those with negative weights, round by round: mixtures
    of many points are found at once, and few points are put back.

    Args:
      products: inner products of B queries and k points.
      allowed: `[B, k]` booleans, points that may be used.

    Returns:
      Weights `[B, k]`, float64.
    """
    shape = products.cross.shape
    allowed = np.ones(shape, bool) if allowed is None else allowed
    weights, support = np.zeros(shape), allowed.copy()
    squared = np.where(allowed, products.squared, np.inf)
    copies = squared.min(axis=1) <= _RELATIVE_GAP / 2.0 * products.scale
    weights[copies, squared[copies].argmin(axis=1)] = 1.0
    queries = running = np.flatnonzero(~copies)
    while running.size:
        weights[running] = _affine_minimum(products.of(running), support[running], _STARTING_RIDGE)
        negative = support[running] & (weights[running] <= 0.0)
        support[running] &= ~negative
        running = running[negative.any(axis=1)]

    running = queries[_gap(products.of(queries), weights[queries], allowed[queries])[0] > _RELATIVE_GAP / 2.0]
    # Every point enters and leaves a few times at most; the gap that the caller computes tells if that was not enough.
    for _ in range(20 * shape[1] + 20):
        if not running.size:
            break
        now, used, seen = weights[running], support[running], products.of(running)
        target = _affine_minimum(seen, used, _RIDGE)
        outside = used & (target <= 0.0)
        ratios = np.divide(now, now - target, out=np.full(now.shape, np.inf), where=outside)
        step = np.minimum(ratios.min(axis=1), 1.0)
        blocked = np.asarray(outside.any(axis=1))
        dropped = blocked[:, None] & outside & (ratios <= step[:, None])
        used &= ~dropped
        now = np.where(used, np.maximum(now + step[:, None] * (target - now), 0.0), 0.0)
        now /= now.sum(axis=1, keepdims=True)

        gap, promising = _gap(seen, now, allowed[running])
        # A step of length zero drops the point just added: rounding, not progress, would add it again.
        finished = np.where(blocked, step == 0.0, gap <= _RELATIVE_GAP / 2.0)
        grows = ~blocked & ~finished
        used[grows, promising[grows]] = True
        weights[running], support[running] = now, used
        running = running[~finished]
    return weights


def _gap(products: _Products, weights: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns half of the duality gap of these weights `[B]`, and the allowed points that promise most `[B]`."""
    gradient = products.gradient(weights)
    promising = np.where(allowed, gradient, np.inf).argmin(axis=1)
    return np.einsum("bi,bi->b", weights, gradient) - gradient[np.arange(len(weights)), promising], promising


def _affine_minimum(products: _Products, used: np.ndarray, ridge: float) -> np.ndarray:
    """Minimises `z' (G + ridge) z` over `z` that sum to one and vanish outside `used` `[B, k]`."""
    # The points in use to the front, so that the systems are no larger than the largest support.
    index = np.argsort(~used, axis=1, kind="stable")[:, : used.sum(axis=1).max()]
    valid = np.take_along_axis(used, index, axis=1)
    both = valid[:, :, None] & valid[:, None, :]
    identity = np.eye(index.shape[1])[None]
    # Adding the squared sum, which is fixed, makes the system regular even where the minimum is zero.
    system = np.where(both, products.among(index) + 1.0, 0.0) + np.where(valid, ridge, 1.0)[:, :, None] * identity
    solution = np.linalg.solve(system, valid[:, :, None].astype(np.float64))[:, :, 0]
    result = np.zeros(used.shape)
    np.put_along_axis(result, index, solution / solution.sum(axis=1, keepdims=True), axis=1)
    return result
