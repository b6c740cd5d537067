"""Supervised training: stochastic gradient descent on a loss of labelled examples."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from jaxweights import nets, parallel, shuffle
from jaxweights.data import Dataset
from jaxweights.nn import normalization
from jaxweights.nn.conv_pool import from_batch_minor, to_batch_minor
from jaxweights.zoo.augment import augmented
from jaxweights.zoo.program import Program, RunData, RunState
from jaxweights.zoo.recipe import SnapshotSettings

_LANE_BYTES = 8 << 30  # what all lanes together compute with on an accelerator
_LANE_SNAPSHOT_BYTES = 256 << 20  # snapshots of all lanes beyond the first 256, as a chunk holds whole lanes
_PUBLISHED_STEPS = 2  # of P-diff's collection in training mode, before its first test switches to evaluation


@dataclasses.dataclass(frozen=True)
class SupervisedSettings(SnapshotSettings):
    """Settings of zoos of supervised networks.

    Attributes:
      batch_order: own: every run shuffles with its own key; shared: all runs see the same batches (faster, since the
        first layer of all runs becomes one matrix product, but then the runs have that in common).
    """

    batch_order: Literal["own", "shared"] = "own"


class TrainData(NamedTuple):
    """A training set as the program wants it on device.

    Attributes:
      rows: `[n, D]` float32, or `[n, ceil(D / 4)]` uint32 with four raw bytes per word: a gather of rows moves a
        quarter of the elements, and the standardisation costs less than what that saves.
      labels: `[n]` int32 classes, or `[n, ...]` float32 targets.
      scale: `[C]` float32 and
      shift: `[C]` float32: a standardised pixel is `raw * scale + shift`.
    """

    rows: jax.Array | np.ndarray
    labels: jax.Array | np.ndarray
    scale: jax.Array | np.ndarray
    shift: jax.Array | np.ndarray


def pack(images: np.ndarray, labels: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> TrainData:
    """Builds `TrainData` from raw inputs `[n, ...]`, uint8 or float32; the last axis has the channels."""
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    if flat.dtype == np.uint8:
        if flat.shape[1] % 4:
            flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 4)))
        flat = flat.view("<u4")
    else:
        flat = flat.astype(np.float32)
    targets = np.asarray(labels)
    targets = targets.astype(np.float32 if np.issubdtype(targets.dtype, np.floating) else np.int32)
    return TrainData(flat, targets, np.asarray(scale, np.float32), np.asarray(shift, np.float32))


@dataclasses.dataclass(frozen=True)
class SplitBatch:
    """A batch whose examples are split over the devices of a mesh, for one network that all of them train.

    Attributes:
      devices: their number, which divides the batch.
    """

    devices: int

    def share(self, batch: jax.Array) -> jax.Array:
        """This device's examples of a batch."""
        share = len(batch) // self.devices
        return jax.lax.dynamic_slice_in_dim(batch, jax.lax.axis_index(parallel.AXIS) * share, share)

    def mean(self, losses: jax.Array) -> jax.Array:
        """Mean of the whole batch; it belongs inside the differentiated loss, see `training`."""
        return jax.lax.pmean(jnp.mean(losses), parallel.AXIS)

    def module(self, module: nn.Module) -> nn.Module:
        """The module with statistics of the whole batch."""
        return module.clone(axis_name=parallel.AXIS) if hasattr(module, "axis_name") else module


@dataclasses.dataclass(frozen=True)
class Supervised(Program):
    """Supervised training of one network.

    Attributes:
      loss: loss of outputs `[B, K]` and labels `[B, ...]`, `[B]`.
      augment: random changes of training images, see `augment.augmented`.
      statistics: batch normalisation while runs train. "batch": in training mode, by statistics of the batch; "frozen":
        as networks are evaluated, by running statistics, which stay; "published" (P-diff's scripts that test after
        every step): in training mode for two steps, then by the running statistics where these steps have moved them.
      split: how a batch is split over devices; None for runs that each have a device for themselves.
    """

    loss: Callable[[jax.Array, jax.Array], jax.Array] = nets.cross_entropy
    augment: str = "none"
    statistics: str = "batch"
    split: SplitBatch | None = None

    @property
    def shares_batches(self) -> bool:
        return self.recipe.settings.batch_order == "shared"

    def default_lanes(self, backend: str) -> int:
        """On a CPU what is trained where nothing is measured. With own batch orders a model at a time keeps its working
        set in cache and wins for CNNs and for inputs of hundreds of pixels, tiny networks want some tens of lanes to
        amortise the calls; with a shared order more lanes make the first layer's single product larger, until their
        weights, gradients and momenta fill the cache of a core.

        On an H100 2,048 lanes had 2.9 (digits MLP), 1.5 (MNIST MLP) and 1.1 times (CNN) the rate of 256; 32,768 had 1.4
        and 1.1 times that of 2,048.
        """
        if backend != "cpu":
            return self._lanes_in_memory(self.net)
        if self.net.convolutional:
            return 2 if self.shares_batches else 1
        large = math.prod(self.net.input_shape) > 256
        if self.shares_batches:
            return 16 if large else 32
        return 1 if large else 16

    def widths(self, backend: str) -> tuple[int, ...]:
        usual = self.default_lanes(backend)
        return (usual,) if backend != "cpu" else tuple(sorted({max(1, usual // 2), usual, 2 * usual}))

    def _lanes_in_memory(self, net: nets.TaskNet) -> int:
        # Inputs, and activations with their cotangents and what lies between.
        lane = 4 * self.recipe.batch_size * (net.prepared_size + 3 * net.activation_size)
        snapshots = 4 * self.net.spec.num_params * self.recipe.num_snapshots
        return int(np.clip(_LANE_BYTES // lane, 1, np.clip(_LANE_SNAPSHOT_BYTES // snapshots, 256, 2048)))

    def load(self, dataset: Dataset, mesh: Mesh) -> RunData:
        """The training set on every device."""
        return put(pack(dataset.train_images, dataset.train_labels, dataset.scale, dataset.shift), mesh)

    def start(self, key: jax.Array, hyper: dict[str, jax.Array], given: Any) -> tuple[Any, Any]:
        del given
        params = self.net.spec.unflatten(self.net.init(key) * hyper["init_scale"])
        return params, self.recipe.transformation(hyper, jnp.float32(0.0)).init(params)

    def vector(self, params: Any) -> jax.Array:
        return self.net.spec.flatten(params)

    def step(self, state: RunState, data: RunData, step: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        return self.update(state, data, step, carry)[1]

    def update(self, state: RunState, data: RunData, step: jax.Array, carry: tuple[Any, Any]):
        """Loss of a step's batch, and parameters and optimizer state after the step."""
        params, opt_state = carry
        images, labels = self.batch(data, state.words, step)
        forward = functools.partial(self._forward, images=images)
        (loss, moved), gradient = self._gradient(forward, params, labels, step, state.hyper)
        params, opt_state = self._optimized(state, step, gradient, params, opt_state)
        return loss, (normalization.take_statistics(params, moved) if self._has_statistics else params, opt_state)

    def _gradient(
        self, forward: Callable, params: Any, labels: jax.Array, step: jax.Array, hyper: Mapping[str, jax.Array]
    ):
        """`((loss, moved), gradient)` of `forward(params, training=...) -> (outputs, moved)` in the step's mode."""

        def differentiate(training: bool):
            def loss(params):
                outputs, moved = forward(params, training=training)
                losses = self._losses(outputs, labels, hyper)
                return jnp.mean(losses) if self.split is None else self.split.mean(losses), moved

            return jax.value_and_grad(loss, has_aux=True)(params)

        if not self._has_statistics or self.statistics == "frozen":
            return differentiate(False)
        if self.statistics == "batch":
            return differentiate(True)
        return jax.lax.cond(step < _PUBLISHED_STEPS, lambda: differentiate(True), lambda: differentiate(False))

    def _losses(self, outputs: jax.Array, labels: jax.Array, hyper: Mapping[str, jax.Array]) -> jax.Array:
        """Losses `[B]`; with smoothed labels, a share of each label lies on all classes evenly (Szegedy et al., arXiv
        1512.00567, section 7)."""
        losses, smoothing = self.loss(outputs, labels), self.recipe.value("label_smoothing", hyper)
        if isinstance(smoothing, float) and smoothing == 0:
            return losses
        uniform = jnp.mean(jax.nn.logsumexp(outputs, axis=-1, keepdims=True) - outputs, axis=-1)
        return losses + smoothing * (uniform - losses)

    def _optimized(
        self, state: RunState, step: jax.Array, gradient: Any, params: Any, opt_state: Any
    ) -> tuple[Any, Any]:
        """Parameters and optimizer state after the optimizer's step."""
        rate = self.recipe.learning_rate(state.hyper["learning_rate"], step, self.num_examples)
        updates, opt_state = self.recipe.transformation(state.hyper, rate).update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    @functools.cached_property
    def _has_statistics(self) -> bool:
        """Whether the network has running statistics, which the batches move and the optimizer leaves alone."""
        return not normalization.trainable(self.net.spec).all()

    def _forward(self, params: Any, images: jax.Array, training: bool) -> tuple[jax.Array, Any]:
        """Outputs, and the parameters with their statistics moved in training mode."""
        module = self.net.module if self.split is None else self.split.module(self.net.module)
        if training:
            return normalization.apply_in_training(module, params, images)
        outputs: Any = module.apply({"params": params}, images)
        return outputs, params

    def batch(self, data: RunData, words: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Standardised inputs `[B, *net.image_shape]` and labels `[B, ...]` of a step."""
        rows, examples = self.rows(data, words, step), data.shared
        labels = examples.labels[rows]
        if not self.net.convolutional:
            return self._images(examples, rows, words, step), labels
        # Patches are many slices of the maps that the first convolution takes.
        maps = parallel.apart(lambda step: to_batch_minor(self._images(examples, rows, words, step)), step)
        return from_batch_minor(maps), labels

    def _images(self, examples: TrainData, rows: jax.Array, words: jax.Array, step: jax.Array) -> jax.Array:
        """Standardised inputs `[B, *net.image_shape]` of rows `[B]`."""
        pixels = examples.rows[rows]
        size = math.prod(self.net.input_shape)
        if pixels.dtype == jnp.uint32:
            pixels = (
                jax.lax.bitcast_convert_type(pixels, jnp.uint8).reshape(len(rows), -1)[:, :size].astype(jnp.float32)
            )
        images = pixels.reshape((len(rows),) + self.net.input_shape)
        channels = (1,) * (images.ndim - 1) + (-1,)
        images = images * examples.scale.reshape(channels) + examples.shift.reshape(channels)
        images = self._augmented(images, jax.random.fold_in(jax.random.wrap_key_data(words), step))
        return self.net.resized(images)

    def _augmented(self, images: jax.Array, key: jax.Array) -> jax.Array:
        size: Any = self.net.image_shape[:2]
        change = functools.partial(augmented, kind=self.augment, size=size)
        if self.split is None:
            return change(images, key)
        keys = self.split.share(jax.random.split(key, self.recipe.batch_size))
        return jax.vmap(lambda image, key: change(image[None], key)[0])(images, keys)

    def rows(self, data: RunData, words: jax.Array, step: jax.Array) -> jax.Array:
        """Rows `[B]` of the training set that a step of a run sees."""
        del data
        batch, examples = self.recipe.batch_size, self.num_examples
        rows = parallel.apart(lambda number: shuffle.batch_indices(words, number, batch, examples), step)
        return rows if self.split is None else self.split.share(rows)


def put(data: TrainData, mesh: Mesh) -> RunData:
    """A packed training set on every device."""
    return RunData(jax.device_put(data, parallel.replicated(mesh)))
