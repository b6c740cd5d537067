"""Lower bounds of aligned distances: one product bounds the costs of all pairs of units, and a dual of the assignment
problem turns them into a bound of the distance.

The product may take bfloat16 inputs: what rounding took away from every unit is measured and charged to the bound.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxweights import parallel
from jaxweights.auditing.alignment.assignment import assign
from jaxweights.auditing.alignment.hidden_units import HiddenUnits
from jaxweights.auditing.distances import products
from jaxweights.auditing.rows import padded_rows, placed, read_rows, row_blocks, rows_within

HOST_BYTES = 1 << 23
"""Host arithmetic on more than this at a time waits for memory."""

_BFLOAT16_ROUNDOFF = 2.0**-9
_SMALLEST_MEASURED = 2.0**-80  # squared length below which the squares of rounding errors may underflow
_PANEL_COLUMNS = 1 << 15  # references whose bounds are held at a time
_LEVEL = 0.3  # between a column's minimum and its mean; near the best for random networks of 32 to 64 units
_FEW_UNITS = 16  # up to here minima alone are as sharp on trained networks, and twice as fast
_SHARPENED_PAIRS = 4096  # at a time
_SHARPENED_BYTES = 1 << 26
_TILE_ROWS = {"cpu": (160, 2560)}  # units of either set at a time: costs that stay in cache
_TILE_ROWS_ACCELERATOR = (2560, 20480)


class LowerBounds:
    """Lower bounds of the squared aligned distances of one tile of queries to panels of the reference."""

    def __init__(
        self,
        hidden: HiddenUnits,
        frame: products.Frame,
        mesh: Mesh,
        num_references: int,
        memory_bytes: int,
        odd: bool = False,
    ):
        units = len(hidden.units)
        query_rows, reference_rows = _TILE_ROWS.get(jax.default_backend(), _TILE_ROWS_ACCELERATOR)
        self.hidden, self.odd, self._frame, self._mesh = hidden, odd, frame, mesh
        self._query_tile = max(1, query_rows // units)
        fitting = min(num_references, max(1, memory_bytes // 8 // (16 * hidden.units.size)))
        self.block = mesh.size * min(max(1, reference_rows // units), math.ceil(fitting / mesh.size))
        self.panel_columns = self.block * max(1, _PANEL_COLUMNS // self.block)
        self._dtype = products.fastest_product(("bfloat16", "float32"))

    @property
    def rounds_inputs(self) -> bool:
        """Whether the products round their inputs."""
        return self._dtype != "float32"

    def use_float32(self) -> None:
        """Takes float32 inputs from now on: slower, with bounds some sixty times as sharp."""
        self._dtype = "float32"

    def limits(self, squared: np.ndarray) -> np.ndarray:
        """Returns the k-th of the squared distances `[Q, k]` found so far, in the units of the bounds, rounded up to
        float32."""
        scaled = np.minimum(squared[:, -1] * self._frame.scale**2, 4.0).astype(np.float32)
        return np.nextafter(scaled, np.float32(np.inf))

    def load_queries(self, tile: np.ndarray) -> None:
        """Puts a tile of queries `[Q, P]` onto the devices."""
        self._count = len(tile)
        self._query_tile = min(self._query_tile, self._count)
        padded = self._query_tile * math.ceil(self._count / self._query_tile)
        self._queries = tuple(placed(self._mesh, part) for part in self._framed(tile, padded))

    def lower_bounds(self, reference: Any, panel: slice, tick: Callable[[], None] | None) -> np.ndarray:
        """Returns lower bounds `[Q, panel]` of squared aligned distances in the frame, as float32."""
        program = _bound_program(self._mesh, self._query_tile, self._dtype, self.odd)
        bounds = np.empty((self._count, panel.stop - panel.start), np.float32)
        pending: list[tuple[slice, jax.Array]] = []

        def collect() -> None:
            columns, values = pending.pop()
            bounds[:, columns] = np.asarray(values)[: self._count, : columns.stop - columns.start]

        for block in row_blocks(panel.stop - panel.start, self.block):
            rows = read_rows(reference, slice(panel.start + block.start, panel.start + block.stop))
            parts = [placed(self._mesh, part, parallel.AXIS) for part in self._framed(rows, self.block)]
            if pending:
                collect()
            pending.append((block, program(*self._queries, *parts)))
            if tick is not None:
                tick()
        collect()
        return bounds

    def sharper(self, tile: np.ndarray, reference: Any, rows: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Returns bounds `[S]` of single pairs as those of `lower_bounds`, but sharp up to the rounding of float32.

        Args:
          tile: the queries, see `load_queries`.
          reference: the references.
          rows: `[S]` rows of the tile.
          indices: `[S]` rows of the reference.
        """
        program, bounds = _sharp_program(self._mesh, self.odd), np.empty(len(rows), np.float32)
        pair_bytes = 8 * tile.shape[1] + 32 * len(self.hidden.units) ** 2
        size = rows_within(_SHARPENED_BYTES, pair_bytes, _SHARPENED_PAIRS, self._mesh.size)
        order = np.argsort(indices, kind="stable")
        for part in row_blocks(len(order), size):
            pairs = order[part]
            arrays = []
            for source, chosen in ((tile, rows[pairs]), (reference, indices[pairs])):
                unique, place = np.unique(chosen, return_inverse=True)
                units, norms, rest, _ = self._framed(read_rows(source, unique), len(unique))
                arrays += [padded_rows(x[place.reshape(-1)], size) for x in (units, norms, rest)]
            found = program(*(placed(self._mesh, x, parallel.AXIS) for x in arrays))
            bounds[pairs] = np.asarray(found)[: len(pairs)]
        return bounds

    def _framed(self, rows: np.ndarray, padded: int) -> tuple[np.ndarray, ...]:
        """Returns units `[padded, n, F]`, their squared norms, the rest `[padded, R]` and its squared norm.

        All in the frame, as float32, with zeros below the given rows.
        """
        hidden = self.hidden
        units = np.zeros((padded, *hidden.units.shape), np.float32)
        norms = np.zeros(units.shape[:2], np.float32)
        rest = np.zeros((padded, len(hidden.rest)), np.float32)
        for part in row_blocks(len(rows), max(1, HOST_BYTES // (16 * rows.shape[1]))):
            framed = self._frame.apply(rows[part])
            units[part], rest[part] = framed[:, hidden.units], framed[:, hidden.rest]
            norms[part] = products.squared_norms(units[part])
        return units, norms, rest, products.squared_norms(rest).astype(np.float32)


@functools.cache
def _bound_program(mesh: Mesh, query_tile: int, dtype: str, odd: bool) -> Callable[..., jax.Array]:
    """Builds the program that bounds the distances of all queries to one block of references, spread over devices."""

    def bound(units_a, norms_a, rest_a, rest_norms_a, units_b, norms_b, rest_b, rest_norms_b):
        size, count, width = units_b.shape
        low_b, lost_b = _lowered(units_b, norms_b, dtype)
        block = products.in_chunks(low_b.transpose(1, 0, 2).reshape(count * size, width))
        low_a, lost_a = _lowered(units_a, norms_a, dtype)
        # Charged to every cost: the product, the roundings of inputs, norms and differences (4 + 4 + some), and what
        # the sums of the dual bound may round up (20 n^1.5 roundings).
        charge = products.product_error(width) + (16 + 20 * count**1.5) * products.FLOAT32_ROUNDOFF
        keep = 1.0 - charge - (lost_a + lost_b + lost_a * lost_b)
        rest_keep = 1.0 - products.product_error(rest_b.shape[1] or 1) - 16 * products.FLOAT32_ROUNDOFF

        def one_tile(operands):
            low_a, norms_a, rest_a, rest_norms_a = operands
            product = products.chunked_product(products.in_chunks(low_a.reshape(query_tile * count, width)), block)
            product = product.reshape(query_tile, count, count, size)
            product = jnp.abs(product) if odd else product
            ours = keep * norms_a[:, :, None, None]
            theirs = (keep * norms_b.T - width * products.FLOAT32_UNDERFLOW)[None, None]
            total = _dual_bound(ours + theirs - 2.0 * product)
            if rest_b.shape[1]:
                rest = rest_norms_a[:, None] + rest_norms_b[None, :]
                both = products.chunked_product(products.in_chunks(rest_a), products.in_chunks(rest_b))
                total += rest_keep * rest - 2.0 * both
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


@functools.cache
def _sharp_program(mesh: Mesh, odd: bool) -> Callable[..., jax.Array]:
    """Builds the program that bounds the distances of pairs, spread over devices, by the duals of their assignments."""

    def bound(units_a, norms_a, rest_a, units_b, norms_b, rest_b):
        _, count, width = units_a.shape
        roundoff = products.FLOAT32_ROUNDOFF
        keep = 1.0 - (products.product_error(width) + 16 * roundoff)
        product = jnp.einsum("siw,sjw->sij", units_a, units_b, precision=jax.lax.Precision.HIGHEST)
        product = jnp.abs(product) if odd else product
        norms = keep * norms_a[:, :, None] + (keep * norms_b - width * products.FLOAT32_UNDERFLOW)[:, None, :]
        costs = norms - 2.0 * product
        _, prices = assign(costs, jnp.full_like(norms_a, jnp.nan))
        lows = jnp.min(costs - prices[:, None, :], axis=2)
        # Any prices give a bound; what sums of them may round up is charged to it.
        size = jnp.sum(jnp.abs(prices), axis=1) + jnp.sum(jnp.abs(lows), axis=1) + jnp.sum(norms_a + norms_b, axis=1)
        total = jnp.sum(prices, axis=1) + jnp.sum(lows, axis=1) - 4 * (count + 4) * roundoff * size
        difference = rest_a - rest_b
        rest_keep = 1.0 - 2.0 * (rest_a.shape[1] + 4) * roundoff
        return total + rest_keep * jnp.sum(difference * difference, axis=1)

    split = PartitionSpec(parallel.AXIS)
    return jax.jit(jax.shard_map(bound, mesh=mesh, in_specs=split, out_specs=split, check_vma=False))


def _dual_bound(costs: jax.Array) -> jax.Array:
    """Bounds the smallest assignment of `[Q, n, n, B]` costs from below: `[Q, B]`.

    A feasible point of the dual of the assignment problem: a level per column, then row minima of what is left, then
    column minima of what is left; and the same with rows and columns exchanged, whichever is larger. For few units the
    level is the column's minimum, and nothing is left in the end. Otherwise it lies between that and the column's mean.
    Units are on the slow axes so that minima run along whole vectors of references.
    """
    count = costs.shape[1]

    def along(row_axis: int, column_axis: int) -> jax.Array:
        levels = jnp.min(costs, axis=row_axis, keepdims=True)
        if count > _FEW_UNITS:
            levels += _LEVEL * (jnp.mean(costs, axis=row_axis, keepdims=True) - levels)
        lows = jnp.min(costs - levels, axis=column_axis, keepdims=True)
        total: Any = jnp.sum(levels, axis=(1, 2)) + jnp.sum(lows, axis=(1, 2))
        if count > _FEW_UNITS:
            total += jnp.sum(jnp.min(costs - levels - lows, axis=row_axis), axis=1)
        return total

    return jnp.maximum(along(1, 2), along(2, 1))
