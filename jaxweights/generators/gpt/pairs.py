"""The examples that G.pt learns from: an earlier and a later checkpoint of one run, and how large weights are."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.errors import UserError
from jaxweights.generators.base import keys_for
from jaxweights.spec import WeightSpec

_BLOCK_ROWS = 1024
_PAIR, _PERMUTATION, DIFFUSION, NOISE, DROPOUT = range(5)  # what an example's key is used for


def index(records: Mapping[str, np.ndarray], section: str) -> dict[str, np.ndarray]:
    """Where the checkpoints of every run are, in order of their steps.

    Args:
      records: `run` and `step` `[N]` of runs with at least two checkpoints each.
      section: where a config has the generator's settings, for errors.

    Returns:
      `order` `[N]` int32, all rows sorted by run and step; and for every row, `first` and `count` `[N]` int32: its run
      has `count` entries there from `first` on.

    Raises:
      UserError: a run with a single checkpoint.
    """
    run, step = records["run"], records["step"]
    _, inverse, counts = np.unique(run, return_inverse=True, return_counts=True)
    if counts.min() < 2:
        raise UserError(
            f"{section} learns from pairs of checkpoints of one run, but {np.sum(counts < 2)} of {len(counts)} "
            "training runs have a single one. Give zoo.snapshots at least two entries."
        )
    return {
        "order": np.lexsort((step, run)).astype(np.int32),
        "first": (np.cumsum(counts) - counts)[inverse].astype(np.int32),
        "count": counts[inverse].astype(np.int32),
    }


def gather(data: Mapping[str, jax.Array], rows: jax.Array, keys: jax.Array) -> dict[str, jax.Array]:
    """Draws an earlier and a later checkpoint of the run of each row.

    With S checkpoints, their distance is uniform on 1 ... S - 1, and the earlier one then on what is left.

    Args:
      data: see `GPT.prepare`.
      rows: `[b]` row numbers.
      keys: `[b]` keys of the examples.

    Returns:
      `start` and `target` `[b, P]`, `start_metric` and `target_metric` `[b]`.
    """
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys_for(keys, _PAIR))
    first, count = data["first"][rows], data["count"][rows]
    spacing = 1 + _scaled(uniform[:, 0], count - 1)
    start = first + _scaled(uniform[:, 1], count - spacing)
    start, target = data["order"][start], data["order"][start + spacing]
    return {
        "start": data["weights"][start],
        "target": data["weights"][target],
        "start_metric": data["metric"][start],
        "target_metric": data["metric"][target],
    }


def _scaled(uniform: jax.Array, count: jax.Array) -> jax.Array:
    """Numbers 0 ... `count` - 1 from draws of [0, 1)."""
    return jnp.floor(uniform * count).astype(jnp.int32)


def permute(spec: WeightSpec, start: jax.Array, target: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reorders the hidden units of each pair of `[b, P]` at random, both networks of a pair alike; keys `[b]`."""
    orders = jax.vmap(lambda key: spec.permutation_index(spec.random_permutation(key)))(keys_for(keys, _PERMUTATION))
    start, target = (jnp.take_along_axis(x, orders, axis=1, mode="promise_in_bounds") for x in (start, target))
    return start, target


def std(weights: np.ndarray) -> float:
    """Standard deviation of all entries, or 1 where they are all the same; in blocks, for matrices that fill memory."""
    total, squares, size = 0.0, 0.0, len(weights) * weights.shape[1]
    for first in range(0, len(weights), _BLOCK_ROWS):
        block = weights[first : first + _BLOCK_ROWS].astype(np.float64)
        total += block.sum()
        squares += np.square(block).sum()
    variance = max(squares - total**2 / size, 0.0) / max(size - 1, 1)
    return math.sqrt(variance) or 1.0
