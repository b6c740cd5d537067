"""Bulk fitting of neural fields, after HyperDiffusion (Erkoc et al., arXiv 2303.17015): run i is fitted to signal i.

Details follow the published code: points of a step are drawn with replacement, the loss of occupancy is summed over
them, and the learning rate falls, and a run ends, by the mean loss of an epoch. There one file after the other is
fitted; here runs differ in nothing but their signal and their key.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from jaxweights import nets, parallel
from jaxweights.data import Dataset
from jaxweights.data.signals import Signals
from jaxweights.errors import UserError
from jaxweights.evaluate import fields
from jaxweights.zoo.recipe import Plateau, Recipe
from jaxweights.zoo.trainer import RunState, Trainer

_LEAST_CHANGE = 1e-8  # of a learning rate; smaller ones are not made, as by PyTorch's ReduceLROnPlateau


class Descent(NamedTuple):
    """How far a run has come; float32 and int32 scalars.

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
    def start(cls, rate: jax.Array) -> Descent:
        """Before the first step."""
        zero = jnp.int32(0)
        return cls(jnp.float32(0), jnp.float32(jnp.inf), jnp.float32(rate), zero, zero, zero, jnp.bool_(False))

    def end_epoch(self, loss: jax.Array, plateau: Plateau) -> Descent:
        """After an epoch of this mean loss: PyTorch's ReduceLROnPlateau with threshold 0, and the early stop."""
        better = loss < self.best
        waited = jnp.where(better, 0, self.waited + 1)
        bad = jnp.where(better, 0, self.bad + 1)
        falls = waited > plateau.patience
        rate = jnp.maximum(self.rate * plateau.factor, plateau.min_rate)
        return Descent(
            total=jnp.zeros_like(self.total),
            best=jnp.where(better, loss, self.best),
            rate=jnp.where(falls & (self.rate - rate > _LEAST_CHANGE), rate, self.rate),
            waited=jnp.where(falls, 0, waited),
            bad=bad,
            epochs=self.epochs + 1,
            done=bad >= plateau.stop_patience if plateau.stop_patience else self.done,
        )


class Samples(NamedTuple):
    """Signals of the runs in a chunk: points `[R, S, d]`, or `[1, S, d]` for all; values as in `Signals`."""

    points: jax.Array
    values: jax.Array


@dataclasses.dataclass(frozen=True)
class FieldTrainer(Trainer):
    """Fits chunks of runs to their signals; the interface is `Trainer`'s. Parameters are the flat vector.

    Raises:
      UserError: a recipe that fields cannot be fitted by.
    """

    def __post_init__(self):
        recipe = self.recipe
        for name, needed in (("batch_order", "own"), ("augment", "none")):
            if getattr(recipe, name) != needed:
                raise UserError(
                    f"zoo.{name} is {getattr(recipe, name)!r}, but fields are fitted with {needed!r}. Set it so."
                )
        if recipe.snapshots != (recipe.steps,) or recipe.random_snapshots:
            raise UserError(
                "Zoos of fields keep the last weights of every run only, since runs may end early. Leave zoo.snapshots "
                "at (-1,), zoo.snapshot_epochs at () and zoo.random_snapshots at 0."
            )

    @functools.cached_property
    def width(self) -> int:
        """Fields per `vmap`. On CPU one alone, which costs nothing once done: with 2,048 points two together took 1.2
        times as long each, and four 1.6 times."""
        return self.lanes or (1 if jax.default_backend() == "cpu" else 128)

    @property
    def signal_bytes(self) -> int:
        """Of one run's signal, at most: the coordinates and the values."""
        return 4 * self.num_examples * (self.net.input_shape[0] + self.net.num_classes)

    def load(self, dataset: Dataset) -> Signals:
        """The signals, which stay on the host until `select` takes those of a chunk."""
        return dataset.signals

    def select(self, data: Signals, run_ids: np.ndarray) -> Samples:
        """The signals of the given runs, each on the device that trains its run."""
        shared = len(data.points) == 1
        points = data.points if shared else data.points[run_ids]
        place = parallel.replicated(self.mesh) if shared else parallel.sharded(self.mesh)
        values = jax.device_put(data.values[run_ids], parallel.sharded(self.mesh))
        return Samples(jax.device_put(np.asarray(points, np.float32), place), values)

    def init(self, seed: int, run_ids: np.ndarray, first: np.ndarray | None = None) -> RunState:
        """Initial states; `first` `[P]`, if given, are the weights that all runs but run 0 start from."""
        state = super().init(seed, run_ids)
        if first is None:
            return state
        vectors = np.where((np.asarray(run_ids) == 0)[:, None], np.asarray(state.params), first[None, :])
        return state._replace(params=jax.device_put(vectors, parallel.sharded(self.mesh)))

    def columns(self, state: RunState, data: Samples, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Records of trained runs: steps and epochs, and how well each fits its own signal (see `fields.fit_quality`).

        Args:
          state: of the runs, of which only the first `len(weights)` count.
          data: from `select`.
          weights: `[R, P]`.
        """
        epochs = np.asarray(state.opt_state[1].epochs)[: len(weights)]
        done = np.asarray(state.opt_state[1].done)[: len(weights)]
        per_epoch = self.num_examples // self.recipe.batch_size
        points = np.asarray(data.points)
        points = points if len(points) == 1 else points[: len(weights)]
        signal, values = self.net.field.signal, np.asarray(data.values)[: len(weights)]
        fit = fields.fit_quality(self.net, weights, points, values, self.mesh)
        return {
            "step": np.where(done, epochs * per_epoch, self.recipe.steps),
            "epochs": epochs,
            "fit_iou" if signal == "occupancy" else "fit_psnr": fit.quality,
            "fit_loss": fit.loss,
        }

    def _start(self, key: jax.Array, hyper: dict[str, jax.Array], first: Any) -> tuple[Any, Any]:
        del first
        vector = self.net.init(key) * hyper["init_scale"]
        optimizer = self.recipe.transformation(hyper, jnp.float32(0.0))
        return vector, (optimizer.init(vector), Descent.start(hyper["learning_rate"]))

    def _vector(self, params: jax.Array) -> jax.Array:
        return params

    def advance(self, state: RunState, data: Samples, bounds: np.ndarray) -> tuple[RunState, jax.Array]:
        """Trains on from step `bounds[0]` to `bounds[1]`; the state is donated.

        Returns:
          The state, and the weights `[R, 1, P]`.
        """
        shared = len(data.points) == 1 and len(data.values) > 1
        program = self._advance_shared if shared else self._advance
        return program(state, data, jnp.asarray(bounds, jnp.int32))

    @functools.cached_property
    def _advance(self):
        return self._compiled(shared=False)

    @functools.cached_property
    def _advance_shared(self):
        return self._compiled(shared=True)

    def _compiled(self, shared: bool):
        """The program of runs that share their points, or that have points of their own."""
        split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
        data = Samples(whole if shared else split, split)

        def shard(state: RunState, data: Samples, bounds: jax.Array):
            lanes = min(self.width, len(state.words))

            def one(state, values, points):
                return self._fit(Samples(data.points[0] if shared else points, values), state, bounds)

            rows = (state, data.values, None if shared else data.points)
            if lanes == 1:
                return jax.lax.map(lambda x: one(*x), rows)
            return jax.lax.map(lambda x: one(*x), rows, batch_size=lanes)

        program = jax.shard_map(shard, mesh=self.mesh, in_specs=(split, data, whole), out_specs=split, check_vma=False)
        return jax.jit(program, donate_argnums=0)

    def _fit(self, data: Samples, state: RunState, bounds: jax.Array) -> tuple[RunState, jax.Array]:
        """One run between two steps, or to its early end."""

        def goes_on(carry):
            step, (_, (_, descent)) = carry
            return (step < bounds[1]) & ~descent.done

        def advance(carry):
            step, trained = carry
            return step + 1, self._step(state, data, step, trained)

        carry = (bounds[0], (state.params, state.opt_state))
        _, (params, opt_state) = jax.lax.while_loop(goes_on, advance, carry)
        return state._replace(params=params, opt_state=opt_state), params[None]

    def _step(self, state, data, step, carry):
        vector, (opt_state, descent) = carry
        recipe = self.recipe
        points, values = self.batch(data, state.words, step)
        loss, gradient = jax.value_and_grad(self._loss)(vector, points, values)
        rate = descent.rate
        if recipe.schedule != "plateau":
            rate = recipe.learning_rate(state.hyper["learning_rate"], step, self.num_examples)
        updates, opt_state = recipe.transformation(state.hyper, rate).update(gradient, opt_state, vector)
        occupancy = self.net.field.signal == "occupancy"
        descent = descent._replace(total=descent.total + (loss / recipe.batch_size if occupancy else loss))
        per_epoch = self.num_examples // recipe.batch_size
        plateau = recipe.plateau
        if recipe.schedule != "plateau":
            plateau = dataclasses.replace(plateau, stop_patience=0)
        after = descent.end_epoch(descent.total / per_epoch, plateau)
        ends = (step + 1) % per_epoch == 0
        descent = jax.tree.map(lambda a, b: jnp.where(ends, a, b), after, descent)
        return optax.apply_updates(vector, updates), (opt_state, descent)

    def _loss(self, vector: jax.Array, points: jax.Array, values: jax.Array) -> jax.Array:
        outputs = self.net.field.columns(self.net.spec.unflatten(vector), points, self.recipe.dtype)
        if self.net.field.signal == "occupancy":
            return jnp.sum(optax.sigmoid_binary_cross_entropy(outputs, values))
        return jnp.mean(jnp.square(outputs - values))

    def batch(self, data: Samples, words: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Points `[d, B]` of a step and the signal's values there `[k, B]`.

        The remainder of 32 random bits: points differ in probability by S / 2 ** 32 of it.
        """
        bits = jax.random.bits(jax.random.fold_in(jax.random.wrap_key_data(words), step), (self.recipe.batch_size,))
        rows = (bits % jnp.uint32(self.num_examples)).astype(jnp.int32)
        if self.net.field.signal == "image":
            return data.points[rows].T, data.values[rows].T
        packed = data.values[rows >> 3] >> (7 - (rows & 7)).astype(jnp.uint8)  # as numpy.packbits lays them out
        return data.points[rows].T, (packed & 1).astype(jnp.float32)[None, :]


def check_signals(net: nets.TaskNet, recipe: Recipe, dataset: Dataset, runs: int) -> None:
    """Raises `UserError` unless a zoo of so many runs can be trained on this data set: signals for fields only, and as
    many as runs."""
    field, signals = net.field, dataset.signals
    if field is None:
        for name, value in (("start", "first_weights"), ("schedule", "plateau"), ("dtype", "bfloat16")):
            if getattr(recipe, name) == value:
                raise UserError(f"zoo.{name} is {value!r}, which is for neural fields; the network is {net.name!r}.")
        return
    if signals is None:
        raise UserError("The network is a field, but the data set has no signals to fit. Choose shapes as data.")
    if signals.kind != field.signal:
        raise UserError(f"net.signal is {field.signal!r}, but the data are of kind {signals.kind!r}. Set it so.")
    if runs > len(signals):
        raise UserError(
            f"A zoo of {runs} runs needs as many signals, but the data set has {len(signals)}. Give more signals, or "
            "set zoo.num_runs and zoo.num_heldout lower."
        )
