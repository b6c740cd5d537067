"""Planted networks: perceptrons with exactly so many active units, a prescribed norm, sparsity and share of negative
weights.

Nothing is trained, so that features are exact and examples are free.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from jax.sharding import Mesh

from jaxweights.errors import UserError
from jaxweights.population import TRAIN, Population
from jaxweights.probing.data.base import FEATURE
from jaxweights.probing.features import Design, Feature
from jaxweights.probing.weights.base import DesignedNetworks
from jaxweights.settings import setting
from jaxweights.spec import FIXED, Group, Leaf, WeightSpec

_MAGNITUDES = (0.75, 1.25)  # of weights that are not 0, before the norm is set
_ZERO = 0.3
"""Weights below this share of the largest one count as 0: planted ones are either 0 or above 0.6 of it."""


@dataclasses.dataclass(frozen=True)
class Planted(DesignedNetworks):
    """Perceptrons with one hidden layer and no biases, whose weights are planted.

    Features: `units`, hidden units with incoming and outgoing weights; `norm`, of all weights; `sparsity`, share of
    weights of these units that are 0; `negative`, share of their other weights that are negative. What is left open is
    uniform over the feature's values.

    Attributes:
      inputs, hidden, outputs: sizes of the layers.
      units: numbers of active units that there are.
      norms: norms that there are.
      sparsities: shares of zeros that there are.
      negatives: shares of negative weights that there are.
      aligned: whether the first units are the active ones; if not, random ones are, as in a zoo whose hidden units have
        no common order.
    """

    KIND: ClassVar[str] = "planted"
    ABOUT: ClassVar[str] = (
        "Networks are planted, not trained: features are exact and hold for weights alone. What a generator does to "
        "them, copy, average or combine, is what it does to scale and structure; trained networks have a function "
        "besides."
    )

    inputs: int = setting(8, at_least=1, at_most=1024)
    hidden: int = setting(10, at_least=1, at_most=1024)
    outputs: int = setting(4, at_least=1, at_most=1024)
    units: tuple[int, ...] = setting((2, 3, 4, 5, 6, 7, 8), at_least=1, length=(2, None))
    norms: tuple[float, ...] = setting((1.0, 2.0, 3.0, 4.0, 5.0), above=0, length=(2, None))
    sparsities: tuple[float, ...] = setting((0.1, 0.3, 0.5, 0.7), at_least=0, below=1, length=(2, None))
    negatives: tuple[float, ...] = setting((0.1, 0.3, 0.5, 0.7, 0.9), at_least=0, at_most=1, length=(2, None))
    aligned: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("units", "norms", "sparsities", "negatives"):
            values = getattr(self, field)
            if list(values) != sorted(set(values)):
                self.refuse(field, "list them in ascending order, each once")
        if self.units[-1] > self.hidden:
            self.refuse("units", f"a network has at most hidden = {self.hidden} of them")

    @property
    def spec(self) -> WeightSpec:
        """Two matrices, whose hidden units may be permuted."""
        shapes = (self.hidden, self.inputs), (self.outputs, self.hidden)
        first = Leaf("hidden/weight", shapes[0], shapes[0], (0, FIXED), (1, 0), (0, 1))
        second = Leaf("outputs/weight", shapes[1], shapes[1], (FIXED, 0), (0, -1), (0, 1))
        return WeightSpec((first, second), (Group(self.hidden, "positive"),))

    @property
    def features(self) -> tuple[Feature, ...]:
        """Units, norm, sparsity, negative."""
        return (
            Feature.counted("units", self.units[0], self.units[-1])
            if self.units[-1] - self.units[0] == len(self.units) - 1
            else Feature.between("units", self.units),
            Feature.between("norm", self.norms),
            Feature.between("sparsity", self.sparsities),
            Feature.between("negative", self.negatives),
        )

    def check(self, design: Design) -> None:
        """Refuses a sparsity that leaves a unit without an incoming and an outgoing weight."""
        each = self.inputs + self.outputs
        densest = float(np.nanmax(np.append(design.column("sparsity"), -1.0)))
        asked = densest if not np.isnan(design.column("sparsity")).any() else self.sparsities[-1]
        if round((1 - asked) * each * self.units[0]) < 2 * self.units[0]:
            raise UserError(
                f"A design asks for networks with a sparsity of {asked:g}, but a unit with {self.inputs} inputs and "
                f"{self.outputs} outputs is active up to {1 - 2 / each:.3g}. Lower it or enlarge the layers."
            )

    def draw(self, design: Design, n: int, seed: int, split: str = TRAIN, mesh: Mesh | None = None) -> Population:
        """See `DesignedNetworks.draw`."""
        del mesh
        self.check(design)
        rng = np.random.default_rng(seed)
        rows, values = self.chosen(design, n, rng)
        weights = self._planted(values, rng)
        exact = self.measure(weights)
        columns = {FEATURE + f.name: exact[:, i] for i, f in enumerate(self.features)}
        return Population.create(weights, self.spec, run=np.arange(n), split=split, combination=rows, **columns)

    def _planted(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Networks `[n, P]` float32 with the features `[n, 4]`."""
        n, each = len(values), self.inputs + self.outputs
        units = np.rint(values[:, 0]).astype(int)
        order = np.argsort(rng.random((n, self.hidden)), axis=1)
        active = (np.arange(self.hidden) if self.aligned else order) < units[:, None]
        score = rng.random((n, self.hidden, each))
        for side in (slice(0, self.inputs), slice(self.inputs, each)):  # one of each comes first, so none is inactive
            first = score[:, :, side].argmin(axis=2)[:, :, None]
            np.put_along_axis(score[:, :, side], first, -1.0, axis=2)
        score = np.where(active[:, :, None], score, 2.0).reshape(n, -1)
        count = np.rint((1 - values[:, 2]) * units * each).astype(int)
        kept = _ranks(score) < count[:, None]
        sign = np.where(kept, rng.random(kept.shape), 2.0)
        negative = _ranks(sign) < np.rint(values[:, 3] * count).astype(int)[:, None]
        flat = kept * rng.uniform(*_MAGNITUDES, kept.shape) * np.where(negative, -1.0, 1.0)
        flat *= (values[:, 1] / np.linalg.norm(flat, axis=1))[:, None]
        grid = flat.reshape(n, self.hidden, each)
        second = grid[:, :, self.inputs :].transpose(0, 2, 1)
        return np.concatenate([grid[:, :, : self.inputs].reshape(n, -1), second.reshape(n, -1)], 1).astype(np.float32)

    def measure(self, weights: np.ndarray, mesh: Mesh | None = None) -> np.ndarray:
        """See `DesignedNetworks.measure`; of networks without active units, all but their number and norm are NaN."""
        del mesh
        weights, split = np.asarray(weights, np.float64), self.hidden * self.inputs
        first = weights[:, :split].reshape(-1, self.hidden, self.inputs)
        second = weights[:, split:].reshape(-1, self.outputs, self.hidden).transpose(0, 2, 1)
        grid = np.concatenate([first, second], axis=2)
        largest = np.abs(grid).max(axis=(1, 2), keepdims=True)
        there = (np.abs(grid) > _ZERO * largest) & (largest > 0)
        active = there[:, :, : self.inputs].any(axis=2) & there[:, :, self.inputs :].any(axis=2)
        units, there = active.sum(axis=1), there & active[:, :, None]
        count, places = there.sum(axis=(1, 2)), units * (self.inputs + self.outputs)
        with np.errstate(invalid="ignore", divide="ignore"):
            sparsity = np.where(units > 0, 1 - count / places, np.nan)
            negative = np.where(count > 0, (there & (grid < 0)).sum(axis=(1, 2)) / count, np.nan)
        return np.stack([units, np.linalg.norm(weights, axis=1), sparsity, negative], 1).astype(np.float32)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks `[n, k]` of the entries of rows, the smallest 0."""
    return np.argsort(np.argsort(values, axis=1), axis=1)
