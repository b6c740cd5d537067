"""Evaluation of networks whose predictions are known already, by whatever framework made them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxweights import arrays
from jaxweights.errors import UserError
from jaxweights.evaluation.accuracy import Evaluation
from jaxweights.evaluation.cache import digests
from jaxweights.evaluation.predictions import Predictor

LABELS = "labels"
"""The targets among the predictions."""


class StoredPredictions(Predictor):
    """Evaluates the weight vectors that predictions are stored of; of others it evaluates none.

    Args:
      weights: `[n, P]` by name.
      predictions: of the same names, scores or probabilities `[n, T, K]` or class numbers `[n, T]`; of a regression
        numbers `[n, T]` or `[n, T, 1]`. And `LABELS`, `[T]`.
      task: "classification" or "regression".

    Raises:
      UserError: missing or unknown names, shapes that do not fit one another or the weights, or anything that is no
        number.
    """

    def __init__(self, weights: Mapping[str, Any], predictions: Mapping[str, Any], *, task: str = "classification"):
        missing = [name for name in (*weights, LABELS) if name not in predictions]
        unknown = sorted(set(predictions) - {*weights, LABELS})
        if missing or unknown:
            what = f"lacks {', '.join(map(repr, missing))}" if missing else f"has {', '.join(map(repr, unknown))}"
            raise UserError(
                f"predictions {what}; give an array for each of {', '.join(weights)}, in the order of its networks, "
                f"and {LABELS}."
            )
        targets = arrays.real(predictions[LABELS], f'predictions["{LABELS}"]')
        if task == "classification" and targets.dtype.kind not in "iu":
            raise UserError(f'predictions["{LABELS}"] has the type {targets.dtype}; give class numbers from 0.')
        super().__init__(self._stored, None, targets, task=task, batched=True)
        self._tables = {name: self._table(name, predictions[name], len(rows)) for name, rows in weights.items()}
        widths = {table.shape[2:] for table in self._tables.values()}
        if len(widths) > 1:
            shapes = ", ".join(f"{name} {table.shape}" for name, table in self._tables.items())
            raise UserError(
                f"predictions of different kinds: {shapes}. Give scores [n, T, K] or classes [n, T] of all."
            )
        self._places: dict[bytes, tuple[str, int]] = {}
        for name, rows in weights.items():
            for place, key in enumerate(digests(rows)):
                self._places.setdefault(key, (name, place))

    def _table(self, name: str, given: Any, count: int) -> np.ndarray:
        what = f'predictions["{name}"]'
        table = arrays.real(given, what)
        table = table.astype(np.float32) if table.dtype.kind not in "fiu" else table
        classes = self.task == "classification"
        fits = table.ndim == 3 or (table.ndim == 2 and (not classes or table.dtype.kind in "iu"))
        if not fits or table.shape[:2] != (count, self.examples):
            kind = "scores [n, T, K] or whole class numbers [n, T]" if classes else "numbers [n, T]"
            raise UserError(
                f"{what} has shape {table.shape} and type {table.dtype}; give {kind} of its n = {count} networks on "
                f"the T = {self.examples} examples of {LABELS}."
            )
        labels = self._targets
        if classes and (labels.min() < 0 or (table.ndim == 3 and labels.max() >= table.shape[2])):
            least = f"{table.shape[2]} scores per example" if table.ndim == 3 else "class numbers"
            raise UserError(
                f"{what} has {least}, but {LABELS} run from {labels.min()} to {labels.max()}; count from 0."
            )
        return table

    def __call__(self, weights: Any) -> Evaluation | None:  # type: ignore[override]
        """Evaluates `[N, P]` weight vectors; None where a prediction of one of them is not stored."""
        if not all(key in self._places for key in digests(weights)):
            return None
        return super().__call__(weights)

    def equal(self, weights: Any, parents: Any) -> None:
        """Says that networks `[n, P]` have the predictions of others `[n, P]`, as reordered copies have."""
        for key, parent in zip(digests(weights), digests(parents), strict=True):
            if parent in self._places:
                self._places.setdefault(key, self._places[parent])

    def _stored(self, weights: np.ndarray, inputs: None) -> np.ndarray:
        del inputs
        places = [self._places[key] for key in digests(weights)]
        return np.stack([self._tables[name][row] for name, row in places])
