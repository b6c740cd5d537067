"""How an audit evaluates networks: by a function, by predictions that are known already, or as the population does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxweights import tasks
from jaxweights.api import arguments, sources
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluator, Predictor, StoredPredictions, stored
from jaxweights.nets.base import TaskNet
from jaxweights.population import Population


def by_function(train: Population, predict: Any, test: Any, task: str, batched: bool) -> Callable[[Any], Any] | None:
    """Evaluation by the given function, or the population's own; None where there is neither."""
    if (predict is None) != (test is None):
        missing = "test = (inputs, targets)" if test is None else "predict"
        raise UserError(f"predict and test belong together, but {missing} is missing.")
    if predict is None:
        return train.evaluator
    if not callable(predict):
        raise UserError(f"predict is {predict!r}; give a function of (weights, inputs).")
    if not isinstance(test, (tuple, list)) or len(test) != 2:
        raise UserError("test has to be a pair (inputs, targets).")
    return Predictor(predict, *test, task=task, batched=batched)


def by_predictions(
    given: Mapping[str, Population], series: Mapping[str, Population], predictions: Any, other: Any, task: str
) -> StoredPredictions:
    """Evaluation by stored predictions.

    Raises:
      UserError: another evaluation besides, series that have the names of other entries, or predictions that do not fit
        the networks.
    """
    if other is not None:
        raise UserError("predictions take the place of predict and test; give either.")
    taken = [name for name in series if name in given or name == stored.LABELS]
    if taken:
        raise UserError(f"generated has a series {taken[0]!r}, which is another entry of predictions. Rename it.")
    if sources.is_path(predictions):
        predictions = sources.predictions(predictions)
    arguments.instance(predictions, Mapping, "predictions", "give arrays by name, or the path of a file of them")
    weights = {name: networks.weights for name, networks in {**given, **series}.items()}
    return StoredPredictions(weights, predictions, task=task)


def share(evaluate: Any, train: Population, copies: Mapping[str, Population]) -> None:
    """Gives copies the stored predictions of their parents."""
    if isinstance(evaluate, StoredPredictions):
        for networks in copies.values():
            evaluate.equal(networks.weights, train.weights[networks.records["parent"]])


def task_of(evaluate: Callable[[Any], Any] | None) -> tasks.Task:
    """The task whose terms the verdicts are in."""
    if isinstance(evaluate, Predictor):
        return tasks.get(evaluate.task)
    known = evaluate.net.task if isinstance(evaluate, Evaluator) else None
    return tasks.get() if known is None else known


def net_of(evaluate: Callable[[Any], Any] | None) -> TaskNet | None:
    """The task network that an evaluation runs; None where that is not known."""
    return evaluate.net if isinstance(evaluate, Evaluator) else None


def examples(evaluate: Callable[[Any], Any] | None, train: Population) -> int:
    """Examples of the test set; of an unknown function as many as its masks hold."""
    if evaluate is None:
        return 0
    if isinstance(evaluate, (Evaluator, Predictor)):
        return evaluate.examples
    return 8 * evaluate(train.weights[:1]).errors.shape[1]
