"""Random-access shuffles: the batch of any step of any epoch, without sorting and without storing a permutation.

A sorted permutation per run and epoch costs more than the training step of a small network, and has to be stored. The
swap-or-not shuffle (Hoang, Morris and Rogaway, CRYPTO 2012) computes single entries of a keyed permutation of any size
with a few integer operations, so a run's batch order is a pure function of its key and the step.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

ROUNDS = 16  # entries and pairs of entries pass a chi-square test of uniformity, see tests/test_shuffle.py


def permuted(positions: jax.Array, words: jax.Array, size: jax.Array | int, epoch: jax.Array | int = 0) -> jax.Array:
    """Entries of a pseudo-random permutation of `range(size)`.

    Args:
      positions: integers in `[0, size)`, any shape.
      words: `[2]` uint32, the key (`jax.random.key_data` of a threefry key).
      size: length of the permutation, below 2**31.
      epoch: selects one of 2**32 permutations of the key.

    Returns:
      int32, shaped as `positions`; distinct positions give distinct values.
    """
    epoch = jnp.asarray(epoch).astype(jnp.uint32)
    n = jnp.uint32(size)
    salt = _mix(words[0] ^ _mix(words[1] + epoch * jnp.uint32(0x9E3779B9)))
    salts = _mix(salt + jnp.arange(ROUNDS, dtype=jnp.uint32) * jnp.uint32(0x85EBCA6B))
    # The barrier keeps XLA from recomputing these small tables for every position.
    salts, pivots = jax.lax.optimization_barrier((salts, _mix(salts ^ jnp.uint32(0xB5297A4D)) % n))
    x = positions.astype(jnp.uint32)
    for r in range(ROUNDS):
        partner = pivots[r] + n - x
        partner = jnp.where(partner >= n, partner - n, partner)
        swap = _mix(jnp.maximum(x, partner) ^ salts[r]) >> 31
        # Without the barrier the rounds run two to three times as slow on CPU in JAX 0.12, and one training program
        # that contains them took minutes to compile, possibly because fusion expands x at each of its uses.
        x = jax.lax.optimization_barrier(jnp.where(swap == 1, partner, x))
    return x.astype(jnp.int32)


def batch_indices(words: jax.Array, step: jax.Array, batch_size: int, size: jax.Array | int) -> jax.Array:
    """Rows of the mini-batch of a step: epochs of shuffled examples, the incomplete last batch of an epoch dropped.

    Args:
      words: `[2]` uint32 key.
      step: scalar, 0-based.
      batch_size: examples per batch, at most `size`.
      size: number of examples.

    Returns:
      `[batch_size]` int32.
    """
    per_epoch = size // batch_size
    positions = (step % per_epoch) * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    return permuted(positions, words, size, step // per_epoch)


def _mix(x: jax.Array) -> jax.Array:
    """The finaliser of MurmurHash3: every input bit changes every output bit with probability about one half."""
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x85EBCA6B)
    x = x ^ (x >> 13)
    x = x * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
