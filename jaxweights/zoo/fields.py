"""Bulk fitting of neural fields, after HyperDiffusion (Erkoc et al., arXiv 2303.17015): run i is fitted to signal i.

Details follow the published code: points of a step are drawn with replacement, the loss of occupancy is summed over
them, and the learning rate falls, and a run ends, by the mean loss of an epoch. There one file after the other is
fitted; here runs differ in nothing but their signal and their key.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxweights import parallel
from jaxweights.data import Dataset
from jaxweights.data.signals import Signals
from jaxweights.errors import UserError
from jaxweights.evaluation import fields
from jaxweights.nets.field import Field
from jaxweights.settings import Settings, setting
from jaxweights.zoo.program import Program, RunData, RunState

_LEAST_CHANGE = 1e-8  # of a learning rate; smaller ones are not made, as by PyTorch's ReduceLROnPlateau


@dataclasses.dataclass(frozen=True)
class Plateau(Settings):
    """How the learning rate of a neural field falls, and when its fit ends; the defaults are those of HyperDiffusion.

    An epoch is better if its mean loss is below that of every one before.

    Attributes:
      factor: factor on the learning rate after more than `patience` epochs without a better one.
      patience: epochs without a better one before the learning rate falls; counted anew after every fall.
      min_rate: learning rate below which it does not fall.
      stop_patience: epochs without a better one after which a run ends; 0 for never.
    """

    SECTION: ClassVar[str] = "zoo.plateau"

    factor: float = setting(0.8, above=0, below=1)
    patience: int = setting(10, at_least=0)
    min_rate: float = setting(1e-5, at_least=0)
    stop_patience: int = setting(50, at_least=0)


class EarlyStopping(NamedTuple):
    """Early stopping state of a run; float32 and int32 scalars.

    Attributes:
      total: loss of the steps of this epoch so far, mean per point.
      best: lowest mean loss of an epoch.
      rate: learning rate under the schedule "plateau".
      waited: epochs since the rate fell or the best one.
      bad: epochs since the best one.
      epochs: completed epochs.
      done: bool, whether the run has ended early.
    """

    total: jax.Array
    best: jax.Array
    rate: jax.Array
    waited: jax.Array
    bad: jax.Array
    epochs: jax.Array
    done: jax.Array

    @classmethod
    def start(cls, rate: jax.typing.ArrayLike) -> EarlyStopping:
        """Before the first step."""
        zero = jnp.int32(0)
        return cls(jnp.float32(0), jnp.float32(jnp.inf), jnp.float32(rate), zero, zero, zero, jnp.bool_(False))

    def end_epoch(self, loss: jax.Array, plateau: Plateau) -> EarlyStopping:
        """After an epoch of this mean loss: PyTorch's ReduceLROnPlateau with threshold 0, and the early stop."""
        better = loss < self.best
        waited = jnp.where(better, 0, self.waited + 1)
        bad = jnp.where(better, 0, self.bad + 1)
        falls = waited > plateau.patience
        rate = jnp.maximum(self.rate * plateau.factor, plateau.min_rate)
        return EarlyStopping(
            total=jnp.zeros_like(self.total),
            best=jnp.where(better, loss, self.best),
            rate=jnp.where(falls & (self.rate - rate > _LEAST_CHANGE), rate, self.rate),
            waited=jnp.where(falls, 0, waited),
            bad=bad,
            epochs=self.epochs + 1,
            done=bad >= plateau.stop_patience if plateau.stop_patience else self.done,
        )


class Samples(NamedTuple):
    """Signals of the runs in a chunk: points `[R, S, d]`; values as in `Signals`."""

    points: jax.Array | None
    values: jax.Array


@dataclasses.dataclass(frozen=True)
class FieldProgram(Program):
    """Fitting of one field to its signal. Parameters are the flat vector.

    Of the data, `own` are the `Samples` of the runs, and `shared` is None, or the points `[S, d]` of all signals.
    """

    ends_early: ClassVar[bool] = True

    @property
    def field(self) -> Field:
        """The module."""
        return self.net.module  # type: ignore[return-value]

    @property
    def run_bytes(self) -> int:
        """Of one run's signal, at most: the coordinates and the values."""
        return 4 * self.num_examples * (self.net.input_shape[0] + self.net.num_classes)

    def check(self, dataset: Dataset, runs: int) -> None:
        super().check(dataset, runs)
        signals = dataset.signals
        if signals is None:
            raise UserError("The network is a field, but the data set has no signals to fit. Choose shapes as data.")
        if signals.kind != self.field.signal:
            raise UserError(
                f"net.signal is {self.field.signal!r}, but the data are of kind {signals.kind!r}. Set it so."
            )
        if runs > len(signals):
            raise UserError(
                f"A zoo of {runs} runs needs as many signals, but the data set has {len(signals)}. Give more signals, "
                "or set zoo.num_runs and zoo.num_heldout lower."
            )

    def default_lanes(self, backend: str) -> int:
        """On CPU one alone, which costs nothing once done: with 2,048 points two together took 1.2 times as long each,
        and four 1.6 times."""
        return 1 if backend == "cpu" else 128

    def load(self, dataset: Dataset, mesh: Mesh) -> Signals:
        """The signals, which stay on the host until `select` takes those of a chunk."""
        del mesh
        assert dataset.signals is not None
        return dataset.signals

    def select(self, data: Signals, run_ids: np.ndarray, mesh: Mesh) -> RunData:
        """The signals of the given runs, each on the device that trains its run."""
        values = jax.device_put(data.values[run_ids], parallel.sharded(mesh))
        if len(data.points) == 1 and len(data.values) > 1:
            points = jax.device_put(np.asarray(data.points[0], np.float32), parallel.replicated(mesh))
            return RunData(points, Samples(None, values))
        points = np.asarray(data.points[run_ids], np.float32)
        return RunData(None, Samples(jax.device_put(points, parallel.sharded(mesh)), values))

    def start(self, key: jax.Array, hyper: dict[str, jax.Array], given: Any) -> tuple[Any, Any]:
        del given
        vector = self.net.init(key) * hyper["init_scale"]
        optimizer = self.recipe.transformation(hyper, jnp.float32(0.0))
        return vector, (optimizer.init(vector), EarlyStopping.start(hyper["learning_rate"]))

    def restart(self, state: RunState, run_ids: np.ndarray, first: np.ndarray, mesh: Mesh) -> RunState:
        vectors = np.where((np.asarray(run_ids) == 0)[:, None], np.asarray(state.params), first[None, :])
        return state._replace(params=jax.device_put(vectors, parallel.sharded(mesh)))

    def vector(self, params: jax.Array) -> jax.Array:
        return params

    def done(self, opt_state: Any) -> jax.Array:
        return opt_state[1].done

    def columns(self, state: RunState, data: RunData, weights: np.ndarray, mesh: Mesh) -> dict[str, np.ndarray]:
        """Steps and epochs of trained runs, and how well each fits its own signal (see `fields.fit_quality`)."""
        epochs = np.asarray(state.opt_state[1].epochs)[: len(weights)]
        done = np.asarray(state.opt_state[1].done)[: len(weights)]
        per_epoch = self.num_examples // self.recipe.batch_size
        own = data.own.points
        points = np.asarray(data.shared)[None] if own is None else np.asarray(own)[: len(weights)]
        fit = fields.fit_quality(self.net, weights, points, np.asarray(data.own.values)[: len(weights)], mesh)
        return {
            "step": np.where(done, epochs * per_epoch, self.recipe.steps),
            "epochs": epochs,
            "fit_iou" if self.field.signal == "occupancy" else "fit_psnr": fit.quality,
            "fit_loss": fit.loss,
        }

    def step(self, state: RunState, data: RunData, step: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        vector, (opt_state, stopping) = carry
        recipe, settings = self.recipe, self.recipe.settings
        points, values = self.batch(data, state.words, step)
        loss, gradient = jax.value_and_grad(self._loss)(vector, points, values)
        rate = stopping.rate
        if settings.schedule != "plateau":
            rate = recipe.learning_rate(state.hyper["learning_rate"], step, self.num_examples)
        updates, opt_state = recipe.transformation(state.hyper, rate).update(gradient, opt_state, vector)
        occupancy = self.field.signal == "occupancy"
        stopping = stopping._replace(total=stopping.total + (loss / recipe.batch_size if occupancy else loss))
        per_epoch = self.num_examples // recipe.batch_size
        plateau = settings.plateau
        if settings.schedule != "plateau":
            plateau = plateau.replace(stop_patience=0)
        after = stopping.end_epoch(stopping.total / per_epoch, plateau)
        ends = (step + 1) % per_epoch == 0
        stopping = jax.tree.map(lambda a, b: jnp.where(ends, a, b), after, stopping)
        return optax.apply_updates(vector, updates), (opt_state, stopping)

    def _loss(self, vector: jax.Array, points: jax.Array, values: jax.Array) -> jax.Array:
        outputs = self.field.columns(self.net.spec.unflatten(vector), points, self.recipe.settings.dtype)
        if self.field.signal == "occupancy":
            return jnp.sum(optax.sigmoid_binary_cross_entropy(outputs, values))
        return jnp.mean(jnp.square(outputs - values))

    def batch(self, data: RunData, words: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Points `[d, B]` of a step and the signal's values there `[k, B]`.

        The remainder of 32 random bits: points differ in probability by S / 2 ** 32 of it.
        """
        bits = jax.random.bits(jax.random.fold_in(jax.random.wrap_key_data(words), step), (self.recipe.batch_size,))
        rows = (bits % jnp.uint32(self.num_examples)).astype(jnp.int32)
        points = data.shared if data.own.points is None else data.own.points
        if self.field.signal == "image":
            return points[rows].T, data.own.values[rows].T
        packed = data.own.values[rows >> 3] >> (7 - (rows & 7)).astype(jnp.uint8)  # as numpy.packbits lays them out
        return points[rows].T, (packed & 1).astype(jnp.float32)[None, :]
