"""Random numbers of many keys at once: the values of `jax.random`, on CPUs in a third of the time.

JAX's generator passes over memory once for every few of its rounds on a CPU. Written out, all of them and what is made
of the bits are one loop (64 keys, 36,737 normal values each: 11 ms of processor time, not 36).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # of Threefry-2x32 (Salmon et al., 2011), as its constant
_PARITY = np.uint32(0x1BD11BDA)
_LEAST = np.nextafter(np.float32(-1), np.float32(0))
_SWITCH = "jax_threefry_partitionable"  # of JAX's configuration: an entry's bits depend on its position alone
_MOST = 2**32  # values of a key whose positions are one word


def bits(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`jax.random.bits` of every key, `[n, *shape]` uint32, for typed keys `[n]`."""
    if not _written_out(keys, shape):
        return jax.vmap(lambda key: jax.random.bits(key, shape, jnp.uint32))(keys)
    return _bits(keys, shape)


def uniform(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`jax.random.uniform` of every key in [0, 1), `[n, *shape]` float32."""
    if not _written_out(keys, shape):
        return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)
    return _fractions(_bits(keys, shape))


def normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`jax.random.normal` of every key, `[n, *shape]` float32."""
    if not _written_out(keys, shape):
        return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    centred = jnp.maximum(_LEAST, _fractions(_bits(keys, shape)) * (1 - _LEAST) + _LEAST)
    return np.float32(math.sqrt(2)) * lax.erf_inv(centred)


def _written_out(keys: jax.Array, shape: tuple[int, ...]) -> bool:
    known = jax.random.key_impl(keys) == "threefry2x32" and getattr(jax.config, _SWITCH, False)
    return jax.default_backend() == "cpu" and known and math.prod(shape) < _MOST


def _bits(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    words = jax.random.key_data(keys)
    first, second = words[:, :1], words[:, 1:]
    schedule = (first, second, first ^ second ^ _PARITY)
    position = lax.broadcasted_iota(jnp.uint32, (1, math.prod(shape)), 1)
    a, b = schedule[0], position + schedule[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            a = a + b
            b = a ^ ((b << np.uint32(rotation)) | (b >> np.uint32(32 - rotation)))
        a = a + schedule[(group + 1) % 3]
        b = b + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return (a ^ b).reshape(-1, *shape)


def _fractions(words: jax.Array) -> jax.Array:
    """The upper 23 bits as numbers in [0, 1)."""
    one = np.float32(1).view(np.uint32)
    return lax.bitcast_convert_type((words >> np.uint32(9)) | one, jnp.float32) - 1
