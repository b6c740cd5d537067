"""Exact nearest neighbours of weight vectors: a fast product finds candidates, float64 decides and proves.

Squared distances written as `|a|^2 + |b|^2 - 2 a.b` cost one matrix product, but cancel for near duplicates, which are
what an audit looks for. So the product only proposes. Every score is a *lower bound* of the true squared distance: the
worst rounding error of the product is subtracted from it beforehand. A few references with the smallest bounds are kept
per query and measured again from differences in float64; if the k-th of these exact distances does not exceed the
smallest bound that was left out, nothing nearer can exist. Queries for which that proof fails (many near duplicates)
are searched again with float64 products. All pairs of a few networks are measured on the host, which compiles nothing.
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
from scipy.spatial.distance import cdist

from jaxweights import parallel
from jaxweights.auditing.distances.candidates import gather_candidates, keep_smallest, no_candidates, smallest
from jaxweights.auditing.distances.groups import ExclusionGroups, exclusion_groups
from jaxweights.auditing.distances.products import (
    FLOAT32_ROUNDOFF,
    FLOAT32_UNDERFLOW,
    FLOAT64_ROUNDOFF,
    Frame,
    chunked_product,
    in_chunks,
    product_error,
    reference_frame,
    squared_norms,
)
from jaxweights.auditing.rows import (
    MEMORY_BYTES,
    Progress,
    check_sets,
    counter,
    data_mesh,
    padded_rows,
    placed,
    read_rows,
    row_blocks,
    rows_within,
)

_FEW = 1 << 26  # differences of all pairs up to which the host takes less time than compiling a search
_MORE = 16  # times as many up to which products on a CPU's host do
_SPARE_CANDIDATES = 7
_TIE_TOLERANCE = 1e-9
_FLOAT64_QUERY_ROWS = 256
_CACHE_BYTES = 1 << 22  # host arithmetic on more than this at a time waits for memory


@dataclass(frozen=True)
class Neighbours:
    """The k nearest references of every query, nearest first.

    Attributes:
      distances: Euclidean distances `[M, k]`, float64, computed from differences.
      indices: rows of the reference `[M, k]`, int64; among references at the same distance any may be named.
      searched_again: how many queries needed the float64 search because the first one proved nothing.
    """

    distances: np.ndarray
    indices: np.ndarray
    searched_again: int


def nearest(
    queries: Any,
    reference: Any,
    k: int = 1,
    query_groups: np.ndarray | None = None,
    reference_groups: np.ndarray | None = None,
    *,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Neighbours:
    """Finds the k nearest references of every query, exactly.

    Both sets are read in blocks of rows, so either may be a memory map larger than memory. Distances are those of the
    given numbers in float64; the k nearest are those of a float64 search over all pairs, up to ties of relative 1e-9 in
    the squared distance.

    Args:
      queries: `[M, P]` floats; needs `shape`, slicing and indexing by rows.
      reference: `[N, P]` likewise.
      k: neighbours per query.
      query_groups: `[M]` integers; a reference of the same group as the query is not admissible. Unique numbers leave
        a model itself out; run numbers leave out its whole run.
      reference_groups: `[N]` integers, given exactly if `query_groups` is.
      mesh: a mesh with the single axis "data" over which the reference rows are spread; `None` is all devices.
      progress: called with (blocks done, blocks in all).
      memory_bytes: working memory beside inputs and results.

    Returns:
      The neighbours, nearest first.

    Raises:
      UserError: if shapes do not fit, a number is not finite, or a query has fewer than k admissible references.
    """
    check_sets(queries, reference)
    groups = exclusion_groups(query_groups, reference_groups, len(queries), len(reference), k)
    mesh = data_mesh(mesh)
    frame = reference_frame(queries, reference, memory_bytes)
    row_bytes = 4 * reference.shape[1]
    query_rows = rows_within(memory_bytes // 8, row_bytes, len(queries), 1)
    block_rows = rows_within(memory_bytes // 16, row_bytes, len(reference), mesh.size)
    steps = math.ceil(len(queries) / query_rows) * math.ceil(len(reference) / block_rows)
    if len(queries) * len(reference) * max(reference.shape[1], 16) <= _FEW:
        counter(progress, 1)()
        return _nearest_of_few(queries, reference, k, groups, memory_bytes)
    on_host = jax.default_backend() == "cpu" and block_rows >= len(reference)
    on_host &= len(queries) * len(reference) * reference.shape[1] <= _MORE * _FEW
    tick = counter(progress, steps)
    kept = min(k + _SPARE_CANDIDATES, len(reference))

    distances = np.empty((len(queries), k))
    indices = np.empty((len(queries), k), np.int64)
    searched_again = 0
    for rows in row_blocks(len(queries), query_rows):
        tile = read_rows(queries, rows)
        tile_groups = groups.of_queries(rows)
        if on_host:
            bounds, candidates = _candidates_on_host(tile, reference, tile_groups, frame, kept)
            tick()
        else:
            bounds, candidates = _candidates(tile, reference, tile_groups, frame, kept, block_rows, mesh, tick)
        squared, found = _measure_candidates(tile, reference, bounds, candidates, k, memory_bytes)
        doubtful = np.flatnonzero(squared[:, -1] > np.maximum(bounds[:, -1], 0.0))
        for part in row_blocks(len(doubtful), _FLOAT64_QUERY_ROWS):
            again = doubtful[part]
            squared[again], found[again] = _search_float64(
                tile[again], reference, tile_groups.of_queries(again), frame, squared[again], found[again], memory_bytes
            )
        searched_again += len(doubtful)
        distances[rows], indices[rows] = np.sqrt(squared), found
    return Neighbours(distances, indices, searched_again)


def _nearest_of_few(queries: Any, reference: Any, k: int, groups: ExclusionGroups, memory_bytes: int) -> Neighbours:
    """The search on the host, of all pairs in float64."""
    tile, rows = (read_rows(x, slice(0, len(x))) for x in (queries, reference))
    every = cdist(tile.astype(np.float64), rows.astype(np.float64), "sqeuclidean")
    excluded = groups.excluded(slice(0, len(rows)))
    if excluded is not None:
        every[excluded] = np.inf
    found = np.argsort(every, axis=1, kind="stable")[:, :k]
    pairs = np.repeat(np.arange(len(tile)), k), found.reshape(-1)
    squared = squared_differences(tile, rows, *pairs, memory_bytes).reshape(found.shape)
    squared, found = smallest(squared, found, k)
    return Neighbours(np.sqrt(squared), found, 0)


def _candidates_on_host(
    tile: np.ndarray, reference: Any, groups: ExclusionGroups, frame: Frame, kept: int
) -> tuple[np.ndarray, np.ndarray]:
    """`_candidates` of all references at once, by products in float64: those of a few networks take less time than
    compiling a search."""
    every = slice(0, len(reference))
    bounds = _float64_bounds(*(_framed(rows, frame) for rows in (tile, read_rows(reference, every))))
    bounds /= frame.scale**2
    excluded = groups.excluded(every)
    if excluded is not None:
        bounds[excluded] = np.inf
    candidates = np.argpartition(bounds, kept - 1, axis=1)[:, :kept].astype(np.int64)
    bounds, candidates = smallest(np.take_along_axis(bounds, candidates, axis=1), candidates, kept)
    return bounds, np.where(np.isfinite(bounds), candidates, -1)


# First search: float32 on the devices.


def _candidates(
    tile: np.ndarray,
    reference: Any,
    groups: ExclusionGroups,
    frame: Frame,
    kept: int,
    block_rows: int,
    mesh: Mesh,
    tick: Callable[[], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns lower bounds of squared distances `[Q, kept]`, ascending, and the references `[Q, kept]` they belong to.

    Every reference that is not named has a squared distance of at least the last bound of its row. Where fewer are
    admissible the bound is infinite and the index -1.
    """
    count = len(tile)
    subtile = min(512 if jax.default_backend() == "cpu" else 4096, count)
    padded = subtile * math.ceil(count / subtile)
    # Charged to every bound: the product, and the roundings of inputs, norms and differences (4 + 4 + some).
    shrink = 1.0 - product_error(tile.shape[1]) - 16.0 * FLOAT32_ROUNDOFF
    queries = padded_rows(frame.apply(tile), padded)
    query_norms = squared_norms(queries[:count])
    query_codes = padded_rows(groups.query_codes(count), padded, -1)

    program = _search_program(mesh, subtile, groups.exclude)
    queries = placed(mesh, queries)
    query_codes = placed(mesh, query_codes)
    best = no_candidates(mesh, padded, kept)
    for block in row_blocks(len(reference), block_rows):
        rows = frame.apply(read_rows(reference, block))
        norms = shrink * squared_norms(rows) - tile.shape[1] * FLOAT32_UNDERFLOW
        codes = groups.reference_codes(block)
        block_arrays = (
            placed(mesh, padded_rows(rows, block_rows), parallel.AXIS),
            placed(mesh, padded_rows(norms.astype(np.float32), block_rows, np.inf), parallel.AXIS),
            placed(mesh, padded_rows(codes, block_rows, -2), parallel.AXIS),
        )
        # Waiting for the previous block lets the host prepare one block ahead and never more.
        jax.block_until_ready(best)
        best = program(queries, query_codes, *block_arrays, np.int32(block.start), *best)
        tick()
    scores, indices = gather_candidates(best, count)
    bounds = (scores + (shrink * query_norms)[:, None]) / frame.scale**2
    return bounds, indices


@functools.cache
def _search_program(mesh: Mesh, subtile: int, exclude: bool) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Builds the program that merges one block of references, spread over devices, into the best of every query."""

    def search(queries, query_codes, rows, norms, codes, start, scores, indices):
        block = in_chunks(rows)
        first = start + jax.lax.axis_index(parallel.AXIS).astype(jnp.int32) * rows.shape[0]

        def one_subtile(operands):
            queries, query_codes, scores, indices = operands
            bounds = norms[None, :] - 2.0 * chunked_product(in_chunks(queries), block)
            if exclude:
                bounds = jnp.where(query_codes[:, None] == codes[None, :], jnp.inf, bounds)
            return keep_smallest(scores, indices, bounds, first)

        operands = (queries, query_codes, scores[0], indices[0])
        tiled = jax.tree.map(lambda x: x.reshape(-1, subtile, *x.shape[1:]), operands)
        return jax.tree.map(lambda x: x.reshape(scores.shape), jax.lax.map(one_subtile, tiled))

    split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
    # Nothing is differentiated or reduced across devices, so the check of varying axes has nothing to protect.
    sharded = jax.shard_map(
        search,
        mesh=mesh,
        in_specs=(whole, whole, split, split, split, whole, split, split),
        out_specs=(split, split),
        check_vma=False,
    )
    return jax.jit(sharded)


# Exact measurement of candidates, and the float64 search where the first one proves nothing.


def squared_differences(
    queries: np.ndarray, reference: Any, query_rows: np.ndarray, reference_rows: np.ndarray, memory_bytes: int
) -> np.ndarray:
    """Returns squared distances of pairs in float64, from differences.

    Args:
      queries: `[Q, P]`.
      reference: `[N, P]`, read by sorted row.
      query_rows: `[S]` rows of the queries.
      reference_rows: `[S]` rows of the reference.
      memory_bytes: working memory.
    """
    result = np.empty(len(query_rows))
    order = np.argsort(reference_rows, kind="stable")
    size = rows_within(min(memory_bytes // 4, _CACHE_BYTES), 16 * queries.shape[1], len(order), 1)
    for part in row_blocks(len(order), size):
        pairs = order[part]
        rows, position = np.unique(reference_rows[pairs], return_inverse=True)
        values = read_rows(reference, rows)[position.reshape(-1)]
        difference = np.subtract(values, queries[query_rows[pairs]], dtype=np.float64)
        result[pairs] = np.einsum("ij,ij->i", difference, difference)
    return result


def _measure_candidates(
    tile: np.ndarray, reference: Any, bounds: np.ndarray, candidates: np.ndarray, k: int, memory_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Measures the k most promising candidates exactly, then those others that these distances do not rule out."""
    squared = np.full(bounds.shape, np.inf)

    def measure(chosen: np.ndarray) -> None:
        rows, slots = np.nonzero(chosen)
        squared[rows, slots] = squared_differences(tile, reference, rows, candidates[rows, slots], memory_bytes)

    first = np.arange(bounds.shape[1])[None, :] < k
    measure(np.broadcast_to(first, bounds.shape))
    worst = np.max(squared[:, :k], axis=1)
    measure(~first & (bounds < worst[:, None]))
    return smallest(squared, candidates, k)


def _search_float64(
    tile: np.ndarray,
    reference: Any,
    groups: ExclusionGroups,
    frame: Frame,
    squared: np.ndarray,
    found: np.ndarray,
    memory_bytes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Improves the k nearest so far by a search with float64 products and exact measurement of what may be nearer.

    The same argument as in the first search, with a rounding error 2^-29 times as large; references whose bound
    reaches the k-th distance to within `_TIE_TOLERANCE` count as ties of what is already found.
    """
    k, width = squared.shape[1], tile.shape[1]
    queries = _framed(tile, frame)
    for block in row_blocks(len(reference), rows_within(memory_bytes // 8, 16 * width, len(reference), 1)):
        bounds = _float64_bounds(queries, _framed(read_rows(reference, block), frame)) / frame.scale**2
        excluded = groups.excluded(block)
        if excluded is not None:
            bounds[excluded] = np.inf
        known = (found >= block.start) & (found < block.stop)
        bounds[np.nonzero(known)[0], found[known] - block.start] = np.inf
        who, columns = np.nonzero(bounds < (1.0 - _TIE_TOLERANCE) * squared[:, -1:])
        if not who.size:
            continue
        # One row per query of all that is known, padded with infinity: the k smallest of it are the new best.
        slots = np.arange(who.size) - np.searchsorted(who, who)
        values = np.full((len(tile), k + int(slots.max()) + 1), np.inf)
        labels = np.full(values.shape, -1, np.int64)
        values[:, :k], labels[:, :k] = squared, found
        labels[who, k + slots] = block.start + columns
        values[who, k + slots] = squared_differences(tile, reference, who, block.start + columns, memory_bytes)
        squared, found = smallest(values, labels, k)
    return squared, found


def _framed(rows: np.ndarray, frame: Frame) -> np.ndarray:
    """Rows in a frame, in float64."""
    return (rows - frame.centre.astype(np.float64)[None, :]) * frame.scale


def _float64_bounds(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Lower bounds `[Q, B]` of squared distances, from products in float64."""
    shrink = 1.0 - 4.0 * (queries.shape[1] + 8.0) * FLOAT64_ROUNDOFF
    return shrink * (squared_norms(queries)[:, None] + squared_norms(rows)[None, :]) - 2.0 * (queries @ rows.T)
