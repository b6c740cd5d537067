"""The compiled programs of a stage of training: its first state, and many steps of it.

They know shapes and no data, so that trainings of equal settings share them.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxweights import programs, sharding, shuffle, streaming
from jaxweights.generators.base import LearnedGenerator, Stage
from jaxweights.nn.parameters import drawn_apart

WHOLE = PartitionSpec()
MOST_STEPS = streaming.MOST_STEPS  # of one dispatch: the length of the metric buffers


class TrainState(NamedTuple):
    """Everything that a step changes; or, of the same structure, how these arrays are sharded."""

    step: Any
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any  # None without an average


class StagePrograms:
    """The programs of one stage on one mesh.

    Args:
      stage: the stage.
      mesh: devices.
      rows: axes of the mesh over which a batch is split.
      size: training examples.
      data: shapes and types of the data, or of a block of batches where they are streamed.
      done: shapes and types of the generator's state so far, constants and finished stages.
      streamed: batches of a block; 0 where all data are on the devices.
    """

    def __init__(
        self, stage: Stage, mesh: Mesh, rows: Any, size: int, data: Any, done: Mapping[str, Any], streamed: int
    ):
        self.stage, self.mesh, self.rows = stage, mesh, rows
        self._size, self._streamed = size, streamed
        self._sharded = stage.parameter_shards != 1
        self.used = False
        """Whether a training has them, and so compiles them where they are called."""
        self.compiled: tuple[jax.stages.Compiled, jax.stages.Compiled] | None = None
        """`init` and `advance`, where they were compiled ahead."""
        # A sum over one device is a copy: a tenth of a step where parameters are many and a batch is small.
        self._alone = mesh.size == 1
        key = jax.eval_shape(lambda: jax.random.key(0))
        self.shapes: TrainState = jax.eval_shape(self._start, key, dict(done))
        """Shapes and types of the state."""
        # What finished stages left is split as well.
        whole = jax.tree.map(lambda _: 0, dict(done))
        trained = {name: {"params": self._split(part["params"])} for name, part in done.items() if name != "constants"}
        self._done_axes = {name: part | trained.get(name, {}) for name, part in whole.items()}
        self._axes = self._split(self.shapes.params)  # the axis along which each parameter is split, or 0
        self.done_specs = jax.tree.map(sharding.spec, dict(done), self._done_axes)
        self.data_specs = jax.tree.map(lambda _: PartitionSpec(None, rows) if streamed else WHOLE, data)

    def _split(self, params: Any) -> Any:
        size = self.mesh.shape[sharding.MODEL] if self._sharded else 1
        return sharding.split_axes(params, size, self.stage.stacked)

    def _start(self, key: jax.Array, done: Mapping[str, Any]) -> TrainState:
        with drawn_apart() if self._sharded else contextlib.nullcontext():
            params, model_state = self.stage.init(jax.random.fold_in(key, 0), done)
        ema = None if self.stage.ema_decay is None else jax.tree.map(jnp.copy, params)
        return TrainState(jnp.int32(0), params, model_state, self.stage.optimizer.init(params), ema)

    @functools.cached_property
    def _specs(self) -> TrainState:
        """How each array of the state lies on the devices."""
        state = self.shapes
        params = jax.tree.map(sharding.spec, state.params, self._axes)
        if self._sharded:
            moments = optax.tree_utils.tree_map_params(
                self.stage.optimizer,
                lambda _, spec: spec,
                state.opt_state,
                params,
                transform_non_params=lambda _: WHOLE,
            )
        else:  # of optimizers of parts of the parameters as well, which optax cannot map
            moments = jax.tree.map(lambda _: WHOLE, state.opt_state)
        model_state = jax.tree.map(lambda _: WHOLE, state.model_state)
        return TrainState(WHOLE, params, model_state, moments, None if state.ema is None else params)

    @property
    def _shardings(self) -> TrainState:
        return jax.tree.map(functools.partial(NamedSharding, self.mesh), self._specs)

    def like(self) -> TrainState:
        """Shapes, types and shardings of the state."""
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), self.shapes, self._shardings
        )

    @functools.cached_property
    def init(self) -> Any:
        """`(key, done)` to the state before the first step."""
        return jax.jit(self._start, out_shardings=self._shardings)

    @functools.cached_property
    def advance(self) -> Any:
        """`(state, data, done, key, count)` to the state after so many steps, at most `MOST_STEPS`, and their metrics
        `[MOST_STEPS]`; the state is donated."""

        def many(state, data, done, key, count):
            shapes = jax.eval_shape(lambda s: self._step(s, data, done, key)[1], state)
            buffers = {k: jnp.zeros((MOST_STEPS,), v.dtype) for k, v in shapes.items()}

            def body(i, carry):
                state, buffers = carry
                state, metrics = self._step(state, data, done, key)
                return state, {k: b.at[i].set(metrics[k]) for k, b in buffers.items()}

            return jax.lax.fori_loop(0, count, body, (state, buffers))

        if self._alone:
            return jax.jit(many, donate_argnums=0, out_shardings=(self._shardings, NamedSharding(self.mesh, WHOLE)))
        given = (self._specs, self.data_specs, self.done_specs, WHOLE, WHOLE)
        body = jax.shard_map(many, mesh=self.mesh, in_specs=given, out_specs=(self._specs, WHOLE))
        return jax.jit(body, donate_argnums=0)

    def compile(self, key: jax.Array, data: Any, done: Mapping[str, Any]) -> None:
        """Compiles both ahead, from shapes and types."""

        def lie(shapes: Any, specs: Any) -> Any:
            where = functools.partial(NamedSharding, self.mesh)
            return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where(s)), shapes, specs)

        done = lie(dict(done), self.done_specs)
        arguments = self.like(), lie(data, self.data_specs), done, key, jax.ShapeDtypeStruct((), jnp.int32)
        self.compiled = self.init.lower(key, done).compile(), self.advance.lower(*arguments).compile()

    def _step(self, state: TrainState, data, done, key):
        stage, axis_name = self.stage, None if self._alone else self.rows
        rows, keys = drawn(stage, self._size, key, state.step)
        if axis_name is not None:
            share = stage.batch_size // math.prod(self.mesh.shape[axis] for axis in axis_name)
            first = jax.lax.axis_index(axis_name) * share
            rows, keys = (jax.lax.dynamic_slice(x, (first,), (share,)) for x in (rows, keys))
        if self._streamed:
            place = state.step % self._streamed
            batch = jax.tree.map(lambda x: x[place], data)
        else:
            batch = stage.gather(data, rows, keys)

        done = sharding.parts(done, self._done_axes)

        def loss(params):
            params = sharding.parts(params, self._axes)
            value, (model_state, metrics) = stage.loss(params, state.model_state, done, batch, keys, axis_name)
            metrics = {"loss": value, **metrics}
            metrics = metrics if axis_name is None else sharding.mean(metrics)
            return metrics["loss"], (model_state, metrics)

        gradient, (model_state, metrics) = jax.grad(loss, has_aux=True)(state.params)
        if axis_name is not None and axis_name != self.mesh.axis_names:
            # The same on all devices that see the same rows, which JAX does not know.
            model_state = jax.lax.pmax(model_state, sharding.MODEL)
        if stage.gradient_clip:
            gradient = sharding.clip(gradient, stage.gradient_clip, self._axes)
        # Optimizers that look at the loss (reduction of the learning rate on a plateau) get it; others ignore it.
        optimizer = optax.with_extra_args_support(stage.optimizer)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params, value=metrics["loss"])
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if stage.ema_decay is not None:
            ema = optax.incremental_update(params, ema, 1 - stage.ema_decay)
        return TrainState(state.step + 1, params, model_state, opt_state, ema), metrics


def drawn(stage: Stage, size: int, key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows among `size` examples and keys `[B]` of the examples of a step."""
    step = step if stage.repeats == 1 else step // stage.repeats
    words = jax.random.key_data(jax.random.fold_in(key, 0))
    rows = shuffle.batch_indices(words, step, stage.batch_size, size)
    return rows, jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 1), step), stage.batch_size)


class _Shapes(NamedTuple):
    """Shapes and types of a tree of arrays, to be compared."""

    tree: Hashable
    leaves: tuple[tuple[tuple[int, ...], Any], ...]

    @classmethod
    def of(cls, arrays: Any) -> _Shapes:
        leaves, tree = jax.tree.flatten(arrays)
        return cls(tree, tuple((tuple(x.shape), x.dtype) for x in leaves))

    def arrays(self) -> Any:
        return jax.tree.unflatten(self.tree, [jax.ShapeDtypeStruct(*leaf) for leaf in self.leaves])


def of_stage(
    stage: Stage,
    mesh: Mesh,
    rows: Any,
    size: int,
    data: Any,
    done: Mapping[str, Any],
    streamed: int,
    origin: tuple[LearnedGenerator, int] | None,
) -> StagePrograms:
    """The programs of a stage, see `StagePrograms`; those of an equal generator's stage of the same number, its
    `origin`, for the same shapes are shared."""
    if origin is None:
        return StagePrograms(stage, mesh, rows, size, data, done, streamed)
    return _shared(*origin, mesh, rows, size, _Shapes.of(data), _Shapes.of(dict(done)), streamed)


@programs.shared
def _shared(generator, number, mesh, rows, size, data, done, streamed) -> StagePrograms:
    stage = generator.stages()[number]
    return StagePrograms(stage, mesh, rows, size, data.arrays(), done.arrays(), streamed)
