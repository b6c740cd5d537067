"""Rows of array-likes: read in blocks that fit memory, padded to one compiled shape, placed on devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxweights import parallel
from jaxweights.errors import UserError

Progress = Callable[[int, int], None]

MEMORY_BYTES = 1 << 30
"""Working memory that a search may use beside its inputs and results, unless the caller says otherwise."""


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


def data_mesh(mesh: Mesh | None) -> Mesh:
    """Returns the given one-axis mesh, or the mesh of all devices.

    Raises:
      ValueError: if the mesh has another axis than "data".
    """
    mesh = parallel.resolve(mesh)
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


def rows_within(memory_bytes: int, row_bytes: int, available: int, multiple: int) -> int:
    """Returns how many rows fit the memory: no more than there are, at least one, rounded up to one per device."""
    return multiple * math.ceil(max(min(memory_bytes // row_bytes, available), 1) / multiple)
