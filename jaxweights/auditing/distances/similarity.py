"""Overlap of the sets of wrongly predicted examples, for all pairs of two populations.

The intersection over union of two error sets follows from three counts: `|A & B|`, `|A|` and `|B|`. All intersections
are one product of zeros and ones, exact in any type that can count; only the running maximum is kept. Masks stay
bit-packed and are unpacked one bit plane of one block at a time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxweights import parallel
from jaxweights.auditing.distances import products
from jaxweights.auditing.distances.candidates import gather_candidates, keep_smallest, no_candidates, smallest
from jaxweights.auditing.distances.groups import ExclusionGroups, exclusion_groups
from jaxweights.auditing.rows import MEMORY_BYTES, Progress, counter, data_mesh, padded_rows, placed, row_blocks
from jaxweights.errors import UserError

_TILE = 1024  # rows of either set in one product, on CPU
_CANDIDATES = 4
_FEW = 1 << 24  # bytes of the masks of all pairs up to which the host takes less time than compiling a search
_QUOTIENT_TOLERANCE = 1e-6  # relative; a float32 quotient of exact counts errs by a few 2^-24 on any backend
_RESOLVED = 2048  # quotients of counts up to this differ by at least 2^-22
_MOST_EXAMPLES = 1 << 24  # float32 counts exactly below this
_PUBLISHED_EPSILON = 1e-8


class Overlap(NamedTuple):
    """The largest IoU of every query's error set with one of the reference.

    Attributes:
      values: `[M]` float64, from exact counts.
      indices: `[M]` int64, a reference that attains it.
    """

    values: np.ndarray
    indices: np.ndarray


def max_error_iou(
    query_masks: Any,
    reference_masks: Any,
    num_examples: int,
    query_groups: np.ndarray | None = None,
    reference_groups: np.ndarray | None = None,
    *,
    faithful: bool = False,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Overlap:
    """Finds the reference whose error set overlaps most with that of each query (arXiv 2506.07998, error similarity).

    Args:
      query_masks: `[M, ceil(T / 8)]` uint8, one bit per example as `numpy.packbits` writes them; 1 where the prediction
        is wrong.
      reference_masks: `[N, ceil(T / 8)]` likewise; needs `shape` and slicing by rows, so a memory map will do.
      num_examples: T.
      query_groups: `[M]` integers; a reference of the same group as the query is not admissible.
      reference_groups: `[N]` integers, given exactly if `query_groups` is.
      faithful: two empty error sets have IoU 1, as equal sets; the published code adds 1e-8 to the union and gets 0.
      mesh: a mesh with the single axis "data" over which the references are spread; `None` is all devices.
      progress: called with (blocks done, blocks in all).
      memory_bytes: working memory beside inputs and results.

    Returns:
      The largest IoU of every query and a reference that attains it.

    Raises:
      UserError: if a set is empty, a mask does not fit T, or a query has no admissible reference.
    """
    _check_masks(query_masks, num_examples, "query")
    _check_masks(reference_masks, num_examples, "reference")
    groups = exclusion_groups(query_groups, reference_groups, len(query_masks), len(reference_masks), 1)
    mesh = data_mesh(mesh)
    queries = _read(query_masks, slice(0, len(query_masks)), num_examples, "query")
    if len(queries) * math.prod(reference_masks.shape) <= _FEW:
        counter(progress, 1)()
        return _overlap_of_few(queries, reference_masks, num_examples, groups, faithful)
    scores, candidates = _candidates(queries, reference_masks, num_examples, groups, faithful, mesh, progress)

    # Exact quotients of exact counts decide between the candidates; what was left out has at most the last one's score.
    values = np.full(scores.shape, -np.inf)
    rows, slots = np.nonzero(candidates >= 0)
    for part in row_blocks(len(rows), max(1, memory_bytes // 8 // queries.shape[1])):
        named = candidates[rows[part], slots[part]]
        unique, position = np.unique(named, return_inverse=True)
        references = np.asarray(reference_masks[unique])[position.reshape(-1)]
        values[rows[part], slots[part]] = _iou(queries[rows[part]], references, faithful)
    worst, index = smallest(-values, candidates, 1)
    best, index = -worst[:, 0], index[:, 0]
    # Quotients of counts up to _RESOLVED differ by more than float32 errs, so there the candidates hold a largest one.
    resolved = (num_examples <= _RESOLVED) | (best == 1.0) | (-scores[:, -1] * (1.0 + _QUOTIENT_TOLERANCE) <= best)
    for row in np.flatnonzero(~resolved).tolist():
        best[row], index[row] = _search_exactly(queries[row], reference_masks, groups, row, faithful, memory_bytes)
    return Overlap(best, index)


def error_iou(a: np.ndarray, b: np.ndarray, num_examples: int, *, faithful: bool = False) -> np.ndarray:
    """Returns the IoU of all pairs of error sets `[M, N]`, float64 from exact counts; for sets of some hundred models.

    Args:
      a: `[M, ceil(T / 8)]` uint8, packed as for `max_error_iou`.
      b: `[N, ceil(T / 8)]` likewise.
      num_examples: T.
      faithful: two empty error sets have IoU 0 instead of 1.

    Raises:
      UserError: if a set is empty or a mask does not fit T.
    """
    for name, masks in (("first", a), ("second", b)):
        _check_masks(masks, num_examples, name)
    a, b = (_read(m, slice(0, len(m)), num_examples, name) for m, name in ((a, "first"), (b, "second")))
    return np.stack([_iou(row[None, :], b, faithful) for row in a])


def _check_masks(masks: Any, num_examples: int, name: str) -> None:
    if not 0 < num_examples < _MOST_EXAMPLES:
        raise UserError(f"Error masks over {num_examples} examples cannot be compared; use between 1 and 2^24 - 1.")
    width = math.ceil(num_examples / 8)
    if masks.dtype != np.uint8 or len(masks.shape) != 2 or masks.shape[1] != width or not masks.shape[0]:
        raise UserError(
            f"The {name} error masks have shape {tuple(masks.shape)} and type {masks.dtype}; {num_examples} examples "
            f"need [N, {width}] uint8 with at least one row, as numpy.packbits(wrong, axis=1) makes them. Evaluate "
            "both populations on the same test set."
        )


def _read(masks: Any, rows: slice, num_examples: int, name: str) -> np.ndarray:
    """Reads rows of masks and refuses bits behind the last example, which would count as errors."""
    values = np.asarray(masks[rows])
    if num_examples % 8 and np.any(values[:, -1] & (0xFF >> num_examples % 8)):
        raise UserError(
            f"The {name} error masks have bits set behind example {num_examples}, so they were made for a longer test "
            "set. Evaluate both populations on the same test set."
        )
    return values


def _iou(a: np.ndarray, b: np.ndarray, faithful: bool) -> np.ndarray:
    """Returns the IoU `[...]` of error sets `[..., ceil(T / 8)]`, in float64."""
    intersection = np.bitwise_count(a & b).sum(axis=-1, dtype=np.int64)
    union = np.bitwise_count(a | b).sum(axis=-1, dtype=np.int64)
    if faithful:
        return intersection / (union + _PUBLISHED_EPSILON)
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))


def _overlap_of_few(
    queries: np.ndarray, reference_masks: Any, num_examples: int, groups: ExclusionGroups, faithful: bool
) -> Overlap:
    """All pairs on the host."""
    everything = slice(0, len(reference_masks))
    values = _iou(queries[:, None], _read(reference_masks, everything, num_examples, "reference")[None], faithful)
    excluded = groups.excluded(everything)
    if excluded is not None:
        values[excluded] = -np.inf
    return Overlap(values.max(axis=1), values.argmax(axis=1))


def _search_exactly(
    query: np.ndarray, reference_masks: Any, groups: ExclusionGroups, row: int, faithful: bool, memory_bytes: int
) -> tuple[float, int]:
    """Returns the largest IoU of one query with all references and the first reference that attains it."""
    best, index = -np.inf, -1
    for block in row_blocks(len(reference_masks), max(1, memory_bytes // 8 // len(query))):
        values = _iou(query[None, :], np.asarray(reference_masks[block]), faithful)
        excluded = groups.of_queries(np.array([row])).excluded(block)
        if excluded is not None:
            values[excluded[0]] = -np.inf
        if values.max() > best:
            best, index = float(values.max()), block.start + int(values.argmax())
    return best, index


def _candidates(
    queries: np.ndarray,
    reference_masks: Any,
    num_examples: int,
    groups: ExclusionGroups,
    faithful: bool,
    mesh: Mesh,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the negated IoU `[M, kept]` of the most similar references in float32, ascending, and their indices."""
    count, references = len(queries), len(reference_masks)
    rows = _TILE if jax.default_backend() == "cpu" else 4 * _TILE
    subtile, block_rows = min(rows, count), mesh.size * min(rows, math.ceil(references / mesh.size))
    padded = subtile * math.ceil(count / subtile)
    dtype = products.fastest_product(("bfloat16", "int8", "float32"))
    program = _program(mesh, subtile, groups.exclude, faithful, dtype)
    tick = counter(progress, math.ceil(references / block_rows))

    query_parts = (queries, _sizes(queries), groups.query_codes(count))
    on_devices = [placed(mesh, padded_rows(part, padded)) for part in query_parts]
    best = no_candidates(mesh, padded, min(_CANDIDATES, references))
    for block in row_blocks(references, block_rows):
        masks = _read(reference_masks, block, num_examples, "reference")
        codes = groups.reference_codes(block)
        # A padded row is marked by a negative size.
        parts = ((masks, 0), (_sizes(masks), -1), (codes, 0))
        padded_parts = (padded_rows(part, block_rows, fill) for part, fill in parts)
        arrays = [placed(mesh, part, parallel.AXIS) for part in padded_parts]
        jax.block_until_ready(best)
        best = program(*on_devices, *arrays, np.int32(block.start), *best)
        tick()
    return gather_candidates(best, count)


def _sizes(masks: np.ndarray) -> np.ndarray:
    return np.bitwise_count(masks).sum(axis=1, dtype=np.int64).astype(np.float32)


@functools.cache
def _program(
    mesh: Mesh, subtile: int, exclude: bool, faithful: bool, dtype: str
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Builds the program that merges one block of references, spread over devices, into the best of every query."""
    accumulator = products.accumulator(dtype)

    def intersections(queries, masks):
        """Counts common ones, one bit plane after the other: the order of the examples does not matter."""

        def add(total, bit):
            ours, theirs = ((((x >> bit) & jnp.uint8(1)).astype(dtype))[None] for x in (queries, masks))
            return total + products.chunked_product(ours, theirs, accumulator), None

        zero = jnp.zeros((queries.shape[0], masks.shape[0]), accumulator)
        return jax.lax.scan(add, zero, jnp.arange(8, dtype=jnp.uint8))[0].astype(jnp.float32)

    def search(queries, query_sizes, query_codes, masks, sizes, codes, start, scores, indices):
        first = start + jax.lax.axis_index(parallel.AXIS).astype(jnp.int32) * masks.shape[0]

        def one_subtile(operands):
            queries, query_sizes, query_codes, scores, indices = operands
            common = intersections(queries, masks)
            union = query_sizes[:, None] + sizes[None, :] - common
            iou = jnp.where(union > 0, common / jnp.maximum(union, 1.0), 0.0 if faithful else 1.0)
            admissible = sizes[None, :] >= 0
            if exclude:
                admissible &= query_codes[:, None] != codes[None, :]
            return keep_smallest(scores, indices, jnp.where(admissible, -iou, jnp.inf), first)

        operands = (queries, query_sizes, query_codes, scores[0], indices[0])
        tiled = jax.tree.map(lambda x: x.reshape(-1, subtile, *x.shape[1:]), operands)
        return jax.tree.map(lambda x: x.reshape(scores.shape), jax.lax.map(one_subtile, tiled))

    split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
    # Nothing is differentiated or reduced across devices, so the check of varying axes has nothing to protect.
    in_specs = (whole,) * 3 + (split,) * 3 + (whole, split, split)
    return jax.jit(jax.shard_map(search, mesh=mesh, in_specs=in_specs, out_specs=split, check_vma=False))
