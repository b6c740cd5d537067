"""The networks of an export: rows that may be larger than memory, block by block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from jaxweights.population import GENERATED, Population, TaskExamples
from jaxweights.store import LazyRows

RECORDS = "records.csv"
Report = Callable[[float], None]
"""Takes the number of networks that are written."""

_BLOCK = 32 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is exported.

    Attributes:
      networks: weights, which may be on disk, and records.
      recipe: settings of their training by dotted name, as far as they are known.
      examples: what they classify, where that is at hand and the format has it.
    """

    networks: Population
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    examples: TaskExamples | None = None


def blocks(networks: Population) -> Iterator[tuple[int, np.ndarray]]:
    """The number of a first row, and the weights `[n, P]` float32 from it on, in pieces of some megabytes."""
    size = max(1, _BLOCK // (4 * networks.spec.num_params))
    for start in range(0, len(networks), size):
        # Row-major and little-endian, as all formats have them.
        yield start, np.ascontiguousarray(networks.weights[start : start + size], "<f4")


def raw(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def chosen(networks: Population, rows: np.ndarray) -> Population:
    """Some rows, in that order, whose weights stay where they are."""
    weights = cast(np.ndarray, LazyRows(networks.weights, rows))
    return Population(weights, networks.spec, {name: column[rows] for name, column in networks.records.items()})


def runs_of(networks: Population) -> np.ndarray:
    """`[N]` int64: the run of every network; networks that are generated, or whose runs are unknown, are one each."""
    run, split = networks.records["run"], networks.records["split"]
    return np.arange(len(run)) if (run < 0).any() or (split == GENERATED).any() else run


def columns(networks: Population) -> dict[str, np.ndarray]:
    """The records by name, numbers little-endian and texts no longer than they are."""
    found = {}
    for name, column in networks.records.items():
        if column.dtype.kind == "U":
            found[name] = column.astype(f"<U{max(1, int(np.char.str_len(column).max(initial=1)))}")
        else:
            found[name] = np.ascontiguousarray(column, column.dtype.newbyteorder("<"))
    return found
