"""Evaluation of populations: accuracy, loss and error masks of thousands of weight vectors."""

from jaxweights.evaluate.accuracy import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
