"""Returns and survival of thousands of policies over a whole set of initial states.

All models of a block and all their episodes take every step together in one loop, which stops when no episode is left.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxweights import nets, parallel


def rollouts(
    net: nets.TaskNet,
    weights,
    states: np.ndarray,
    mesh: Mesh,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Lets every policy act from every initial state, always by its mean action.

    So a result is a property of the network, and two networks meet the same conditions. The published evaluation of
    G.pt draws the actions, and the initial states as in training, and averages the first 200 episodes that end, among
    which short ones are over-represented.

    Args:
      net: a policy, whose module has an `environment`.
      weights: `[N, P]` float32, an array or anything that slices to one.
      states: `[T, 4]` float32.
      mesh: models are sharded over its devices.
      progress: called with (models done, N).

    Returns:
      `[N]` float64, mean sum of rewards of an episode, NaN after an action that is not finite; and `[N, T]` bool, which
      episodes failed before their end.
    """
    program, models = _plan(net, mesh)
    states_d = jax.device_put(np.asarray(states, np.float32), parallel.replicated(mesh))
    pending, parts = [], []
    for start in range(0, len(weights), models * mesh.size):
        rows = np.asarray(weights[start : start + models * mesh.size], np.float32)
        vectors = jax.device_put(parallel.pad_rows(rows, models * mesh.size), parallel.sharded(mesh))
        pending.append((len(rows), program(vectors, states_d)))
        if len(pending) > 1:  # one dispatch computes while the one before is copied out
            parts.append(_fetch(*pending.pop(0)))
        if progress is not None:
            progress(start + len(rows), len(weights))
    parts += [_fetch(*item) for item in pending]
    returns, failed = (np.concatenate(p) for p in zip(*parts, strict=True))
    return returns.astype(np.float64), failed


def _fetch(count, outputs):
    return [np.asarray(x)[:count] for x in outputs]


def block_size(backend: str) -> int:
    """Models of a block; the one place of this choice. CPUs want blocks that stay in cache, accelerators large ones."""
    return 8 if backend == "cpu" else 1024


@functools.lru_cache(maxsize=8)
def _plan(net: nets.TaskNet, mesh: Mesh):
    """The compiled program of one block per device, and the models of a block."""
    environment: Any = net.module.environment

    def block(vectors, states):
        policy = jax.vmap(net.apply)

        def act(carry):
            step, states, total, failed = carry
            actions = policy(vectors, environment.observe(states))[..., 0]
            states, reward, ends = environment.step(states, actions)
            reward = jnp.where(jnp.isfinite(actions), reward, jnp.nan)
            return step + 1, states, total + jnp.where(failed, 0.0, reward), failed | ends

        shape = (vectors.shape[0], states.shape[0])
        carry = (0, jnp.broadcast_to(states[None], shape + states.shape[1:]), jnp.zeros(shape), jnp.zeros(shape, bool))
        _, _, total, failed = jax.lax.while_loop(
            lambda carry: (carry[0] < environment.episode) & ~jnp.all(carry[3]), act, carry
        )
        return jnp.mean(total, axis=1), failed

    split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
    sharded = jax.shard_map(block, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False)
    return jax.jit(sharded), block_size(jax.default_backend())
