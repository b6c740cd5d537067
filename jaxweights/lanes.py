"""Many trainings of one generator in one program: seeds, examples and traced settings differ from lane to lane.

A lane takes the steps that `training.StageTrainer` takes on one device for the same key and settings, so that both
agree up to the rounding of traced numbers. Lanes are split over the devices; on a device they are trained `width` at a
time under `vmap`, one group after the other.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from jaxweights import parallel, programs, sharding, steps, streaming
from jaxweights.errors import UserError
from jaxweights.generators.base import LearnedGenerator, Stage
from jaxweights.population import Population
from jaxweights.steps import TrainState

_DISPATCH_SECONDS = 1.0  # about, so that the bar moves
_WIDTH = 16  # lanes under `vmap` on an accelerator


class Lane(NamedTuple):
    """What makes a training its own.

    Attributes:
      key: `[2]` uint32, of all of its randomness.
      hyper: traced settings by name, float32 scalars.
      done: its finished stages.
      rows: `[m]` int32, its training examples among those of all lanes; None for all of them.
    """

    key: Any
    hyper: dict[str, Any]
    done: dict[str, Any]
    rows: Any = None


@dataclasses.dataclass(frozen=True)
class Trained:
    """Trainings of one generator.

    Attributes:
      states: of every training, as `train_generator` returns it.
      losses: `[L]` loss of the last step of the last stage.
      finite: `[L]` whether all losses were finite.
    """

    states: list[dict[str, Any]]
    losses: np.ndarray
    finite: np.ndarray


@dataclasses.dataclass(frozen=True)
class LaneTrainer:
    """Trains a generator many times; trainers of equal settings share their programs.

    Attributes:
      generator: its settings; those that are traced may have any value here.
      mesh: devices.
      width: lanes under `vmap`; 0 for one on CPU, where a model at a time keeps its working set in cache, and many on
        accelerators.
    """

    generator: LearnedGenerator
    mesh: Mesh
    width: int = 0

    @property
    def lanes(self) -> int:
        """Lanes under `vmap`."""
        return self.width or (1 if jax.default_backend() == "cpu" else _WIDTH)

    def run(
        self,
        training: Population,
        keys: jax.Array,
        hyper: Mapping[str, np.ndarray],
        report: Callable[[int], None] = lambda steps: None,
        *,
        rows: np.ndarray | None = None,
    ) -> Trained:
        """Trains all lanes to the end.

        Args:
          training: training rows and their records.
          keys: `[L]` typed PRNG keys; what `train_generator` takes one of.
          hyper: `[L]` values of traced settings by name, each in `generator.TRACED`.
          report: called with the steps of all lanes so far.
          rows: `[L, m]` training rows of every lane, which is then trained as on these alone; None for all of them.
            For generators whose `prepare` looks at one row at a time, but for `constants_of`.

        Raises:
          UserError: fewer rows in a lane than in a batch.
        """
        made, count = _programs(self.generator, self.mesh, self.lanes), len(keys)
        data, constants = self.generator.prepare(training)
        data = streaming.whole(data)
        size = jax.tree.leaves(data)[0].shape[0] if rows is None else rows.shape[1]
        self._check(made.stages, size)
        lane = self._lane(keys, hyper, rows)
        shared = jax.device_put((jax.tree.map(jnp.asarray, data), constants), parallel.replicated(self.mesh))
        finite, losses, before = np.ones(len(lane.key), bool), np.zeros(len(lane.key)), 0
        for number, stage in enumerate(made.stages):
            state = made.start(number)(lane, shared)
            step, take = 0, 4
            while step < stage.steps:
                take, begin = min(take, stage.steps - step), time.monotonic()
                state, loss, good = jax.block_until_ready(made.advance(number)(state, lane, shared, jnp.int32(take)))
                step += take
                take = int(np.clip(take * _DISPATCH_SECONDS / max(time.monotonic() - begin, 1e-6), 1, 8 * take))
                finite, losses = finite & np.asarray(good), np.asarray(loss)
                report((before + step) * count)
            before += stage.steps
            params = state.params if state.ema is None else state.ema
            lane = lane._replace(done={**lane.done, stage.name: {"params": params, "model_state": state.model_state}})
        kept = jax.tree.map(np.asarray, lane.done)
        states = []
        for i in range(count):
            own = data if rows is None else jax.tree.map(lambda x, i=i: x[rows[i]], data)
            known = constants if rows is None else self.generator.constants_of(constants, data, rows[i])
            state = {"constants": known, **jax.tree.map(lambda x, i=i: x[i], kept)}
            states.append(state | self.generator.finish(state, own))
        return Trained(states, losses[:count], finite[:count])

    def _lane(self, keys: jax.Array, hyper: Mapping[str, np.ndarray], rows: np.ndarray | None) -> Lane:
        """All lanes on their devices; the last one is repeated where devices or groups are not full."""
        words, chosen = np.asarray(jax.random.key_data(keys)), {k: np.asarray(v, np.float32) for k, v in hyper.items()}
        lane = Lane(words, chosen, {}, None if rows is None else np.asarray(rows, np.int32))
        multiple = self.mesh.size * min(self.lanes, -(-len(keys) // self.mesh.size))
        return jax.device_put(jax.tree.map(lambda x: parallel.pad_rows(x, multiple), lane), parallel.sharded(self.mesh))

    def _check(self, stages: tuple[Stage, ...], size: int) -> None:
        for stage in stages:
            if size < stage.batch_size:
                raise UserError(
                    f"{self.generator.section} trains with batches of {stage.batch_size}, but there are only {size} "
                    "training examples. Lower its batch size or give more examples."
                )


@programs.shared
def _programs(generator: LearnedGenerator, mesh: Mesh, lanes: int) -> _Programs:
    return _Programs(generator, mesh, lanes)


@dataclasses.dataclass(frozen=True, eq=False)
class _Programs:
    """The programs of every stage of a generator."""

    generator: LearnedGenerator
    mesh: Mesh
    lanes: int

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The generator's own stages."""
        return self.generator.stages()

    def _stage(self, number: int, hyper: Mapping[str, Any]) -> Stage:
        return self.generator.traced(hyper).stages()[number]

    @functools.cache  # noqa: B019  (which are kept, and so are these)
    def start(self, number: int):
        def one(lane: Lane, shared: Any) -> TrainState:
            stage, key = self._stage(number, lane.hyper), _key(lane, number)
            params, model_state = stage.init(jax.random.fold_in(key, 0), self._done(lane, *shared))
            ema = None if stage.ema_decay is None else jax.tree.map(jnp.copy, params)
            return TrainState(jnp.int32(0), params, model_state, stage.optimizer.init(params), ema)

        def many(lanes: Lane, shared: Any) -> TrainState:
            return jax.lax.map(lambda lane: one(lane, shared), lanes)

        split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
        return jax.jit(jax.shard_map(many, mesh=self.mesh, in_specs=(split, whole), out_specs=split, check_vma=False))

    @functools.cache  # noqa: B019
    def advance(self, number: int):
        def one(state: TrainState, lane: Lane, shared: Any, count: jax.Array):
            def body(_, carry):
                state, _, good = carry
                state, loss = self._step(number, state, lane, *shared)
                return state, loss, good & jnp.isfinite(loss)

            return jax.lax.fori_loop(0, count, body, (state, jnp.float32(0), jnp.bool_(True)))

        def many(states: TrainState, lanes: Lane, shared: Any, count: jax.Array):
            total = lanes.key.shape[0]
            width = min(self.lanes, total)
            train = functools.partial(one, shared=shared, count=count)
            if width == 1:
                return jax.lax.map(lambda x: train(*x), (states, lanes))
            grouped = jax.tree.map(lambda x: x.reshape((-1, width) + x.shape[1:]), (states, lanes))
            out = jax.lax.map(lambda x: jax.vmap(train)(*x), grouped)
            return jax.tree.map(lambda x: x.reshape((total,) + x.shape[2:]), out)

        split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
        specs = (split, split, whole, whole)
        body = jax.shard_map(many, mesh=self.mesh, in_specs=specs, out_specs=split, check_vma=False)
        return jax.jit(body, donate_argnums=0)

    def _done(self, lane: Lane, data: Any, constants: Any) -> dict[str, Any]:
        """What a stage of a lane finds."""
        own = constants if lane.rows is None else self.generator.constants_of(constants, data, lane.rows)
        return {"constants": own, **lane.done}

    def _step(self, number: int, state: TrainState, lane: Lane, data: Any, constants: Any):
        """One step of one lane, and its loss; see `StageTrainer`."""
        stage, key = self._stage(number, lane.hyper), jax.random.fold_in(_key(lane, number), 1)
        size = jax.tree.leaves(data)[0].shape[0] if lane.rows is None else lane.rows.shape[0]
        rows, keys = steps.drawn(stage, size, key, state.step)
        rows = rows if lane.rows is None else lane.rows[rows]
        batch, done = stage.gather(data, rows, keys), self._done(lane, data, constants)

        def loss(params):
            value, (model_state, _) = stage.loss(params, state.model_state, done, batch, keys, None)
            return value, model_state

        (value, model_state), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        if stage.gradient_clip:
            gradient = sharding.clip(gradient, stage.gradient_clip)
        optimizer = optax.with_extra_args_support(stage.optimizer)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params, value=value)
        params, ema = optax.apply_updates(state.params, updates), state.ema
        if stage.ema_decay is not None:
            ema = optax.incremental_update(params, ema, 1 - stage.ema_decay)
        return TrainState(state.step + 1, params, model_state, opt_state, ema), value


def _key(lane: Lane, number: int) -> jax.Array:
    """The key of a stage."""
    return jax.random.fold_in(jax.random.wrap_key_data(lane.key), number)
