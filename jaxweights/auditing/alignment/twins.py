"""Networks that are one another: equal weights, whatever the order, scale and signs of hidden units, or equal
outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxweights.auditing.alignment import canonical, quotient
from jaxweights.auditing.rows import read_rows, row_blocks
from jaxweights.evaluation import Evaluation, Evaluator, Predictor
from jaxweights.population import Population
from jaxweights.spec import WeightSpec

_BLOCK_BYTES = 64 << 20  # of weights that are read at a time
_PROBES = 64  # test inputs on which outputs are compared
_OUTPUTS, _LOSS = 1e-5, 1e-4  # relative to the largest output, and to the loss: sums in another order
_PAIRS = 1024  # most pairs whose outputs are compared


def first_of_each(train: Population) -> np.ndarray:
    """Rows of the networks without their duplicates, ascending: the first of those that are one network."""
    spec, norms = train.spec, _norms(train.weights, train.spec)
    found = [
        members[group]
        for members in _alike(norms)
        for group in ([np.array([0])] if len(members) == 1 else _alike(_features(train.weights, members, spec)))
    ]
    return np.sort([group.min() for group in found])


def equal_weights(networks: Any, reference: Any, spec: WeightSpec) -> np.ndarray:
    """`[n]` bool: whether a network is one of the reference, whatever the order, scale and signs of its hidden units.

    Two networks are one if no number tells them apart that symmetries leave alone: all values of every tensor, in
    order of size where its axes are permuted, of the balanced networks. They have to agree up to what the rounding of
    float32 weights explains, `canonical.COPY_TOLERANCE` of the length; no two networks of separate training do.
    """
    ours, theirs = _norms(networks, spec), _norms(reference, spec)
    lengths = np.linalg.norm(theirs, axis=1)
    order, own = np.argsort(lengths), np.linalg.norm(ours, axis=1)
    near = 2 * canonical.COPY_TOLERANCE * own
    first = np.searchsorted(lengths[order], own - near, "left")
    last = np.searchsorted(lengths[order], own + near, "right")
    found = np.zeros(len(ours), bool)
    pairs = []
    for i in np.flatnonzero(first < last):
        close = order[first[i] : last[i]]
        pairs += [(i, j) for j in close[_equal(theirs[close], ours[i], own[i])]]
    for block in row_blocks(len(pairs), _rows_at_once(spec)):
        i, j = np.array(pairs[block]).T
        a, b = _features(networks, i, spec), _features(reference, j, spec)
        found[i[np.linalg.norm(a - b, axis=1) <= canonical.COPY_TOLERANCE * own[i]]] = True
    return found


def _alike(described: np.ndarray) -> list[np.ndarray]:
    """Networks in groups `[n]` of rows whose descriptions `[N, F]` agree with those of the shortest."""
    lengths = np.linalg.norm(described, axis=1)
    groups: list[list[int]] = []
    start = 0  # of the groups that may still get members
    for row in np.argsort(lengths, kind="stable"):
        while start < len(groups) and lengths[groups[start][0]] < (1 - 2 * canonical.COPY_TOLERANCE) * lengths[row]:
            start += 1
        known = next((g for g in groups[start:] if _equal(described[g[:1]], described[row], lengths[row])[0]), None)
        if known is None:
            groups.append([row])
        else:
            known.append(row)
    return [np.array(group) for group in groups]


def _equal(described: np.ndarray, one: np.ndarray, length: float) -> np.ndarray:
    """`[n]` bool: which descriptions `[n, F]` are that of a network of this length, as far as rounding lets one see."""
    return np.linalg.norm(described - one, axis=1) <= canonical.COPY_TOLERANCE * length


def _norms(weights: Any, spec: WeightSpec) -> np.ndarray:
    """Lengths of every tensor `[N, leaves]` of the balanced networks: they differ by no more than the networks do."""
    parts = []
    for rows in row_blocks(len(weights), _rows_at_once(spec)):
        balanced = canonical.balance(spec, read_rows(weights, rows))
        parts.append(np.stack([np.linalg.norm(balanced[:, span], axis=1) for _, span in spec.spans()], axis=1))
    return np.concatenate(parts)


def _features(weights: Any, rows: np.ndarray, spec: WeightSpec) -> np.ndarray:
    return quotient.features(spec, canonical.balance(spec, read_rows(weights, rows)), statistics=True)


def _rows_at_once(spec: WeightSpec) -> int:
    return max(1, _BLOCK_BYTES // (8 * spec.num_params))


def equal_outputs(
    evaluate: Any, networks: Population, reference: Population, ours: Evaluation, theirs: Evaluation
) -> np.ndarray:
    """`[n]` bool: whether a network has the outputs of one of the reference on inputs of the test set.

    Only networks with the same errors and loss are looked at. Where outputs cannot be asked for, none are equal.

    Args:
      evaluate: what evaluated both.
      networks: n networks.
      reference: other networks.
      ours, theirs: their evaluations.
    """
    found = np.zeros(len(networks), bool)
    if not isinstance(evaluate, (Evaluator, Predictor)) or not len(ours.loss) or not len(theirs.loss):
        return found
    by_errors: Mapping[bytes, list[int]] = {}
    for row, mask in enumerate(theirs.errors):
        by_errors.setdefault(mask.tobytes(), []).append(row)  # type: ignore[attr-defined]
    pairs = [
        (i, j)
        for i, mask in enumerate(ours.errors)
        for j in by_errors.get(mask.tobytes(), ())
        if abs(ours.loss[i] - theirs.loss[j]) <= _LOSS * abs(theirs.loss[j])
    ][:_PAIRS]
    if pairs:
        first, second = np.array(pairs).T
        a, b = (
            evaluate.outputs(population.weights[rows], _PROBES).reshape(len(pairs), -1)
            for population, rows in ((networks, first), (reference, second))
        )
        same = np.abs(a - b).max(axis=1) <= _OUTPUTS * np.abs(b).max(axis=1)
        found[first[same]] = True
    return found
