"""What an audit asks of an evaluation: qualities and errors, and predictions by which functions are compared."""

from __future__ import annotations

import abc
from typing import Any, Self

import numpy as np

from jaxweights.data.probe import ProbeSettings
from jaxweights.evaluation.accuracy import Evaluation


class PredictingEvaluator(abc.ABC):
    """An evaluation of networks that can be asked for their predictions, too.

    Predictions are a task's natural outputs: probabilities of classes or of occupancy, actions, numbers.
    """

    @property
    @abc.abstractmethod
    def examples(self) -> int:
        """Examples of the test set."""

    @abc.abstractmethod
    def __call__(self, weights: Any) -> Evaluation:
        """Evaluates weight vectors `[N, P]`."""

    @abc.abstractmethod
    def outputs(self, weights: Any, count: int) -> np.ndarray:
        """Outputs `[N, count, ...]` of weight vectors `[N, P]` as the networks give them, for the first inputs."""

    @abc.abstractmethod
    def predictions(self, weights: Any, rows: np.ndarray) -> np.ndarray | None:
        """Predictions `[N, S, K]` float32 of weight vectors `[N, P]` for the inputs `rows` `[S]`; None where there are
        none but class numbers."""

    @abc.abstractmethod
    def decisions(self, predictions: np.ndarray) -> np.ndarray | None:
        """Decisions `[...]`, whole numbers from 0, of predictions `[..., K]`; None for a task without any."""

    @abc.abstractmethod
    def quality(self, predictions: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
        """The measure of quality `[...]` of predictions `[..., S, K]` for the inputs `rows` `[S]`; None where it is no
        function of them."""

    @abc.abstractmethod
    def losses(self, weights: Any) -> np.ndarray:
        """Losses `[N]` of any weight vectors `[N, P]`, NaN where there are none."""

    @abc.abstractmethod
    def probing(self, settings: ProbeSettings) -> Self:
        """The same evaluation on the probe set; of no images, the evaluation itself.

        Raises:
          UserError: inputs that cannot be changed.
        """
