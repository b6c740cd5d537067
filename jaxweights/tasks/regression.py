"""Regression on a small table: scikit-learn's diabetes data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import nets, parallel
from jaxweights.data import Dataset
from jaxweights.evaluation import Evaluation
from jaxweights.evaluation.accuracy import totals, wrong_if_undefined
from jaxweights.evaluation.predictions import r_squared
from jaxweights.settings import Settings, setting
from jaxweights.tasks.base import Examples, Scene, Shown, Task
from jaxweights.tasks.terms import Terms
from jaxweights.zoo import Recipe, Supervised, SupervisedSettings

if TYPE_CHECKING:
    from jaxweights.report.style import Picture

_TEST = 110  # of 442 patients
_PANEL = 2.6  # inches


@dataclasses.dataclass(frozen=True)
class TableSettings(Settings):
    """Settings of the data of a regression.

    Attributes:
      name: the data set.
      miss_quantile: quantile of the training targets' distances from their mean that is the tolerance: a network
        misses the test points whose absolute residual is larger. It depends on the training targets alone, so that it
        is the same for all networks.
    """

    SECTION: ClassVar[str] = "data"

    name: Literal["diabetes"] = "diabetes"
    miss_quantile: float = setting(0.5, above=0, below=1)


class Regression(Task):
    """Networks that predict a number. Their quality is R² on the test set, their loss the mean squared error, and their
    errors are the test points that they miss by more than the tolerance.

    Inputs and targets are standardised by the training examples. Labels are `[n, 2]`: the target, and the tolerance.
    """

    name = "regression"
    terms = Terms(
        quality="R2",
        measure="R2",
        column="R2 (%)",
        axis="R2 on the test set (%)",
        tested="R2 on the test set",
        explanation=(
            "The share of the test targets' variance that a network explains (below 0 if it does worse than their "
            "mean), and the mean squared error in units of the training targets' variance. A network misses a test "
            "point if its residual is larger than the tolerance, a quantile of the training targets' distances from "
            "their mean (the config's <code>data.miss_quantile</code>)."
        ),
        overlap_meaning="of the test points that either of two networks misses, the share that both miss",
        likeness="similarity of misses",
        alike="the same misses",
        example="test point",
        inputs="rows",
    )
    data_settings = TableSettings
    zoo_settings = SupervisedSettings
    default_network = "mlp"
    networks = ("mlp",)  # type: ignore[assignment]

    def load(self, data: TableSettings, *, net: Mapping[str, Any], runs: int, data_dir: str | None = None) -> Dataset:
        """The data set, split at random with seed 0."""
        del net, runs, data_dir
        from sklearn.datasets import load_diabetes  # slow to import

        table: Any = load_diabetes(return_X_y=True, scaled=False)
        inputs, targets = table
        order = np.random.default_rng(0).permutation(len(targets))
        test, train = order[:_TEST], order[_TEST:]
        inputs = ((inputs - inputs[train].mean(axis=0)) / inputs[train].std(axis=0)).astype(np.float32)
        targets = (targets - targets[train].mean()) / targets[train].std()
        train_labels, test_labels = _labels(targets[train], targets[test], data.miss_quantile)
        return Dataset(
            name=data.name,
            train_images=inputs[train],
            train_labels=train_labels,
            test_images=inputs[test],
            test_labels=test_labels,
            num_classes=1,
            scale=np.ones(inputs.shape[1], np.float32),
            shift=np.zeros(inputs.shape[1], np.float32),
            source=(
                f"scikit-learn's diabetes data, {len(train)} and {len(test)} patients split with seed 0, standardised; "
                f"tolerance {test_labels[0, 1]:.3f} standard deviations of the training targets"
            ),
        )

    def targets(self, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Targets as they are, with the tolerance of the default quantile."""
        return _labels(train, test, TableSettings().miss_quantile)

    def examples(self, data: TableSettings, *, net: Mapping[str, Any], data_dir: str | None = None) -> Examples:
        loaded = self.load(data, net=net, runs=0, data_dir=data_dir)
        return Examples(loaded.train_images.shape[1:], 1, len(loaded.train_labels), len(loaded.test_labels))

    def program(self, net: nets.TaskNet, recipe: Recipe, num_examples: int) -> Supervised:
        return Supervised(net, recipe, num_examples, loss=_squared_error)

    def evaluate(self, net, weights, inputs, targets, mesh, progress=None) -> Evaluation:
        """See `Task.evaluate`; a network whose outputs are not finite has an R² of minus infinity."""
        found = totals(net, weights, inputs, np.asarray(targets, np.float32), mesh, _score, progress)
        spread = np.square(targets[:, 0] - targets[:, 0].mean(dtype=np.float64)).sum(dtype=np.float64)
        quality = np.where(np.isfinite(found.loss), 1.0 - found.loss / spread, -np.inf)
        return wrong_if_undefined(Evaluation(quality, found.loss / len(targets), found.errors), len(targets))

    def quality(self, predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """R²."""
        return r_squared(predictions[..., 0], targets[:, 0])

    def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return jnp.square(outputs[:, 0] - targets)

    def pictures(self, shown: Sequence[Shown], scene: Scene) -> Iterable[Picture]:
        """Predictions against targets."""
        from jaxweights.report import style  # the report is above tasks: it asks them for their pictures

        net, dataset = scene.net, scene.dataset
        predict = parallel.map_rows(lambda inputs, vectors: jax.vmap(net.apply, (0, None))(vectors, inputs), scene.mesh)
        for one in shown:
            predictions = np.asarray(predict(dataset.test_images, np.asarray(one.weights, np.float32)))[..., 0]
            yield style.Picture(
                _draw(one, predictions, scene),
                f"Predictions: {one.series.label} above the nearest training networks",
                "Predictions against targets on the test set, in standard deviations of the training targets. Points "
                "outside of the band are missed; filled ones below are missed by the network above, too.",
            )


def _labels(train: np.ndarray, test: np.ndarray, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """Targets `[n]` and `[m]` with the tolerance beside them, `[n, 2]` and `[m, 2]` float32."""
    tolerance = np.quantile(np.abs(train - train.mean()), quantile)
    return tuple(np.stack([t, np.full(len(t), tolerance)], axis=1).astype(np.float32) for t in (train, test))  # type: ignore[return-value]


def _squared_error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.square(outputs[:, 0] - labels[:, 0])


def _score(outputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Squared errors, and whether residuals are within the tolerance."""
    residuals = outputs[..., 0] - labels[None, :, 0]
    return jnp.square(residuals), jnp.abs(residuals) <= labels[None, :, 1]


def _draw(one: Shown, predictions: np.ndarray, scene: Scene):
    """Generated networks in a row, below each the nearest training network."""
    from jaxweights.report import style

    targets, tolerance = scene.dataset.test_labels.T
    count, measured = len(predictions) // 2, one.series.measured
    missed = np.abs(predictions - targets[None, :]) > tolerance[None, :]
    figure = style.new_figure(count * _PANEL + 0.6, 2 * (_PANEL + 0.3) + 0.3)
    grid = figure.subplots(2, count, squeeze=False, sharex=True, sharey=True)
    line = np.array([targets.min(), targets.max()])
    for i, axes in enumerate(grid.ravel()):
        row = int(measured.nearest_row[i % count])
        if i < count:
            title = f"{one.series.label}, sample {i}\nR2 {100 * measured.accuracy[i]:.1f} %"
            marked = missed[i]
        else:
            accuracy = 100 * scene.train.records["accuracy"][row]
            title = f"nearest: {style.network(scene.train, row)}\nR2 {accuracy:.1f} %"
            marked = missed[i] & missed[i - count]
        axes.fill_between(line, line - tolerance[0], line + tolerance[0], color="#dddddd", linewidth=0, zorder=0)
        axes.plot(line, line, color="#777777", linewidth=0.8, zorder=1)
        colour = "#d62728" if i < count else "#1f77b4"
        axes.scatter(
            targets[~marked], predictions[i][~marked], s=9, facecolors="none", edgecolors=colour, linewidths=0.7
        )
        axes.scatter(targets[marked], predictions[i][marked], s=9, color=colour, linewidths=0.7)
        axes.set_title(title, fontsize=8)
        axes.grid()
    figure.supxlabel("target", fontsize=9.5)
    figure.supylabel("prediction", fontsize=9.5)
    return style.save(figure, scene.folder, f"predictions{one.suffix}")
