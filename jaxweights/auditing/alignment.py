"""Exact nearest neighbours up to a permutation of the hidden units, for networks with one hidden layer.

Per hidden unit, the incoming row, the bias and the outgoing column move together (G.pt grouping). The squared distance
of two networks minimised over permutations is then a linear assignment on the costs `|a_u - b_v|^2` plus the distance
of the entries that do not move. Most assignments need not be solved: one product gives rigorous lower bounds of the
costs of all pairs at once, a round of row and column reduction turns them into a lower bound of the assignment, and
only pairs whose bound beats the best distance found so far are solved (in float64, by SciPy), most promising first.

The product may take bfloat16 inputs: what rounding took away from every unit is measured and charged to the bound.
Where networks are so close together that such bounds decide nothing, the search goes on with float32 products.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from jaxweights import parallel
from jaxweights.auditing import distances
from jaxweights.auditing.distances import MEMORY_BYTES, ExclusionGroups, Progress, read_rows, row_blocks

_UNDECIDED_SHARE = 0.02  # of the pairs; above it sharper bounds are cheaper than assignments
_BFLOAT16_ROUNDOFF = 2.0**-9
_SMALLEST_MEASURED = 2.0**-80  # squared length below which the squares of rounding errors may underflow
_PANEL_COLUMNS = 1 << 15  # references whose bounds are held at a time
_HOST_BYTES = 1 << 23  # host arithmetic on more than this at a time waits for memory
_LEVEL = 0.3  # between a column's minimum and its mean; near the best for trained and random networks of 10 to 64 units
_UNROLLED_UNITS = 16  # XLA's CPU code takes twice as long over minima along an axis as over minima written out
_TILE_ROWS = {"cpu": (640, 5120)}
_TILE_ROWS_ACCELERATOR = (2560, 20480)


@dataclass(frozen=True)
class AlignedNeighbours:
    """The k nearest references of every query up to a permutation of hidden units, nearest first.

    Attributes:
      distances: smallest distances over all permutations `[M, k]`, float64, computed from differences.
      indices: rows of the reference `[M, k]`, int64.
      permutations: `[M, k, n]`, int64; `apply_permutation(reference[index], units, permutation)` is the reference with
        its units in the order of the query's.
      solved_share: share of the admissible pairs whose assignment had to be solved.
    """

    distances: np.ndarray
    indices: np.ndarray
    permutations: np.ndarray
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
      mesh: a mesh with the single axis "data" over which the references are spread; `None` is one device.
      progress: called with (blocks done, blocks in all).
      memory_bytes: working memory beside inputs and results.

    Returns:
      The neighbours, nearest first, with the permutations that align them.

    Raises:
      UserError: if shapes do not fit, a number is not finite, or a query has fewer than k admissible references.
      ValueError: if `units` and `rest` do not name every place once.
    """
    distances.check_sets(queries, reference)
    layout = Layout(np.asarray(units), np.asarray(rest))
    layout.check(reference.shape[1])
    groups = distances.exclusion_groups(query_groups, reference_groups, len(queries), len(reference), k)
    frame = _unit_frame(distances.reference_frame(queries, reference, memory_bytes), layout)
    screen = _Screen(layout, frame, distances.data_mesh(mesh), len(reference), memory_bytes)

    # A query exists as read, rearranged and on the device, and so does its row of bounds beside its mask.
    query_bytes = 24 * reference.shape[1] + 12 * min(len(reference), screen.panel_columns)
    query_rows = max(1, min(len(queries), memory_bytes // 2 // query_bytes))
    tick = distances.counter(progress, math.ceil(len(queries) / query_rows) * math.ceil(len(reference) / screen.block))
    results, solved, admissible = [], 0, 0
    for rows in row_blocks(len(queries), query_rows):
        tile = read_rows(queries, rows)
        found, counts = _search_tile(tile, reference, groups.of_queries(rows), k, screen, tick)
        results.append(found)
        solved, admissible = solved + counts[0], admissible + counts[1]
    squared = np.concatenate([part.squared for part in results])
    indices = np.concatenate([part.indices for part in results])
    permutations = np.concatenate([part.permutations for part in results])
    return AlignedNeighbours(np.sqrt(squared), indices, permutations, solved / admissible)


def aligned_distance(a: np.ndarray, b: np.ndarray, units: np.ndarray, rest: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the smallest distance of two vectors `[P]` over permutations of b's hidden units, and that permutation.

    Raises:
      ValueError: if `units` and `rest` do not name every place once.
    """
    layout = Layout(np.asarray(units), np.asarray(rest))
    layout.check(len(a))
    (our_units, our_rest), (their_units, their_rest) = layout.split(np.asarray(a)), layout.split(np.asarray(b))
    matched, permutation = _assign(our_units, their_units)
    return math.sqrt(matched + np.sum((our_rest - their_rest) ** 2)), permutation


def apply_permutation(vector: np.ndarray, units: np.ndarray, permutation: np.ndarray) -> np.ndarray:
    """Reorders hidden units: unit u of the result is unit `permutation[u]` of the vector. The input is not changed.

    Args:
      vector: `[..., P]`.
      units: `[n, F]` integers.
      permutation: `[..., n]` integers with the same leading axes.

    Returns:
      `[..., P]`, a copy.
    """
    vector, units = np.asarray(vector), np.asarray(units)
    result = vector.copy()
    moved = np.take_along_axis(vector[..., units], np.asarray(permutation)[..., None], axis=-2)
    result[..., units] = moved
    return result


@dataclass(frozen=True)
class Layout:
    """Which places of a vector belong to which hidden unit: `units` `[n, F]`, and `rest` `[R]`, all other places."""

    units: np.ndarray
    rest: np.ndarray

    def check(self, width: int) -> None:
        """Raises ValueError unless every place of a vector of this width is named exactly once."""
        named = np.concatenate([self.units.reshape(-1), self.rest.reshape(-1)])
        if self.units.ndim != 2 or not np.array_equal(np.sort(named), np.arange(width)):
            raise ValueError(
                f"units {self.units.shape} and rest {self.rest.shape} must name each of the {width} places exactly once"
            )

    def split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rearranges vectors `[..., P]` to the units `[..., n, F]` and the rest `[..., R]`, in float64."""
        return rows[..., self.units].astype(np.float64), rows[..., self.rest].astype(np.float64)


# Exact assignments in float64.


@dataclass(frozen=True)
class _Best:
    """The k nearest so far per query: squared distances `[Q, k]`, references `[Q, k]`, permutations `[Q, k, n]`."""

    squared: np.ndarray
    indices: np.ndarray
    permutations: np.ndarray

    def merged(self, rows: np.ndarray, squared: np.ndarray, indices: np.ndarray, permutations: np.ndarray) -> _Best:
        """Returns the k nearest of these and of new pairs, which are given by query row."""
        count, k = self.squared.shape
        all_rows = np.concatenate([np.repeat(np.arange(count), k), rows])
        all_squared = np.concatenate([self.squared.reshape(-1), squared])
        all_indices = np.concatenate([self.indices.reshape(-1), indices])
        all_permutations = np.concatenate([self.permutations.reshape(count * k, -1), permutations])
        order = np.lexsort((all_indices, all_squared, all_rows))
        first = np.searchsorted(all_rows[order], np.arange(count))
        chosen = order[first[:, None] + np.arange(k)[None, :]]
        return _Best(all_squared[chosen], all_indices[chosen], all_permutations[chosen])


def _assign(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the smallest sum of squared distances of units `[n, F]`, one to one, and the permutation of theirs."""
    costs = cdist(ours, theirs, "sqeuclidean")
    rows, permutation = linear_sum_assignment(costs)
    return costs[rows, permutation].sum(), permutation


def _solve(
    tile: np.ndarray, reference: Any, rows: np.ndarray, indices: np.ndarray, layout: Layout
) -> tuple[np.ndarray, np.ndarray]:
    """Solves pairs from differences in float64: squared aligned distances `[S]` and permutations `[S, n]`."""
    squared = np.empty(len(rows))
    permutations = np.empty((len(rows), len(layout.units)), np.int64)
    order = np.argsort(indices, kind="stable")
    for part in row_blocks(len(order), max(1, _HOST_BYTES // (32 * tile.shape[1]))):
        pairs = order[part]
        unique, position = np.unique(indices[pairs], return_inverse=True)
        their_units, their_rest = layout.split(read_rows(reference, unique))
        our_units, our_rest = layout.split(tile[rows[pairs]])
        difference = our_rest - their_rest[position.reshape(-1)]
        squared[pairs] = np.einsum("si,si->s", difference, difference)
        for pair, ours, at in zip(pairs, our_units, position.reshape(-1), strict=True):
            matched, permutations[pair] = _assign(ours, their_units[at])
            squared[pair] += matched
    return squared, permutations


# The search: panels of lower bounds from the devices, assignments on the host where the bounds leave a doubt.


def _search_tile(
    tile: np.ndarray, reference: Any, groups: ExclusionGroups, k: int, screen: _Screen, tick: Callable[[], None]
) -> tuple[_Best, tuple[int, int]]:
    """Finds the k nearest of every query of a tile; returns with them how many pairs were solved and admissible."""
    count, units = len(tile), len(screen.layout.units)
    best = _Best(np.full((count, k), np.inf), np.full((count, k), -1), np.full((count, k, units), -1))
    solved = admissible = 0

    def solve(best: _Best, rows: np.ndarray, indices: np.ndarray) -> _Best:
        nonlocal solved
        solved += len(rows)
        squared, permutations = _solve(tile, reference, rows, indices, screen.layout)
        return best.merged(rows, squared, indices, permutations)

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
        hopeful = bounds[rows, columns] < screen.limits(best)[rows]
        rows, columns = rows[hopeful], columns[hopeful]
        best = solve(best, rows, panel.start + columns)
        bounds[rows, columns] = np.inf
        doubtful = bounds < screen.limits(best)[:, None]
        if screen.rounds_inputs and doubtful.mean() > _UNDECIDED_SHARE:
            screen.use_float32()
            bounds = np.where(np.isinf(bounds), np.inf, screen.lower_bounds(reference, panel, None))
            doubtful = bounds < screen.limits(best)[:, None]
        rows, columns = np.nonzero(doubtful)
        best = _solve_in_rounds(best, bounds[rows, columns], rows, panel.start + columns, solve, screen.limits)
    return best, (solved, admissible)


def _solve_in_rounds(
    best: _Best,
    bounds: np.ndarray,
    rows: np.ndarray,
    indices: np.ndarray,
    solve: Callable[[_Best, np.ndarray, np.ndarray], _Best],
    limits: Callable[[_Best], np.ndarray],
) -> _Best:
    """Solves pairs `[S]` by rising bound, one, two, four … per query and round, until no bound beats its limit."""
    order = np.lexsort((bounds, rows))
    bounds, rows, indices = bounds[order], rows[order], indices[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    done, take = 0, 1
    while len(rows):
        now = rank < done + take
        best = solve(best, rows[now], indices[now])
        left = ~now & (bounds < limits(best)[rows])
        bounds, rows, indices, rank = bounds[left], rows[left], indices[left], rank[left]
        done, take = done + take, 2 * take
    return best


def _unit_frame(frame: distances.Frame, layout: Layout) -> distances.Frame:
    """Replaces the mean of each unit by the mean unit: permutations mix units, so all must be shifted alike."""
    centre = frame.centre.copy()
    centre[layout.units] = frame.centre[layout.units].mean(axis=0)[None, :]
    return distances.Frame(centre, frame.scale)


class _Screen:
    """Lower bounds of the squared aligned distances of one tile of queries to panels of the reference."""

    def __init__(self, layout: Layout, frame: distances.Frame, mesh: Mesh, num_references: int, memory_bytes: int):
        units = len(layout.units)
        query_rows, reference_rows = _TILE_ROWS.get(jax.default_backend(), _TILE_ROWS_ACCELERATOR)
        self.layout, self._frame, self._mesh = layout, frame, mesh
        self._query_tile = max(1, query_rows // units)
        fitting = min(num_references, max(1, memory_bytes // 8 // (16 * layout.units.size)))
        self.block = mesh.size * min(max(1, reference_rows // units), math.ceil(fitting / mesh.size))
        self.panel_columns = self.block * max(1, _PANEL_COLUMNS // self.block)
        self._dtype = distances.fastest_product(("bfloat16", "float32"))

    @property
    def rounds_inputs(self) -> bool:
        """Whether the products round their inputs."""
        return self._dtype != "float32"

    def use_float32(self) -> None:
        """Takes float32 inputs from now on: slower, with bounds some sixty times as sharp."""
        self._dtype = "float32"

    def limits(self, best: _Best) -> np.ndarray:
        """Returns the k-th squared distance found so far `[Q]` in the units of the bounds, rounded up to float32."""
        scaled = np.minimum(best.squared[:, -1] * self._frame.scale**2, 4.0).astype(np.float32)
        return np.nextafter(scaled, np.float32(np.inf))

    def load_queries(self, tile: np.ndarray) -> None:
        """Puts a tile of queries `[Q, P]` onto the devices."""
        self._count = len(tile)
        self._query_tile = min(self._query_tile, self._count)
        padded = self._query_tile * math.ceil(self._count / self._query_tile)
        self._queries = tuple(distances.placed(self._mesh, part) for part in self._framed(tile, padded))

    def lower_bounds(self, reference: Any, panel: slice, tick: Callable[[], None] | None) -> np.ndarray:
        """Returns lower bounds `[Q, panel]` of squared aligned distances in the frame, as float32."""
        program = _bound_program(self._mesh, self._query_tile, self._dtype)
        bounds = np.empty((self._count, panel.stop - panel.start), np.float32)
        pending: list[tuple[slice, jax.Array]] = []

        def collect() -> None:
            columns, values = pending.pop()
            bounds[:, columns] = np.asarray(values)[: self._count, : columns.stop - columns.start]

        for block in row_blocks(panel.stop - panel.start, self.block):
            rows = read_rows(reference, slice(panel.start + block.start, panel.start + block.stop))
            placed = [distances.placed(self._mesh, part, parallel.AXIS) for part in self._framed(rows, self.block)]
            if pending:
                collect()
            pending.append((block, program(*self._queries, *placed)))
            if tick is not None:
                tick()
        collect()
        return bounds

    def _framed(self, rows: np.ndarray, padded: int) -> tuple[np.ndarray, ...]:
        """Returns units `[padded, n, F]`, their squared norms, the rest `[padded, R]` and its squared norm.

        All in the frame, as float32, with zeros below the given rows.
        """
        layout = self.layout
        units = np.zeros((padded, *layout.units.shape), np.float32)
        norms = np.zeros(units.shape[:2], np.float32)
        rest = np.zeros((padded, len(layout.rest)), np.float32)
        for part in row_blocks(len(rows), max(1, _HOST_BYTES // (16 * rows.shape[1]))):
            framed = self._frame.apply(rows[part])
            units[part], rest[part] = framed[:, layout.units], framed[:, layout.rest]
            norms[part] = distances.squared_norms(units[part])
        return units, norms, rest, distances.squared_norms(rest).astype(np.float32)


@functools.cache
def _bound_program(mesh: Mesh, query_tile: int, dtype: str) -> Callable[..., jax.Array]:
    """Builds the program that bounds the distances of all queries to one block of references, spread over devices."""

    def bound(units_a, norms_a, rest_a, rest_norms_a, units_b, norms_b, rest_b, rest_norms_b):
        size, count, width = units_b.shape
        low_b, lost_b = _lowered(units_b, norms_b, dtype)
        block = distances.in_chunks(low_b.transpose(1, 0, 2).reshape(count * size, width))
        low_a, lost_a = _lowered(units_a, norms_a, dtype)
        # Charged to every cost: the product, the roundings of inputs, norms and differences (4 + 4 + some), and what
        # the sums of the dual bound may round up (20 n^1.5 roundings).
        charge = distances.product_error(width) + (16 + 20 * count**1.5) * distances.FLOAT32_ROUNDOFF
        keep = 1.0 - charge - (lost_a + lost_b + lost_a * lost_b)
        rest_keep = 1.0 - distances.product_error(rest_b.shape[1] or 1) - 16 * distances.FLOAT32_ROUNDOFF

        def one_tile(operands):
            low_a, norms_a, rest_a, rest_norms_a = operands
            product = distances.chunked_product(distances.in_chunks(low_a.reshape(query_tile * count, width)), block)
            product = product.reshape(query_tile, count, count, size)
            ours = keep * norms_a[:, :, None, None]
            theirs = (keep * norms_b.T - width * distances.FLOAT32_UNDERFLOW)[None, None]
            total = _dual_bound(ours + theirs - 2.0 * product)
            if rest_b.shape[1]:
                rest = rest_norms_a[:, None] + rest_norms_b[None, :]
                products = distances.chunked_product(distances.in_chunks(rest_a), distances.in_chunks(rest_b))
                total += rest_keep * rest - 2.0 * products
            return total

        operands = (low_a, norms_a, rest_a, rest_norms_a)
        tiled = jax.tree.map(lambda x: x.reshape(len(x) // query_tile, query_tile, *x.shape[1:]), operands)
        return jax.lax.map(one_tile, tiled).reshape(-1, size)

    split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
    in_specs, out_specs = (whole,) * 4 + (split,) * 4, PartitionSpec(None, parallel.AXIS)
    # Nothing is differentiated or reduced across devices, so the check of varying axes has nothing to protect.
    return jax.jit(jax.shard_map(bound, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False))


def _lowered(units: jax.Array, norms: jax.Array, dtype: str) -> tuple[jax.Array, jax.Array | float]:
    """Rounds units `[B, n, F]` and returns with them the largest relative length that rounding took from one.

    By the Cauchy-Schwarz inequality a product then errs by at most that share of each of the two lengths.
    """
    if dtype == "float32":
        return units, 0.0
    # An explicit rounding: XLA may drop a conversion there and back, and with it the error that must be charged.
    low = jax.lax.reduce_precision(units, exponent_bits=8, mantissa_bits=7)
    lost = jnp.sum((units - low) ** 2, axis=2) / jnp.maximum(norms, _SMALLEST_MEASURED)
    lost = jnp.where(norms > _SMALLEST_MEASURED, lost, jnp.where(norms > 0, _BFLOAT16_ROUNDOFF**2, 0.0))
    return low.astype(dtype), 1.01 * jnp.sqrt(jnp.max(lost))


def _dual_bound(costs: jax.Array) -> jax.Array:
    """Bounds the smallest assignment of `[Q, n, n, B]` costs from below: `[Q, B]`.

    A feasible point of the dual of the assignment problem: a level per column, then row minima of what is left, then
    column minima of what is left; and the same with rows and columns exchanged, whichever is larger. The level lies
    between a column's minimum and its mean, which leaves up to 40 % fewer assignments to solve than the minimum. Units
    are on the slow axes so that minima run along whole vectors of references.
    """
    count = costs.shape[1]
    if count > _UNROLLED_UNITS:

        def along(row_axis: int, column_axis: int) -> jax.Array:
            lows = jnp.min(costs, axis=row_axis, keepdims=True)
            levels = lows + _LEVEL * (jnp.mean(costs, axis=row_axis, keepdims=True) - lows)
            lows = jnp.min(costs - levels, axis=column_axis, keepdims=True)
            left = jnp.min(costs - levels - lows, axis=row_axis, keepdims=True)
            return sum(jnp.sum(part, axis=(1, 2)) for part in (levels, lows, left))

        return jnp.maximum(along(1, 2), along(2, 1))

    def unrolled(rows: list[list[jax.Array]]) -> jax.Array:
        lows = [functools.reduce(jnp.minimum, column) for column in zip(*rows, strict=True)]
        means = [sum(column) / count for column in zip(*rows, strict=True)]
        levels = [low + _LEVEL * (mean - low) for low, mean in zip(lows, means, strict=True)]
        rows = [[cost - level for cost, level in zip(row, levels, strict=True)] for row in rows]
        lows = [functools.reduce(jnp.minimum, row) for row in rows]
        rows = [[cost - low for cost in row] for row, low in zip(rows, lows, strict=True)]
        left = [functools.reduce(jnp.minimum, column) for column in zip(*rows, strict=True)]
        return sum(levels) + sum(lows) + sum(left)

    rows = [[costs[:, u, v] for v in range(count)] for u in range(count)]
    return jnp.maximum(unrolled(rows), unrolled([list(column) for column in zip(*rows, strict=True)]))
