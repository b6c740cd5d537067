"""The compiled training program of a chunk of runs: `jit(shard_map(lax.map(vmap(train))))`, steps in one loop.

A run is a pure function of the zoo's seed, its own run id and the recipe. Runs are sharded over the devices of the
mesh; inside a device they are trained `lanes` at a time under `vmap`, one group of lanes after the other under
`lax.map`. Lanes, not the chunk and not the number of devices, fix the shape of the arithmetic, so a run comes out bit
for bit the same in any company.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec

from jaxweights import nets, parallel, shuffle
from jaxweights.data import Dataset
from jaxweights.nn import normalization
from jaxweights.zoo.augment import augmented
from jaxweights.zoo.recipe import Recipe

_SNAPSHOT_KEY = 3  # 0 to 2 of a run's key are its initialisation, batch order and hyper-parameters
_LANE_BYTES = 8 << 30  # activations of all lanes together on an accelerator
_PUBLISHED_STEPS = 2  # of P-diff's collection in training mode, before its first test switches to evaluation


class RunState(NamedTuple):
    """State of `[R]` runs between dispatches; every leaf has a leading run axis."""

    params: Any
    opt_state: Any  # of the optimizer, and whatever else goes from step to step
    words: jax.Array  # [R, 2] uint32, key of the batch order and of everything else that steps draw
    hyper: dict[str, jax.Array]  # [R] float32 each


class TrainData(NamedTuple):
    """A training set as the trainer wants it on device.

    Attributes:
      rows: `[n, D]` float32, or `[n, ceil(D / 4)]` uint32 with four raw bytes per word: a gather of rows moves a
        quarter of the elements, and the standardisation costs less than what that saves.
      labels: `[n]` int32.
      scale: `[C]` float32 and
      shift: `[C]` float32: a standardised pixel is `raw * scale + shift`.
    """

    rows: jax.Array
    labels: jax.Array
    scale: jax.Array
    shift: jax.Array


def pack(images: np.ndarray, labels: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> TrainData:
    """Builds `TrainData` from raw images `[n, H, W, C]`, uint8 or float32."""
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    if flat.dtype == np.uint8:
        if flat.shape[1] % 4:
            flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 4)))
        flat = flat.view("<u4")
    else:
        flat = flat.astype(np.float32)
    return TrainData(flat, np.asarray(labels, np.int32), np.asarray(scale, np.float32), np.asarray(shift, np.float32))


def default_lanes(net: nets.TaskNet, recipe: Recipe, backend: str) -> int:
    """Models trained together under `vmap` on one device; the one place of this choice.

    Measured on two CPU cores (benchmarks/): with own batch orders a model at a time keeps its working set in cache and
    wins for CNNs and for inputs of hundreds of pixels, tiny networks want some tens of lanes to amortise the calls;
    with a shared order more lanes make the first layer's single product larger. Policies gain nothing from lanes, and
    with one alone came out the same bit for bit on any number of CPU devices. Accelerators want all the parallelism
    there is.
    """
    if backend != "cpu":
        if net.environment or net.field:
            return 256
        whole = net.whole if isinstance(net, nets.PartialNet) else net
        lane = 3 * 4 * recipe.batch_size * whole.activation_size  # also their cotangents, and what lies between
        return int(np.clip(_LANE_BYTES // lane, 1, 256))
    if recipe.start == "base":
        return 1
    if net.environment is not None:
        return 1
    if net.convolutional:
        return 2 if recipe.batch_order == "shared" else 1
    if recipe.batch_order == "shared":
        return 64
    return 1 if math.prod(net.input_shape) > 256 else 32


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Trains chunks of runs of one zoo.

    Attributes:
      net: the task network.
      recipe: how each run is trained.
      num_examples: size of the training set.
      mesh: devices to shard runs over.
      lanes: models per `vmap`; 0 takes `default_lanes`.
    """

    net: nets.TaskNet
    recipe: Recipe
    num_examples: int
    mesh: Mesh
    lanes: int = 0

    signal_bytes = 0  # of the examples that a run has for itself

    @functools.cached_property
    def width(self) -> int:
        """Models per `vmap`."""
        return self.lanes or default_lanes(self.net, self.recipe, jax.default_backend())

    @property
    def granule(self) -> int:
        """Runs per dispatch are a multiple of this."""
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

    def init(self, seed: int, run_ids: np.ndarray, first: Any = None) -> RunState:
        """Initial states of the given runs, sharded over the mesh; their number is a multiple of `granule`.

        Args:
          seed: of the zoo.
          run_ids: `[R]`.
          first: what runs start from in place of an initialisation of their own, where the recipe has such a thing.
        """
        run_ids = jax.device_put(np.asarray(run_ids, np.uint32), parallel.sharded(self.mesh))
        return self._init(jax.random.key(seed), run_ids, first)

    @functools.cached_property
    def _init(self):
        def one(zoo_key, run_id, first):
            key = _run_key(zoo_key, run_id)
            init_key, order_key, hyper_key = (jax.random.fold_in(key, i) for i in range(3))
            shared = jax.random.fold_in(zoo_key, 1)
            if self.recipe.start == "shared":
                init_key = jax.random.fold_in(shared, 0)
            if self.recipe.batch_order == "shared":
                order_key = jax.random.fold_in(shared, 1)
            hyper = self.recipe.sample_hyper(hyper_key)
            return RunState(*self._start(init_key, hyper, first), jax.random.key_data(order_key), hyper)

        split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
        many = jax.vmap(one, in_axes=(None, 0, None))
        return jax.jit(jax.shard_map(many, mesh=self.mesh, in_specs=(whole, split, whole), out_specs=split))

    def _start(self, key: jax.Array, hyper: dict[str, jax.Array], first: Any) -> tuple[Any, Any]:
        """Parameters and optimizer state of one run before its first step."""
        del first
        params = self.net.spec.unflatten(self.net.init(key) * hyper["init_scale"])
        return params, self.recipe.transformation(hyper, jnp.float32(0.0)).init(params)

    def _vector(self, params: Any) -> jax.Array:
        """The weights `[P]` that a snapshot keeps."""
        return self.net.spec.flatten(params)

    def load(self, dataset: Dataset) -> TrainData:
        """The training set on every device, for `advance`."""
        return self.put(pack(dataset.train_images, dataset.train_labels, dataset.scale, dataset.shift))

    def select(self, data: Any, run_ids: np.ndarray) -> Any:
        """What `advance` takes of the data for the given runs."""
        del run_ids
        return data

    def columns(self, state: RunState, data: Any, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Further columns of the records of trained runs, one entry per run.

        Args:
          state: of the runs, of which only the first `len(weights)` count.
          data: from `select`.
          weights: `[R, P]`, the last of each.
        """
        del state, data, weights
        return {}

    def put(self, data: TrainData) -> TrainData:
        """The same of a packed set."""
        return jax.device_put(data, parallel.replicated(self.mesh))

    def advance(self, state: RunState, data: TrainData, bounds: np.ndarray) -> tuple[RunState, jax.Array]:
        """Trains on; the state is donated.

        Args:
          state: of R runs.
          data: from `load`.
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
        body = jax.shard_map(
            self._shard, mesh=self.mesh, in_specs=(split, whole, bounds), out_specs=(split, split), check_vma=False
        )
        return jax.jit(body, donate_argnums=0)

    def _shard(self, state: RunState, data: TrainData, bounds: jax.Array):
        lanes = min(self.width, state.words.shape[0])
        own = bounds.ndim == 2
        # A shared order is one array for all lanes, so the batch stays unbatched under vmap.
        axes = RunState(0, 0, None if self.recipe.batch_order == "shared" else 0, 0)

        def group(state: RunState, bounds: jax.Array):
            if self.recipe.batch_order == "shared":
                state = state._replace(words=state.words[0])
            if own:
                train = functools.partial(self._run_in_step, data, bounds[0, 0], bounds[0, -1])
            else:
                train = functools.partial(self._run, data)
            new, snapshots = jax.vmap(train, in_axes=(axes, 0 if own else None), out_axes=(axes, 0))(state, bounds)
            if self.recipe.batch_order == "shared":
                new = new._replace(words=jnp.broadcast_to(new.words[None, :], (lanes, 2)))
            return new, snapshots

        def over(train, state, bounds):
            if own:
                return jax.lax.map(lambda x: train(*x), (state, bounds))
            return jax.lax.map(lambda s: train(s, bounds), state)

        if lanes == 1 and self.recipe.batch_order == "own":
            return over(functools.partial(self._run, data), state, bounds)
        groups = jax.tree.map(lambda x: x.reshape((-1, lanes) + x.shape[1:]), state)
        trained = over(group, groups, bounds.reshape((-1, lanes) + bounds.shape[1:]) if own else bounds)
        return jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:]), trained)

    def _run(self, data: TrainData, state: RunState, bounds: jax.Array) -> tuple[RunState, jax.Array]:
        """One run from `bounds[0]` to `bounds[-1]`."""

        def interval(carry, limits):
            params, opt_state = jax.lax.fori_loop(
                limits[0], limits[1], functools.partial(self._step, state, data), carry
            )
            return (params, opt_state), self._vector(params)

        limits = jnp.stack([bounds[:-1], bounds[1:]], axis=1)
        (params, opt_state), snapshots = jax.lax.scan(interval, (state.params, state.opt_state), limits)
        return state._replace(params=params, opt_state=opt_state), snapshots

    def _run_in_step(
        self, data: TrainData, start: jax.Array, stop: jax.Array, state: RunState, bounds: jax.Array
    ) -> tuple[RunState, jax.Array]:
        """The same for one of several lanes with different bounds: loops of different lengths would all run to the
        longest under `vmap`, so the lanes take every step together and each writes its weights when they are due.
        """
        due = bounds[1:]
        vector = self._vector(state.params)

        def step(i, carry):
            trained, kept = carry
            trained = self._step(state, data, i, trained)
            hit = due == i + 1
            slot = jnp.where(hit.any(), jnp.argmax(hit), len(due))  # one past the end is dropped
            return trained, kept.at[slot].set(self._vector(trained[0]), mode="drop")

        kept = jnp.broadcast_to(vector[None, :], (len(due), len(vector)))
        trained, kept = jax.lax.fori_loop(start, stop, step, ((state.params, state.opt_state), kept))
        return state._replace(params=trained[0], opt_state=trained[1]), kept

    def _step(self, state: RunState, data: Any, step: jax.Array, carry):
        return self._update(state, data, step, carry)[1]

    def _update(self, state: RunState, data: Any, step: jax.Array, carry):
        """Loss of a step's batch, and parameters and optimizer state after the step."""
        params, opt_state = carry
        images, labels = self.batch(data, state.words, step)
        forward = functools.partial(self._forward, images=images)
        (loss, moved), gradient = self._gradient(forward, params, labels, step)
        params, opt_state = self._descend(state, step, gradient, params, opt_state)
        return loss, (normalization.take_statistics(params, moved) if self._has_statistics else params, opt_state)

    def _gradient(self, forward: Callable, params: Any, labels: jax.Array, step: jax.Array):
        """`((loss, moved), gradient)` of `forward(params, training=...) -> (logits, moved)` in the step's mode."""

        def descend(training: bool):
            def loss(params):
                logits, moved = forward(params, training=training)
                return self._mean(nets.cross_entropy(logits, labels)), moved

            return jax.value_and_grad(loss, has_aux=True)(params)

        if not self._has_statistics or self.recipe.statistics == "frozen":
            return descend(False)
        if self.recipe.statistics == "batch":
            return descend(True)
        return jax.lax.cond(step < _PUBLISHED_STEPS, lambda: descend(True), lambda: descend(False))

    def _mean(self, losses: jax.Array) -> jax.Array:
        """Of a batch."""
        return jnp.mean(losses)

    def _descend(self, state: RunState, step: jax.Array, gradient: Any, params: Any, opt_state: Any):
        """Parameters and optimizer state after the optimizer's step."""
        rate = self.recipe.learning_rate(state.hyper["learning_rate"], step, self.num_examples)
        updates, opt_state = self.recipe.transformation(state.hyper, rate).update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    @functools.cached_property
    def _has_statistics(self) -> bool:
        """Whether the network has running statistics, which the batches move and the optimizer leaves alone."""
        return not normalization.trainable(self.net.spec).all()

    @property
    def _module(self) -> nn.Module:
        return self.net.module

    def _forward(self, params: Any, images: jax.Array, training: bool) -> tuple[jax.Array, Any]:
        """Logits, and the parameters with their statistics moved in training mode."""
        if training:
            return normalization.apply_in_training(self._module, params, images)
        return self._module.apply({"params": params}, images), params

    def batch(self, data: TrainData, words: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Standardised images `[B, *net.image_shape]` and labels `[B]` of a step."""
        rows = self._rows(words, step)
        pixels = data.rows[rows]
        size = math.prod(self.net.input_shape)
        if pixels.dtype == jnp.uint32:
            pixels = (
                jax.lax.bitcast_convert_type(pixels, jnp.uint8).reshape(len(rows), -1)[:, :size].astype(jnp.float32)
            )
        images = pixels.reshape((len(rows),) + self.net.input_shape)
        images = images * data.scale[None, None, None, :] + data.shift[None, None, None, :]
        images = self._augmented(images, jax.random.fold_in(jax.random.wrap_key_data(words), step))
        return self.net.resized(images), data.labels[rows]

    def _augmented(self, images: jax.Array, key: jax.Array) -> jax.Array:
        return augmented(images, key, self.recipe.augment, self.net.image_shape[:2])

    def _rows(self, words: jax.Array, step: jax.Array) -> jax.Array:
        """Rows `[B]` of the training set that a step sees."""
        return shuffle.batch_indices(words, step, self.recipe.batch_size, self.num_examples)


def _run_key(zoo_key: jax.Array, run_id: jax.Array) -> jax.Array:
    """The key of everything that a run draws for itself."""
    return jax.random.fold_in(jax.random.fold_in(zoo_key, 0), run_id)
