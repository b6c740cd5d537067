"""Two views of a window of every network: its tokens with noise, the second also with permuted hidden units."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxweights import draws
from jaxweights.generators.sane.tokens import Symmetry, tokens_of


@dataclasses.dataclass(frozen=True)
class ViewSettings:
    """How views are made; `Sane` says what the fields are.

    Attributes:
      window: tokens of a window.
      views, draw, noise, target: see `Sane`.
    """

    window: int
    views: Literal["permuted", "canonical"]
    draw: Literal["sample", "batch"]
    noise: float
    target: Literal["clean", "noised"]


class Views(NamedTuple):
    """Windows of a batch in two views.

    Attributes:
      inputs: `[2, b, w, token_size]` what the autoencoder sees.
      targets: the same shape, what it has to reproduce.
      mask: `[b, w, token_size]` bool, False for padding.
      positions: `[b, w, 3]` integers.
    """

    inputs: jax.Array
    targets: jax.Array
    mask: jax.Array
    positions: jax.Array


def two_views(
    x: jax.Array,
    keys: jax.Array,
    index: jax.Array,
    positions: jax.Array,
    symmetry: Symmetry,
    groups: tuple[int, ...],
    settings: ViewSettings,
    axis_name: str | None = None,
) -> Views:
    """Draws a window of every network and two views of it, each from the network's own key.

    Args:
      x: `[b, P]` standardised networks, this device's share of the batch.
      keys: `[b]` typed PRNG keys.
      index: `[tokens, token_size]`, see `TokenSequence`.
      positions: `[tokens, 3]`.
      symmetry: how permutations move numbers.
      groups: units of each group.
      settings: how views are made.
      axis_name: device axes that the batch is split over.
    """
    w, size = settings.window, index.shape[1]
    units = sum(groups) if settings.views == "permuted" else 0
    # One draw of raw bits for everything: each further call of the generator is a further program to compile.
    bits = draws.bits(keys, (1 + units + 2 * w * size,))
    common, noise = bits[:, : 1 + units], bits[:, 1 + units :]
    if settings.draw == "batch":
        common = jnp.broadcast_to(_first(common, axis_name)[None], common.shape)

    def one(vector: jax.Array, words: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        start = (words[0] % (index.shape[0] - w + 1)).astype(jnp.int32)
        places = lax.dynamic_slice_in_dim(index, start, w)
        other = places
        if units:
            moved = permuted(jnp.maximum(places, 0), _order(words[1:], groups), symmetry)
            other = jnp.where(places >= 0, moved, places)
        window = lax.dynamic_slice_in_dim(positions, start, w)
        return tokens_of(vector[None], jnp.stack([places, other]))[0], places >= 0, window

    clean, mask, window = jax.vmap(one, out_axes=(1, 0, 0))(x, common)
    factor = 1 + settings.noise * _normals(noise).reshape(-1, 2, w, size)
    inputs = clean * jnp.swapaxes(factor, 0, 1)
    return Views(inputs, clean if settings.target == "clean" else inputs, mask, window)


def permuted(places: jax.Array, order: jax.Array, symmetry: Symmetry) -> jax.Array:
    """Places in a vector of what stands at given places of the permuted vector.

    Args:
      places: integers of any shape.
      order: `[units]` for every unit of all groups, one after the other, the number of the one that takes its place.
      symmetry: see there.
    """
    found = jnp.asarray(symmetry.base)[places]
    for unit, stride in zip(symmetry.unit, symmetry.stride, strict=True):
        found = found + jnp.asarray(stride)[places] * order[jnp.asarray(unit)[places]]
    return found


def _order(words: jax.Array, groups: tuple[int, ...]) -> jax.Array:
    """A random permutation of every group: ranks of random 32-bit words; equal ones are too rare to matter."""
    parts, end = [], 0
    for size in groups:
        parts.append(jnp.argsort(words[end : end + size]))
        end += size
    return jnp.concatenate(parts).astype(jnp.int32)


def _first(rows: jax.Array, axis_name: str | None) -> jax.Array:
    """The first row of the whole batch."""
    return rows[0] if axis_name is None else lax.all_gather(rows[0], axis_name).reshape(-1, rows.shape[1])[0]


def _normals(words: jax.Array) -> jax.Array:
    centred = ((words >> 9).astype(jnp.float32) + 0.5) * 2.0**-22 - 1
    return math.sqrt(2) * lax.erf_inv(centred)
