"""Networks of one function brought to one scale: every hidden unit that may be rescaled is balanced.

Multiplying what writes a unit and dividing what reads it leaves the function of a ReLU network alone. The balanced
network, whose units are read by weights of the same norm as they are written by, has the smallest norm of all rescaled
copies and is unique (ENorm; Stock et al. 2019, arXiv 1902.10416). Signs need no such form: matching sees through them.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from jaxweights.auditing.rows import read_rows, row_blocks
from jaxweights.nn.normalization import is_statistic
from jaxweights.spec import FIXED, Leaf, WeightSpec

COPY_TOLERANCE = 1e-6
"""Distance of two balanced rescaled copies, relative to their norm, that the rounding of float32 weights explains."""

_HELD_BYTES = 512 << 20  # of balanced forms that are held, so that a search that reads them again balances once
_BLOCK_BYTES = 32 << 20
_SWEEPS = 1000
_CONVERGED = 1e-12  # change of a scale's logarithm that ends the sweeps
_LETTERS = "abcdefghijklm"


def stored_groups(leaf: Leaf) -> tuple[int, ...]:
    """The group of every axis of `leaf.stored_axes`."""
    return tuple(leaf.groups[axis] for axis in leaf.order)


def unit_offsets(spec: WeightSpec) -> np.ndarray:
    """Where every group begins among the hidden units of all groups, in order, and their number U: `[G + 1]`."""
    return np.cumsum([0] + [group.size for group in spec.groups])


def by_group(spec: WeightSpec, units: np.ndarray) -> list[np.ndarray]:
    """Splits an array over all hidden units `[..., U]` into views `[..., size]`, one per group."""
    offsets = unit_offsets(spec)
    return [units[..., a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]


def balancing_scales(spec: WeightSpec, rows: np.ndarray) -> np.ndarray:
    """Finds the scales that balance every network.

    For one hidden layer the scale of a unit is the square root of the ratio of the norms of what reads it and what
    writes it; deeper networks are swept layer by layer to the fixed point. A unit of which either norm is zero is left
    alone.

    Args:
      spec: meaning of the vectors.
      rows: `[N, P]` finite floats.

    Returns:
      `[N, U]` float64 positive scales, as `WeightSpec.rescale` takes them, group after group; ones where a group admits
      no rescaling.
    """
    count, offsets = len(rows), unit_offsets(spec)
    squared = np.ones((count, offsets[-1]))
    positive = [g for g, group in enumerate(spec.groups) if group.scaling == "positive"]
    if not positive:
        return squared
    scales = by_group(spec, squared)
    leaves = [_squares(leaf, rows[:, span], positive) for leaf, span in spec.spans() if not is_statistic(leaf.name)]
    for _ in range(_SWEEPS):
        change = 0.0
        for group in positive:
            norms = {1: np.zeros_like(scales[group]), -1: np.zeros_like(scales[group])}
            for values, groups, roles in leaves:
                for place, (own, role) in enumerate(zip(groups, roles, strict=True)):
                    if own == group:
                        norms[role] += _unit_squares(values, groups, roles, scales, place)
            written, read = norms[1], norms[-1]
            usable = (written > 0) & (read > 0)
            new = np.sqrt(np.divide(read, written, out=np.ones_like(read), where=usable))
            change = max(change, float(np.abs(np.log(new / scales[group])[usable]).max(initial=0.0)))
            scales[group][usable] = new[usable]
        if change < _CONVERGED or len(positive) == 1:
            break
    return np.sqrt(squared)


def rescaled(spec: WeightSpec, rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Rescales every network by scales of its own.

    Args:
      spec: meaning of the vectors.
      rows: `[..., P]`.
      scales: `[..., U]`, with axes that broadcast against those of `rows`.

    Returns:
      `[..., P]` float64.
    """
    result, parts = rows.astype(np.float64), by_group(spec, scales)
    for leaf, span in spec.spans():
        values = result[..., span].reshape(rows.shape[:-1] + leaf.stored_axes)
        for place, axis in enumerate(leaf.order):
            if leaf.groups[axis] != FIXED:
                factor = parts[leaf.groups[axis]] ** leaf.roles[axis]
                after = (1,) * (len(leaf.order) - 1 - place)
                values = values * factor.reshape(factor.shape[:-1] + (1,) * place + factor.shape[-1:] + after)
        result[..., span] = values.reshape(result[..., span].shape)
    return result


def balance(spec: WeightSpec, rows: np.ndarray) -> np.ndarray:
    """The balanced forms `[N, P]`, float64, of networks `[N, P]`: rescaled copies have the same."""
    return rescaled(spec, rows, balancing_scales(spec, rows))


class BalancedRows:
    """Balanced forms of the rows of an array-like `[N, P]`, made when they are read, or once where all fit a stated
    memory.

    Attributes:
      shape: of the whole.
    """

    def __init__(self, spec: WeightSpec, source: Any, statistics: bool = True):
        self._spec, self._source = spec, source
        self._places = None if statistics else weight_places(spec)
        width = source.shape[1] if self._places is None else len(self._places)
        self.shape = source.shape[0], width
        self._held = None
        if 0 < 8 * self.shape[0] * width <= _HELD_BYTES:
            blocks = row_blocks(len(self), max(1, _BLOCK_BYTES // (8 * source.shape[1])))
            self._held = np.concatenate([self._balanced(rows) for rows in blocks])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self._balanced(rows) if self._held is None else self._held[rows]

    def _balanced(self, rows: slice | np.ndarray) -> np.ndarray:
        found = balance(self._spec, read_rows(self._source, rows))
        return found if self._places is None else found[:, self._places]


def balanced(spec: WeightSpec, source: Any, statistics: bool = True) -> Any:
    """The array-like with balanced rows, float64, where wanted without running statistics; itself where nothing is to
    do: no group admits a positive rescaling, and there are no statistics to leave out."""
    kept = statistics or weight_places(spec) is None
    return source if kept and not rescales(spec) else BalancedRows(spec, source, statistics)


def rescales(spec: WeightSpec) -> bool:
    """Whether the units of any group admit a positive rescaling."""
    return any(group.scaling == "positive" for group in spec.groups)


@functools.cache
def weight_places(spec: WeightSpec) -> np.ndarray | None:
    """Places of all numbers but running statistics `[R]`; None where there are none of these."""
    kept = [np.arange(span.start, span.stop) for leaf, span in spec.spans() if not is_statistic(leaf.name)]
    return None if len(kept) == len(spec.leaves) else np.concatenate(kept)


def _squares(leaf: Leaf, rows: np.ndarray, positive: list[int]) -> tuple[np.ndarray, list[int], list[int]]:
    """Sums of squares of a leaf over all axes that are not rescaled, with the groups and roles of the others."""
    kept = [(p, leaf.groups[a], leaf.roles[a]) for p, a in enumerate(leaf.order) if leaf.groups[a] in positive]
    values = np.square(rows.astype(np.float64)).reshape((len(rows), *leaf.stored_axes))
    places = {place for place, _, _ in kept}
    values = values.sum(axis=tuple(1 + p for p in range(len(leaf.order)) if p not in places))
    return values, [group for _, group, _ in kept], [role for _, _, role in kept]


def _unit_squares(values, groups, roles, scales, place: int) -> np.ndarray:
    """Squared norms `[N, n]` of a leaf's weights per unit along one of its axes, all other axes rescaled."""
    terms, operands = ["z" + _LETTERS[: len(groups)]], [values]
    for other, (group, role) in enumerate(zip(groups, roles, strict=True)):
        if other != place:
            terms.append("z" + _LETTERS[other])
            operands.append(scales[group] ** role)
    return np.einsum(",".join(terms) + "->z" + _LETTERS[place], *operands)
