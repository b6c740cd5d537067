"""What every kind of designed networks offers."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

import numpy as np

from jaxweights.population import TRAIN, Population
from jaxweights.probing.features import Design, Feature
from jaxweights.settings import Settings


@dataclasses.dataclass(frozen=True)
class DesignedNetworks(Settings, abc.ABC):
    """Networks whose features are chosen, and measured exactly."""

    SECTION: ClassVar[str] = "probing.data"
    KIND: ClassVar[str] = ""

    @property
    @abc.abstractmethod
    def features(self) -> tuple[Feature, ...]:
        """F features, in the order of the columns of `values` everywhere."""

    @abc.abstractmethod
    def check(self, design: Design) -> None:
        """Raises `UserError` for combinations that no network can have, with the bound."""

    @abc.abstractmethod
    def draw(self, design: Design, n: int, seed: int, split: str = TRAIN) -> Population:
        """Networks `[n, P]` of a design in random order, with columns `combination` and `feature/<name>` (exact)."""

    @abc.abstractmethod
    def measure(self, weights: np.ndarray) -> np.ndarray:
        """Features `[n, F]` float32 of finite networks `[n, P]`; NaN where one is not defined."""
