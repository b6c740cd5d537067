"""Exact nearest neighbours up to a permutation of the hidden units, for networks with one hidden layer.

Per hidden unit, the incoming row, the bias and the outgoing column move together (G.pt grouping). The squared distance
of two networks minimised over permutations is then a linear assignment on the costs `|a_u - b_v|^2` plus the distance
of the entries that do not move; units of odd activations may also change sign, and cost the smaller of
`|a_u - b_v|^2` and `|a_u + b_v|^2`. Most assignments need not be solved: one product gives rigorous lower bounds of the
costs of all pairs at once, a round of row and column reduction turns them into a lower bound of the assignment. Pairs
whose bound beats the best distance found so far get a sharp one, by assignments on the devices, and only those that
still do are solved (in float64, by SciPy), most promising first.

The product may take bfloat16 inputs: what rounding took away from every unit is measured and charged to the bound.
Where networks are so close together that such bounds decide nothing, the search goes on with float32 products. Where
there are few pairs, all are solved, and no bounds are compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh
from scipy.optimize import linear_sum_assignment

from jaxweights.auditing.alignment.hidden_units import HiddenUnits, unit_frame
from jaxweights.auditing.alignment.lower_bounds import LowerBounds
from jaxweights.auditing.distances import products
from jaxweights.auditing.distances.groups import ExclusionGroups, exclusion_groups
from jaxweights.auditing.distances.products import reference_frame
from jaxweights.auditing.rows import MEMORY_BYTES, Progress, check_sets, counter, data_mesh, read_rows, row_blocks

_SOLVED_BYTES = 1 << 22  # of pairs that are solved at a time; more of them would wait for memory
_FEW = 1 << 20  # see `few`
_FEW_PAIRS = 512  # that are solved at once
_UNDECIDED_SHARE = 0.02  # of the pairs; above it sharper bounds are cheaper than assignments


@dataclass(frozen=True)
class AlignedNeighbours:
    """The k nearest references of every query up to a permutation of hidden units, nearest first.

    Attributes:
      distances: smallest distances over all permutations `[M, k]`, float64, computed from differences.
      indices: rows of the reference `[M, k]`, int64.
      permutations: `[M, k, n]`, int64; `apply_permutation(reference[index], units, permutation)` is the reference with
        its units in the order of the query's.
      signs: `[M, k, n]` int8, which units of the query's order change sign then; ones where none may.
      solved_share: share of the admissible pairs whose assignment had to be solved.
    """

    distances: np.ndarray
    indices: np.ndarray
    permutations: np.ndarray
    signs: np.ndarray
    solved_share: float


def aligned_nearest(
    queries: Any,
    reference: Any,
    units: np.ndarray,
    rest: np.ndarray,
    k: int = 1,
    query_groups: np.ndarray | None = None,
    reference_groups: np.ndarray | None = None,
    *,
    odd: bool = False,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> AlignedNeighbours:
    """Finds the k nearest references of every query over all permutations of the hidden units, exactly.

    Args:
      queries: `[M, P]` floats; needs `shape`, slicing and indexing by rows.
      reference: `[N, P]` likewise; may be a memory map larger than memory.
      units: `[n, F]` integers, the places in a vector of the numbers that belong to each hidden unit, in the same order
        for all units.
      rest: `[R]` integers, all other places, e.g. output biases.
      k: neighbours per query.
      query_groups: `[M]` integers; a reference of the same group as the query is not admissible.
      reference_groups: `[N]` integers, given exactly if `query_groups` is.
      odd: whether units may change sign.
      mesh: a mesh with the single axis "data" over which the references are spread; `None` is all devices.
      progress: called with (blocks done, blocks in all).
      memory_bytes: working memory beside inputs and results.

    Returns:
      The neighbours, nearest first, with the permutations that align them.

    Raises:
      UserError: if shapes do not fit, a number is not finite, or a query has fewer than k admissible references.
      ValueError: if `units` and `rest` do not name every place once.
    """
    check_sets(queries, reference)
    hidden = HiddenUnits(np.asarray(units), np.asarray(rest))
    hidden.check(reference.shape[1])
    groups = exclusion_groups(query_groups, reference_groups, len(queries), len(reference), k)
    frame = unit_frame(reference_frame(queries, reference, memory_bytes), hidden, odd)
    if few(len(queries), len(reference), len(hidden.units)):
        counter(progress, 1)()
        return _found([_solve_all(queries, reference, groups, k, hidden, odd)], 1.0)
    screen = LowerBounds(hidden, frame, data_mesh(mesh), len(reference), memory_bytes, odd)

    # A query exists as read, rearranged and on the device, and so does its row of bounds beside its mask.
    query_bytes = 24 * reference.shape[1] + 12 * min(len(reference), screen.panel_columns)
    query_rows = max(1, min(len(queries), memory_bytes // 2 // query_bytes))
    tick = counter(progress, math.ceil(len(queries) / query_rows) * math.ceil(len(reference) / screen.block))
    results, solved, admissible = [], 0, 0
    for rows in row_blocks(len(queries), query_rows):
        tile = read_rows(queries, rows)
        found, counts = _search_tile(tile, reference, groups.of_queries(rows), k, screen, tick)
        results.append(found)
        solved, admissible = solved + counts[0], admissible + counts[1]
    return _found(results, solved / admissible)


def few(queries: int, references: int, units: int) -> bool:
    """Whether all pairs are solved in less time than it takes to compile what rules most of them out."""
    return queries * references * (units**2 + 100) <= _FEW


def aligned_distance(a: np.ndarray, b: np.ndarray, units: np.ndarray, rest: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the smallest distance of two vectors `[P]` over permutations of b's hidden units, and that permutation.

    Raises:
      ValueError: if `units` and `rest` do not name every place once.
    """
    hidden = HiddenUnits(np.asarray(units), np.asarray(rest))
    hidden.check(len(a))
    (our_units, our_rest), (their_units, their_rest) = hidden.split(np.asarray(a)), hidden.split(np.asarray(b))
    matched, permutation = _assign(our_units, their_units)
    return math.sqrt(matched + np.sum((our_rest - their_rest) ** 2)), permutation


# Exact assignments in float64.


@dataclass(frozen=True)
class _Best:
    """The k nearest so far per query: squared distances `[Q, k]`, references `[Q, k]`, places of units `[Q, k, n]`.

    A unit that changes sign has the place `~p` in the place of p.
    """

    squared: np.ndarray
    indices: np.ndarray
    places: np.ndarray

    def merged(self, rows: np.ndarray, squared: np.ndarray, indices: np.ndarray, places: np.ndarray) -> _Best:
        """Returns the k nearest of these and of new pairs, which are given by query row."""
        count, k = self.squared.shape
        all_rows = np.concatenate([np.repeat(np.arange(count), k), rows])
        all_squared = np.concatenate([self.squared.reshape(-1), squared])
        all_indices = np.concatenate([self.indices.reshape(-1), indices])
        all_places = np.concatenate([self.places.reshape(count * k, -1), places])
        order = np.lexsort((all_indices, all_squared, all_rows))
        first = np.searchsorted(all_rows[order], np.arange(count))
        chosen = order[first[:, None] + np.arange(k)[None, :]]
        return _Best(all_squared[chosen], all_indices[chosen], all_places[chosen])


def _found(parts: Sequence[_Best], solved_share: float) -> AlignedNeighbours:
    """The neighbours of all queries from those of every tile."""
    squared, indices, places = (
        np.concatenate(x) for x in zip(*((p.squared, p.indices, p.places) for p in parts), strict=True)
    )
    signs = np.where(places < 0, -1, 1).astype(np.int8)
    return AlignedNeighbours(np.sqrt(squared), indices, np.where(places < 0, ~places, places), signs, solved_share)


def _assign(ours: np.ndarray, theirs: np.ndarray, odd: bool = False) -> tuple[float, np.ndarray]:
    """Returns the smallest sum of squared distances of units `[n, F]`, one to one, and the places of theirs; of units
    that change sign, see `_Best`."""
    squared, places = _matched(ours[None], theirs[None], odd)
    return float(squared[0]), places[0]


def _matched(ours: np.ndarray, theirs: np.ndarray, odd: bool) -> tuple[np.ndarray, np.ndarray]:
    """The same for pairs `[S, n, F]`: products choose, and differences are measured."""
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    centre = theirs.mean(axis=1, keepdims=True) * (not odd)  # products of far-away units would cancel
    near, far = ours - centre, theirs - centre
    inner = near @ far.transpose(0, 2, 1)
    costs = (products.squared_norms(far)[:, None, :] + products.squared_norms(near)[:, :, None]) - 2.0 * (
        np.abs(inner) if odd else inner
    )
    places = np.array([linear_sum_assignment(cost)[1] for cost in costs])
    moved = np.take_along_axis(theirs, places[:, :, None], axis=1)
    if odd:
        flips = np.take_along_axis(inner, places[:, :, None], axis=2) < 0
        moved, places = np.where(flips, -moved, moved), np.where(flips[:, :, 0], ~places, places)
    difference = ours - moved
    return np.einsum("snf,snf->s", difference, difference), places


def _solve(
    tile: np.ndarray, reference: Any, rows: np.ndarray, indices: np.ndarray, hidden: HiddenUnits, odd: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Solves pairs from differences in float64: squared aligned distances `[S]` and places of units `[S, n]`."""
    squared = np.empty(len(rows))
    places = np.empty((len(rows), len(hidden.units)), np.int64)
    order = np.argsort(indices, kind="stable")
    for part in row_blocks(len(order), max(1, _SOLVED_BYTES // (32 * tile.shape[1]))):
        pairs = order[part]
        unique, position = np.unique(indices[pairs], return_inverse=True)
        position = position.reshape(-1)
        their_units, their_rest = hidden.split(read_rows(reference, unique))
        our_units, our_rest = hidden.split(tile[rows[pairs]])
        matched, places[pairs] = _matched(our_units, their_units[position], odd)
        difference = our_rest - their_rest[position]
        squared[pairs] = matched + np.einsum("si,si->s", difference, difference)
    return squared, places


def _solve_all(queries: Any, reference: Any, groups: ExclusionGroups, k: int, hidden: HiddenUnits, odd: bool) -> _Best:
    """The k nearest of every query, from the assignments of all pairs."""
    count, units = len(queries), len(hidden.units)
    excluded = groups.excluded(slice(0, len(reference)))
    rows, indices = np.nonzero(np.ones((count, len(reference)), bool) if excluded is None else ~excluded)
    squared, places = _solve(read_rows(queries, slice(0, count)), reference, rows, indices, hidden, odd)
    none = _Best(np.full((count, k), np.inf), np.full((count, k), -1), np.full((count, k, units), -1))
    return none.merged(rows, squared, indices, places)


# The search: panels of lower bounds from the devices, assignments on the host where the bounds leave a doubt.


def _search_tile(
    tile: np.ndarray, reference: Any, groups: ExclusionGroups, k: int, screen: LowerBounds, tick: Callable[[], None]
) -> tuple[_Best, tuple[int, int]]:
    """Finds the k nearest of every query of a tile; returns with them how many pairs were solved and admissible."""
    count, units = len(tile), len(screen.hidden.units)
    best = _Best(np.full((count, k), np.inf), np.full((count, k), -1), np.full((count, k, units), -1))
    solved = admissible = 0

    def solve(best: _Best, rows: np.ndarray, indices: np.ndarray) -> _Best:
        nonlocal solved
        solved += len(rows)
        squared, places = _solve(tile, reference, rows, indices, screen.hidden, screen.odd)
        return best.merged(rows, squared, indices, places)

    screen.load_queries(tile)
    for panel in row_blocks(len(reference), screen.panel_columns):
        bounds = screen.lower_bounds(reference, panel, tick)
        excluded = groups.excluded(panel)
        if excluded is not None:
            bounds[excluded] = np.inf
        admissible += int(np.isfinite(bounds).sum())
        # The most promising pairs of every query give the distance that the others have to beat.
        first = np.argpartition(bounds, min(k, bounds.shape[1]) - 1, axis=1)[:, :k]
        rows, columns = np.repeat(np.arange(count), first.shape[1]), first.reshape(-1)
        hopeful = bounds[rows, columns] < screen.limits(best.squared)[rows]
        rows, columns = rows[hopeful], columns[hopeful]
        best = solve(best, rows, panel.start + columns)
        bounds[rows, columns] = np.inf
        doubtful = bounds < screen.limits(best.squared)[:, None]
        if screen.rounds_inputs and doubtful.mean() > _UNDECIDED_SHARE:
            screen.use_float32()
            bounds = np.where(np.isinf(bounds), np.inf, screen.lower_bounds(reference, panel, None))
            doubtful = bounds < screen.limits(best.squared)[:, None]
        rows, columns = np.nonzero(doubtful)
        left = bounds[rows, columns]
        if len(rows) > _FEW_PAIRS:
            left = screen.sharper(tile, reference, rows, panel.start + columns)
        best = _solve_in_rounds(best, left, rows, panel.start + columns, solve, screen.limits)
    return best, (solved, admissible)


def _solve_in_rounds(
    best: _Best,
    bounds: np.ndarray,
    rows: np.ndarray,
    indices: np.ndarray,
    solve: Callable[[_Best, np.ndarray, np.ndarray], _Best],
    limits: Callable[[np.ndarray], np.ndarray],
) -> _Best:
    """Solves pairs `[S]` by rising bound, one, two, four … per query and round, until no bound beats its limit."""
    order = np.lexsort((bounds, rows))
    bounds, rows, indices = bounds[order], rows[order], indices[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    done, take = 0, 1
    while len(rows):
        now = rank < done + take
        best = solve(best, rows[now], indices[now])
        left = ~now & (bounds < limits(best.squared)[rows])
        bounds, rows, indices, rank = bounds[left], rows[left], indices[left], rank[left]
        done, take = done + take, 2 * take
    return best
