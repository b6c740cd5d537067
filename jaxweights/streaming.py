"""Training sets larger than the memory that a device has for them.

The examples of the next steps are read on the host while the steps before run: blocks of steps, two at a time, one on
the devices and one on its way. Which examples a step takes is a function of the step alone (`shuffle`), so training
sees what it would see of a set that is kept on the devices. In a job of several processes each reads the rows of its
own devices.
"""

from __future__ import annotations

import concurrent.futures
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxweights import memory

MOST_STEPS = 256
"""Most steps of a block."""
_SHARE = 4  # of the memory of a device that a training set may take by default: one part in so many
_BLOCK_BYTES = 64 << 20  # of a block, of the examples of all devices


def room(data_memory: float, devices: int) -> int:
    """Bytes of every device that a training set may take.

    Args:
      data_memory: in GB, as the user says; 0 for a quarter of the memory of a device.
      devices: of this process; on CPU they share the memory of the host.
    """
    return int(1e9 * data_memory) if data_memory else memory.devices() // (_SHARE * devices)


def size(data: Any) -> int:
    """Bytes of examples, arrays or rows on disk."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(data))


def whole(data: Any) -> Any:
    """Examples with all rows in memory."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, (np.ndarray, jax.Array)) else np.asarray(leaf[:]), data)


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize


class Stream:
    """The examples of the steps of a stage, block by block.

    Of a pytree of examples the largest array-like is read as it is needed; the others are small and kept.

    Args:
      data: N examples.
      choose: `(data, step) -> examples [B, ...]`; traceable, and takes rows of the largest array-like as they are.
      sharding: of `[steps, B, ...]`, how examples are split over the devices.
      batch_size: B.
      steps: of the stage.
    """

    def __init__(
        self,
        data: Any,
        choose: Callable[[Any, jax.Array], Any],
        sharding: NamedSharding,
        batch_size: int,
        steps: int,
    ):
        leaves, structure = jax.tree.flatten(data)
        largest = max(range(len(leaves)), key=lambda i: _bytes(leaves[i]))
        self._rows, self._sharding, self._steps = leaves[largest], sharding, steps
        # With row numbers in place of rows, the examples say which rows they take.
        numbers = [jnp.arange(len(x), dtype=jnp.int32) if i == largest else x for i, x in enumerate(leaves)]
        numbered = jax.tree.unflatten(structure, numbers)
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
        step = jax.ShapeDtypeStruct((), jnp.int32)
        given = jax.eval_shape(choose, jax.tree.unflatten(structure, shapes), step)
        chosen = jax.eval_shape(choose, jax.tree.map(jnp.asarray, numbered), step)
        self._taken = jax.tree.map(lambda x, y: x.shape != y.shape, given, chosen)
        per_step = sum(_bytes(x) for x in jax.tree.leaves(given))
        self.length = int(np.clip(_BLOCK_BYTES // per_step, 1, min(MOST_STEPS, steps)))
        self.shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((self.length, *x.shape), x.dtype, sharding=sharding), given
        )
        self._data = jax.tree.map(jnp.asarray, numbered)
        self._choose = jax.jit(lambda data, steps: jax.lax.map(functools.partial(choose, data), steps))
        self._reader = concurrent.futures.ThreadPoolExecutor(1, "examples")
        self._known: dict[int, concurrent.futures.Future[Any]] = {}

    def left(self, step: int) -> int:
        """Steps from this one to the end of its block."""
        return self.length - step % self.length

    def block(self, step: int) -> Any:
        """The examples `[length, B, ...]` of the block that a step is in, on the devices; the next block is begun."""
        number = step // self.length
        wanted = [n for n in (number, number + 1) if n * self.length < self._steps]
        self._known = {n: self._known.get(n) or self._read(n) for n in wanted}
        return self._known[number].result()

    def close(self) -> None:
        """Ends the reading ahead."""
        self._reader.shutdown(cancel_futures=True)
        self._known = {}

    def _read(self, number: int) -> concurrent.futures.Future[Any]:
        # A program, so it has to end before those of all devices go on.
        steps = jnp.arange(number * self.length, (number + 1) * self.length, dtype=jnp.int32)
        chosen = jax.tree.map(np.asarray, self._choose(self._data, steps))
        return self._reader.submit(lambda: jax.tree.map(self._place, chosen, self._taken))

    def _place(self, chosen: np.ndarray, taken: bool) -> jax.Array:
        """Examples on the devices, given themselves or by the rows `[length, B]` that they take."""
        if not taken:
            return jax.make_array_from_callback(chosen.shape, self._sharding, lambda index: chosen[index])

        def rows(index: Any) -> np.ndarray:
            wanted = chosen[index[:2]]
            order, place = np.unique(wanted, return_inverse=True)
            return np.asarray(self._rows[order])[place.reshape(wanted.shape)]

        shape = (*chosen.shape, *self._rows.shape[1:])
        return jax.make_array_from_callback(shape, self._sharding, rows)
