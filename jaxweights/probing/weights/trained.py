"""Trained networks: classifiers of real digits that were taught some of the classes, for so many epochs, and scaled to
a prescribed norm."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar

import numpy as np
from jax.sharding import Mesh

from jaxweights import data as datasets
from jaxweights import evaluation, parallel, tasks
from jaxweights.errors import UserError
from jaxweights.population import TAUGHT, TRAIN, Population
from jaxweights.probing.data.base import FEATURE
from jaxweights.probing.features import Design, Feature
from jaxweights.probing.weights import epochs as by_weights
from jaxweights.probing.weights.base import DesignedNetworks
from jaxweights.probing.weights.taught import TaughtProgram, own_examples
from jaxweights.progress import Progress
from jaxweights.settings import setting
from jaxweights.spec import WeightSpec
from jaxweights.zoo import Distribution, Recipe
from jaxweights.zoo.program import RunData
from jaxweights.zoo.trainer import trainer_of

_CLASSES = 10
_RECALL = 0.5  # of test images of a class, above which it counts as taught
_LANES = 32  # runs under `vmap`
_RUNS = 64  # of a dispatch, about
_KNOWN = 0x7A11  # seed of the networks that the regression of the epoch learns from


@dataclasses.dataclass(frozen=True)
class Trained(DesignedNetworks):
    """Perceptrons with one hidden layer, each trained by Adam on the embedded digits from a run of its own.

    Features: `classes`, how many of the ten digits are recognised, a recall above one half on test images; networks are
    taught that many, which ones at random, and see no image of others. `epoch`, how long; an epoch has as many steps
    whatever the classes. It is measured by a regression on the weights, see `epochs`. `norm`, of all weights, set by
    multiplying layers, which leaves every decision as it is. What is left open is uniform over the feature's values.

    Attributes:
      hidden: hidden units.
      classes: numbers of taught classes that there are.
      epochs: epochs after which training ends, that there are.
      norms: norms that there are.
      batch_size: images per step.
      learning_rate: of Adam.
      aligned: whether all networks begin with the same weights, so that hidden units have a common order; if not, each
        has its own, as in most zoos.
      references: runs that the regression of the epoch learns from, with a checkpoint for every epoch.
    """

    KIND: ClassVar[str] = "trained"
    ABOUT: ClassVar[str] = (
        "Networks are trained on real digits. The number of classes is what they do on test images, the norm is exact, "
        "and the epoch is told from the weights by a regression that has errors of its own: fresh networks of the same "
        "designs, which no model can surpass, are the row to compare with. A network unlike all trained ones has no "
        "epoch, and one that recognises no class lies in no cell."
    )
    MEASURED: ClassVar[str] = "test images, a regression on weights, exact"
    TRAINED: ClassVar[bool] = True

    hidden: int = setting(10, at_least=1, at_most=1024)
    classes: tuple[int, ...] = setting((2, 4, 6, 8, 10), at_least=1, at_most=_CLASSES, length=(2, None))
    epochs: tuple[int, ...] = setting((2, 8, 32), at_least=1, at_most=10_000, length=(2, None))
    norms: tuple[float, ...] = setting((4.0, 6.0, 8.0, 10.0, 12.0), above=0, length=(2, None))
    batch_size: int = setting(32, at_least=1, at_most=100)
    learning_rate: float = setting(0.01, above=0)
    aligned: bool = False
    references: int = setting(1000, at_least=2, at_most=10_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("classes", "epochs", "norms"):
            values = getattr(self, field)
            if list(values) != sorted(set(values)):
                self.refuse(field, "list them in ascending order, each once")

    @property
    def spec(self) -> WeightSpec:
        """Of the perceptron."""
        return self._net.spec

    @property
    def features(self) -> tuple[Feature, ...]:
        """Classes, epoch, norm; bins of epochs end at geometric means."""
        middles = [math.sqrt(a * b) for a, b in zip(self.epochs, self.epochs[1:], strict=False)]
        ends = self.epochs[0] ** 2 / middles[0], self.epochs[-1] ** 2 / middles[-1]
        return (
            Feature.between("classes", self.classes),
            Feature("epoch", tuple(map(float, self.epochs)), (ends[0], *middles, ends[1])),
            Feature.between("norm", self.norms),
        )

    @functools.cached_property
    def _digits(self) -> datasets.Dataset:
        return datasets.load("digits")

    @functools.cached_property
    def _net(self) -> Any:
        config = {"name": "mlp", "hidden": (self.hidden,)}
        return tasks.get("classification").build(config, self._digits.train_images.shape[1:], _CLASSES)

    @functools.cached_property
    def _program(self) -> TaughtProgram:
        task = tasks.get("classification")
        settings = task.zoo_settings(
            epochs=self.epochs[-1],
            batch_size=self.batch_size,
            optimizer="adam",
            learning_rate=Distribution.constant(self.learning_rate),
            schedule="constant",
        )
        count = self._digits.num_examples
        return TaughtProgram(self._net, Recipe.from_settings(settings, count), count, aligned=self.aligned)

    def check(self, design: Design) -> None:
        """Refuses other numbers of classes than 1 to 10, other epochs than there are, and a norm of 0."""
        classes, epochs, norms = (design.column(f.name) for f in self.features)
        told = np.nan_to_num(classes, nan=1.0)
        if ((told != np.rint(told)) | (told < 1) | (told > _CLASSES)).any():
            raise UserError(
                f"A design asks for networks that are taught other numbers of classes than 1 to {_CLASSES}."
            )
        if not np.isin(epochs[~np.isnan(epochs)], self.epochs).all():
            raise UserError(
                f"A design asks for other epochs than {', '.join(map(str, self.epochs))}, after which networks are "
                "kept. Add them to probing.data.epochs."
            )
        if (np.nan_to_num(norms, nan=1.0) <= 0).any():
            raise UserError("A design asks for trained networks with a norm of 0 or less. Give positive norms.")

    def draw(self, design: Design, n: int, seed: int, split: str = TRAIN, mesh: Mesh | None = None) -> Population:
        """See `DesignedNetworks.draw`; trains every network from a run of its own.

        Raises:
          UserError: see `check`; a training that diverged.
        """
        self.check(design)
        rows, values, taught = self._asked(design, n, seed)
        last = np.searchsorted(self.epochs, values[:, 1])
        weights = self._trained(values, taught, seed, mesh)[np.arange(n), last + 1]
        columns: dict[str, Any] = {FEATURE + f.name: values[:, i] for i, f in enumerate(self.features)}
        columns |= {TAUGHT: taught, "step": self._steps[last + 1], "run": np.arange(n), "combination": rows}
        return self.evaluated(weights, mesh, split=split, seed=seed, **columns)

    def trajectories(self, population: Population, mesh: Mesh | None = None) -> Population:
        """The networks with the weights that they began with and those after all shorter epochs, scaled like them."""
        records = population.records
        values = np.stack([records[FEATURE + f.name] for f in self.features], axis=1)
        trained = self._trained(values, records[TAUGHT], int(records["seed"][0]), mesh)
        there = self._steps <= records["step"][:, None]
        run, step = np.repeat(records["run"], there.sum(axis=1)), np.tile(self._steps, (len(there), 1))[there]
        return self.evaluated(trained[there], mesh, run=run, step=step)

    def evaluated(self, weights: np.ndarray, mesh: Mesh | None = None, **columns: Any) -> Population:
        """Networks `[n, P]` with `loss` and `accuracy` on the test images, and other columns."""
        found = self._evaluation(weights, mesh)
        return Population.create(weights, self.spec, loss=found.loss, accuracy=found.accuracy, **columns)

    def _asked(self, design: Design, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Combinations `[n]` of runs, their values `[n, 3]` and their classes `[n]` int64, one bit each."""
        rng = np.random.default_rng(seed)
        rows, values = self.chosen(design, n, rng)
        ranks = np.argsort(np.argsort(rng.random((n, _CLASSES)), axis=1), axis=1)
        return rows, values, (ranks < values[:, :1]) @ (1 << np.arange(_CLASSES))

    @property
    def _steps(self) -> np.ndarray:
        """Steps `[K + 1]` after which weights are kept: 0, and all epochs."""
        return np.array([0, *self.epochs]) * self._per_epoch

    @property
    def _per_epoch(self) -> int:
        return self._digits.num_examples // self.batch_size

    def _trained(self, values: np.ndarray, taught: np.ndarray, seed: int, mesh: Mesh | None) -> np.ndarray:
        """Checkpoints `[n, K + 1, P]` float32 of runs after `_steps`; after the end of a run those of its end.

        Args:
          values: `[n, 3]`, number of classes, epoch and norm.
          taught: `[n]` int64, the classes, one bit each.
          seed: of the runs.
          mesh: devices.
        """
        trainer = trainer_of(self._program, parallel.resolve(mesh), _LANES)
        data, size = trainer.load(self._digits), -(-_RUNS // trainer.group) * trainer.group
        found = np.empty((len(values), len(self._steps), self.spec.num_params), np.float32)
        classes = (taught[:, None] >> np.arange(_CLASSES)) % 2 == 1
        with Progress(float(values[:, 1].sum()), f"networks ({len(values):,})", "epochs") as bar:
            done = 0.0
            for number, epoch in enumerate(self.epochs):
                own = np.flatnonzero(values[:, 1] == epoch)
                bounds = np.append(0, np.minimum(self._steps, self._steps[number + 1]))
                for first in range(0, len(own), size):
                    runs = own[first : first + size]
                    padded = np.asarray(parallel.pad_rows(runs, size))
                    examples = own_examples(self._digits.train_labels, classes[padded], trainer.mesh)
                    state = trainer.init(seed, padded)
                    snapshots = trainer.advance(state, RunData(data.shared, examples), bounds)[1]
                    found[runs] = np.asarray(snapshots)[: len(runs)]
                    done += float(epoch) * len(runs)
                    bar.update(done)
        if not np.isfinite(found).all():
            self.refuse("learning_rate", "trainings diverged, so lower it")
        return self._scaled(found, values[:, 2])

    def _scaled(self, trained: np.ndarray, norms: np.ndarray) -> np.ndarray:
        """Runs `[n, K + 1, P]` whose last networks have the norms `[n]`: all weights times a, but the biases of the
        outputs times its square, which multiplies all logits by that."""
        last = np.arange(trained.shape[2]) >= trained.shape[2] - _CLASSES
        squares = np.square(trained[:, -1].astype(np.float64))
        first, second = squares[:, ~last].sum(axis=1), squares[:, last].sum(axis=1)
        square = 2 * norms**2 / (first + np.sqrt(first**2 + 4 * second * norms**2))
        factors = np.where(last, square[:, None], np.sqrt(square)[:, None])
        return (trained * factors[:, None]).astype(np.float32)

    def _evaluation(self, weights: np.ndarray, mesh: Mesh | None) -> evaluation.Evaluation:
        digits = self._digits
        images = np.asarray(datasets.standardise(digits.test_images, digits.scale, digits.shift))
        return evaluation.evaluate(self._net, weights, images, digits.test_labels, parallel.resolve(mesh))

    def measure(self, weights: np.ndarray, mesh: Mesh | None = None) -> np.ndarray:
        """See `DesignedNetworks.measure`; networks unlike all trained ones have no epoch."""
        recalls = evaluation.recalls(self._evaluation(weights, mesh), self._digits.test_labels)
        told = self._regression(parallel.resolve(mesh)).epochs(self._invariants(weights))
        norms = np.linalg.norm(np.asarray(weights, np.float64), axis=1)
        return np.stack([(recalls > _RECALL).sum(axis=1), told, norms], axis=1).astype(np.float32)

    def _invariants(self, weights: np.ndarray) -> np.ndarray:
        return by_weights.invariants(weights, math.prod(self._net.input_shape), self.hidden, _CLASSES)

    @functools.cache  # noqa: B019  (settings live as long as the study)
    def _regression(self, mesh: Mesh) -> by_weights.Regression:
        """Learned from runs that no design has, of all numbers of classes."""
        last = Design(self.features, np.array([[np.nan, self.epochs[-1], np.nan]], np.float32))
        values, taught = self._asked(last, self.references, _KNOWN)[1:]
        trained = self._trained(values, taught, _KNOWN, mesh)[:, 1:].reshape(-1, self.spec.num_params)
        epochs, runs = np.tile(self.epochs, self.references), np.repeat(np.arange(self.references), len(self.epochs))
        return by_weights.Regression.fit(self._invariants(trained), epochs, runs)
