"""What work costs: seconds, seconds of them in compilation, peak memory, and the rate that the machine could reach."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import resource
import sys
import time
from collections.abc import Iterator

import jax
from jax.sharding import Mesh, PartitionSpec

from jaxweights import parallel

_COMPILING = ("/jax/core/compile/", "/jax/compilation_cache/cache_retrieval_time")
_STATUS, _RESET = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")

_compiling = 0.0
_open: list[Cost] = []


@dataclasses.dataclass(eq=False)
class Cost:
    """What a piece of work took.

    Attributes:
      seconds: on the clock.
      compile_seconds: of these, tracing and compiling; those of programs that are compiled side by side are added.
      peak_bytes: most resident memory of the process during the work; where the system does not tell it of a while, of
        the process so far.
      device_peak_bytes: most memory of a device so far, of those that have their own; 0 on CPU.
    """

    seconds: float = 0.0
    compile_seconds: float = 0.0
    peak_bytes: int = 0
    device_peak_bytes: int = 0


@contextlib.contextmanager
def metered() -> Iterator[Cost]:
    """Measures what the block costs; the numbers are there when it has ended."""
    _listen()
    cost, begin, before = Cost(), time.monotonic(), _compiling
    _note_peak()
    with contextlib.suppress(OSError):
        _RESET.write_text("5")
    _open.append(cost)
    try:
        yield cost
    finally:
        _note_peak()
        _open.remove(cost)
        cost.seconds, cost.compile_seconds = time.monotonic() - begin, _compiling - before


def _note_peak() -> None:
    """Tells all work in progress of the peak of memory since it was last told."""
    host, device = host_peak(), device_peak()
    for cost in _open:
        cost.peak_bytes, cost.device_peak_bytes = max(cost.peak_bytes, host), max(cost.device_peak_bytes, device)


def host_peak() -> int:
    """Bytes of the largest resident memory of this process, since the kernel was last told to begin anew."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_peak() -> int:
    """Bytes of the most memory of a device of this process so far, of those that have their own; 0 on CPU."""
    return max((device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices())


@functools.cache
def _listen() -> None:
    def add(event: str, duration_secs: float, **_) -> None:
        global _compiling
        if event.startswith(_COMPILING):
            _compiling += duration_secs

    jax.monitoring.register_event_duration_secs_listener(add)


def matmul_peak(mesh: Mesh, size: int = 0, trials: int = 8, dtype: str = "float32") -> float:
    """Best rate of products of `[size, size]` matrices on all devices of a mesh at once, in FLOP/s.

    Args:
      mesh: devices.
      size: 0 for 2048 on CPU and 8192 on accelerators, where a smaller product is over sooner than it is started.
      trials: products, of which the fastest counts.
      dtype: of the matrices. JAX multiplies float32 as TF32 on GPUs that have it, and as bfloat16 on TPUs.
    """
    size = size or (2048 if mesh.devices.flat[0].platform == "cpu" else 8192)
    shape = (mesh.size, size, size)
    draw = jax.jit(lambda key: jax.random.normal(key, shape, dtype), out_shardings=parallel.sharded(mesh))
    a = draw(jax.random.key(0))
    spec = PartitionSpec(parallel.AXIS)
    product = jax.jit(jax.shard_map(lambda x: x @ x, mesh=mesh, in_specs=spec, out_specs=spec))
    product(a).block_until_ready()
    best = 0.0
    for _ in range(trials):
        begin = time.perf_counter()
        product(a).block_until_ready()
        best = max(best, 2.0 * size**3 * mesh.size / (time.perf_counter() - begin))
    return best
