"""Evaluation of networks that are known by a function alone, in any framework: weights and inputs to predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxweights.errors import UserError
from jaxweights.evaluation.accuracy import Evaluation

BLOCK = 64
"""Networks that a batched function is given at a time."""
_SUM_TOLERANCE = 1e-3  # of probabilities to one, which half precision keeps


class Predictor:
    """Evaluates weight vectors by a function of weights and inputs.

    Args:
      predict: `(weights [P], inputs) -> predictions`, or if `batched` `(weights [n, P], inputs) -> [n, ...]`.
        Predictions are scores or probabilities `[T, K]`, or class numbers `[T]`, as anything that NumPy can read.
      inputs: the test set's inputs, handed on as they are.
      labels: `[T]` integers from 0.
      batched: whether the function takes several networks at a time, at most 64.
    """

    def __init__(self, predict: Callable[[Any, Any], Any], inputs: Any, labels: Any, *, batched: bool = False):
        self._predict, self._inputs, self._batched = predict, inputs, batched
        self._labels = np.asarray(labels)
        if self._labels.ndim != 1 or not len(self._labels) or self._labels.dtype.kind not in "iu":
            raise UserError(
                f"The labels of test = (inputs, labels) have shape {self._labels.shape} and type {self._labels.dtype}; "
                "give one class number per example, [T] integers from 0."
            )
        self.examples = len(self._labels)

    def __call__(self, weights: Any) -> Evaluation:
        """Evaluates `[N, P]` weight vectors; the loss is absent where the function returns class numbers.

        Raises:
          UserError: predictions that are no numbers, have another shape, or are not finite.
        """
        accuracy, loss, errors = [], [], []
        step = BLOCK if self._batched else 1
        for start in range(0, len(weights), step):
            rows = np.asarray(weights[start : start + step], np.float32)
            for offset, found in enumerate(self._predictions(rows)):
                wrong, surprise = self._judge(found, start + offset)
                accuracy.append(1.0 - wrong.mean())
                errors.append(np.packbits(wrong))
                loss += [surprise] if surprise is not None else []
        return Evaluation(np.array(accuracy), np.array(loss), np.stack(errors))

    def _predictions(self, rows: np.ndarray) -> np.ndarray:
        given = self._predict(rows if self._batched else rows[0], self._inputs)
        try:
            found = np.asarray(given)
        except (TypeError, RuntimeError, ValueError) as error:
            raise UserError(
                f"predict returned {type(given).__name__}, which NumPy cannot read ({error}). Return an array, for "
                "instance tensor.detach().cpu().numpy()."
            ) from error
        found = found if self._batched else found[None]
        shapes = f"[{self.examples}, K] scores or [{self.examples}] class numbers"
        fits = found.ndim in (2, 3) and found.shape[:2] == (len(rows), self.examples) and found.shape[-1] > 0
        if not fits or found.dtype.kind not in "fiub" or (found.ndim == 2 and found.dtype.kind == "f"):
            shape = found.shape if self._batched else found.shape[1:]
            per = " for each of its networks" if self._batched else ""
            raise UserError(f"predict returned shape {shape} and type {found.dtype}; it has to return {shapes}{per}.")
        return found

    def _judge(self, found: np.ndarray, network: int) -> tuple[np.ndarray, float | None]:
        """Which examples `[T]` a network gets wrong, and its mean cross-entropy in nats, if it tells scores."""
        if found.ndim == 1:
            return found != self._labels, None
        if not np.isfinite(found).all():
            raise UserError(
                f"predict returned values that are not finite for network {network} of a series. Leave out networks "
                "that diverged."
            )
        if self._labels.max() >= found.shape[1] or self._labels.min() < 0:
            raise UserError(
                f"predict returned {found.shape[1]} scores per example, but the labels run from {self._labels.min()} "
                f"to {self._labels.max()}; there has to be one score per class."
            )
        return found.argmax(axis=1) != self._labels, cross_entropy(found, self._labels)


def cross_entropy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy in nats of `[T, K]` probabilities, if all rows are such, else of logits."""
    scores = scores.astype(np.float64)
    if (scores >= 0).all() and (np.abs(scores.sum(axis=1) - 1.0) < _SUM_TOLERANCE).all():
        logs = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
    else:
        shifted = scores - scores.max(axis=1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-logs[np.arange(len(labels)), labels].mean())
