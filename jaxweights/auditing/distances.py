"""Exact nearest neighbours of weight vectors: a fast product finds candidates, float64 decides and proves.

Squared distances written as `|a|^2 + |b|^2 - 2 a.b` cost one matrix product, but cancel for near duplicates, which are
what an audit looks for. So the product only proposes. Every score is a *lower bound* of the true squared distance: the
worst rounding error of the product is subtracted from it beforehand. A few references with the smallest bounds are kept
per query and measured again from differences in float64; if the k-th of these exact distances does not exceed the
smallest bound that was left out, nothing nearer can exist. Queries for which that proof fails (many near duplicates)
are searched again with float64 products.

The row readers, exclusion rules and chunked products here also serve the other modules of the audit.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxweights import parallel
from jaxweights.errors import UserError

Progress = Callable[[int, int], None]

MEMORY_BYTES = 1 << 30
"""Working memory that a search may use beside its inputs and results, unless the caller says otherwise."""

FLOAT32_ROUNDOFF = 2.0**-24
FLOAT64_ROUNDOFF = 2.0**-53
FLOAT32_UNDERFLOW = 2.0**-124
"""Bounds what a product of two float32 numbers can lose, twice, where it underflows to zero."""

_SPARE_CANDIDATES = 7
_TIE_TOLERANCE = 1e-9
_LARGEST = 1e15
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
      mesh: a mesh with the single axis "data" over which the reference rows are spread; `None` is one device.
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
    query_rows = _rows_within(memory_bytes // 8, row_bytes, len(queries), 1)
    block_rows = _rows_within(memory_bytes // 16, row_bytes, len(reference), mesh.size)
    steps = math.ceil(len(queries) / query_rows) * math.ceil(len(reference) / block_rows)
    tick = counter(progress, steps)
    kept = min(k + _SPARE_CANDIDATES, len(reference))

    distances = np.empty((len(queries), k))
    indices = np.empty((len(queries), k), np.int64)
    searched_again = 0
    for rows in row_blocks(len(queries), query_rows):
        tile = read_rows(queries, rows)
        tile_groups = groups.of_queries(rows)
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


# Reading rows, excluding pairs, devices: shared by the modules of the audit.


def check_sets(queries: Any, reference: Any) -> None:
    """Refuses sets that are not two non-empty matrices of the same width.

    Raises:
      UserError: naming the set and its shape.
    """
    for name, rows in (("query", queries), ("reference", reference)):
        if len(rows.shape) != 2 or 0 in rows.shape:
            raise UserError(
                f"The {name} set has shape {tuple(rows.shape)}; a comparison needs a non-empty matrix with one weight "
                "vector per row. Check that the population it was taken from is not empty."
            )
    if queries.shape[1] != reference.shape[1]:
        raise UserError(
            f"The query vectors have {queries.shape[1]} numbers and the reference vectors {reference.shape[1]}; only "
            "vectors of the same network can be compared. Check which populations are given."
        )


def read_rows(source: Any, rows: slice | np.ndarray) -> np.ndarray:
    """Reads rows of an array-like as float32, or as float64 where it is stored so."""
    values = np.asarray(source[rows])
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def row_blocks(count: int, size: int) -> Iterator[slice]:
    """Yields slices of at most `size` rows that cover `count` rows in order."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def counter(progress: Progress | None, total: int) -> Callable[[], None]:
    """Returns a function that reports one more step of `total` to `progress` each time it is called."""
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tick


@dataclass(frozen=True)
class ExclusionGroups:
    """Group numbers of both sets as int32 codes, or `None` for both where every pair is admissible."""

    queries: np.ndarray | None
    references: np.ndarray | None

    def of_queries(self, rows: slice | np.ndarray) -> ExclusionGroups:
        """Restricts the queries to some rows."""
        return self if self.queries is None else ExclusionGroups(self.queries[rows], self.references)

    def excluded(self, columns: slice) -> np.ndarray | None:
        """Returns the mask `[M, columns]` of pairs that do not count, or `None` where all count."""
        if self.queries is None:
            return None
        return self.queries[:, None] == self.references[None, columns]


def exclusion_groups(
    query_groups: np.ndarray | None, reference_groups: np.ndarray | None, num_queries: int, num_references: int, k: int
) -> ExclusionGroups:
    """Checks the groups and renumbers them as int32.

    Args:
      query_groups: `[M]` integers or `None`.
      reference_groups: `[N]` integers or `None`.
      num_queries: M.
      num_references: N.
      k: references that every query needs.

    Raises:
      ValueError: if only one of the two is given or a length does not fit.
      UserError: if a query has fewer than k admissible references.
    """
    if (query_groups is None) != (reference_groups is None):
        raise ValueError("query_groups and reference_groups must be given together")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if query_groups is None:
        admissible, codes = np.full(num_queries, num_references), ExclusionGroups(None, None)
    else:
        query_groups, reference_groups = np.asarray(query_groups), np.asarray(reference_groups)
        if query_groups.shape != (num_queries,) or reference_groups.shape != (num_references,):
            raise ValueError(
                f"groups of shapes {query_groups.shape} and {reference_groups.shape} do not fit "
                f"{num_queries} queries and {num_references} references"
            )
        both = np.concatenate([query_groups, reference_groups])
        numbers = np.unique(both, return_inverse=True)[1].reshape(-1).astype(np.int32)
        codes = ExclusionGroups(numbers[:num_queries], numbers[num_queries:])
        members = np.bincount(codes.references, minlength=int(numbers.max()) + 1)
        admissible = num_references - members[codes.queries]
    short = np.flatnonzero(admissible < k)
    if short.size:
        raise UserError(
            f"Query {short[0]} ({short.size} of {num_queries} queries) may be compared with {admissible[short[0]]} of "
            f"the {num_references} reference vectors, but {k} are needed once its own group is left out. Use a "
            "reference with more runs, or ask for fewer neighbours."
        )
    return codes


def data_mesh(mesh: Mesh | None) -> Mesh:
    """Returns the given one-axis mesh, or a mesh of one device.

    Raises:
      ValueError: if the mesh has another axis than "data".
    """
    if mesh is None:
        return parallel.make_mesh(1)
    if mesh.axis_names != (parallel.AXIS,):
        raise ValueError(f"the mesh must have the single axis {parallel.AXIS!r}, got {mesh.axis_names}")
    return mesh


def placed(mesh: Mesh, value: np.ndarray, *spec: str | None) -> jax.Array:
    """Puts a host array onto the mesh, split along the named axes."""
    return jax.device_put(value, NamedSharding(mesh, PartitionSpec(*spec)))


def padded_rows(values: np.ndarray, count: int, fill: float = 0) -> np.ndarray:
    """Appends rows of `fill` until there are `count`, so that every block of a search has one compiled shape."""
    if len(values) == count:
        return values
    padding = np.full((count - len(values), *values.shape[1:]), fill, values.dtype)
    return np.concatenate([values, padding])


def _rows_within(memory_bytes: int, row_bytes: int, available: int, multiple: int) -> int:
    """Returns how many rows fit the memory: no more than there are, at least one, rounded up to one per device."""
    return multiple * math.ceil(max(min(memory_bytes // row_bytes, available), 1) / multiple)


# A frame in which float32 products neither overflow nor cancel more than they must.


@dataclass(frozen=True)
class Frame:
    """A shift and a power-of-two scale, the same for both sets, under which float32 products are safe.

    Attributes:
      centre: `[P]` float32, the rounded mean of the reference.
      scale: factor after which no vector is longer than one.
    """

    centre: np.ndarray
    scale: float

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Returns shifted and scaled rows `[B, P]` as float32; the shift is taken in the precision of the rows."""
        shifted = rows - self.centre.astype(rows.dtype)[None, :]
        shifted *= rows.dtype.type(self.scale)
        return shifted.astype(np.float32, copy=False)


def reference_frame(queries: Any, reference: Any, memory_bytes: int) -> Frame:
    """Reads both sets once: the mean of the reference, the largest magnitude, and that everything is finite.

    Raises:
      UserError: naming the first row with a number that is not finite or beyond 1e15.
    """
    size = _rows_within(memory_bytes // 16, 8 * reference.shape[1], max(len(queries), len(reference)), 1)
    total = np.zeros(reference.shape[1])
    largest = 0.0
    for name, source in (("query", queries), ("reference", reference)):
        for block in row_blocks(len(source), size):
            values = read_rows(source, block)
            magnitude = float(max(np.max(values), -np.min(values)))
            if not magnitude <= _LARGEST:
                row = block.start + int(np.flatnonzero(~(np.abs(values) <= _LARGEST).all(axis=1))[0])
                raise UserError(
                    f"Row {row} of the {name} set holds a number that is not finite or beyond {_LARGEST:g}, so it has "
                    "no meaningful distance to anything. Drop diverged models from the population before the audit."
                )
            largest = max(largest, magnitude)
            if name == "reference":
                total += np.sum(values, axis=0, dtype=np.float64)
    centre = (total / len(reference)).astype(np.float32)
    longest = 2.0 * max(largest, 1e-30) * math.sqrt(reference.shape[1])
    return Frame(centre, 2.0 ** -math.ceil(math.log2(longest)))


def squared_norms(rows: np.ndarray) -> np.ndarray:
    """Returns the squared length along the last axis, accumulated in float64."""
    return np.einsum("...i,...i->...", rows, rows, dtype=np.float64)


# Products in chunks of the inner dimension, whose rounding error has a bound that is small for any length.


def chunk_shape(width: int) -> tuple[int, int]:
    """Returns (chunks, length) that cover `width`: long enough for fast products, short enough for a sharp bound."""
    longest = max(1024, math.isqrt(width))
    chunks = math.ceil(width / longest)
    return chunks, math.ceil(width / chunks)


def in_chunks(rows: jax.Array) -> jax.Array:
    """Pads and rearranges `[R, width]` to `[chunks, R, length]`."""
    chunks, length = chunk_shape(rows.shape[1])
    rows = jnp.pad(rows, ((0, 0), (0, chunks * length - rows.shape[1])))
    return rows.reshape(rows.shape[0], chunks, length).transpose(1, 0, 2)


def chunked_product(left: jax.Array, right: jax.Array, accumulator: str = "float32") -> jax.Array:
    """Multiplies `[chunks, A, length]` with `[chunks, B, length]` to the matrix `[A, B]` of inner products."""

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.dot_general(
            a, b, (((1,), (1,)), ((), ())), precision="highest", preferred_element_type=accumulator
        )

    if left.shape[0] == 1:
        return product(left[0], right[0])
    zero = jnp.zeros((left.shape[1], right.shape[1]), accumulator)
    return jax.lax.scan(lambda total, pair: (total + product(*pair), None), zero, (left, right))[0]


def product_error(width: int) -> float:
    """Bounds `|computed - exact| / (|a| |b|)` of `chunked_product` over vectors of `width` numbers.

    The classical bound of a sum of n products in any order is `n u` (Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1); chunks add up to `(length + chunks) u`. Doubled, for accumulators that truncate.
    """
    return 2.0 * sum(chunk_shape(width)) * FLOAT32_ROUNDOFF


@functools.cache
def fastest_product(dtypes: tuple[str, ...]) -> str:
    """Measures once per process which input type multiplies matrices fastest on this machine.

    Callers get the same distances and counts with every type they offer, so a wrong choice costs time alone.

    Args:
      dtypes: names among "bfloat16", "int8" and "float32".

    Returns:
      The name of the fastest.
    """
    matrices = {dtype: jnp.ones((1, 1024, 1024), dtype) for dtype in dtypes}
    seconds = dict.fromkeys(dtypes, math.inf)
    # Types take turns, so that other work on the machine slows all of them; the first round compiles.
    for trial in range(8):
        for dtype, matrix in matrices.items():
            start = time.perf_counter()
            _timed_product(matrix, accumulator(dtype)).block_until_ready()
            if trial:
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    return min(dtypes, key=seconds.__getitem__)


@functools.partial(jax.jit, static_argnums=1)
def _timed_product(matrix: jax.Array, accumulator: str) -> jax.Array:
    return chunked_product(matrix, matrix, accumulator)


def accumulator(dtype: str) -> str:
    """Returns the type in which products of this input type are summed: exact for products of zeros and ones."""
    return "int32" if dtype == "int8" else "float32"


# Running candidates: the references with the smallest scores, kept per device and put together on the host.


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
    exclude = groups.queries is not None
    query_codes = padded_rows(groups.queries if exclude else np.zeros(count, np.int32), padded, -1)

    program = _search_program(mesh, subtile, exclude)
    queries = placed(mesh, queries)
    query_codes = placed(mesh, query_codes)
    best = no_candidates(mesh, padded, kept)
    for block in row_blocks(len(reference), block_rows):
        rows = frame.apply(read_rows(reference, block))
        norms = shrink * squared_norms(rows) - tile.shape[1] * FLOAT32_UNDERFLOW
        codes = groups.references[block] if exclude else np.zeros(len(rows), np.int32)
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
    size = _rows_within(min(memory_bytes // 4, _CACHE_BYTES), 16 * queries.shape[1], len(order), 1)
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


def smallest(values: np.ndarray, labels: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k smallest values of every row `[Q, K]` with their labels, ties in the order of the labels."""
    order = np.lexsort((labels, values), axis=-1)[:, :k]
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(labels, order, axis=1)


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
    shrink = 1.0 - 4.0 * (width + 8.0) * FLOAT64_ROUNDOFF
    centre = frame.centre.astype(np.float64)[None, :]
    queries = (tile - centre) * frame.scale
    query_norms = squared_norms(queries)
    for block in row_blocks(len(reference), _rows_within(memory_bytes // 8, 16 * width, len(reference), 1)):
        rows = (read_rows(reference, block) - centre) * frame.scale
        bounds = shrink * (query_norms[:, None] + squared_norms(rows)[None, :]) - 2.0 * (queries @ rows.T)
        bounds /= frame.scale**2
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
