"""What every probe offers: the training sets that it asks for, and what it says of what comes out."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxweights.probing.features import Design, Feature
from jaxweights.settings import Settings


class Measured(NamedTuple):
    """Features of one training, all by the same estimator.

    Attributes:
      train: `[n, F]` float32, of training examples; NaN where one is not defined.
      heldout: `[n, F]`, of fresh examples of the same design.
      generated: `[n, F]`, of samples of the model.
    """

    train: np.ndarray
    heldout: np.ndarray
    generated: np.ndarray


@dataclasses.dataclass(frozen=True)
class Probe(Settings, abc.ABC):
    """A question about what a model makes of designed training sets."""

    SECTION: ClassVar[str] = "probing.probes"
    KIND: ClassVar[str] = ""

    @abc.abstractmethod
    def designs(self, features: tuple[Feature, ...], seed: int) -> dict[str, Design]:
        """The training sets by name; equal ones of several probes are trained once.

        Args:
          features: of the data.
          seed: of what is drawn at random, e.g. lists of combinations.

        Raises:
          UserError: a feature or a value that the data does not have.
        """

    @abc.abstractmethod
    def judge(self, designs: Mapping[str, Design], measured: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
        """What one model makes of them, as JSON-like data: numbers with `value`, `ci95` and `n`.

        Args:
          designs: of `designs`.
          measured: by name of the design, one entry per seed of the training.
        """
