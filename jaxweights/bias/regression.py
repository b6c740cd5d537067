"""Repeats and controls of classifiers that need no network: regressions of scikit-learn, rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxweights.bias import protocol
from jaxweights.bias.protocol import Outcome, Split

Predict = Callable[[np.ndarray], np.ndarray]
"""Rows `[k]` to their classes `[k]`."""


def estimator(build: Callable[[], Any], inputs: Any) -> Callable[[Split], Predict]:
    """Fits an estimator of scikit-learn to the training rows of a subset.

    Args:
      build: an estimator that is not fitted.
      inputs: `[n, ...]`, what it takes.
    """

    def fit(split: Split) -> Predict:
        model = build().fit(inputs[split.train], split.labels[split.train])
        return lambda rows: model.predict(inputs[rows])

    return fit


def outcome(predict: Predict, split: Split) -> Outcome:
    """What a fitted classifier says of the rows of a subset."""
    trained = float(np.mean(predict(split.train) == split.labels[split.train]))
    return Outcome(np.asarray(predict(split.validation), np.int32), trained)


def try_all(
    fit: Callable[[Split], Predict], chosen: tuple[Sequence[Split], Sequence[bool]], num_classes: int
) -> tuple[dict[str, Any], list[Outcome]]:
    """Tries a classifier on every subset.

    Args:
      fit: learns from the training rows of a subset.
      chosen: subsets, and which are controls; of `Sizes.splits`.
      num_classes: K.

    Returns:
      What `protocol.summary` says, and the outcome of every subset.
    """
    outcomes, trials = [], []
    for i, split in enumerate(chosen[0]):
        outcomes.append(outcome(fit(split), split))
        trials.append(split.trial(0, i))
    return protocol.summary(trials, outcomes, num_classes, chosen[1]), outcomes
