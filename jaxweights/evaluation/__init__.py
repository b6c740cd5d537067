"""Evaluation of populations: accuracy, loss and error masks of thousands of weight vectors."""

from jaxweights.evaluation.accuracy import Evaluation, evaluate
from jaxweights.evaluation.cache import Evaluator

__all__ = ["Evaluation", "Evaluator", "evaluate"]
