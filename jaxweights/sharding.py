"""How the devices of a training run share rows and parameters.

A mesh has two axes. Rows of a batch are split over both; every array of parameters lies in equal parts on the devices
along the second, with a copy for every step along the first (Rajbhandari et al., "ZeRO", arXiv 1910.02054, stage 3, in
groups: Zhang et al., "MiCS", arXiv 2205.00119). A part is gathered by the product that needs it, in the forward pass
and once more for the gradient, whose sum goes back to the parts. So the whole of one array is alive at a time, not that
of the tree.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxweights.parallel import AXIS

MODEL = "model"
"""The mesh axis along which parameters are split."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["axis"])
@dataclasses.dataclass(frozen=True)
class Part:
    """This device's part of a parameter, inside `jax.shard_map`.

    Attributes:
      value: the part.
      axis: axis along which the parameter is split, counted from the end (-1 is the last).
    """

    value: jax.Array
    axis: int

    def whole(self) -> jax.Array:
        """The parameter, gathered from the devices along the axis `MODEL`."""
        # Different on every device before it is gathered: so gradients are first summed into parts, and parts over
        # the other devices.
        varying = lax.pcast(self.value, AXIS, to="varying")
        return lax.all_gather(varying, MODEL, axis=self.value.ndim + self.axis, tiled=True)


Kernel = jax.Array | Part
"""A parameter, or this device's part of it."""


def whole(kernel: Kernel) -> jax.Array:
    """The parameter itself."""
    return kernel.whole() if isinstance(kernel, Part) else kernel


def apply(function: Callable[..., Any], kernel: Kernel, *args: Any) -> Any:
    """Returns `function(whole parameter, *args)`; the gradient gathers a parameter again instead of keeping it.

    Args:
      function: linear in the parameter and in what it is applied to, so that nothing but the gathered parameter is
        computed twice.
      kernel: the parameter.
      *args: arrays.
    """
    if not isinstance(kernel, Part):
        return function(kernel, *args)
    return jax.checkpoint(lambda part, *args: function(part.whole(), *args))(kernel, *args)


class Devices(NamedTuple):
    """What trains together.

    Attributes:
      mesh: mesh with the axes `AXIS` and `MODEL`.
      rows: the axes that rows of a batch are split over. Along others, devices compute the same.
    """

    mesh: Mesh
    rows: tuple[str, ...]


def arrange(devices: Sequence[Any], batch_size: int, shards: int, most: int | None = None) -> Devices:
    """Chooses devices and their mesh, see `sizes`.

    Args:
      devices: to choose from, in order; of every process the first ones are taken.
      batch_size: rows of a batch.
      shards: devices that share one copy of the parameters, at most; 0 for all.
      most: most devices per process.
    """
    groups: dict[int, list[Any]] = {}
    for device in devices:
        groups.setdefault(device.process_index, []).append(device)
    count = min([len(group) for group in groups.values()] + ([most] if most else []))
    data, model, divided = sizes(len(groups), count, batch_size, shards)
    chosen = [device for group in groups.values() for device in group[: data * model // len(groups)]]
    mesh = Mesh(np.array(chosen).reshape(data, model), (AXIS, MODEL), axis_types=(AxisType.Auto,) * 2)
    return Devices(mesh, (AXIS, MODEL) if divided else (AXIS,))


def sizes(processes: int, devices: int, batch_size: int, shards: int) -> tuple[int, int, bool]:
    """Sizes of the two axes of a mesh, and whether rows are split over both.

    Of every process as many devices are taken: the most with which the whole mesh divides the batch. Where there are
    none, such as for a batch smaller than `shards` or than the number of processes, all are taken, rows are split over
    the first axis alone, and the devices along the second compute the same.

    Args:
      processes: number of processes.
      devices: devices of each.
      batch_size: rows of a batch.
      shards: largest size of the second axis, unless devices have to compute the same; 0 for any.
    """
    every = processes * devices
    model = max(size for size in range(1, min(shards or every, every) + 1) if every % size == 0)
    for taken in range(every, 0, -processes):
        if taken % model == 0 and batch_size % taken == 0:
            return taken // model, model, True
    data = math.gcd(batch_size, every // model)
    return data, every // data, False


def split_axes(params: Any, size: int, stacked: Sequence[str] = ()) -> Any:
    """Along which axis each parameter is split.

    The longest axis of a matrix that `size` divides, of several the first. Vectors, and matrices without such an axis,
    stay whole: together they are small.

    Args:
      params: tree of arrays or shapes.
      size: number of parts; 1 splits nothing.
      stacked: keys of the tree below which arrays are stacked along their first axis, which is never split.

    Returns:
      A tree of axes, counted from the end (-1 is the last), or 0 for what stays whole.
    """

    def axis(path: tuple[Any, ...], leaf: Any) -> int:
        shape = leaf.shape[1:] if any(getattr(key, "key", None) in stacked for key in path) else leaf.shape
        fitting = [i - len(shape) for i, length in enumerate(shape) if length and length % size == 0]
        return max(fitting, key=lambda i: shape[i], default=0) if len(shape) > 1 and size > 1 else 0

    return jax.tree_util.tree_map_with_path(axis, params)


def spec(leaf: Any, axis: int) -> PartitionSpec:
    """How an array lies on the mesh that is split along an axis of `split_axes`."""
    return PartitionSpec(*[None] * (leaf.ndim + axis), MODEL) if axis else PartitionSpec()


def place(mesh: Mesh, tree: Any, specs: Any) -> Any:
    """Host arrays, the same in every process, on the devices of a mesh, as a tree of specs says."""

    def of(x: Any, spec: PartitionSpec) -> jax.Array:
        where = NamedSharding(mesh, spec)
        if where.is_fully_addressable:
            return jax.device_put(x, where)
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, where, lambda index: host[index])

    return jax.tree.map(of, tree, specs)


def fetch(x: jax.Array) -> np.ndarray:
    """A whole array on this process's host, wherever its parts are."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def bytes_per_device(params: Any, axes: Any, size: int, copies: int) -> int:
    """Bytes that a device keeps of float32 arrays.

    Args:
      params: tree of arrays or shapes.
      axes: tree of axes, see `split_axes`.
      size: number of parts.
      copies: arrays of the same shapes, e.g. 4 for parameters, gradient and two moments.
    """
    leaves = jax.tree.map(lambda x, axis: math.prod(x.shape) // (size if axis else 1), params, axes)
    return 4 * copies * sum(jax.tree.leaves(leaves))


def parts(params: Any, axes: Any) -> Any:
    """The tree with a `Part` in place of every array that is split."""
    return jax.tree.map(lambda x, axis: Part(x, axis) if axis else x, params, axes)


def mean(values: Any) -> Any:
    """The mean over all devices of every scalar of a tree, whether or not some of them are known to have the same."""

    def of(x: jax.Array) -> jax.Array:
        alike = {AXIS, MODEL} - jax.typeof(x).manual_axis_type.varying
        return lax.pmean(lax.pcast(x, tuple(alike), to="varying") if alike else x, (AXIS, MODEL))

    return jax.tree.map(of, values)


def clip(gradient: Any, limit: float, axes: Any = None) -> Any:
    """A gradient, made shorter where its norm over all arrays is above a limit.

    Args:
      gradient: tree of arrays, those that are split as parts.
      limit: largest norm.
      axes: tree of axes, see `split_axes`; None where nothing is split.
    """
    axes = jax.tree.map(lambda _: 0, gradient) if axes is None else axes

    def total(part: jax.Array, axis: int) -> jax.Array:
        squares = jnp.sum(jnp.square(part))
        return lax.psum(squares, MODEL) if axis else squares

    norm = jnp.sqrt(sum(jax.tree.leaves(jax.tree.map(total, gradient, axes))))
    factor = limit / jnp.maximum(norm, limit)
    return jax.tree.map(lambda g: g * factor, gradient)
