"""Hidden units of all groups in another order and with other signs, and what networks differ by then."""

from __future__ import annotations

import numpy as np

from jaxweights.auditing.canonical import by_group, stored_groups, weight_places
from jaxweights.auditing.rows import row_blocks
from jaxweights.spec import FIXED, WeightSpec


def reordered(spec: WeightSpec, rows: np.ndarray, permutations: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Reorders hidden units, and flips their signs, of every network in its own way; the functions stay the same.

    Args:
      spec: meaning of the vectors.
      rows: `[S, P]`.
      permutations, signs: `[S, U]` integers, see `Matches`.

    Returns:
      `[S, P]`, a copy.
    """
    result, flipped = np.empty_like(rows), bool((signs < 0).any())
    orders, factors = by_group(spec, permutations), by_group(spec, signs)
    pairs = np.arange(len(rows))[:, None]
    for leaf, span in spec.spans():
        values = rows[:, span].reshape((len(rows), *leaf.stored_axes))
        for place, group in enumerate(stored_groups(leaf)):
            if group != FIXED:
                moved = np.moveaxis(values, 1 + place, 1)[pairs, orders[group]]
                if flipped and spec.groups[group].scaling == "sign":
                    moved = moved * factors[group].reshape(factors[group].shape + (1,) * (moved.ndim - 2))
                values = np.moveaxis(moved, 1, 1 + place)
        result[:, span] = values.reshape(len(rows), -1)
    return result


def squared_distances(
    spec: WeightSpec, ours: np.ndarray, theirs: np.ndarray, permutations: np.ndarray, signs: np.ndarray
) -> np.ndarray:
    """Squared distances `[S]`, float64, of networks and others reordered; running statistics do not count."""
    squared = np.empty(len(ours))
    weights = weight_places(spec)
    for part in row_blocks(len(ours), 32):  # differences that stay in cache
        moved = reordered(spec, theirs[part], permutations[part], signs[part])
        difference = ours[part].astype(np.float64) - moved
        if weights is not None:
            difference = difference[:, weights]
        squared[part] = np.einsum("sp,sp->s", difference, difference)
    return squared
