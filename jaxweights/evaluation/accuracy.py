"""Scores of thousands of weight vectors on every example of a test set. (Policies: `episodes`; fields: `fields`.)

Models are mapped with `vmap` against one shared batch of images, so that the first layer of all models of a block is a
single matrix product; blocks of models and tiles of images are sized so that the activations stay in cache (CPU) or
memory. What a network computes of the images alone (`TaskNet.prepare`; of a partial network, all that comes before the
leaves that vary) is made once per tile for all blocks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxweights import nets, parallel, population
from jaxweights.errors import UserError

_LARGE = 1e3  # magnitude of weights above which sums of a deep network may overflow
_READ_BYTES = 64 << 20  # of weights that are looked at at a time

Score = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""Outputs `[M, T, K]` of M models and targets `[T, ...]` to the loss and to whether a model is right, `[M, T]` each."""


class Evaluation(NamedTuple):
    """Evaluation of N models on T examples; the network's task says what the numbers mean.

    Attributes:
      accuracy: `[N]` float64, the measure of quality; larger is better.
      loss: `[N]` float64, not finite for undefined models: those with an output that is not finite.
      errors: `[N, ceil(T / 8)]` uint8, bit-packed masks (`numpy.packbits` order) of the examples that a model gets
        wrong, or of what else two models may have in common.
    """

    accuracy: np.ndarray
    loss: np.ndarray
    errors: np.ndarray

    @property
    def undefined(self) -> np.ndarray:
        """`[N]` bool, whether a model has an output that is not finite; none where there are no losses."""
        return ~np.isfinite(self.loss) if len(self.loss) else np.zeros(len(self.accuracy), bool)


class Totals(NamedTuple):
    """Sums over all examples; `right` and `loss` are `[N]` float64, `errors` as in `Evaluation`."""

    right: np.ndarray
    loss: np.ndarray
    errors: np.ndarray


def evaluate(
    net: nets.TaskNet,
    weights,
    images: np.ndarray,
    labels: np.ndarray,
    mesh: Mesh | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluates weight vectors as the network's task does.

    Args:
      net: the task network.
      weights: `[N, P]` float32, an array or anything that slices to one (a store's lazy weights).
      images: `[T, H, W, C]` float32, standardised test images, or the task's other inputs.
      labels: `[T, ...]` labels, or the task's other targets.
      mesh: models are sharded over its devices; all by default.
      progress: called with (models done, N).

    Raises:
      UserError: a network without a task.
    """
    if net.task is None:
        raise UserError(f"The network {net.name!r} has no task. Build it with jaxweights.tasks.build.")
    return net.task.evaluate(net, weights, images, labels, parallel.make_mesh() if mesh is None else mesh, progress)


def recalls(found: Evaluation, labels: np.ndarray) -> np.ndarray:
    """Shares `[N, C]` float64 of the examples of every class, ascending, that models get right.

    Args:
      found: evaluation of classifiers.
      labels: `[T]` classes of its examples.
    """
    right = ~np.unpackbits(found.errors, axis=1, count=len(labels)).astype(bool)
    return np.stack([right[:, labels == label].mean(axis=1) for label in np.unique(labels)], axis=1)


def wrong_if_undefined(found: Evaluation, examples: int) -> Evaluation:
    """Undefined models have accuracy 0 (or the lower one that they have) and are wrong on every example."""
    undefined = found.undefined
    if not undefined.any():
        return found
    errors = np.where(undefined[:, None], np.packbits(np.ones(examples, bool))[None, :], found.errors)
    return Evaluation(np.where(undefined, np.minimum(found.accuracy, 0.0), found.accuracy), found.loss, errors)


def totals(
    net: nets.TaskNet,
    weights,
    inputs: np.ndarray,
    targets: np.ndarray,
    mesh: Mesh,
    score: Score,
    progress: Callable[[int, int], None] | None = None,
) -> Totals:
    """Scores every model on every example.

    XLA's reductions on CPU lose NaN: the sum over the maximum of NaN and 0, a mean over a map after a ReLU, takes it
    for 0. So models that may have one are scored by a program without these reductions. The others keep the faster one,
    which sums in another order.

    Args:
      net: the task network.
      weights: see `evaluate`.
      inputs: `[T, ...]` float32, standardised.
      targets: `[T, ...]`.
      mesh: models are sharded over its devices.
      score: compares outputs with targets; a module-level function, for which one program is kept.
      progress: called with (models done, N).
    """
    arguments = inputs, targets, mesh, score
    doubtful = _may_have_nan(net, weights) if jax.default_backend() == "cpu" and _keeping_nan() else np.zeros(0, bool)
    if not doubtful.any():
        return _totals(net, weights, *arguments, progress)
    order = np.argsort(doubtful, kind="stable")
    sane, rest = np.split(order, [int((~doubtful).sum())])
    parts = [_totals(net, weights[sane], *arguments, progress)] if len(sane) else []
    parts.append(_totals(net, weights[rest], *arguments, None, keep_nan=True))
    back = np.argsort(order)
    return Totals(*(np.concatenate(arrays)[back] for arrays in zip(*parts, strict=True)))


def _totals(net, weights, inputs, targets, mesh, score, progress, *, keep_nan: bool = False) -> Totals:
    program, shape = _plan(net, inputs.shape, mesh, score, keep_nan)
    if len(weights) <= shape.models and not net.frozen:  # what one device computes anyway: others would compute padding
        mesh = parallel.first_device(mesh)
        program, shape = _plan(net, inputs.shape, mesh, score, keep_nan)
    total = len(targets)

    def tiles(array):
        padded = parallel.pad_rows(array, shape.images)
        return padded.reshape((-1, shape.images) + array.shape[1:])

    examples = tiles(np.asarray(inputs, np.float32)), tiles(np.asarray(targets))
    real = np.arange(len(examples[0]) * shape.images).reshape(-1, shape.images) < total
    frozen, examples = jax.device_put((net.frozen, (*examples, real)), parallel.replicated(mesh))
    pending, parts = [], []

    def collect(item):
        count, used, outputs = item
        # Each device's own models come first in its share; what follows them was not computed.
        outputs = [np.asarray(x).reshape((mesh.size, -1) + x.shape[1:])[:, :used] for x in outputs]
        parts.append([x.reshape((-1,) + x.shape[2:])[:count] for x in outputs])

    capacity = shape.models * shape.blocks
    for start in range(0, len(weights), capacity * mesh.size):
        rows = np.asarray(weights[start : start + capacity * mesh.size], np.float32)
        blocks = -(-len(rows) // (shape.models * mesh.size))
        used = blocks * shape.models
        vectors = parallel.pad_rows(rows, used * mesh.size)
        if used < capacity:
            share, vectors = vectors, np.zeros((mesh.size, capacity, rows.shape[1]), np.float32)
            vectors[:, :used] = share.reshape(mesh.size, used, -1)
        vectors = jax.device_put(vectors.reshape(-1, rows.shape[1]), parallel.sharded(mesh))
        pending.append((len(rows), used, program(frozen, vectors, np.int32(blocks), examples)))
        if len(pending) > 1:  # one dispatch computes while the one before is copied out
            collect(pending.pop(0))
        if progress is not None:
            progress(start + len(rows), len(weights))
    for item in pending:
        collect(item)
    right, loss, errors = (np.concatenate([p[i] for p in parts]) for i in range(3))
    return Totals(right.astype(np.float64), loss.astype(np.float64), errors[:, : -(-total // 8)])


class BlockShape(NamedTuple):
    """How the work is cut on one device.

    Attributes:
      images: images of a tile.
      models: models of a block, computed together on one tile.
      blocks: blocks of one dispatch, which share what is prepared of a tile.
    """

    images: int
    models: int
    blocks: int


def block_shape(net: nets.TaskNet, backend: str) -> BlockShape:
    """The block shape for a network on a backend; the one place of this choice.

    Measured on two CPU cores: convolutions want blocks whose patches stay in cache (16 images, 8 models), and many of
    them per dispatch, since preparing an image costs as much as evaluating a model on it; dense layers want large
    products whose outputs stay in a few MiB. Accelerators want large blocks of everything, but one per dispatch: a
    dispatch that is not full is sent its zeros as well.

    Of a partial network all models share one pass of a tile through the frozen part, which costs as much as a hundred
    models after it: a dispatch takes a thousand models. Tiles of 16 to 128 images and blocks of 4 to 64 models had the
    same rate on CPU within noise.
    """
    if isinstance(net, nets.PartialNet) and net.frozen:
        return _partial_block_shape(net, backend)
    if backend != "cpu":
        images = int(np.clip((1 << 30) // (4 * net.prepared_size) // 8 * 8, 8, 1024))
        return BlockShape(images, _models(net, images, 1 << 30), 1)
    if net.convolutional:
        return BlockShape(16, 8, 8)
    # Of deep networks a few images already fill memory.
    images = int(np.clip((256 << 20) // (4 * net.activation_size) // 8 * 8, 8, 1024))
    return BlockShape(images, _models(net, images, 16 << 20), 1)


def _partial_block_shape(net: nets.PartialNet, backend: str) -> BlockShape:
    if backend == "cpu":
        images, activations = 64, 32 << 20
    else:
        images, activations = int(np.clip((1 << 30) // net.whole.activation_size // 8 * 8, 8, 1024)), 1 << 30
    models = _models(net, images, activations)
    most = min(1024, max(1, (32 << 20) // (4 * net.spec.num_params)))  # models of a dispatch; their number may be small
    return BlockShape(images, min(models, most), max(1, most // models))


def _models(net: nets.TaskNet, images: int, activation_bytes: int) -> int:
    return int(np.clip(activation_bytes // (4 * images * net.activation_size), 1, 1024))


def _may_have_nan(net: nets.TaskNet, weights) -> np.ndarray:
    """`[N]` bool: weights that are not finite, or so large that sums may overflow, or negative variances."""
    found, variances = np.zeros(len(weights), bool), population.variance_spans(net.spec)
    block = max(1, _READ_BYTES // (4 * net.spec.num_params))
    for start in range(0, len(weights), block):
        rows, chosen = np.asarray(weights[start : start + block], np.float32), slice(start, start + block)
        largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
        found[chosen] = ~(largest < _LARGE)
        for span in variances:
            found[chosen] |= (rows[:, span] < 0).any(axis=1)
    return found


@functools.cache
def _keeping_nan() -> dict[str, str]:
    """Options under which programs for CPUs keep NaN; none for an XLA that has no such reductions."""
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


@functools.lru_cache(maxsize=32)
def _plan(net: nets.TaskNet, shape: tuple[int, ...], mesh: Mesh, score: Score, keep_nan: bool = False):
    """The compiled program and the block shape.

    The program takes what the network has frozen, the vectors `[devices * blocks * models, P]`, the number of blocks
    per device that hold models, and tiles of inputs, of targets and of whether an example is real.
    """
    images, models, blocks = block_shape(net, jax.default_backend())
    # A multiple of eight, so that tiles of packed masks join without shifts; devices share what is prepared of a tile.
    multiple = math.lcm(8, mesh.size) if net.frozen else 8
    cut = BlockShape(-(-min(images, shape[0]) // multiple) * multiple, models, blocks)

    def one_block(net, vectors, prepared, targets, real):
        outputs = jax.vmap(net.apply, in_axes=(0, None))(vectors, prepared)
        loss, right = score(outputs, targets)
        real = jnp.broadcast_to(real[None, :], right.shape)
        loss = jnp.where(real, loss, 0.0)
        return jnp.sum(right & real, axis=1), jnp.sum(loss, axis=1), jnp.packbits(real & ~right, axis=1)

    def prepare(net, images):
        if not net.frozen:
            return net.prepare(images)
        share = images.shape[0] // mesh.size
        mine = jax.lax.dynamic_slice_in_dim(images, jax.lax.axis_index(parallel.AXIS) * share, share)
        return jax.tree.map(lambda x: jax.lax.all_gather(x, parallel.AXIS, tiled=True), net.prepare(mine))

    def one_tile(net, vectors, used, images, targets, real):
        prepared = prepare(net, images)
        if blocks == 1:
            return one_block(net, vectors, prepared, targets, real)

        def step(i, outputs):
            rows = jax.lax.dynamic_slice_in_dim(vectors, i * models, models)
            new = one_block(net, rows, prepared, targets, real)
            return jax.tree.map(lambda all, x: jax.lax.dynamic_update_slice_in_dim(all, x, i * models, 0), outputs, new)

        empty = jax.eval_shape(functools.partial(one_block, net), vectors, prepared, targets, real)
        return jax.lax.fori_loop(0, used, step, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), empty))

    def shard(frozen, vectors, used, examples):
        bound = net.bind(frozen)
        correct, loss, errors = jax.lax.map(lambda x: one_tile(bound, vectors, used, *x), examples)
        errors = errors.transpose(1, 0, 2).reshape(vectors.shape[0], -1)
        return jnp.sum(correct, axis=0), jnp.sum(loss, axis=0), errors

    split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
    # Results of devices are their own: the check of varying axes would only ask the loop's start for an annotation.
    sharded = jax.shard_map(shard, mesh=mesh, in_specs=(whole, split, whole, whole), out_specs=split, check_vma=False)
    return jax.jit(sharded, compiler_options=_keeping_nan() if keep_nan else None), cut
