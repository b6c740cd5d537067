"""Evaluation of populations: accuracy, loss and error masks of thousands of weight vectors."""

from jaxweights.evaluate.accuracy import Evaluation, evaluate
from jaxweights.evaluate.cache import Evaluator

__all__ = ["Evaluation", "Evaluator", "evaluate"]
