"""Device meshes, shardings, and the global choices about hardware."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxweights.errors import UserError

_SMALL_ROWS, _SMALL_ENTRIES = 2048, 1 << 22  # of matrices, see `host_products`
# Numbers of what is worked on at once, see `in_parts`.
_AT_ONCE, _AT_ONCE_ACCELERATOR = {"cpu": 1 << 18}, 1 << 24

AXIS = "data"  # the one mesh axis: runs of a zoo, rows of a batch, samples, queries


def configure(host_devices: int = 0, cache_dir: str | None = None) -> None:
    """Sets up JAX before its first use. The programs call it; the library works without.

    On CPU, XLA threads small batched products badly, so every core becomes a device of its own and models are sharded
    over them (worth up to 2 x on two cores). Accelerators ignore this.

    Args:
      host_devices: CPU devices to emulate; 0 takes `JAXWEIGHTS_HOST_DEVICES` or else one per available core.
      cache_dir: folder of the persistent compilation cache, or None for no cache.

    Raises:
      UserError: JAX was used before with another number of CPU devices.
    """
    count = host_devices or int(os.environ.get("JAXWEIGHTS_HOST_DEVICES", "0")) or num_cores()
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        if len(jax.devices("cpu")) != count:
            raise UserError(
                f"JAX was used before parallel.configure could set {count} CPU devices; call it before the first JAX "
                f"operation, or leave it out and start Python with JAX_NUM_CPU_DEVICES={count}."
            ) from error
    if cache_dir:
        jax.config.update("jax_compilation_cache_dir", cache_dir)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A one-dimensional mesh over the first `num_devices` devices of this process (all by default)."""
    return make_mesh_of(jax.local_devices() if num_devices is None else jax.local_devices()[:num_devices])


def make_global_mesh() -> Mesh:
    """A one-dimensional mesh over the devices of all processes, the first process's first."""
    return make_mesh_of(jax.devices())


def resolve(mesh: Mesh | None = None) -> Mesh:
    """The given mesh, or for None the mesh of all devices of this process."""
    return _everywhere(tuple(jax.local_devices())) if mesh is None else mesh


def make_mesh_of(devices) -> Mesh:
    """A one-dimensional mesh over the given devices."""
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def first_device(mesh: Mesh) -> Mesh:
    """The mesh of a mesh's first device."""
    return _everywhere(tuple(mesh.devices.flat[:1]))


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


def in_parts(function: Callable[..., jax.Array], numbers: int, *rows: jax.Array) -> jax.Array:
    """A function of rows `[n, ...]`, each of which takes so many numbers, on some of them at a time: on a CPU as many
    as its caches hold."""
    count = len(rows[0])
    size = max(1, min(_AT_ONCE.get(jax.default_backend(), _AT_ONCE_ACCELERATOR) // numbers, count))
    parts = tuple(pad_rows(x, size).reshape(-1, size, *x.shape[1:]) for x in rows)
    found = jax.lax.map(lambda part: function(*part), parts)
    return found.reshape(-1, *found.shape[2:])[:count]


def apart(function: Callable[[jax.Array], Any], step: jax.Array) -> Any:
    """`function(step)`, computed once and written down, whoever reads it.

    On a CPU XLA fuses what looks cheap into every reader, after it has dropped optimization barriers, and a reader with
    rows computes it once a row, in scalars. A loop is not fused, nor unrolled where its limits are traced. On
    accelerators a loop costs more than that.

    Args:
      function: makes a tree of arrays.
      step: traced int32 scalar.
    """
    if jax.default_backend() != "cpu":
        return function(step)
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, step))
    return jax.lax.fori_loop(step, step + 1, lambda i, _: function(i), empty)


@functools.cache
def advise() -> None:
    """Says once per process, on stderr, how long work would be faster where JAX has one CPU device on several cores."""
    cores = num_cores()
    if jax.default_backend() == "cpu" and len(jax.devices()) == 1 and cores > 1:
        print(
            f"JAX has one CPU device on {cores} cores: start Python with JAX_NUM_CPU_DEVICES={cores} to train faster.",
            file=sys.stderr,
            flush=True,
        )


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def host_products(rows: int, width: int) -> Iterator[None]:
    """Lets NumPy and SciPy use one thread for matrices as small as `[rows, width]` and `[rows, rows]`.

    More threads wait for each other, and for XLA's: the eigenvalues of a matrix of 512 rows took seven times the
    processor time with two, and up to four seconds where XLA had just run.
    """
    if rows > _SMALL_ROWS or rows * width > _SMALL_ENTRIES:
        yield
        return
    import threadpoolctl

    with threadpoolctl.threadpool_limits(1, "blas"):
        yield


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
        return jax.tree.map(lambda x: x if x.shape[0] == count else x[:count], out)

    return run


@functools.cache
def _everywhere(devices: tuple) -> Mesh:
    return make_mesh_of(devices)
