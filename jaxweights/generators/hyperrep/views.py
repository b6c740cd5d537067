"""Two augmented views of every weight vector: permuted hidden units, noise, and erased stretches."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxweights import draws
from jaxweights.spec import WeightSpec

_ERASE_TRIES = 10


@dataclasses.dataclass(frozen=True)
class Views:
    """How views are made; `HyperRep` says what each field is."""

    permutations: Literal["table", "fresh", "none"]
    noise: float
    noise_kind: Literal["additive", "multiplicative"]
    erase: Literal["none", "block", "scatter"]
    erase_probability: float
    erase_range: tuple[float, float]
    erase_value: float | Literal["random"]
    target: Literal["view", "clean"]


def permutation_table(spec: WeightSpec, size: int, seed: int) -> np.ndarray:
    """`[size, P]` int32 gather indices of random permutations of all hidden units.

    Every row permutes every group independently and uniformly. (The published code lets rows share a smaller pool of
    permutations of each layer.)
    """
    rng = np.random.default_rng(seed)
    permutations = [rng.permuted(np.tile(np.arange(g.size), (size, 1)), axis=1) for g in spec.groups]
    if not permutations:
        return np.tile(np.arange(spec.num_params, dtype=np.int32), (size, 1))
    return np.asarray(jax.vmap(spec.permutation_index)([jnp.asarray(p, jnp.int32) for p in permutations]))


def two_views(
    x: jax.Array, keys: jax.Array, spec: WeightSpec, views: Views, table: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Draws two views of every example, each from the example's own key alone.

    Args:
      x: `[b, P]` weight vectors.
      keys: `[b]` typed PRNG keys.
      spec: meaning of the vectors.
      views: how they are made.
      table: `[K, P]` gather indices where `views.permutations` is "table".

    Returns:
      `(inputs, targets)`, each `[2, b, P]`: what the autoencoder sees and what it has to reproduce.
    """

    # One draw of raw bits for everything: each further call of the generator is a further program to compile.
    bits = draws.bits(keys, (2, _num_words(spec, views)))

    def pair(vector: jax.Array, bits: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(lambda words: _view(vector, words, spec, views, table))(bits)

    return jax.vmap(pair, out_axes=1)(x, bits)


def _num_words(spec: WeightSpec, views: Views) -> int:
    """Random words that one view may use."""
    size = spec.num_params
    permutation = {"table": 1, "fresh": sum(group.size for group in spec.groups), "none": 0}[views.permutations]
    places = {"none": 0, "block": 1 + 2 * _ERASE_TRIES, "scatter": 2 + int(size * views.erase_range[1])}[views.erase]
    values = size if views.erase != "none" and views.erase_value == "random" else 0
    return permutation + (size if views.noise else 0) + places + values


class _Words:
    """Hands out consecutive random words."""

    def __init__(self, words: jax.Array):
        self._words, self._end = words, 0

    def take(self, count: int) -> jax.Array:
        start, self._end = self._end, self._end + count
        return self._words[start : self._end]


def _unit_interval(words: jax.Array) -> jax.Array:
    """U[0, 1) in steps of 2 ** -24."""
    return (words >> 8).astype(jnp.float32) * 2.0**-24


def _normals(words: jax.Array) -> jax.Array:
    centred = ((words >> 9).astype(jnp.float32) + 0.5) * 2.0**-22 - 1
    return math.sqrt(2) * lax.erf_inv(centred)


def _view(vector: jax.Array, bits: jax.Array, spec: WeightSpec, views: Views, table: jax.Array | None):
    words = _Words(bits)
    if views.permutations == "table":
        indices = jnp.asarray(table)
        vector = vector[indices[words.take(1)[0] % indices.shape[0]]]
    elif views.permutations == "fresh":
        # Ranks of random 32-bit words; equal ones are too rare to matter.
        permutations = [jnp.argsort(words.take(group.size)) for group in spec.groups]
        vector = spec.permute(vector, permutations)
    clean = vector
    if views.noise:
        noise = views.noise * _normals(words.take(vector.size))
        vector = vector * (1 + noise) if views.noise_kind == "multiplicative" else vector + noise
    if views.erase != "none":
        gone = (_block if views.erase == "block" else _scatter)(words, vector.size, views)
        value = _normals(words.take(vector.size)) if views.erase_value == "random" else jnp.float32(views.erase_value)
        vector = jnp.where(gone, value, vector)
    return vector, (clean if views.target == "clean" else vector)


def _happens(word: jax.Array, views: Views) -> jax.Array:
    return _unit_interval(word) < views.erase_probability


def _length(words: jax.Array, size: int, views: Views) -> jax.Array:
    """Whole lengths, uniform in the range's share of the vector."""
    low, high = views.erase_range
    return (size * (low + (high - low) * _unit_interval(words))).astype(jnp.int32)


def _block(words: _Words, size: int, views: Views) -> jax.Array:
    """`[size]` bool: one stretch, from the first of ten tries that ends before the last entry."""
    happens = _happens(words.take(1)[0], views)
    lengths = _length(words.take(_ERASE_TRIES), size, views)
    starts = (words.take(_ERASE_TRIES) % size).astype(jnp.int32)
    fits = starts + lengths < size
    first = jnp.argmax(fits)
    start, length = starts[first], lengths[first]
    position = jnp.arange(size)
    return happens & fits[first] & (position >= start) & (position < start + length)


def _scatter(words: _Words, size: int, views: Views) -> jax.Array:
    """`[size]` bool: entries drawn with replacement."""
    happens = _happens(words.take(1)[0], views)
    length = _length(words.take(1), size, views)[0]
    most = int(size * views.erase_range[1])
    places = (words.take(most) % size).astype(jnp.int32)
    return jnp.zeros(size, bool).at[places].max(happens & (jnp.arange(most) < length))
