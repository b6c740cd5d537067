"""Hidden units of all groups in another order and with other signs, and what networks differ by then."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxweights import parallel
from jaxweights.auditing.alignment.canonical import by_group, stored_groups
from jaxweights.auditing.rows import row_blocks
from jaxweights.nn.normalization import is_statistic
from jaxweights.spec import FIXED, Leaf, WeightSpec

_MEASURED = 32  # pairs that a thread measures at a time: differences that stay in its cache


def reordered(spec: WeightSpec, rows: np.ndarray, permutations: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Reorders hidden units, and flips their signs, of every network in its own way; the functions stay the same.

    Args:
      spec: meaning of the vectors.
      rows: `[S, P]`.
      permutations, signs: `[S, U]` integers, see `Matches`.

    Returns:
      `[S, P]`, a copy.
    """
    result = np.empty_like(rows)
    orders, factors = by_group(spec, permutations), by_group(spec, signs)
    for leaf, span in spec.spans():
        result[:, span] = _reordered_leaf(spec, leaf, rows[:, span], orders, factors)
    return result


def _reordered_leaf(
    spec: WeightSpec, leaf: Leaf, rows: np.ndarray, orders: list[np.ndarray], factors: list[np.ndarray]
) -> np.ndarray:
    """The weights of one leaf `[S, size]` reordered; what lies behind the last reordered axis moves as a whole."""
    groups, shape = stored_groups(leaf), (len(rows), *leaf.stored_axes)
    moved = [axis for axis, group in enumerate(groups, 1) if group != FIXED]
    if not moved:
        return rows
    lead = shape[: moved[-1] + 1]
    index: np.ndarray = np.array(0, np.intp)
    for axis, size in enumerate(lead):
        wide = [1] * len(lead)
        wide[axis] = size
        if axis in moved:
            wide[0] = len(rows)
        index = index * size + (orders[groups[axis - 1]] if axis in moved else np.arange(size)).reshape(wide)
    values = np.take(rows.reshape(math.prod(lead), -1), index.reshape(-1), axis=0).reshape(shape)
    for axis in moved:
        group = groups[axis - 1]
        if spec.groups[group].scaling == "sign" and (factors[group] < 0).any():
            wide = [len(rows)] + [1] * (values.ndim - 1)
            wide[axis] = -1
            values = values * factors[group].reshape(wide).astype(rows.dtype)
    return values.reshape(len(rows), -1)


def squared_distances(
    spec: WeightSpec, ours: np.ndarray, theirs: np.ndarray, permutations: np.ndarray | None, signs: np.ndarray | None
) -> np.ndarray:
    """Squared distances `[S]`, float64, of networks and others reordered, or as they are for None; running statistics
    do not count."""
    squared = np.zeros(len(ours))
    leaves = [(leaf, span) for leaf, span in spec.spans() if not is_statistic(leaf.name)]

    def measure(part: slice) -> None:
        orders, factors = ([] if x is None else by_group(spec, x[part]) for x in (permutations, signs))
        for leaf, span in leaves:
            moved = theirs[part, span]
            if permutations is not None:
                moved = _reordered_leaf(spec, leaf, moved, orders, factors)
            difference = np.subtract(ours[part, span], moved, dtype=np.float64)
            squared[part] += np.einsum("sp,sp->s", difference, difference)

    with ThreadPoolExecutor(parallel.num_cores()) as threads:
        list(threads.map(measure, row_blocks(len(ours), _MEASURED)))
    return squared
