"""Evaluation of populations: accuracy, loss and error masks of thousands of weight vectors."""

from jaxweights.evaluation.accuracy import Evaluation, evaluate, recalls
from jaxweights.evaluation.base import PredictingEvaluator
from jaxweights.evaluation.cache import Evaluator
from jaxweights.evaluation.predictions import Predictor
from jaxweights.evaluation.recalibration import recalibrated
from jaxweights.evaluation.stored import StoredPredictions

__all__ = [
    "Evaluation",
    "Evaluator",
    "PredictingEvaluator",
    "Predictor",
    "StoredPredictions",
    "evaluate",
    "recalibrated",
    "recalls",
]
