"""Networks that are one another: equal weights, up to the order of the hidden units where the spec has any, or equal
outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxweights.evaluation import Evaluation, Evaluator, Predictor
from jaxweights.population import Population
from jaxweights.spec import FIXED, WeightSpec

_BLOCK_BYTES = 64 << 20  # of weights that are read at a time
_MIX, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)
_PROBES = 64  # test inputs on which outputs are compared
_OUTPUTS, _LOSS = 1e-5, 1e-4  # relative to the largest output, and to the loss: sums in another order
_PAIRS = 1024  # most pairs whose outputs are compared


def fingerprints(weights: Any, spec: WeightSpec) -> np.ndarray:
    """`[N, leaves]` uint64 that are equal for equal networks, in whatever order their hidden units are.

    Within a tensor with permuted axes the order of the values does not count; so the values have to agree, tensor by
    tensor, which no two networks of separate training do.
    """
    out = np.empty((len(weights), len(spec.leaves)), np.uint64)
    block = max(1, _BLOCK_BYTES // (8 * spec.num_params))
    for start in range(0, len(weights), block):
        rows = np.asarray(weights[start : start + block], np.float32) + np.float32(0)  # one zero
        bits = rows.view(np.uint32).astype(np.uint64) + np.uint64(1)
        for i, (leaf, span) in enumerate(spec.spans()):
            part = bits[:, span]
            if set(leaf.groups) <= {FIXED}:
                part = part + (np.arange(leaf.size, dtype=np.uint64) << np.uint64(32))[None, :]
            out[start : start + block, i] = _mixed(part).sum(axis=1, dtype=np.uint64)
    return out


def _mixed(values: np.ndarray) -> np.ndarray:
    """A hash of every number; arithmetic is modulo 2^64."""
    for _ in range(2):
        values = values * _MIX
        values ^= values >> _SHIFT
    return values * _MIX


def first_of_each(train: Population) -> np.ndarray:
    """Rows of the networks without their duplicates: the first of those that are equal, ascending."""
    return np.sort(np.unique(fingerprints(train.weights, train.spec), axis=0, return_index=True)[1])


def equal_weights(networks: Any, reference: Any, spec: WeightSpec) -> np.ndarray:
    """`[n]` bool: whether a network is one of the reference, in whatever order its hidden units are."""
    known = {row.tobytes() for row in fingerprints(reference, spec)}
    return np.array([row.tobytes() in known for row in fingerprints(networks, spec)], bool)


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
