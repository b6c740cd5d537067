"""Coordinate ascent of weight matching on the cores of a CPU: what `climbing` does, pair by pair, compiled by Numba.

On a CPU the devices' program waits: problems of a batch that are solved wait for the others, and every step copies.
Here a pair of networks stays in the cache of one core until it is matched. Scores are products by BLAS, assignments are
Jonker and Volgenant's shortest augmenting paths with the prices of the last one, as in `assignment`.
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import threadpoolctl

from jaxweights import parallel
from jaxweights.auditing.alignment import climbing, host_kernels
from jaxweights.auditing.alignment.canonical import stored_groups, unit_offsets
from jaxweights.auditing.alignment.host_kernels import FIRST, LAST, MIDDLE
from jaxweights.auditing.rows import row_blocks
from jaxweights.nn.normalization import is_statistic
from jaxweights.spec import FIXED, WeightSpec

_PAIRS = 32  # that a thread takes at a time

# A record less is an argument less of every compiled function, of which compilation time depends.
_GROUP = np.dtype([("size", "i8"), ("start", "i8"), ("signed", "?"), ("first", "i8"), ("end", "i8")])
_USE = np.dtype(
    [(name, "i8") for name in ("offset", "leaf", "form", "stride", "width", "laid", "first", "end")] + [("alone", "?")]
)
_AXIS = np.dtype([("size", "i8"), ("stride", "i8"), ("group", "i8")])


class _Plan(NamedTuple):
    """A spec as arrays. A use is a tensor as seen from one of the groups that reorder it.

    Attributes:
      groups: `[G]` records: number of units, where they begin among all units, whether they may change sign, and which
        uses are the group's.
      uses: `[T]` records: where the tensor begins in the vector, its number, where it has the group's axis, the stride
        of that and the size of all others, where ours is laid out in the scratch memory, which axes are the others, and
        whether no other group reorders it. Behind those of the groups there is one of every leaf as a whole: all axes
        but the last ones, which nothing reorders, are others, and the size of these is the stride.
      axes: `[A]` records: size, stride and group of those other axes.
      order: `[G, 2]` the groups in the order of a sweep, and whether it is then seen what they say of others.
      neighbours: `[G, G]` booleans, groups that share a tensor.
      members: `[L, G]` booleans, the groups of every leaf.
    """

    groups: np.ndarray
    uses: np.ndarray
    axes: np.ndarray
    order: np.ndarray
    neighbours: np.ndarray
    members: np.ndarray


class _Scratch(NamedTuple):
    """Memory of a thread for one pair.

    Attributes:
      ours: float32, tensors of ours as their uses have them; theirs: one tensor of theirs, in order.
      matrices: `[G + 2, n * n]` float32: products of the tensors that a group alone reorders, scores, costs.
      places, factors: `[2, F]` int64 and float32, where the other axes of a tensor lie, and with which sign.
      units: `[4, n]` int32, of an assignment: the owners of columns, the columns of rows, the columns before on paths,
        and those that were reached, in order; lengths: `[3, n]` float32, of paths to columns, of those that were
        reached, and the prices that these had.
    """

    ours: np.ndarray
    theirs: np.ndarray
    matrices: np.ndarray
    places: np.ndarray
    factors: np.ndarray
    units: np.ndarray
    lengths: np.ndarray


def climb(spec: WeightSpec, ours: Any, theirs: Any, state: climbing.State) -> None:
    """Sweeps over all groups of the active pairs until none gains, in place.

    Args:
      spec: meaning of the vectors.
      ours, theirs: `[S, P]` finite floats.
      state: NumPy arrays.
    """
    plan, rows = _plan(spec), np.flatnonzero(state.active)
    blocks = [rows[part] for part in row_blocks(len(rows), _PAIRS)]
    cores = parallel.num_cores()
    threads = min(cores, len(blocks))

    def work(block: np.ndarray) -> None:
        pair = (np.ascontiguousarray(x[block], np.float32) for x in (ours, theirs))
        part = state.rows(block)
        host_kernels.climb(plan, *pair, part, _scratch(plan))
        for whole, found in zip(state, part, strict=True):
            whole[block] = found

    with threadpoolctl.threadpool_limits(cores // max(threads, 1), "blas"), ThreadPoolExecutor(cores) as pool:
        list(pool.map(work, blocks))


def squared_distances(spec: WeightSpec, ours: Any, theirs: Any, permutations: Any, signs: Any) -> np.ndarray:
    """What `reordering.squared_distances` finds.

    Args:
      spec: meaning of the vectors.
      ours, theirs: `[S, P]` float32 or float64.
      permutations, signs: `[S, U]` int32 and int8, or None for networks as they are.
    """
    plan, found = _plan(spec), np.empty(len(ours))
    if permutations is None:
        permutations = signs = np.empty((len(ours), 0))
    permutations, signs = np.asarray(permutations, np.int32), np.asarray(signs, np.int8)
    largest = int(plan.uses["width"].max())

    def work(part: slice) -> None:
        memory = np.empty((1, largest), np.int64), np.empty((1, largest), np.float32)
        pair = (np.ascontiguousarray(x[part]) for x in (ours, theirs))
        host_kernels.squared_distances(plan, *pair, permutations[part], signs[part], *memory, found[part])

    with ThreadPoolExecutor(parallel.num_cores()) as pool:
        list(pool.map(work, row_blocks(len(ours), _PAIRS)))
    return found


@functools.cache
def _plan(spec: WeightSpec) -> _Plan:
    phases, numbers = climbing.phases(spec), range(len(spec.groups))
    leaves = [(leaf, span) for leaf, span in spec.spans() if not is_statistic(leaf.name)]
    groups, uses, axes, laid = [], [], [], 0
    for number, group in enumerate(spec.groups):
        first = len(uses)
        for at, (leaf, span) in enumerate(leaves):
            own, shape = stored_groups(leaf), leaf.stored_axes
            strides = [math.prod(shape[place + 1 :]) for place in range(len(shape))]
            for place in [place for place, other in enumerate(own) if other == number]:
                others = [(shape[p], strides[p], own[p]) for p in range(len(shape)) if p != place]
                width, stride = math.prod(size for size, _, _ in others), strides[place]
                form = FIRST if stride == width else LAST if stride == 1 else MIDDLE
                alone = all(other == FIXED for _, _, other in others)
                where = len(axes), len(axes) + len(others)
                uses.append((span.start, at, form, stride, width, laid, *where, alone))
                axes += others
                laid += group.size * width if form == MIDDLE else 0
        start = int(unit_offsets(spec)[number])
        groups.append((group.size, start, group.scaling == "sign", first, len(uses)))
    for at, (leaf, span) in enumerate(leaves):
        own, shape = stored_groups(leaf), leaf.stored_axes
        moved = max((place + 1 for place, group in enumerate(own) if group != FIXED), default=0)
        others = [(shape[p], math.prod(shape[p + 1 :]), own[p]) for p in range(moved)]
        width = math.prod(shape[:moved])
        uses.append((span.start, at, FIRST, leaf.size // width, width, 0, len(axes), len(axes) + len(others), False))
        axes += others
    return _Plan(
        groups=np.array(groups, _GROUP),
        uses=np.array(uses, _USE),
        axes=np.array(axes, _AXIS),
        order=np.array([(group, group == phase[-1]) for phase in phases for group in phase]),
        neighbours=np.array([[h in climbing.neighbours(spec)[g] for h in numbers] for g in numbers]),
        members=np.array([[g in leaf.groups for g in numbers] for leaf, _ in leaves]),
    )


def _scratch(plan: _Plan) -> _Scratch:
    uses = plan.uses[: plan.groups[-1]["end"]]
    sizes = np.concatenate([np.full(g["end"] - g["first"], g["size"]) for g in plan.groups])
    sizes, largest = sizes * uses["width"], int(plan.groups["size"].max())
    return _Scratch(
        ours=np.empty(sizes[uses["form"] == MIDDLE].sum(), np.float32),
        theirs=np.empty(sizes.max(), np.float32),
        matrices=np.empty((len(plan.groups) + 2, largest**2), np.float32),
        places=np.empty((2, uses["width"].max()), np.int64),
        factors=np.empty((2, uses["width"].max()), np.float32),
        units=np.empty((4, largest), np.int32),
        lengths=np.empty((3, largest), np.float32),
    )
