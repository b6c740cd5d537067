"""The one training loop of every learned generator.

Data parallel with the semantics that `jax.pmap` users know: parameters on every device, the batch split over devices,
the loss averaged with `lax.pmean` inside the differentiated function (outside of it, `shard_map` would already have
summed the gradients of replicated parameters and the mean would be a no-op). Where a stage shards its parameters, a
device keeps parts of them instead and gathers the others for the loss. Many steps per dispatch, the whole data
set on device, checkpoints through Orbax from which training resumes bit for bit.
"""

from __future__ import annotations

import contextlib
import functools
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxweights import parallel, progress, shuffle
from jaxweights.checkpoints import Checkpoints
from jaxweights.errors import UserError
from jaxweights.generators.base import LearnedGenerator, Stage
from jaxweights.population import Population

_DISPATCH_STEPS = 256  # steps per dispatch at most: the length of the metric buffers
_DISPATCH_SECONDS = 1.0  # and about this long, so that the bar moves
# The devices of a CPU share one memory. Where copies of the parameters are that large, keeping them alike costs more
# than splitting a batch gains (two cores, 10 million parameters, batch 64: 0.16 s a step on one device, 0.23 on two).
_CPU_PARAMS = 8_000_000
_CURVE_POINTS = 200  # points of the loss curve of a stage


class TrainState(NamedTuple):
    """Everything that a step changes; or, of the same structure, how these arrays are sharded."""

    step: Any
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any  # None without an average


def train_generator(
    generator: LearnedGenerator,
    training: Population,
    mesh: Mesh | None = None,
    *,
    key: jax.Array,
    path: pathlib.Path | None = None,
    log: Callable[[Mapping[str, Any]], None] = lambda row: None,
    begin: Callable[[str, str, int], None] = lambda generator, stage, step: None,
    checkpoint_every: int = 0,
) -> dict[str, Any]:
    """Trains a generator's stages in order, or resumes them, or loads them when all are done.

    Args:
      generator: what to train.
      training: training rows `[N, P]` and their records.
      mesh: devices, all by default; a stage uses the most devices that divide its batch.
      key: PRNG key for initialisation, batch order and all noise.
      path: folder of the checkpoints, one sub-folder per stage; None to keep nothing on disk.
      log: receives `{"generator", "stage", "step", "loss", ...}` for every point of the loss curve, in order; after a
        resume, points since the last checkpoint come again with the same values.
      begin: called with generator, stage and the step from which it is trained, before that stage's first point.
      checkpoint_every: steps between checkpoints, 0 for about four per stage.

    Returns:
      The generator's state: `constants`, `{"params", "model_state"}` under every stage's name, and what the
      generator's `finish` adds.

    Raises:
      UserError: fewer rows than a batch, or a loss that is not finite (naming the step and the last good checkpoint).
    """
    mesh = parallel.make_mesh() if mesh is None else mesh
    data, constants = generator.prepare(training)
    state: dict[str, Any] = {"constants": constants}
    for number, stage in enumerate(generator.stages()):
        trainer = StageTrainer(
            stage, data, state, mesh, jax.random.fold_in(key, number), f"{generator.name}/{stage.name}"
        )
        tagged = functools.partial(_tagged_log, log, generator.name, stage.name)
        started = functools.partial(begin, generator.name, stage.name)
        folder = None if path is None else path / stage.name
        state = {**state, stage.name: trainer.run(folder, tagged, checkpoint_every, started)}
    return {**state, **generator.finish(state, data)}


def _tagged_log(log, generator, stage, row):
    log({"generator": generator, "stage": stage, **row})


class StageTrainer:
    """Trains one stage on one mesh.

    Args:
      stage: the stage.
      data: from the generator's `prepare`, N examples.
      done: the generator's state so far, constants and finished stages.
      mesh: devices; the most that divide the batch are used, of a CPU only one for many parameters.
      key: PRNG key of this stage.
      name: used in messages.

    Raises:
      UserError: fewer rows than the batch size.
    """

    def __init__(self, stage: Stage, data: Any, done: Mapping[str, Any], mesh: Mesh, key: jax.Array, name: str):
        size = jax.tree.leaves(data)[0].shape[0]
        if size < stage.batch_size:
            raise UserError(
                f"{name} trains with batches of {stage.batch_size}, but there are only {size} training "
                "examples. Lower the "
                "generator's batch size or train more runs."
            )
        self.stage, self.name = stage, name
        self._key = key
        self._size = size
        devices = max(d for d in range(1, mesh.size + 1) if stage.batch_size % d == 0)
        if (
            mesh.devices.flat[0].platform == "cpu"
            and not stage.shard_parameters
            and self._num_params(done) > _CPU_PARAMS
        ):
            devices = 1
        self.mesh = parallel.make_mesh_of(mesh.devices.ravel()[:devices])
        self._inputs = jax.device_put((jax.tree.map(jnp.asarray, data), dict(done)), parallel.replicated(self.mesh))

    def _num_params(self, done: Mapping[str, Any]) -> int:
        params, _ = jax.eval_shape(self.stage.init, self._key, dict(done))
        return sum(math.prod(x.shape) for x in jax.tree.leaves(params))

    def init(self) -> TrainState:
        """The state before the first step, on every device or split over them."""
        return jax.jit(self._start, out_shardings=self._shardings)(self._key, self._inputs[1])

    def _start(self, key, done) -> TrainState:
        params, model_state = self.stage.init(jax.random.fold_in(key, 0), done)
        ema = None if self.stage.ema_decay is None else jax.tree.map(jnp.copy, params)
        return TrainState(jnp.int32(0), params, model_state, self.stage.optimizer.init(params), ema)

    @functools.cached_property
    def _shapes(self) -> TrainState:
        return jax.eval_shape(self._start, self._key, self._inputs[1])

    @functools.cached_property
    def _axes(self) -> Any:
        """The axis along which each parameter is split, or -1."""
        size = self.mesh.size if self.stage.shard_parameters else 1
        return jax.tree.map(lambda x: _split_axis(x.shape, size), self._shapes.params)

    @functools.cached_property
    def _specs(self) -> TrainState:
        """How each array of the state lies on the devices."""
        whole = PartitionSpec()
        params = jax.tree.map(
            lambda axis: PartitionSpec(*[None] * axis, parallel.AXIS) if axis >= 0 else whole, self._axes
        )
        state = self._shapes
        moments = optax.tree_utils.tree_map_params(
            self.stage.optimizer, lambda _, spec: spec, state.opt_state, params, transform_non_params=lambda _: whole
        )
        model_state = jax.tree.map(lambda _: whole, state.model_state)
        return TrainState(whole, params, model_state, moments, None if state.ema is None else params)

    @property
    def _shardings(self) -> TrainState:
        return jax.tree.map(functools.partial(NamedSharding, self.mesh), self._specs)

    def _like(self) -> TrainState:
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), self._shapes, self._shardings
        )

    def advance(self, state: TrainState, count: int) -> tuple[TrainState, dict[str, jax.Array]]:
        """Takes `count` steps (at most 256); the state is donated. Metrics are `[256]`, of which the first `count` are
        meant."""
        return self._program(state, *self._inputs, jax.random.fold_in(self._key, 1), jnp.int32(count))

    @functools.cached_property
    def _program(self):
        whole = PartitionSpec()

        def many(state, data, done, key, count):
            shapes = jax.eval_shape(lambda s: self._step(s, data, done, key)[1], state)
            buffers = {k: jnp.zeros((_DISPATCH_STEPS,), v.dtype) for k, v in shapes.items()}

            def body(i, carry):
                state, buffers = carry
                state, metrics = self._step(state, data, done, key)
                return state, {k: b.at[i].set(metrics[k]) for k, b in buffers.items()}

            return jax.lax.fori_loop(0, count, body, (state, buffers))

        specs = self._specs
        body = jax.shard_map(many, mesh=self.mesh, in_specs=(specs,) + (whole,) * 4, out_specs=(specs, whole))
        return jax.jit(body, donate_argnums=0)

    def _step(self, state: TrainState, data, done, key):
        stage, share = self.stage, self.stage.batch_size // self.mesh.size
        rows = shuffle.batch_indices(
            jax.random.key_data(jax.random.fold_in(key, 0)), state.step, stage.batch_size, self._size
        )
        keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 1), state.step), stage.batch_size)
        first = jax.lax.axis_index(parallel.AXIS) * share
        rows = jax.lax.dynamic_slice(rows, (first,), (share,))
        keys = jax.lax.dynamic_slice(keys, (first,), (share,))
        batch = stage.gather(data, rows, keys)

        def loss(params):
            params = jax.tree.map(_gather, params, self._axes)
            value, (model_state, metrics) = stage.loss(params, state.model_state, done, batch, keys, parallel.AXIS)
            metrics = {"loss": value, **metrics}
            return jax.lax.pmean(value, parallel.AXIS), (model_state, jax.lax.pmean(metrics, parallel.AXIS))

        gradient, (model_state, metrics) = jax.grad(loss, has_aux=True)(state.params)
        if stage.gradient_clip:
            norm = jnp.sqrt(sum(jax.tree.leaves(jax.tree.map(_sum_of_squares, gradient, self._axes))))
            factor = stage.gradient_clip / jnp.maximum(norm, stage.gradient_clip)
            gradient = jax.tree.map(lambda g: g * factor, gradient)
        # Optimizers that look at the loss (reduction of the learning rate on a plateau) get it; others ignore it.
        optimizer = optax.with_extra_args_support(stage.optimizer)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params, value=metrics["loss"])
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if stage.ema_decay is not None:
            ema = optax.incremental_update(params, ema, 1 - stage.ema_decay)
        return TrainState(state.step + 1, params, model_state, opt_state, ema), metrics

    def run(
        self,
        path: pathlib.Path | None,
        log: Callable[[Mapping[str, Any]], None],
        checkpoint_every: int = 0,
        started: Callable[[int], None] = lambda step: None,
    ) -> dict[str, Any]:
        """Trains to the end, from the last checkpoint in `path` if there is one; returns `{"params", "model_state"}` on
        the host."""
        stage = self.stage
        width = max(1, stage.steps // _CURVE_POINTS)
        # Checkpoints lie on points of the loss curve, so that a resumed curve has no torn point.
        every = -(-(checkpoint_every or max(1, stage.steps // 4)) // width) * width
        with _NoCheckpoints() if path is None else Checkpoints(path) as checkpoints:
            step = checkpoints.latest_step() or 0
            started(step)
            state = checkpoints.restore(step, like=self._like()) if step else self.init()
            pending: dict[str, list[np.ndarray]] = {}
            count, good = 4, step
            with progress.Progress(stage.steps - step, self.name, "steps") as bar:
                start = step
                while step < stage.steps:
                    target = min(stage.steps, (step // every + 1) * every)
                    take = min(count, target - step, _DISPATCH_STEPS)
                    begin = time.monotonic()
                    state, metrics = self.advance(state, take)
                    metrics = {k: np.asarray(v)[:take] for k, v in metrics.items()}
                    count = _next_count(take, time.monotonic() - begin)
                    self._check(metrics["loss"], step, good, path)
                    step += take
                    _log_points(pending, metrics, step, width, stage.steps, log)
                    bar.update(step - start, f"loss {metrics['loss'][-1]:.4g}")
                    if step % every == 0 or step == stage.steps:
                        checkpoints.save(step, state)
                        good = step
            result = {"params": state.params if state.ema is None else state.ema, "model_state": state.model_state}
            return jax.tree.map(np.asarray, result)

    def _check(self, losses: np.ndarray, step: int, good: int, path: pathlib.Path | None) -> None:
        bad = np.flatnonzero(~np.isfinite(losses))
        if bad.size:
            kept = f"the last good checkpoint is step {good} in {path}" if good and path else "there is no checkpoint"
            remove = f"remove the folder {path.parent} " if path else ""
            raise UserError(
                f"The loss of {self.name} is not finite at step {step + int(bad[0]) + 1}; {kept}. Look at the training "
                f"population (launch.report) or lower the learning rate of this stage, {remove}and run again."
            )


class _NoCheckpoints(contextlib.AbstractContextManager):
    """In place of `Checkpoints` where nothing is kept on disk."""

    def latest_step(self) -> int | None:
        return None

    def save(self, step: int, state: Any) -> None:
        pass

    def restore(self, step: int, like: Any) -> Any:
        raise ValueError("There are no checkpoints.")

    def __exit__(self, *exception) -> None:
        pass


def _split_axis(shape: tuple[int, ...], size: int) -> int:
    """The longest axis that `size` divides, or -1 where there is none or nothing to split."""
    axes = [axis for axis, length in enumerate(shape) if size > 1 and length and length % size == 0]
    return max(axes, key=lambda axis: shape[axis], default=-1)


def _gather(part: jax.Array, axis: int) -> jax.Array:
    return part if axis < 0 else jax.lax.all_gather(part, parallel.AXIS, axis=axis, tiled=True)


def _sum_of_squares(part: jax.Array, axis: int) -> jax.Array:
    total = jnp.sum(jnp.square(part))
    return total if axis < 0 else jax.lax.psum(total, parallel.AXIS)


def _next_count(taken: int, seconds: float) -> int:
    wanted = int(taken * _DISPATCH_SECONDS / max(seconds, 1e-6))
    return int(np.clip(wanted, 1, min(_DISPATCH_STEPS, 8 * taken)))


def _log_points(pending, metrics, step, width, steps, log) -> None:
    """Hands out the mean of every full interval of `width` steps (and of the last, shorter one)."""
    for name, values in metrics.items():
        pending[name] = np.concatenate([pending.get(name, np.zeros(0)), values])
    first = step - len(pending["loss"])
    while len(pending["loss"]) and (len(pending["loss"]) >= width or step == steps):
        size = min(width, len(pending["loss"]))
        first += size
        log({"step": first, **{k: float(np.mean(v[:size], dtype=np.float64)) for k, v in pending.items()}})
        for name in pending:
            pending[name] = pending[name][size:]
