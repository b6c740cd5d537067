"""What every kind of designed networks offers."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

import numpy as np
from jax.sharding import Mesh

from jaxweights.errors import UserError
from jaxweights.population import TRAIN, Population
from jaxweights.probing.features import Design, Feature
from jaxweights.settings import Settings
from jaxweights.spec import WeightSpec


@dataclasses.dataclass(frozen=True)
class DesignedNetworks(Settings, abc.ABC):
    """Networks whose features are chosen."""

    SECTION: ClassVar[str] = "probing.data"
    KIND: ClassVar[str] = ""
    ABOUT: ClassVar[str] = ""
    """What such networks can show, for pages."""
    MEASURED: ClassVar[str] = "exact"
    """How their features are measured, in few words."""
    TRAINED: ClassVar[bool] = False
    """Whether they come from runs, which have `trajectories`, and can be evaluated."""

    @property
    @abc.abstractmethod
    def spec(self) -> WeightSpec:
        """What a row means."""

    @property
    @abc.abstractmethod
    def features(self) -> tuple[Feature, ...]:
        """F features, in the order of the columns of `values` everywhere."""

    @abc.abstractmethod
    def check(self, design: Design) -> None:
        """Raises `UserError` for combinations that no network can have, with the bound."""

    @abc.abstractmethod
    def draw(self, design: Design, n: int, seed: int, split: str = TRAIN, mesh: Mesh | None = None) -> Population:
        """Networks `[n, P]` of a design in random order, with columns `combination` and `feature/<name>` (exact)."""

    @abc.abstractmethod
    def measure(self, weights: np.ndarray, mesh: Mesh | None = None) -> np.ndarray:
        """Features `[n, F]` float32 of finite networks `[n, P]`; NaN where one is not defined."""

    def trajectories(self, population: Population, mesh: Mesh | None = None) -> Population:
        """Networks of `draw` with the checkpoints before them, and their `step`, `loss` and `accuracy`, where they are
        `TRAINED`."""
        del mesh
        raise UserError(f"{len(population)} {self.KIND} networks were not trained, so they have no trajectories.")

    def evaluated(self, weights: np.ndarray, mesh: Mesh | None = None) -> Population:
        """Networks `[n, P]` with their `loss` and `accuracy`, where they are `TRAINED`."""
        del mesh
        raise UserError(f"{len(weights)} {self.KIND} networks were to be evaluated, but they have no task.")

    def chosen(self, design: Design, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Combinations `[n]` int64 of n networks, and their values `[n, F]` float64; what a design leaves open is
        uniform over the feature's values."""
        rows = design.rows(n, rng)
        values = design.values[rows].astype(np.float64)
        for i, feature in enumerate(self.features):
            drawn = np.asarray(feature.values)[rng.integers(0, len(feature.values), n)]
            values[:, i] = np.where(np.isnan(values[:, i]), drawn, values[:, i])
        return rows, values
