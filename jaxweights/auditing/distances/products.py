"""Fast products of vectors with proven rounding errors.

A frame in which float32 products neither overflow nor cancel more than they must, and products in chunks of the inner
dimension, whose rounding error has a bound that is small for any length.
"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.arrays import LARGEST_WEIGHT
from jaxweights.auditing.rows import read_rows, row_blocks, rows_within
from jaxweights.errors import UserError

FLOAT32_ROUNDOFF = 2.0**-24
FLOAT64_ROUNDOFF = 2.0**-53
FLOAT32_UNDERFLOW = 2.0**-124
"""Bounds what a product of two float32 numbers can lose, twice, where it underflows to zero."""


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
    size = rows_within(memory_bytes // 16, 8 * reference.shape[1], max(len(queries), len(reference)), 1)
    total = np.zeros(reference.shape[1])
    largest = 0.0
    for name, source in (("query", queries), ("reference", reference)):
        for block in row_blocks(len(source), size):
            values = read_rows(source, block)
            magnitude = float(max(np.max(values), -np.min(values)))
            if not magnitude <= LARGEST_WEIGHT:
                row = block.start + int(np.flatnonzero(~(np.abs(values) <= LARGEST_WEIGHT).all(axis=1))[0])
                raise UserError(
                    f"Row {row} of the {name} set holds a number that is not finite or beyond {LARGEST_WEIGHT:g}, "
                    "so it has no meaningful distance to anything. Remove it before the audit."
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
    for trial in range(4):
        for dtype, matrix in matrices.items():
            start = time.perf_counter()
            _timed_product(matrix, accumulator(dtype)).block_until_ready()
            if trial:
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    return min(dtypes, key=seconds.__getitem__)


@functools.partial(jax.jit, static_argnums=1)
def _timed_product(matrix: jax.Array, total: str) -> jax.Array:
    return chunked_product(matrix, matrix, total)


def accumulator(dtype: str) -> str:
    """Returns the type in which products of this input type are summed: exact for products of zeros and ones."""
    return "int32" if dtype == "int8" else "float32"
