"""The one training loop of every learned generator.

Data parallel with the semantics that `jax.pmap` users know: parameters on every device, the batch split over devices,
the loss averaged with `lax.pmean` inside the differentiated function (outside of it, `shard_map` would already have
summed the gradients of replicated parameters and the mean would be a no-op). Where a stage shards its parameters, a
device keeps parts of them instead, see `sharding`. Many steps per dispatch, the whole data set on device where it fits
and else read ahead (`streaming`), checkpoints through Orbax from which training resumes bit for bit.

The devices may belong to several processes (`jax.distributed`). All of them call the same functions with the same
arguments and get the same results.
"""

from __future__ import annotations

import contextlib
import functools
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxweights import interruption, parallel, progress, sharding, steps, streaming, traces
from jaxweights.checkpoints import Checkpoints, NoCheckpoints
from jaxweights.errors import Diverged, UserError
from jaxweights.generators.base import LearnedGenerator, Stage
from jaxweights.population import Population
from jaxweights.steps import MOST_STEPS, TrainState

_DISPATCH_SECONDS = 1.0  # and about this long, so that the bar moves
# The devices of a CPU share one memory. Where copies of the parameters are that large, keeping them alike costs as much
# as splitting a batch gains. A step on one device of two cores and on two devices: 40 and 44 ms (G.pt, 2.7 million
# parameters), 854 and 823 (Hyper-Representations, 6.5 million), 875 and 965 (G.pt, 31 million); 45 and 44 below a
# million.
_CPU_PARAMS = 2_000_000
_CURVE_POINTS = 200  # points of the loss curve of a stage


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
      mesh: devices, those of all processes by default; a stage uses the most devices that divide its batch, of every
        process as many.
      key: PRNG key for initialisation, batch order and all noise.
      path: folder of the checkpoints, one sub-folder per stage; None to keep nothing on disk.
      log: receives `{"generator", "stage", "step", "loss", ...}` for every point of the loss curve, in order; after a
        resume, points since the last checkpoint come again with the same values. Called by the first process alone, as
        is `begin`.
      begin: called with generator, stage and the step from which it is trained, before that stage's first point.
      checkpoint_every: steps between checkpoints, 0 for about four per stage.

    Returns:
      The generator's state: `constants`, `{"params", "model_state"}` under every stage's name, and what the
      generator's `finish` adds.

    Raises:
      UserError: fewer rows than a batch, or a loss that is not finite (naming the step and the last good checkpoint).
    """
    mesh = parallel.make_global_mesh() if mesh is None else mesh
    if jax.process_index() != mesh.devices.flat[0].process_index:
        log, begin = _silent, _silent
    data, constants = generator.prepare(training)
    state: dict[str, Any] = {"constants": constants}
    stages = generator.stages()
    with ThreadPoolExecutor(1) as pool:
        for number, stage in enumerate(stages):
            own = jax.random.fold_in(key, number), f"{generator.name}/{stage.name}"
            tagged = functools.partial(_tagged_log, log, generator.name, stage.name)
            started = functools.partial(begin, generator.name, stage.name)
            folder = None if path is None else path / stage.name
            trainer = StageTrainer(stage, data, state, mesh, *own, origin=(generator, number))
            later = None
            if number + 1 < len(stages) and not (path is not None and (path / stages[number + 1].name).exists()):
                later = pool.submit(_compile_ahead, trainer, stages[number + 1], (generator, number + 1), data, state)
            found = trainer.run(folder, tagged, checkpoint_every, started)
            if later is not None:
                later.result()
            del trainer, later  # arrays are gone before the next one's are made
            state = {**state, stage.name: found}
    return {**state, **generator.finish(state, data)}


def _compile_ahead(
    trainer: StageTrainer, stage: Stage, origin: tuple[LearnedGenerator, int], data: Any, state: Mapping[str, Any]
) -> None:
    """Compiles the programs of the next stage while one trains, where they are shared and small enough to be."""
    try:
        hash(origin)
    except TypeError:  # programs of its own, made where they are used
        return
    if jax.process_count() > 1 or stage.parameter_shards != 1 or trainer.streams:
        return
    params, model_state = jax.eval_shape(trainer.stage.init, trainer.key, dict(state))
    done = {**state, trainer.stage.name: {"params": params, "model_state": model_state}}
    mesh, rows = arrange(stage, trainer.devices, _num_params(stage, trainer.key, done))
    size = jax.tree.leaves(data)[0].shape[0]
    programs = steps.of_stage(stage, mesh, rows, size, data, done, 0, origin)
    if size >= stage.batch_size and not programs.used and programs.compiled is None:
        programs.compile(trainer.key, data, done)


def _silent(*arguments) -> None:
    del arguments


def _tagged_log(log, generator, stage, row):
    log({"generator": generator, "stage": stage, **row})


def arrange(stage: Stage, devices: Sequence[Any], num_params: int) -> sharding.Devices:
    """The devices that train a stage with so many parameters."""
    large = devices[0].platform == "cpu" and stage.parameter_shards == 1 and num_params > _CPU_PARAMS
    return sharding.arrange(devices, stage.batch_size, stage.parameter_shards, 1 if large else None)


def _num_params(stage: Stage, key: jax.Array, done: Mapping[str, Any]) -> int:
    params, _ = jax.eval_shape(stage.init, key, dict(done))
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


class StageTrainer:
    """Trains one stage on one mesh.

    Args:
      stage: the stage.
      data: from the generator's `prepare`, N examples; on every device where they fit, see `Stage.data_memory`.
      done: the generator's state so far, constants and finished stages.
      mesh: devices; the most that divide the batch are used, of a CPU only one for many parameters, unless they are
        sharded.
      key: PRNG key of this stage.
      name: used in messages.
      origin: the generator whose stage of this number it is; trainings of equal ones share their programs.

    Raises:
      UserError: fewer rows than the batch size.
    """

    def __init__(
        self,
        stage: Stage,
        data: Any,
        done: Mapping[str, Any],
        mesh: Mesh,
        key: jax.Array,
        name: str,
        origin: tuple[LearnedGenerator, int] | None = None,
    ):
        size = jax.tree.leaves(data)[0].shape[0]
        if size < stage.batch_size:
            raise UserError(
                f"{name} trains with batches of {stage.batch_size}, but there are only {size} training "
                "examples. Lower the "
                "generator's batch size or train more runs."
            )
        self.stage, self.name = stage, name
        self.key, self._size = key, size
        self.devices = list(mesh.devices.flat)
        self.mesh, rows = arrange(stage, self.devices, _num_params(stage, key, done))
        own = sum(device.process_index == jax.process_index() for device in self.mesh.devices.flat)
        self._stream = None
        given = stage.data_memory
        large = given is not None and streaming.size(data) > streaming.room(given, max(own, 1))
        if self._gathered(large).any():  # the memory of hosts may differ
            split = NamedSharding(self.mesh, PartitionSpec(None, rows))
            self._stream = streaming.Stream(data, self._chosen, split, stage.batch_size, stage.steps)
        shapes, streamed = (data, 0) if self._stream is None else (self._stream.shapes, self._stream.length)
        self.programs = steps.of_stage(stage, self.mesh, rows, size, shapes, done, streamed, origin)
        self._init, self._advance = self.programs.compiled or (self.programs.init, self.programs.advance)
        self.programs.used = True
        placed = None if self._stream is not None else streaming.whole(data)
        self._data = None if placed is None else sharding.place(self.mesh, placed, self.programs.data_specs)
        self._done = sharding.place(self.mesh, dict(done), self.programs.done_specs)

    @property
    def streams(self) -> bool:
        """Whether the examples are read ahead, and not all on the devices."""
        return self._stream is not None

    def init(self) -> TrainState:
        """The state before the first step, on every device or split over them."""
        return self._init(self.key, self._done)

    def compile(self) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
        """Compiles the programs of `init` and `advance`, which use them from then on; allocates nothing."""
        self._init = self.programs.init.lower(self.key, self._done).compile()
        key, count = jax.random.fold_in(self.key, 1), jnp.int32(1)
        data = self._data if self._stream is None else self._stream.shapes
        self._advance = self.programs.advance.lower(self.programs.like(), data, self._done, key, count).compile()
        return self._init, self._advance

    def advance(self, state: TrainState, count: int) -> tuple[TrainState, dict[str, jax.Array]]:
        """Takes `count` steps, at most `most` of them; the state is donated. Metrics are `[MOST_STEPS]`, of which the
        first `count` are meant."""
        data = self._data if self._stream is None else self._stream.block(int(state.step))
        return self._advance(state, data, self._done, jax.random.fold_in(self.key, 1), jnp.int32(count))

    def most(self, step: int) -> int:
        """Most steps that `advance` takes from this one on."""
        return MOST_STEPS if self._stream is None else self._stream.left(step)

    def close(self) -> None:
        """Lets go of what is read ahead."""
        if self._stream is not None:
            self._stream.close()

    def _chosen(self, data: Any, step: jax.Array) -> Any:
        """The examples of a step."""
        return self.stage.gather(data, *steps.drawn(self.stage, self._size, jax.random.fold_in(self.key, 1), step))

    def run(
        self,
        path: pathlib.Path | None,
        log: Callable[[Mapping[str, Any]], None],
        checkpoint_every: int = 0,
        started: Callable[[int], None] = lambda step: None,
        saved: Callable[[int, TrainState], None] | None = None,
    ) -> dict[str, Any]:
        """Trains to the end, from the last checkpoint in `path` if there is one; returns `{"params", "model_state"}` on
        the host. `saved` is called with every checkpoint."""
        stage = self.stage
        width = max(1, stage.steps // _CURVE_POINTS)
        # Checkpoints lie on points of the loss curve, so that a resumed curve has no torn point.
        every = -(-(checkpoint_every or max(1, stage.steps // 4)) // width) * width
        kept = NoCheckpoints() if path is None else Checkpoints(path)
        with interruption.deferred(), contextlib.closing(self), kept as checkpoints:
            step = checkpoints.latest_step() or 0
            started(step)
            state = checkpoints.restore(step, like=self.programs.like()) if step else self.init()
            pending: dict[str, list[np.ndarray]] = {}
            count, good, stopping = 4, step, False
            with progress.Progress(stage.steps - step, self.name, "steps") as bar:
                start = step
                while step < stage.steps:
                    interval = width if stopping else every
                    target = min(stage.steps, (step // interval + 1) * interval)
                    take = min(count, target - step, self.most(step))
                    begin = time.monotonic()
                    # JAX 0.10 hangs where programs of several devices per process wait for each other in flight.
                    with traces.moment(f"train {self.name}"):
                        state, metrics = jax.block_until_ready(self.advance(state, take))
                    metrics = {k: np.asarray(v)[:take] for k, v in metrics.items()}
                    count, stopping = self._agreed(_next_count(take, time.monotonic() - begin))
                    self._check(metrics["loss"], step, good, path)
                    step += take
                    _log_points(pending, metrics, step, width, stage.steps, log)
                    bar.update(step - start, f"loss {metrics['loss'][-1]:.4g}")
                    ends = stopping and step % width == 0
                    if step % every == 0 or step == stage.steps or ends:
                        if saved is not None:  # first, so that what it keeps is there for every checkpoint
                            saved(step, state)
                        checkpoints.save(step, state)
                        good = step
                    if ends:
                        interruption.stop()
            result = {"params": state.params if state.ema is None else state.ema, "model_state": state.model_state}
            return jax.tree.map(sharding.fetch, result)

    def _agreed(self, count: int) -> tuple[int, bool]:
        """How many steps come next, as the first process says, since times differ; and whether training stops, since a
        process was told to end."""
        every = self._gathered((count, interruption.noted()))
        return int(every[0, 0]), bool(every[:, 1].any())

    def _gathered(self, own: Any) -> np.ndarray:
        """Whole numbers of every process that trains, one row each."""
        values = np.array(own, np.int32)
        if len({device.process_index for device in self.mesh.devices.flat}) == 1:
            return values[None]
        return np.asarray(multihost_utils.process_allgather(values))

    def _check(self, losses: np.ndarray, step: int, good: int, path: pathlib.Path | None) -> None:
        bad = np.flatnonzero(~np.isfinite(losses))
        if bad.size:
            kept = f"the last good checkpoint is step {good} in {path}" if good and path else "there is no checkpoint"
            remove = f"remove the folder {path.parent} " if path else ""
            raise Diverged(
                f"The loss of {self.name} is not finite at step {step + int(bad[0]) + 1}; {kept}. Look at the training "
                f"population (launch.report) or lower the learning rate of this stage, {remove}and run again."
            )


def _next_count(taken: int, seconds: float) -> int:
    wanted = int(taken * _DISPATCH_SECONDS / max(seconds, 1e-6))
    return int(np.clip(wanted, 1, min(MOST_STEPS, 8 * taken)))


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
