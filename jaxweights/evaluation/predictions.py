"""Evaluation of networks that are known by a function alone, in any framework: weights and inputs to predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxweights.data.probe import ProbeSettings
from jaxweights.errors import UserError
from jaxweights.evaluation.accuracy import Evaluation
from jaxweights.evaluation.base import PredictingEvaluator

BLOCK = 64
"""Networks that a batched function is given at a time."""
_SUM_TOLERANCE = 1e-3  # of probabilities to one, which half precision keeps


class Predictor(PredictingEvaluator):
    """Evaluates weight vectors by a function of weights and inputs.

    Of classifiers the accuracy is the share of examples with the right class, the loss the mean cross-entropy in nats,
    and errors are wrong classes. Of regressions they are R², the mean squared error, and residuals larger than a
    tolerance: the median distance of the targets from their mean.

    Args:
      predict: `(weights [P], inputs) -> predictions`, or if `batched` `(weights [n, P], inputs) -> [n, ...]`.
        Predictions are scores or probabilities `[T, K]`, or class numbers `[T]`; of a regression numbers `[T]` or
        `[T, 1]`; as anything that NumPy can read.
      inputs: the test set's inputs, handed on as they are.
      targets: `[T]` integers from 0; of a regression numbers.
      task: "classification" or "regression".
      batched: whether the function takes several networks at a time, at most 64.

    Raises:
      UserError: another task, or targets of another kind.
    """

    TASKS = ("classification", "regression")

    def __init__(
        self,
        predict: Callable[[Any, Any], Any],
        inputs: Any,
        targets: Any,
        *,
        task: str = "classification",
        batched: bool = False,
    ):
        if task not in self.TASKS:
            raise UserError(f"task is {task!r}; with a function for predictions it is one of {', '.join(self.TASKS)}.")
        self._predict, self._inputs, self._batched = predict, inputs, batched
        self._targets, self.task = np.asarray(targets), task
        wanted, kinds = ("class number", "iu") if task == "classification" else ("number", "iuf")
        if self._targets.ndim != 1 or not len(self._targets) or self._targets.dtype.kind not in kinds:
            raise UserError(
                f"The targets of test = (inputs, targets) have shape {self._targets.shape} and type "
                f"{self._targets.dtype}; give one {wanted} per example, [T]."
            )

    @property
    def examples(self) -> int:
        return len(self._targets)

    def __call__(self, weights: Any) -> Evaluation:
        """Evaluates `[N, P]` weight vectors; the loss is absent where the function returns class numbers. A network
        with a prediction that is not finite is undefined: its loss is NaN, and it is wrong on every example.

        Raises:
          UserError: predictions that are no numbers or have another shape.
        """
        judge = self._classified if self.task == "classification" else self._fitted
        quality, loss, errors = [], [], []
        step = BLOCK if self._batched else 1
        for start in range(0, len(weights), step):
            rows = np.asarray(weights[start : start + step], np.float32)
            for found in self._predictions(rows):
                value, surprise, wrong = judge(found) if np.isfinite(found).all() else self._undefined()
                quality.append(value)
                errors.append(np.packbits(wrong))
                loss += [surprise] if surprise is not None else []
        return Evaluation(np.array(quality), np.array(loss), np.stack(errors))

    def outputs(self, weights: Any, count: int) -> np.ndarray:
        """What the function returns, `[N, count, ...]`, of weight vectors `[N, P]` for the first inputs."""
        return self._first(weights, np.arange(min(count, self.examples))).astype(np.float64)

    def predictions(self, weights: Any, rows: np.ndarray) -> np.ndarray | None:
        found = self._first(weights, rows)
        if self.task == "regression":
            return found[..., None].astype(np.float32)
        return np.exp(log_probabilities(found)).astype(np.float32) if found.ndim == 3 else None

    def decisions(self, predictions: np.ndarray) -> np.ndarray | None:
        return predictions.argmax(axis=-1) if self.task == "classification" else None

    def quality(self, predictions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        targets = self._targets[rows]
        if self.task == "classification":
            return (predictions.argmax(axis=-1) == targets).mean(axis=-1)
        return r_squared(predictions[..., 0], targets)

    def losses(self, weights: Any) -> np.ndarray:
        found = self(weights)
        return found.loss if found is not None and len(found.loss) else np.full(len(weights), np.nan)

    def probing(self, settings: ProbeSettings) -> Predictor:
        if settings.size:
            settings.refuse(
                "size", "with a function for predictions set it to 0, and give it test inputs on which networks err"
            )
        return self

    def _first(self, weights: Any, chosen: np.ndarray) -> np.ndarray:
        """What the function returns for some inputs, `[N, S, ...]`."""
        step = BLOCK if self._batched else 1
        blocks = (np.asarray(weights[i : i + step], np.float32) for i in range(0, len(weights), step))
        return np.concatenate([self._predictions(block)[:, chosen] for block in blocks])

    def _predictions(self, rows: np.ndarray) -> np.ndarray:
        """Predictions `[n, T, ...]`, of the right shape."""
        given = self._predict(rows if self._batched else rows[0], self._inputs)
        try:
            found = np.asarray(given)
        except (TypeError, RuntimeError, ValueError) as error:
            raise UserError(
                f"predict returned {type(given).__name__}, which NumPy cannot read ({error}). Return an array, for "
                "instance tensor.detach().cpu().numpy()."
            ) from error
        found = found if self._batched else found[None]
        if self.task == "regression":
            found = found[..., 0] if found.ndim == 3 and found.shape[2] == 1 else found
            wanted, fits = f"[{self.examples}] numbers", found.ndim == 2 and found.dtype.kind in "fiu"
        else:
            wanted = f"[{self.examples}, K] scores or [{self.examples}] class numbers"
            fits = found.ndim in (2, 3) and found.size and found.dtype.kind in ("fiu" if found.ndim == 3 else "iu")
        if not fits or found.shape[:2] != (len(rows), self.examples):
            shape = found.shape if self._batched else found.shape[1:]
            per = " for each of its networks" if self._batched else ""
            raise UserError(f"predict returned shape {shape} and type {found.dtype}; it has to return {wanted}{per}.")
        return found

    def _undefined(self) -> tuple[float, float, np.ndarray]:
        return 0.0 if self.task == "classification" else -np.inf, np.nan, np.ones(self.examples, bool)

    def _classified(self, found: np.ndarray) -> tuple[float, float | None, np.ndarray]:
        """Accuracy, mean cross-entropy if there are scores, and which examples `[T]` are wrong."""
        labels = self._targets
        if found.ndim == 1:
            wrong = found != labels
            return 1.0 - float(wrong.mean()), None, wrong
        if labels.max() >= found.shape[1] or labels.min() < 0:
            raise UserError(
                f"predict returned {found.shape[1]} scores per example, but the labels run from {labels.min()} to "
                f"{labels.max()}; there has to be one score per class."
            )
        wrong = found.argmax(axis=1) != labels
        return 1.0 - float(wrong.mean()), cross_entropy(found, labels), wrong

    def _fitted(self, found: np.ndarray) -> tuple[float, float, np.ndarray]:
        """R², mean squared error, and which examples `[T]` are missed."""
        targets = self._targets.astype(np.float64)
        residuals, deviations = np.abs(found - targets), np.abs(targets - targets.mean())
        error, spread = float(np.square(residuals).mean()), float(np.square(deviations).mean())
        return 1.0 - error / max(spread, float(np.finfo(float).tiny)), error, residuals > np.median(deviations)


def cross_entropy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy in nats of `[T, K]` probabilities, if all rows are such, else of logits."""
    return float(-log_probabilities(scores)[np.arange(len(labels)), labels].mean())


def log_probabilities(scores: np.ndarray) -> np.ndarray:
    """Logarithms `[..., K]` float64 of the probabilities of classes: of the scores, if all are such, else after a
    softmax."""
    scores = scores.astype(np.float64)
    if (scores >= 0).all() and (np.abs(scores.sum(axis=-1) - 1.0) < _SUM_TOLERANCE).all():
        return np.log(np.maximum(scores, np.finfo(np.float32).tiny))
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def r_squared(found: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """R² `[...]` of numbers `[..., S]`: the share of the variance of targets `[S]` that they explain."""
    targets = targets.astype(np.float64)
    spread = max(np.square(targets - targets.mean()).sum(), float(np.finfo(float).tiny))
    return 1.0 - np.square(found - targets).sum(axis=-1) / spread
