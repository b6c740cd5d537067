"""The compiled training program of a chunk of runs: `jit(shard_map(lax.map(vmap(train))))`, steps in one loop.

A run is a pure function of the zoo's seed, its own run id and the recipe. Runs are sharded over the devices of the
mesh; on a device they are trained `lanes` at a time under `vmap`, one group of lanes after the other under `lax.map`.
Lanes, not the chunk and not the number of devices, fix the shape of the arithmetic, so a run comes out bit for bit the
same in any company. What a run does at a step is said by a `program.Program`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxweights import nets, parallel, programs
from jaxweights.data import Dataset
from jaxweights.zoo.program import Program, RunData, RunState
from jaxweights.zoo.recipe import Recipe

_SNAPSHOT_KEY = 3  # 0 to 2 of a run's key are its initialisation, batch order and hyper-parameters


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Trains chunks of runs of one zoo.

    Attributes:
      program: how one run is trained.
      mesh: devices to shard runs over.
      lanes: models per `vmap`; 0 takes the program's default.
    """

    program: Program
    mesh: Mesh
    lanes: int = 0

    @property
    def net(self) -> nets.TaskNet:
        """The task network."""
        return self.program.net

    @property
    def recipe(self) -> Recipe:
        """How each run is trained."""
        return self.program.recipe

    @functools.cached_property
    def width(self) -> int:
        """Models per `vmap`."""
        return self.lanes or self.program.default_lanes(jax.default_backend())

    @property
    def group(self) -> int:
        """The number of runs per dispatch is a multiple of this."""
        return self.width * self.mesh.size

    def snapshot_steps(self, seed: int, run_ids: np.ndarray) -> np.ndarray:
        """Steps after which the given runs keep their weights, `[R, S]` int32, every row ascending."""
        if not self.recipe.random_snapshots:
            return np.tile(np.array(self.recipe.snapshots, np.int32), (len(run_ids), 1))
        return np.asarray(self._snapshot_steps(jax.random.key(seed), np.asarray(run_ids, np.uint32)))

    @functools.cached_property
    def _snapshot_steps(self):
        def one(zoo_key, run_id):
            return self.recipe.sample_snapshots(jax.random.fold_in(_run_key(zoo_key, run_id), _SNAPSHOT_KEY))

        return jax.jit(jax.vmap(one, in_axes=(None, 0)))

    def init(
        self,
        seed: int,
        run_ids: np.ndarray,
        first: np.ndarray | None = None,
        hyper: Mapping[str, np.ndarray] | None = None,
    ) -> RunState:
        """Initial states of the given runs, sharded over the mesh; their number is a multiple of `group`.

        Args:
          seed: seed of the zoo.
          run_ids: `[R]`.
          first: `[P]` weights that all runs but run 0 start from; None for initialisations of their own.
          hyper: `[R]` values of hyper-parameters by name; the others are drawn.
        """
        chosen = {name: np.asarray(values, np.float32) for name, values in (hyper or {}).items()}
        ids, chosen = jax.device_put((np.asarray(run_ids, np.uint32), chosen), parallel.sharded(self.mesh))
        state = self._init(jax.random.key(seed), ids, chosen, self.program.given())
        return state if first is None else self.program.restart(state, run_ids, first, self.mesh)

    @functools.cached_property
    def _init(self):
        recipe, program = self.recipe, self.program

        def one(zoo_key, run_id, chosen, given):
            key = _run_key(zoo_key, run_id)
            init_key, order_key, hyper_key = (jax.random.fold_in(key, i) for i in range(3))
            shared = jax.random.fold_in(zoo_key, 1)
            if recipe.start == "shared":
                init_key = jax.random.fold_in(shared, 0)
            if program.shares_batches:
                order_key = jax.random.fold_in(shared, 1)
            hyper = {**recipe.sample_hyper(hyper_key), **chosen}
            return RunState(*program.start(init_key, hyper, given), jax.random.key_data(order_key), hyper)

        split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
        many = jax.vmap(one, in_axes=(None, 0, 0, None))
        return jax.jit(jax.shard_map(many, mesh=self.mesh, in_specs=(whole, split, split, whole), out_specs=split))

    def load(self, dataset: Dataset) -> Any:
        """The training data, for `select`."""
        return self.program.load(dataset, self.mesh)

    def select(self, data: Any, run_ids: np.ndarray) -> RunData:
        """What `advance` takes of the data for the given runs."""
        return self.program.select(data, run_ids, self.mesh)

    def columns(self, state: RunState, data: RunData, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Further columns of the records of trained runs, see `Program.columns`."""
        return self.program.columns(state, data, weights, self.mesh)

    def advance(self, state: RunState, data: RunData, bounds: np.ndarray) -> tuple[RunState, jax.Array]:
        """Trains on; the state is donated.

        Args:
          state: R runs.
          data: data of these runs, from `select`.
          bounds: `[K + 1]` ascending steps for all runs, or `[R, K + 1]`, every run's own, with the same first and the
            same last step in all rows. The first may equal the second; equal ones are otherwise allowed at the end
            only. Traced, so one program serves any schedule with the same K.

        Returns:
          The state after the last step of the bounds, and `[R, K, P]` weights after all of them but the first. Where
          every run has its own bounds and several lanes, the last of several equal bounds may hold anything.
        """
        bounds = np.asarray(bounds, np.int32)
        if bounds.ndim == 1:
            return self._advance(state, data, jnp.asarray(bounds))
        return self._advance_own(state, data, jax.device_put(bounds, parallel.sharded(self.mesh)))

    @functools.cached_property
    def _advance(self):
        return self._compiled(PartitionSpec())

    @functools.cached_property
    def _advance_own(self):
        return self._compiled(PartitionSpec(parallel.AXIS))

    def _compiled(self, bounds: PartitionSpec):
        split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
        specs = (split, RunData(whole, split), bounds)
        body = jax.shard_map(self._shard, mesh=self.mesh, in_specs=specs, out_specs=(split, split), check_vma=False)
        return jax.jit(body, donate_argnums=0)

    def _shard(self, state: RunState, data: RunData, bounds: jax.Array):
        lanes = min(self.width, state.words.shape[0])
        own, shares_batches = bounds.ndim == 2, self.program.shares_batches
        # A shared order is one array for all lanes, so the batch stays unbatched under vmap.
        axes = RunState(0, 0, None if shares_batches else 0, 0)  # type: ignore[arg-type]

        def group(state: RunState, own_data: Any, bounds: jax.Array):
            if shares_batches:
                state = state._replace(words=state.words[0])
            if own:
                train = functools.partial(self._run_in_step, data.shared, bounds[0, 0], bounds[0, -1])
            else:
                train = functools.partial(self._run, data.shared)
            many = jax.vmap(train, in_axes=(axes, 0, 0 if own else None), out_axes=(axes, 0))
            new, snapshots = many(state, own_data, bounds)
            if shares_batches:
                new = new._replace(words=jnp.broadcast_to(new.words[None, :], (lanes, 2)))
            return new, snapshots

        def over(train, state, own_data, bounds):
            if own:
                return jax.lax.map(lambda x: train(*x), (state, own_data, bounds))
            return jax.lax.map(lambda x: train(*x, bounds), (state, own_data))

        if lanes == 1 and not shares_batches:
            return over(functools.partial(self._run, data.shared), state, data.own, bounds)

        def grouped(tree):
            return jax.tree.map(lambda x: x.reshape((-1, lanes) + x.shape[1:]), tree)

        trained = over(group, grouped(state), grouped(data.own), grouped(bounds) if own else bounds)
        return jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:]), trained)

    def _run(self, shared: Any, state: RunState, own: Any, bounds: jax.Array) -> tuple[RunState, jax.Array]:
        """One run from `bounds[0]` to `bounds[-1]`."""
        program, data = self.program, RunData(shared, own)

        def interval(carry, limits):
            if program.ends_early:
                carry = _until_done(program, state, data, limits, carry)
            else:
                step = functools.partial(program.step, state, data)
                carry = jax.lax.fori_loop(limits[0], limits[1], step, carry)
            return carry, program.vector(carry[0])

        limits = jnp.stack([bounds[:-1], bounds[1:]], axis=1)
        (params, opt_state), snapshots = jax.lax.scan(interval, (state.params, state.opt_state), limits)
        return state._replace(params=params, opt_state=opt_state), snapshots

    def _run_in_step(
        self, shared: Any, start: jax.Array, stop: jax.Array, state: RunState, own: Any, bounds: jax.Array
    ) -> tuple[RunState, jax.Array]:
        """The same for one of several lanes with different bounds: loops of different lengths would all run to the
        longest under `vmap`, so the lanes take every step together and each writes its weights when they are due.
        """
        program, data, due = self.program, RunData(shared, own), bounds[1:]
        vector = program.vector(state.params)

        def step(i, carry):
            trained, kept = carry
            trained = program.step(state, data, i, trained)
            hit = due == i + 1
            slot = jnp.where(hit.any(), jnp.argmax(hit), len(due))  # one past the end is dropped
            return trained, kept.at[slot].set(program.vector(trained[0]), mode="drop")

        kept = jnp.broadcast_to(vector[None, :], (len(due), len(vector)))
        trained, kept = jax.lax.fori_loop(start, stop, step, ((state.params, state.opt_state), kept))
        return state._replace(params=trained[0], opt_state=trained[1]), kept


trainer_of = programs.shared(Trainer)
"""The trainer of a program, devices and lanes, with what it has compiled."""


def _until_done(program: Program, state: RunState, data: RunData, limits: jax.Array, carry: tuple[Any, Any]):
    """Steps of a run up to the limit or to its early end."""

    def goes_on(loop):
        step, (_, opt_state) = loop
        return (step < limits[1]) & ~program.done(opt_state)

    def advance(loop):
        step, trained = loop
        return step + 1, program.step(state, data, step, trained)

    return jax.lax.while_loop(goes_on, advance, (limits[0], carry))[1]


def _run_key(zoo_key: jax.Array, run_id: jax.Array) -> jax.Array:
    """The key of everything that a run draws for itself."""
    return jax.random.fold_in(jax.random.fold_in(zoo_key, 0), run_id)
