"""Evaluation of neural fields: masks of what they occupy at shared points, and the fit of each to its own signal.

A field is evaluated in float32, one after the other on each device (CPU) or many together, tile of points by tile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxweights import nets, parallel

_TILE = 2048  # points of a tile, a multiple of eight; activations of 128 units fill a MiB
_ROWS = 64  # fields of a dispatch and device


class Masks(NamedTuple):
    """Where N fields are occupied among T points.

    Attributes:
      packed: `[N, ceil(T / 8)]` uint8, bits in the order of `numpy.packbits`; a logit that is not finite is unoccupied.
      iou: `[N, m]` float64, intersection over union with each of m given masks; 0 where both are empty.
      finite: `[N]` bool, whether all outputs are.
    """

    packed: np.ndarray
    iou: np.ndarray
    finite: np.ndarray


class Fit(NamedTuple):
    """How well N fields fit N signals.

    Attributes:
      quality: `[N]` float64. Of occupancy the intersection over union at the second half of the points, which by
        convention are uniform in space, so that it is that of volumes; of images the peak signal-to-noise ratio in dB,
        for values from 0 to 1.
      loss: `[N]` float64, mean per point of the cross-entropy in nats, or of the squared error, over all points.
    """

    quality: np.ndarray
    loss: np.ndarray


def occupancy_masks(
    net: nets.TaskNet,
    weights,
    points: np.ndarray,
    labels: np.ndarray,
    mesh: Mesh,
    progress: Callable[[int, int], None] | None = None,
) -> Masks:
    """Where fields are occupied: logits above 0, or values of an image above 0.5 (mean over its channels).

    Args:
      net: a field.
      weights: `[N, P]` float32, an array or anything that slices to one.
      points: `[T, d]` float32.
      labels: `[T, m]` of 0 and 1, the given masks.
      mesh: fields are sharded over its devices.
      progress: called with (fields done, N).
    """
    total = len(points)
    labels = np.asarray(labels, np.float32).reshape(total, -1)
    tiles = _tiles(np.asarray(points, np.float32)), _tiles(labels), _tiles(np.ones(total, np.float32))
    packed, common, size, finite = _map(_masks_program(net, mesh), tiles, weights, (), mesh, progress)
    union = size[:, None] + labels.sum(axis=0, dtype=np.float64)[None, :] - common
    iou = np.divide(common, union, out=np.zeros_like(union), where=union > 0)
    return Masks(packed[:, : -(-total // 8)], iou, finite)


def fit_quality(net: nets.TaskNet, weights, points: np.ndarray, values: np.ndarray, mesh: Mesh) -> Fit:
    """How well each field fits its own signal.

    Args:
      net: a field.
      weights: `[N, P]` float32.
      points: `[N, S, d]`, or `[1, S, d]` for all.
      values: values of the N signals, as in `data.Signals`.
      mesh: fields are sharded over its devices.
    """
    count, shared = points.shape[1], len(points) == 1
    one = np.ones(count, np.float32)
    uniform = (np.arange(count) >= count // 2).astype(np.float32)
    state = (_tiles(one), _tiles(uniform), _tiles(np.asarray(points[0], np.float32)) if shared else ())
    rows = (values,) if shared else (values, points)
    loss, common, union = _map(_fit_program(net, mesh), state, weights, rows, mesh)
    loss /= count
    if net.module.signal == "image":
        with np.errstate(divide="ignore"):
            return Fit(-10 * np.log10(loss), loss)
    return Fit(np.divide(common, union, out=np.zeros_like(union), where=union > 0), loss)


def _tiles(array: np.ndarray) -> np.ndarray:
    """`[T, ...]`, padded with zeros, to `[tiles, min(_TILE, T), ...]`; tiles are a multiple of eight long."""
    size = min(_TILE, -(-len(array) // 8) * 8)
    padded = np.pad(array, ((0, -len(array) % size),) + ((0, 0),) * (array.ndim - 1))
    return padded.reshape((-1, size) + array.shape[1:])


def _map(program, state, weights, others, mesh, progress=None):
    """Runs a program on all fields, a fixed number per dispatch; float results as float64."""
    total, parts = len(weights), []
    step = mesh.size * min(_ROWS, 1 << max(0, -(-total // mesh.size) - 1).bit_length())
    state = jax.device_put(state, parallel.replicated(mesh))
    for start in range(0, total, step):
        stop = min(start + step, total)
        rows = [np.asarray(x[start:stop]) for x in (weights, *others)]
        rows[0] = rows[0].astype(np.float32, copy=False)
        out = program(state, tuple(parallel.pad_rows(x, step) for x in rows))
        parts.append([np.asarray(x)[: stop - start] for x in out])
        if progress is not None:
            progress(stop, total)
    joined = [np.concatenate(p) for p in zip(*parts, strict=True)]
    return [x.astype(np.float64) if x.dtype == np.float32 else x for x in joined]


def _batch() -> int | None:
    """Fields evaluated together; None for one by one."""
    return None if jax.default_backend() == "cpu" else 32


@functools.lru_cache(maxsize=8)
def _masks_program(net: nets.TaskNet, mesh: Mesh):
    def one(tiles, vector):
        def tile(points, labels, real):
            outputs = net.apply(vector, points)
            occupied = _occupied(net, outputs) & (real > 0)
            mask = occupied.astype(jnp.float32)
            finite = jnp.all(jnp.isfinite(outputs) | (real == 0)[:, None])
            return jnp.packbits(occupied), mask @ labels, jnp.sum(mask), finite

        packed, common, size, finite = jax.lax.map(lambda x: tile(*x), tiles)
        return packed.reshape(-1), jnp.sum(common, axis=0), jnp.sum(size), jnp.all(finite)

    return parallel.map_rows(lambda tiles, rows: jax.lax.map(lambda x: one(tiles, *x), rows, batch_size=_batch()), mesh)


def _occupied(net: nets.TaskNet, outputs: jax.Array) -> jax.Array:
    """`[B]` bool of outputs `[B, k]`."""
    if net.module.signal == "occupancy":
        occupied = outputs[:, 0] > 0
    else:
        occupied = jnp.mean(outputs, axis=-1) > 0.5
    return occupied & jnp.all(jnp.isfinite(outputs), axis=-1)


@functools.lru_cache(maxsize=8)
def _fit_program(net: nets.TaskNet, mesh: Mesh):
    def one(state, vector, values, points=None):
        real, uniform, shared = state
        tiles, size = real.shape
        points = shared if points is None else _cut(points, tiles, size)
        values = _cut(values, tiles, size if net.module.signal == "image" else size // 8)

        def tile(real, uniform, points, values):
            outputs = net.apply(vector, points)
            if net.module.signal == "image":
                error = jnp.mean(jnp.square(outputs - values), axis=-1)
                return jnp.sum(error * real), jnp.zeros(()), jnp.zeros(())
            inside = jnp.unpackbits(values).astype(jnp.float32)
            loss = optax.sigmoid_binary_cross_entropy(outputs[:, 0], inside)
            found = _occupied(net, outputs).astype(jnp.float32)
            common, union = found * inside, jnp.maximum(found, inside)
            return jnp.sum(loss * real), jnp.sum(common * uniform), jnp.sum(union * uniform)

        sums = jax.lax.map(lambda x: tile(*x), (real, uniform, points, values))
        return jax.tree.map(jnp.sum, sums)

    return parallel.map_rows(lambda state, rows: jax.lax.map(lambda x: one(state, *x), rows, batch_size=_batch()), mesh)


def _cut(array: jax.Array, tiles: int, size: int) -> jax.Array:
    """`[n, ...]`, padded with zeros, to `[tiles, size, ...]`."""
    padded = jnp.pad(array, ((0, tiles * size - len(array)),) + ((0, 0),) * (array.ndim - 1))
    return padded.reshape((tiles, size) + array.shape[1:])
