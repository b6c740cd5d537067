"""Devices: how many, in which mesh, and how arrays lie on them. Every choice about hardware that is global is made
here."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"  # the one mesh axis: runs of a zoo, rows of a batch, samples, queries


def configure(host_devices: int = 0, cache_dir: str | None = None) -> None:
    """Sets up JAX before its first use; later calls would come too late and are refused by JAX.

    On CPU, XLA threads small batched products badly, so every core becomes a device of its own and models are sharded
    over them (worth up to 2 x on two cores). Accelerators ignore this.

    Args:
      host_devices: CPU devices to emulate; 0 takes `JAXWEIGHTS_HOST_DEVICES` or else one per available core.
      cache_dir: folder of the persistent compilation cache, or None for no cache.
    """
    count = host_devices or int(os.environ.get("JAXWEIGHTS_HOST_DEVICES", "0")) or num_cores()
    jax.config.update("jax_num_cpu_devices", count)
    if cache_dir:
        jax.config.update("jax_compilation_cache_dir", cache_dir)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A one-dimensional mesh over the first `num_devices` devices (all by default)."""
    return make_mesh_of(jax.devices() if num_devices is None else jax.devices()[:num_devices])


def make_mesh_of(devices) -> Mesh:
    """A one-dimensional mesh over the given devices."""
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def sharded(mesh: Mesh) -> NamedSharding:
    """Leading axis split over the mesh."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def pad_rows(array: np.ndarray | jax.Array, multiple: int):
    """Repeats the last row until the number of rows is a multiple; cut the result back to the true number
    afterwards."""
    extra = -array.shape[0] % multiple
    if not extra:
        return array
    if isinstance(array, np.ndarray):
        return np.concatenate([array, np.repeat(array[-1:], extra, axis=0)])
    return jnp.concatenate([array, jnp.repeat(array[-1:], extra, axis=0, total_repeat_length=extra)])


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_rows(function, mesh: Mesh):
    """Shards the second argument's rows over a mesh.

    Args:
      function: `(state, rows) -> pytree of [n, ...]`, rows a pytree of `[n, ...]`; each output row depends on its own
        input row alone.
      mesh: devices.

    Returns:
      A compiled function of the same arguments, for any n.
    """
    whole, split = PartitionSpec(), PartitionSpec(AXIS)
    program = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(whole, split), out_specs=split, check_vma=False))

    def run(state, rows):
        count = jax.tree.leaves(rows)[0].shape[0]
        padded = jax.tree.map(lambda x: pad_rows(x, mesh.size), rows)
        out = program(jax.device_put(state, replicated(mesh)), padded)
        return jax.tree.map(lambda x: x[:count], out)

    return run
