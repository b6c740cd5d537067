"""Accuracy, loss and error masks of thousands of weight vectors over a whole test set.

Models are mapped with `vmap` against one shared batch of images, so that the first layer of all models of a block is a
single matrix product; blocks of models and tiles of images are sized so that the activations stay in cache (CPU) or
memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxweights import nets, parallel


class Evaluation(NamedTuple):
    """What evaluation finds for N models on T examples.

    Attributes:
      accuracy: `[N]` float64, fraction of examples classified rightly.
      loss: `[N]` float64, mean cross-entropy in nats; NaN or infinite for models with such weights.
      errors: `[N, ceil(T / 8)]` uint8, bit-packed masks of the examples classified wrongly (`numpy.packbits` order).
    """

    accuracy: np.ndarray
    loss: np.ndarray
    errors: np.ndarray


def evaluate(
    net: nets.TaskNet,
    weights,
    images: np.ndarray,
    labels: np.ndarray,
    mesh: Mesh,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluates weight vectors on labelled images.

    Args:
      net: the task network.
      weights: `[N, P]` float32, an array or anything that slices to one (a store's lazy weights).
      images: `[T, H, W, C]` float32, standardised.
      labels: `[T]` integers.
      mesh: models are sharded over its devices.
      progress: called with (models done, N).

    Returns:
      The `Evaluation`. A model whose logits are not finite counts as wrong on the examples concerned.
    """
    program, tile, block = _plan(net, images.shape, mesh)
    total = len(labels)
    padded = parallel.pad_rows(np.asarray(images, np.float32), tile).reshape((-1, tile) + images.shape[1:])
    targets = np.full(padded.shape[0] * tile, -1, np.int32)
    targets[:total] = labels
    images_d, targets_d = jax.device_put((padded, targets.reshape(-1, tile)), parallel.replicated(mesh))
    pending, parts = [], []

    def collect(item):
        count, (correct, loss, errors) = item
        parts.append((np.asarray(correct)[:count], np.asarray(loss)[:count], np.asarray(errors)[:count]))

    for start in range(0, len(weights), block):
        rows = np.asarray(weights[start : start + block], np.float32)
        vectors = jax.device_put(parallel.pad_rows(rows, block), parallel.sharded(mesh))
        pending.append((len(rows), program(vectors, images_d, targets_d)))
        if len(pending) > 1:  # one block computes while the one before is copied out
            collect(pending.pop(0))
        if progress is not None:
            progress(min(start + block, len(weights)), len(weights))
    for item in pending:
        collect(item)
    correct, loss, errors = (np.concatenate([p[i] for p in parts]) for i in range(3))
    return Evaluation(correct.astype(np.float64) / total, loss.astype(np.float64) / total, errors[:, : -(-total // 8)])


def block_shape(net: nets.TaskNet, backend: str) -> tuple[int, int]:
    """Images and models per block on one device; the one place of this choice.

    Measured on two CPU cores: convolutions want blocks whose patches stay in cache (64 images, 8 models; 1,024 images
    at a time are a fifth slower), dense layers want large products whose outputs stay in a few MiB. Accelerators want
    large blocks of everything.
    """
    if backend != "cpu":
        return 1024, _models(net, 1024, 1 << 30)
    if net.name == "cnn":
        return 64, 8
    return 1024, _models(net, 1024, 16 << 20)


def _models(net: nets.TaskNet, images: int, activation_bytes: int) -> int:
    return int(np.clip(activation_bytes // (4 * images * net.activation_size), 1, 1024))


@functools.lru_cache(maxsize=32)
def _plan(net: nets.TaskNet, shape: tuple[int, ...], mesh: Mesh):
    """The compiled program, images per tile, and models per dispatch (all devices together)."""
    tile, per_device = block_shape(net, jax.default_backend())
    tile = min(tile, -(-shape[0] // 8) * 8)  # a multiple of eight, so that tiles of packed masks join without shifts

    def one_tile(vectors, images, targets):
        logits = jax.vmap(net.apply, in_axes=(0, None))(vectors, images)
        labels = jnp.broadcast_to(targets[None, :], logits.shape[:-1])
        real = labels >= 0
        loss = jnp.where(real, nets.cross_entropy(logits, labels), 0.0)
        finite = jnp.all(jnp.isfinite(logits), axis=-1)
        correct = (jnp.argmax(logits, axis=-1) == labels) & finite
        return jnp.sum(correct & real, axis=1), jnp.sum(loss, axis=1), jnp.packbits(real & ~correct, axis=1)

    def shard(vectors, images, targets):
        correct, loss, errors = jax.lax.map(lambda x: one_tile(vectors, *x), (images, targets))
        errors = errors.transpose(1, 0, 2).reshape(vectors.shape[0], -1)
        return jnp.sum(correct, axis=0), jnp.sum(loss, axis=0), errors

    split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
    program = jax.jit(jax.shard_map(shard, mesh=mesh, in_specs=(split, whole, whole), out_specs=split))
    return program, tile, per_device * mesh.size
