"""Coordinate ascent of weight matching for few pairs of networks: what `climbing` does, by NumPy and SciPy.

Compiling either of the other programs takes longer than this takes for all pairs of a small audit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxweights.auditing.alignment import climbing
from jaxweights.auditing.alignment.canonical import by_group, stored_groups
from jaxweights.auditing.alignment.climbing import TIE, State
from jaxweights.nn.normalization import is_statistic
from jaxweights.spec import FIXED, WeightSpec

Pairs = list[np.ndarray]
"""Ours and theirs `[S, P]` float32, with their states in another argument."""


def climb(spec: WeightSpec, ours: np.ndarray, theirs: np.ndarray, state: State) -> None:
    """Sweeps over all groups of the active pairs until none gains, in place.

    Args:
      spec: meaning of the vectors.
      ours, theirs: `[S, P]` finite floats.
      state: NumPy arrays.
    """
    rows = np.flatnonzero(state.active)
    pairs, part = [np.asarray(x[rows], np.float32) for x in (ours, theirs)], state.rows(rows)
    with np.errstate(over="ignore", invalid="ignore"):  # scores that float32 cannot hold say nothing
        while part.active.any():
            _sweep(spec, pairs, part)
    for whole, found in zip(state, part, strict=True):
        whole[rows] = found


def _sweep(spec: WeightSpec, pairs: Pairs, state: State) -> None:
    """Updates every group of the active pairs once."""
    learning, before = ~state.known.all(axis=1), state.known.copy()
    for groups in climbing.phases(spec):
        for group in groups:
            rows = np.flatnonzero(state.active & state.open[:, group])
            if len(rows):
                part = state.rows(rows)
                _update(spec, group, [x[rows] for x in pairs], part)
                for whole, found in zip(state, part, strict=True):
                    whole[rows] = found
        state.known[:] = climbing.learned(spec, state.known, groups, np)
    settled = (state.known == before).all(axis=1)
    state.known[settled] = True
    state.open[learning] = True
    state.sweeps[state.active] -= 1
    state.active[:] &= state.open.any(axis=1) & (state.sweeps > 0)


def _update(spec: WeightSpec, group: int, pairs: Pairs, state: State) -> None:
    """Assigns the units of a group anew, and keeps that where a pair gains by it, in place."""
    own, sign = (by_group(spec, x)[group] for x in (state.permutations, state.signs))
    signed = spec.groups[group].scaling == "sign"
    scores = _scores(spec, group, pairs, state)
    sane = np.isfinite(np.abs(scores).sum(axis=(1, 2)))
    scores[~sane] = 0
    # The present match is the cheaper by what rounding may pretend.
    costs = -np.abs(scores) if signed else -scores
    at = np.arange(len(scores))[:, None], np.arange(scores.shape[1])[None, :]
    costs[(*at, own)] -= TIE * np.abs(scores).max(axis=(1, 2))[:, None]
    columns = np.stack([linear_sum_assignment(one)[1] for one in costs])
    present, matched = -costs[(*at, own)], -costs[(*at, columns)]
    changed = state._replace(permutations=state.permutations.copy(), signs=state.signs.copy())
    by_group(spec, changed.permutations)[group][:] = columns
    if signed:
        present = np.where(scores[(*at, own)] < 0, -present, present) * sign
        by_group(spec, changed.signs)[group][:] = np.where(scores[(*at, columns)] < 0, -1, 1)
    better = sane & ((matched - present).sum(axis=1) > TIE * np.abs(matched).sum(axis=1))
    others = climbing.neighbours(spec)[group]
    if group in others:
        # The score is quadratic in an order that a tensor has twice: a better assignment may be a worse match.
        better &= _match(spec, group, pairs, changed) > _match(spec, group, pairs, state)
    state.permutations[better], state.signs[better] = changed.permutations[better], changed.signs[better]
    state.open[:, group] = False
    state.open[np.ix_(better, sorted(others))] = True


def _scores(spec: WeightSpec, group: int, pairs: Pairs, state: State) -> np.ndarray:
    """The scores `[S, n, n]` of a group, ours by theirs, theirs as they are stored."""
    size = spec.groups[group].size
    total = np.zeros((len(state.active), size, size), np.float32)
    for leaf, span in spec.spans():
        groups = stored_groups(leaf)
        for place in [p for p, g in enumerate(groups) if g == group and not is_statistic(leaf.name)]:
            others = [(p + 1, g) for p, g in enumerate(groups) if p != place and g != FIXED]
            first, second = (x[:, span].reshape(-1, *leaf.stored_axes) for x in pairs)
            first, second = (np.moveaxis(x, place + 1, 1) for x in (first, _in_order(spec, second, others, state)))
            products = first.reshape(len(first), size, -1) @ second.reshape(len(second), size, -1).swapaxes(1, 2)
            says = functools.reduce(np.logical_and, [state.known[:, g] for _, g in others if g != group], True)
            total += np.where(np.reshape(says, (-1, 1, 1)), products, 0)
    return total


def _match(spec: WeightSpec, group: int, pairs: Pairs, state: State) -> np.ndarray:
    """Inner products `[S]` of the tensors that a group and others, or it twice, reorder."""
    total = np.zeros(len(state.active), np.float32)
    for leaf, span in spec.spans():
        axes = [(p + 1, g) for p, g in enumerate(stored_groups(leaf)) if g != FIXED]
        if group in leaf.groups and len(axes) > 1 and not is_statistic(leaf.name):
            first, second = (x[:, span].reshape(-1, *leaf.stored_axes) for x in pairs)
            second = _in_order(spec, second, axes, state)
            total += np.einsum("sp,sp->s", first.reshape(len(first), -1), second.reshape(len(second), -1))
    return total


def _in_order(spec: WeightSpec, values: np.ndarray, axes: Iterable[tuple[int, int]], state: State) -> np.ndarray:
    """A tensor `[S, ...]` with the units along some axes, given with their groups, in order and with signs."""
    orders, signs = by_group(spec, state.permutations), by_group(spec, state.signs)
    for axis, group in axes:
        shape = [len(values)] + [1] * (values.ndim - 1)
        shape[axis] = -1
        values = np.take_along_axis(values, orders[group].reshape(shape), axis)
        if spec.groups[group].scaling == "sign":
            values = values * signs[group].reshape(shape).astype(np.float32)
    return values
