"""Weight matching of many pairs of networks at once, for any spec: which hidden unit of one is which of the other?

Coordinate ascent as in git-re-basin (Ainsworth et al. 2023, arXiv 2209.04836): given the orders of all other groups,
the best order of one group is a linear assignment. All of it is done on the devices (`climbing`, `assignment`), in
blocks of pairs; pairs that are not done when most of a block is go on in another block. A CPU with the extra `fast` has
a program of its own (`host_climbing`), and few pairs need none that has to be compiled (`few_climbing`); they find the
same.

With one group the result is exact up to the rounding of float32 scores. With more it is a local optimum: distances are
upper bounds of the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import extras, parallel
from jaxweights.auditing.alignment import climbing, few_climbing
from jaxweights.auditing.alignment.canonical import by_group, unit_offsets
from jaxweights.auditing.alignment.reordering import squared_distances
from jaxweights.auditing.rows import MEMORY_BYTES, data_mesh, placed, rows_within
from jaxweights.spec import WeightSpec

GROWN, IDENTITY, RANDOM = "grown", "identity", "random"
"""Where a search starts: from tensors whose other axes are known already, inputs and outputs first; from the orders as
they are; from random orders."""

_FEW = 1 << 20  # numbers of all pairs up to which matching takes less time than compiling what matches many
_AGAIN = 6  # starts where tensors say nothing of some groups before others are known, as of heads and places in them
_SWEEPS = 100
_COPY = 1e-12  # squared distance over squared norm at which no other start is tried
# Pairs on the devices at a time, and their memory, which stays in use on CPUs: fresh pages cost more than arithmetic.
# Every number of pairs that occurs is a compiled program.
_BLOCK_PAIRS = {"cpu": (64, 512)}
_BLOCK_PAIRS_ACCELERATOR = (512, 4096)
_BLOCK_BYTES = {"cpu": 1 << 27}
_LEFT = 4  # a block is left when one pair in so many is not done and can go on elsewhere


@dataclass(frozen=True)
class Matches:
    """The best match that was found of every pair.

    Attributes:
      squared: `[S]` squared distances without running statistics, float64, computed from differences.
      permutations: `[S, U]` int64, group after group: unit u of the matched network is unit `permutations[u]`.
      signs: `[S, U]` int8, which units changed sign; ones where a group admits none.
    """

    squared: np.ndarray
    permutations: np.ndarray
    signs: np.ndarray


def match(
    spec: WeightSpec,
    ours: np.ndarray,
    theirs: np.ndarray,
    *,
    starts: Sequence[str] | None = None,
    sweeps: int = _SWEEPS,
    seed: int = 0,
    mesh: Mesh | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Matches:
    """Brings the hidden units of networks into the order of others, pair by pair.

    Args:
      spec: meaning of the vectors.
      ours: `[S, P]` finite floats.
      theirs: `[S, P]` likewise, the networks whose units are reordered.
      starts: where to start, any of `GROWN`, `IDENTITY` and `RANDOM`, any number of times; the best result counts. What
        a `GROWN` start cannot know is as it is at first, and random where it is repeated. By default one `GROWN` start,
        and more where it leaves groups unknown. A pair whose distance is zero up to rounding is not started again; one
        that is nearer as it is than after all starts is also searched from there, so that no distance exceeds that
        without reordering.
      sweeps: most sweeps over all groups from every start.
      seed: random seed of the starts.
      mesh: a mesh with the single axis "data" over which pairs are spread; `None` is all devices.
      memory_bytes: working memory beside inputs and results.

    Raises:
      ValueError: shapes that do not fit the spec, or an unknown start.
    """
    if ours.shape != theirs.shape or ours.ndim != 2 or ours.shape[1] != spec.num_params:
        raise ValueError(f"pairs of shapes {ours.shape} and {theirs.shape} do not fit {spec.num_params} parameters")
    if starts is None:
        starts = (GROWN,) * (1 if climbing.grows(spec) else _AGAIN)
    if unknown := set(starts) - {GROWN, IDENTITY, RANDOM}:
        raise ValueError(f"unknown starts: {sorted(unknown)}")
    mesh, rng = data_mesh(mesh), np.random.default_rng(seed)
    count, units = len(ours), int(unit_offsets(spec)[-1])
    permutations, signs = np.tile(_identity(spec), (count, 1)), np.ones((count, units), np.int8)
    distances = squared_distances if ours.size <= _FEW else _squared_distances(mesh)
    best = Matches(distances(spec, ours, theirs, None, None), permutations, signs)
    untouched = np.full(count, True)
    smallest = _COPY * np.einsum("sp,sp->s", ours, ours)
    for number, start in enumerate((*starts, *(IDENTITY,) * (IDENTITY not in starts))):
        active = best.squared > smallest
        if start not in starts:
            active &= untouched
        if active.any():
            state = _started(spec, start, active, sweeps, rng if start == RANDOM or number else None)
            _climb(spec, ours, theirs, state, mesh, memory_bytes)
            squared = distances(spec, ours, theirs, state.permutations, state.signs)
            better = active & (squared < best.squared)
            best.squared[better] = squared[better]
            permutations[better], signs[better] = state.permutations[better], state.signs[better]
            untouched &= ~better
    left = np.flatnonzero(untouched)
    best.squared[left] = distances(spec, ours[left], theirs[left], permutations[left], signs[left])
    return best


def _squared_distances(mesh: Mesh) -> Callable[..., np.ndarray]:
    """What measures reordered networks, `reordering.squared_distances` or the same of a CPU's own program."""
    if not _on_cores(mesh):
        return squared_distances
    from jaxweights.auditing.alignment import host_climbing  # of an extra

    return host_climbing.squared_distances


def _identity(spec: WeightSpec) -> np.ndarray:
    return np.concatenate([np.arange(group.size) for group in spec.groups])


def _started(
    spec: WeightSpec, start: str, active: np.ndarray, sweeps: int, rng: np.random.Generator | None
) -> climbing.State:
    """The pairs at a start; what it does not say is in random order if there is a generator."""
    permutations = np.tile(_identity(spec).astype(np.int32), (len(active), 1))
    if rng is not None and start != IDENTITY:
        for order in by_group(spec, permutations):
            order[:] = rng.permuted(order, axis=1)
    known = np.full((len(active), len(spec.groups)), start != GROWN)
    prices, signs = np.full(permutations.shape, np.nan, np.float32), np.ones(permutations.shape, np.int8)
    left = np.full(len(active), sweeps, np.int32)
    return climbing.State(permutations, signs, prices, known, np.full(known.shape, True), active & (left > 0), left)


def _on_cores(mesh: Mesh) -> bool:
    """Whether pairs are matched by the CPU's own program, several times as fast there as that of devices."""
    return mesh.devices.flat[0].platform == "cpu" and extras.installed("numba")


def _climb(
    spec: WeightSpec, ours: np.ndarray, theirs: np.ndarray, state: climbing.State, mesh: Mesh, memory_bytes: int
) -> None:
    """Sweeps over all groups until no active pair gains, in place."""
    if ours.size <= _FEW:
        few_climbing.climb(spec, ours, theirs, state)
        return
    if _on_cores(mesh):
        from jaxweights.auditing.alignment import host_climbing  # of an extra

        host_climbing.climb(spec, ours, theirs, state)
        return
    program, devices = climbing.climb_program(spec, mesh), mesh.size
    backend = jax.default_backend()
    sizes = _BLOCK_PAIRS.get(backend, _BLOCK_PAIRS_ACCELERATOR)
    block_bytes = min(memory_bytes, _BLOCK_BYTES.get(backend, memory_bytes))
    largest = rows_within(block_bytes, climbing.pair_bytes(spec), sizes[-1], devices)
    sizes = [devices * math.ceil(size / devices) for size in sizes if size < largest] + [largest]
    waiting = np.flatnonzero(state.active)
    while len(waiting):
        size = next((size for size in sizes if size >= len(waiting)), largest)
        rows, waiting = waiting[:size], waiting[size:]
        # The last pairs of a block go on with others, or in a smaller block.
        few = size // _LEFT if len(waiting) else max((n for n in sizes if n <= size // _LEFT), default=0)
        # Every device gets as many pairs, and behind them copies of one that are not active.
        slots = np.append(rows, np.full(size - len(rows), rows[0])).reshape(-1, devices).T.reshape(-1)
        real = (np.arange(size) < len(rows)).reshape(-1, devices).T.reshape(-1)
        pair = (np.asarray(x[slots], np.float32) for x in (ours, theirs))
        block = climbing.State(*(x[slots] for x in state))
        block = block._replace(active=block.active & real)
        first, second, *parts, limits = (
            placed(mesh, x, parallel.AXIS) for x in (*pair, *block, np.full(devices, few // devices, np.int32))
        )
        found = program(first, second, climbing.State(*parts), limits)
        for whole, part in zip(state, found, strict=True):
            whole[slots[real]] = np.asarray(part)[real]
        waiting = np.concatenate([waiting, rows[state.active[rows]]])
