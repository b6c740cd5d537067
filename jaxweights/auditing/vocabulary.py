"""What an audit's numbers and sentences are called where the task networks do not classify.

The code speaks of classifiers: accuracy, errors, loss. For neural fields the same numbers are about shapes, see
`evaluate.fields`: the accuracy is the IoU with the nearest unseen signal, and the examples that a network gets wrong
are the points that its shape covers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Words = Callable[[str], str]
"""A phrase about classifiers to what it is called here; phrases that mean the same everywhere stay as they are."""

CLASSIFIER, FIELD = "classifier", "field"

_FIELD = {
    # Tables.
    "accuracy (%)": "IoU, nearest unseen (%)",
    "accuracy %": "quality %",
    "max error IoU": "max shape IoU",
    "error IoU": "shape IoU",
    "error IoU above held-out (%)": "shape IoU above held-out (%)",
    # Figures.
    "test accuracy (%)": "IoU with the nearest unseen shape (%)",
    "accuracy of the zoo": "quality of the zoo",
    "maximum error IoU with a training network": "maximum shape IoU with a training network",
    "Accuracy against novelty": "Quality against novelty",
    "Accuracy against similarity, as published": "Quality against similarity, as published",
    "Left: similarity of mistakes;": "Left: overlap of shapes;",
    "Accurate and novel": "Good and novel",
    "Test accuracies of the networks that the experiment starts from.": (
        "Quality of the networks that the experiment starts from: the IoU with the nearest shape that no network was "
        "fitted to."
    ),
    # Verdicts.
    "accuracy": "IoU with the nearest unseen shape",
    "Its networks make the same errors as training networks, more so than newly trained ones do.": (
        "Its shapes are those of training networks, more so than those of networks fitted to other shapes."
    ),
    "Its networks are as far from the training networks as newly trained ones are, and about as accurate.": (
        "Its networks are as far from the training networks as newly fitted ones are, and their shapes as close to "
        "unseen ones."
    ),
    "Its networks make the same errors as the training run, more so than newly trained ones do.": (
        "Its shapes are those of the training run, more so than those of networks fitted to other shapes."
    ),
    "Its networks are as far from the training run as newly trained ones are, and about as accurate.": (
        "Its networks are as far from the training run as newly fitted ones are, and their shapes as close to unseen "
        "ones."
    ),
    # Explanations.
    "or most make the errors of training networks more closely than 95&nbsp;% of held-out runs.": (
        "or most have the shape of a training network more closely than 95&nbsp;% of held-out runs."
    ),
    "its mean accuracy misses": "its mean IoU with the nearest unseen shape misses",
    "accuracy, loss": "IoU, nearest unseen; loss",
    "error IoU above held-out": "shape IoU above held-out",
    "Share of networks whose max error IoU exceeds": "Share of networks whose max shape IoU exceeds",
}


def words(name: str = CLASSIFIER) -> Words:
    """The words for a kind of task network."""
    return (lambda phrase: _FIELD.get(phrase, phrase)) if name == FIELD else str


def of(metrics: Mapping[str, Any]) -> Words:
    """The words that an audit's `metrics` ask for."""
    return words(metrics.get("vocabulary", CLASSIFIER))
