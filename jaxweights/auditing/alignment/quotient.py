"""Nearest neighbours up to all symmetries that a spec declares: invariant features propose, matching decides.

Networks are balanced first (`canonical`), then compared by what no permutation and no sign flip changes: the values of
every tensor, sorted over the axes that are reordered (for each input, output and kernel offset apart; without signs
where these may flip). Sorted values are the nearest assignment of values, so features of two networks are never farther
apart than the networks are after any reordering, and a neighbour that is nearer than the features of all that was not
proposed is proven nearest. Sorting also averages noise out: features find noised copies that norms of units do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxweights.auditing.alignment import canonical, matching, reordering
from jaxweights.auditing.alignment.canonical import stored_groups
from jaxweights.auditing.distances import euclidean
from jaxweights.auditing.rows import MEMORY_BYTES, Progress, check_sets, counter, read_rows, row_blocks
from jaxweights.nn.normalization import is_statistic
from jaxweights.spec import FIXED, WeightSpec

PROPOSALS = 8
"""References that are matched per query beside the nearest ones without reordering, unless more are asked for."""


@dataclass(frozen=True)
class QuotientNeighbours:
    """The k nearest references of every query modulo the symmetries of their spec, nearest first.

    Distances are between balanced networks, without running statistics, and upper bounds of the smallest over all
    symmetries where there is more than one group.

    Attributes:
      distances: `[M, k]`, float64, computed from differences.
      indices: rows of the reference `[M, k]`, int64.
      permutations: `[M, k, U]` int64, group after group; see `matching.Matches`.
      signs: `[M, k, U]` int8.
      proven_share: share of the queries whose nearest no reference that was not matched can beat.
    """

    distances: np.ndarray
    indices: np.ndarray
    permutations: np.ndarray
    signs: np.ndarray
    proven_share: float


class Reference:
    """Networks to be compared with, balanced, and their features: what every search needs of them."""

    def __init__(self, spec: WeightSpec, rows: Any, memory_bytes: int = MEMORY_BYTES):
        """Balances networks `[N, P]`, which may be a memory map larger than memory."""
        self.rows = canonical.balanced(spec, rows)
        self.features = features(spec, self.rows, memory_bytes)


def quotient_nearest(
    queries: Any,
    reference: Any,
    spec: WeightSpec,
    k: int = 1,
    query_groups: np.ndarray | None = None,
    reference_groups: np.ndarray | None = None,
    *,
    proposals: int = PROPOSALS,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> QuotientNeighbours:
    """Finds the k nearest references of every query modulo permutations, positive rescalings and sign flips.

    Args:
      queries: `[M, P]` floats; needs `shape`, slicing and indexing by rows.
      reference: `[N, P]` likewise; may be a memory map larger than memory. Or a `Reference`, for several searches.
      spec: meaning of the vectors, with at least one group.
      k: neighbours per query.
      query_groups: `[M]` integers; a reference of the same group as the query is not admissible.
      reference_groups: `[N]` integers, given exactly if `query_groups` is.
      proposals: references per query that features propose, at least k.
      mesh: a mesh with the single axis "data" over which pairs are spread; `None` is all devices.
      progress: called with (queries done, queries in all).
      memory_bytes: working memory beside inputs and results.

    Raises:
      UserError: shapes do not fit, a number is not finite, or a query has fewer than k admissible references.
    """
    check_sets(queries, reference.rows if isinstance(reference, Reference) else reference)
    known = reference if isinstance(reference, Reference) else Reference(spec, reference, memory_bytes)
    ours, theirs = canonical.balanced(spec, queries), known.rows
    options = {"query_groups": query_groups, "reference_groups": reference_groups, "mesh": mesh}
    admissible = _admissible(len(theirs), query_groups, reference_groups)
    count = max(k, min(proposals, admissible))
    # Also asked for as many, of which k are matched: the two searches share their programs then.
    raw = euclidean.nearest(ours, theirs, count, **options, memory_bytes=memory_bytes)
    described = features(spec, ours, memory_bytes)
    proposed = euclidean.nearest(described, known.features, count, **options, memory_bytes=memory_bytes)
    candidates = np.concatenate([raw.indices[:, :k], proposed.indices], axis=1)
    parts, proven = [], 0
    pair_rows = max(1, memory_bytes // 4 // (24 * spec.num_params * candidates.shape[1]))
    block = min(len(queries), pair_rows, max(1, 4096 // candidates.shape[1]))
    tick = counter(progress, math.ceil(len(queries) / block))
    for rows in row_blocks(len(queries), block):
        parts.append(_decide(spec, ours[rows], theirs, candidates[rows], k, mesh, memory_bytes // 2))
        limit = proposed.distances[rows, -1] if count < admissible else np.inf
        proven += int((parts[-1][0][:, 0] <= limit).sum())
        tick()
    found = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    return QuotientNeighbours(*found, proven_share=proven / len(queries))


def features(spec: WeightSpec, rows: Any, memory_bytes: int = MEMORY_BYTES, *, statistics: bool = False) -> np.ndarray:
    """Invariant features `[N, F]`, float32, of networks `[N, P]` that are balanced already.

    Their Euclidean distances are lower bounds of those over all permutations and sign flips. Running statistics count
    only where that is wanted.
    """
    parts = []
    for block in row_blocks(len(rows), max(1, memory_bytes // (32 * rows.shape[1]))):
        values, described = read_rows(rows, block).astype(np.float32), []
        for leaf, span in spec.spans():
            if is_statistic(leaf.name) and not statistics:
                continue
            groups = stored_groups(leaf)
            tensor = values[:, span].reshape((-1, *leaf.stored_axes))
            if any(g != FIXED and spec.groups[g].scaling == "sign" for g in groups):
                tensor = np.abs(tensor)
            places = sorted(range(len(groups)), key=lambda place: groups[place] != FIXED)
            sizes = [leaf.stored_axes[place] for place in places if groups[place] != FIXED]
            tensor = tensor.transpose(0, *(1 + place for place in places)).reshape(len(values), -1, math.prod(sizes))
            described.append(np.sort(tensor, axis=2).reshape(len(values), -1))
        parts.append(np.concatenate(described, axis=1))
    return np.concatenate(parts)


def proposal_recall(
    spec: WeightSpec,
    reference: Any,
    noise: float,
    copies: int = 256,
    proposals: int = PROPOSALS,
    rng: np.random.Generator | int = 0,
    mesh: Mesh | None = None,
) -> float:
    """How often the features propose the network that a reordered and noised copy was made of.

    Args:
      spec: meaning of the vectors.
      reference: `[N, P]` networks.
      noise: length of the Gaussian noise that a balanced copy gets.
      copies: number of copies, each of another network, or of all.
      proposals: references that are proposed per copy.
      rng: random generator or seed.
      mesh: see `quotient_nearest`.

    Returns:
      The share of the copies whose original is among the proposals.
    """
    rng, theirs = np.random.default_rng(rng), canonical.balanced(spec, reference)
    chosen = np.sort(rng.choice(len(reference), min(copies, len(reference)), replace=False))
    rows = theirs[chosen].astype(np.float64)
    permutations = [rng.permuted(np.tile(np.arange(g.size), (len(chosen), 1)), axis=1) for g in spec.groups]
    orders = np.concatenate(permutations, axis=1)
    copied = reordering.reordered(spec, rows, orders, np.ones(orders.shape, np.int8))
    copied += noise / math.sqrt(spec.num_params) * rng.normal(size=copied.shape)
    described = features(spec, canonical.balance(spec, copied)), features(spec, theirs)
    found = euclidean.nearest(*described, min(proposals, len(reference)), mesh=mesh)
    return float((found.indices == chosen[:, None]).any(axis=1).mean())


def brought_onto(
    spec: WeightSpec, rows: np.ndarray, permutations: np.ndarray, signs: np.ndarray, onto: np.ndarray | None = None
) -> np.ndarray:
    """Networks in the order and with the signs of others: balanced, or in the scale of those.

    Args:
      spec: meaning of the vectors.
      rows: `[n, k, P]`.
      permutations, signs: `[n, k, U]`; no signs where none changes.
      onto: `[n, P]`; `None` leaves the networks balanced.

    Returns:
      `[n, k, P]` float64.
    """
    flat = canonical.balance(spec, rows.reshape(-1, rows.shape[-1]))
    shape = -1, permutations.shape[-1]
    signs = signs if signs.size else np.ones(permutations.shape, np.int8)
    moved = reordering.reordered(spec, flat, permutations.reshape(shape), signs.reshape(shape)).reshape(rows.shape)
    if onto is None:
        return moved
    return canonical.rescaled(spec, moved, 1 / canonical.balancing_scales(spec, onto)[:, None])


def _admissible(references: int, query_groups: np.ndarray | None, reference_groups: np.ndarray | None) -> int:
    """The fewest references that a query may be compared with, if every group has queries."""
    if query_groups is None or reference_groups is None:
        return references
    sizes = dict(zip(*np.unique(np.asarray(reference_groups), return_counts=True), strict=True))
    return references - max((sizes.get(group, 0) for group in np.unique(np.asarray(query_groups))), default=0)


def _decide(
    spec: WeightSpec, ours: np.ndarray, theirs: Any, candidates: np.ndarray, k: int, mesh: Mesh | None, memory: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Matches every query of a block with its candidates `[Q, C]`, some of which may stand there twice; returns
    distances, indices, permutations and signs of the nearest k."""
    candidates = np.sort(candidates, axis=1)
    again = np.zeros(candidates.shape, bool)
    again[:, 1:] = candidates[:, 1:] == candidates[:, :-1]
    rows, columns = np.nonzero(~again)
    wanted, place = np.unique(candidates[rows, columns], return_inverse=True)
    matches = matching.match(spec, ours[rows], theirs[wanted][place], mesh=mesh, memory_bytes=memory)
    squared, position = np.full(candidates.shape, np.inf), np.zeros(candidates.shape, np.int64)
    squared[rows, columns], position[rows, columns] = matches.squared, np.arange(len(rows))
    order = np.lexsort((candidates, squared), axis=-1)[:, :k]
    pairs = np.take_along_axis(position, order, axis=1)
    found = np.sqrt(np.take_along_axis(squared, order, axis=1)), np.take_along_axis(candidates, order, axis=1)
    return *found, matches.permutations[pairs], matches.signs[pairs]
