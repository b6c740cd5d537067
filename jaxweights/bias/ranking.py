"""Which named features tell collections apart: ranked coefficients of a logistic regression, and the majority rule.

Intervals of coefficients are normal ones of the estimate's cluster-robust covariance (Liang and Zeger 1986), so that
several examples of one group do not count as independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from jaxweights.auditing.statistics import CONFIDENCE
from jaxweights.bias.protocol import Split, wilson
from jaxweights.errors import UserError

BINS = 10
"""Bins of the majority rule, of as many training examples each."""
_LEAST_DEVIATION = 1e-9
_GROUPS = 1024  # whose scores are in memory together
_HALF = float(special.ndtri(0.5 + CONFIDENCE / 2))


class Table(NamedTuple):
    """Named features of examples.

    Attributes:
      names: F names.
      values: `[n, F]` float64.
      groups: `[n]`, what belongs together, e.g. the run of a network.
    """

    names: Sequence[str]
    values: np.ndarray
    groups: np.ndarray


def rank(table: Table, split: Split, collections: Sequence[str]) -> dict[str, Any]:
    """Fits a logistic regression (L2, C = 1) to standardised features and ranks its coefficients.

    Args:
      table: features of all examples.
      split: rows to learn from and to be asked about, with their labels.
      collections: names of the K classes.

    Returns:
      `accuracy` on the validation rows with its Wilson interval; `coefficients` by collection, the largest magnitude
      first: `{"feature", "value", "ci95", "n"}`, per standard deviation of the feature; `majority`, the accuracy of the
      majority rule of every feature, the best first.

    Raises:
      UserError: no feature that varies.
    """
    from sklearn.linear_model import LogisticRegression

    train, asked = split.train, split.validation
    mean, deviation = table.values[train].mean(axis=0), table.values[train].std(axis=0)
    varies = deviation > _LEAST_DEVIATION * np.maximum(np.abs(mean), 1.0)
    if not varies.any():
        raise UserError("No named feature differs between any two examples, so that there is nothing to rank.")
    values = (table.values[:, varies] - mean[varies]) / deviation[varies]
    names = [name for name, kept in zip(table.names, varies, strict=True) if kept]
    model = LogisticRegression(max_iter=2000).fit(values[train], split.labels[train])
    right = np.equal(model.predict(values[asked]), split.labels[asked])
    coefficients = _per_class(model.coef_)
    probabilities: Any = model.predict_proba(values[train])
    half = _HALF * _deviations(values[train], probabilities, split.labels[train], table.groups[train])
    half = np.broadcast_to(half, coefficients.shape)
    low, high = coefficients - half, coefficients + half
    ranked = {}
    for k, name in enumerate(collections):
        order = np.argsort(-np.abs(coefficients[k]), kind="stable")
        ranked[name] = [
            {
                "feature": names[i],
                "value": float(coefficients[k, i]),
                "ci95": [float(low[k, i]), float(high[k, i])],
                "n": len(train),
            }
            for i in order
        ]
    return {
        "accuracy": wilson(int(right.sum()), len(right)).to_json(),
        "coefficients": ranked,
        "majority": _majority(values, names, split),
    }


def _per_class(coefficients: np.ndarray) -> np.ndarray:
    """Coefficients `[K, F]`; for two classes a regression has one row."""
    return np.concatenate([-coefficients, coefficients]) if len(coefficients) == 1 else coefficients


def _deviations(values: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Standard deviations `[K, F]` (`[1, F]` for two classes) of the coefficients of a fitted regression.

    Args:
      values: `[m, F]` standardised features.
      probabilities: `[m, K]` of the classes.
      labels: `[m]` in the order of the classes.
      groups: `[m]`.
    """
    classes = np.unique(labels)
    right = labels[:, None] == classes[None, :]
    if len(classes) == 2:  # one row of coefficients, of the second class
        probabilities, right = probabilities[:, 1:], right[:, 1:]
    design = np.column_stack([values, np.ones(len(values))])
    width, rows = design.shape[1], probabilities.shape[1]
    spread = _spread(probabilities - right, design, groups)
    curvature = np.zeros((rows, width, rows, width))
    for a in range(rows):
        for b in range(rows):
            weight = probabilities[:, a] * ((a == b) - probabilities[:, b])
            curvature[a, :, b] = design.T @ (weight[:, None] * design)
    # The penalty; a constant added to all intercepts changes nothing, so that these have no curvature of their own.
    curvature = curvature.reshape(rows * width, -1) + np.eye(rows * width)
    inverse = np.linalg.inv(curvature)
    variances = np.diag(inverse @ spread @ inverse).reshape(rows, width)
    return np.sqrt(variances[:, :-1])


def _spread(errors: np.ndarray, design: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sum `[K * D, K * D]` over groups of the outer products of their scores, in parts that memory holds.

    Args:
      errors: `[m, K]` probability minus truth.
      design: `[m, D]`.
      groups: `[m]`.
    """
    _, places = np.unique(groups, return_inverse=True)
    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(np.diff(places[order], prepend=-1))  # of the groups, in this order
    size = errors.shape[1] * design.shape[1]
    found = np.zeros((size, size))
    for part in range(0, len(starts), _GROUPS):
        first = starts[part : part + _GROUPS]
        end = starts[part + _GROUPS] if part + _GROUPS < len(starts) else len(order)
        rows = order[first[0] : end]
        scores = (errors[rows, :, None] * design[rows, None, :]).reshape(len(rows), -1)
        scores = np.add.reduceat(scores, first - first[0], axis=0)
        found += scores.T @ scores
    return found


def _majority(values: np.ndarray, names: Sequence[str], split: Split) -> list[dict[str, Any]]:
    """The accuracy of the rule that a feature's bin belongs to the class with most training examples in it."""
    found = []
    labels = split.labels
    for i, name in enumerate(names):
        bins = np.searchsorted(_edges(values[split.train, i]), values[:, i], side="right")
        counts = np.zeros((BINS, int(labels[split.train].max()) + 1))
        np.add.at(counts, (bins[split.train], labels[split.train]), 1)
        right = counts.argmax(axis=1)[bins[split.validation]] == labels[split.validation]
        found.append({"feature": name, **wilson(int(right.sum()), len(right)).to_json()})
    return sorted(found, key=lambda entry: -entry["value"])


def _edges(values: np.ndarray) -> np.ndarray:
    """What separates the bins of a feature: quantiles, or the middles between its values where these are few."""
    distinct = np.unique(values)
    if len(distinct) <= BINS:
        return (distinct[1:] + distinct[:-1]) / 2
    return np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
