"""What sampling with cached activations keeps of maps that are drawn, and the weights in the form that it uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxweights.probing.models.pixelcnn.network import Architecture, kernel


class Weights(NamedTuple):
    """Normalised weights and biases, layers of a stage in lists; entries of `shrink` and `grow` are None at the first
    level."""

    stem: Any
    down: list[list[Any]]
    up: list[list[Any]]
    shrink: list[Any]
    grow: list[Any]
    out: Any


def plain(a: Architecture, params: Mapping[str, Any]) -> Weights:
    """The weights of parameters."""

    def normalised(tree, lead=0):
        if "v" in tree:
            return {"w": kernel(tree, lead), "b": tree["b"]}
        return {name: normalised(part, lead) for name, part in tree.items()}

    def stages(way):
        found = []
        for level in range(a.levels):
            stage = normalised(params[f"{way}_{level}"], 1)
            count = jax.tree.leaves(stage)[0].shape[0]
            found.append([jax.tree.map(lambda x, i=i: x[i], stage) for i in range(count)])
        return found

    def between(way):
        return [normalised(params[f"{way}_{level}"]) if level else None for level in range(a.levels)]

    ends = normalised(params["stem"]), stages("down"), stages("up"), between("shrink"), between("grow")
    return Weights(*ends, normalised(params["out"]))


class Rows(NamedTuple):
    """What the vertical stream keeps of a level's last row.

    Attributes:
      down: inputs and hidden values of every layer of the way down.
      last: what the next level is made of.
      up: as `down`, of the way up.
      grown: `[2, n, W, filters]` what the next level adds to this and the next row; None at the last one.
    """

    down: list[tuple[jax.Array, jax.Array]]
    last: jax.Array
    up: list[tuple[jax.Array, jax.Array]]
    grown: jax.Array | None


def empty_rows(a: Architecture, level: int, n: int, width: int) -> Rows:
    """Above the first row."""
    empty = jnp.zeros((n, width, a.filters))
    grown = jnp.zeros((2, n, width, a.filters)) if level < a.levels - 1 else None
    return Rows([(empty, empty)] * a.resnets, empty, [(empty, empty)] * a.ups(level), grown)


class Bases(NamedTuple):
    """What a level's horizontal stream knows when a row begins.

    Attributes:
      first: `[W, layers, n, filters]` part of the hidden values.
      second: `[W, layers, n, 2 filters]` part of what comes before the gates.
      shrunk: `[W / 2, n, filters]` part of the next level's first map; None at the last one.
    """

    first: jax.Array
    second: jax.Array
    shrunk: jax.Array | None


def no_bases(buffer: Buffer) -> Bases:
    """For rows that a level skips."""
    width, maps, n, filters = buffer.maps.shape
    first = jnp.zeros((width, maps // 2, n, filters))
    shrunk = None if buffer.grown is None else jnp.zeros((width // 2, n, filters))
    return Bases(first, jnp.concatenate([first, first], axis=-1), shrunk)


class Buffer(NamedTuple):
    """Maps of a level's horizontal stream: of this row as far as it is drawn, of the row above from there on.

    Attributes:
      maps: `[W, 2 layers + 1, n, filters]` inputs and hidden values of the layers in order, and what the next level is
        made of.
      grown: `[W / 2, n, 2, 2, filters]` what the next level adds to four pixels each; None at the last one.
    """

    maps: jax.Array
    grown: jax.Array | None

    def rows(self) -> jax.Array:
        """Maps as rows, `[2 layers + 1, n, W, filters]`."""
        return jnp.moveaxis(self.maps, 0, 2)


def empty_buffer(a: Architecture, level: int, n: int, width: int) -> Buffer:
    """Above the first row."""
    layers = a.resnets + a.ups(level)
    grown = jnp.zeros((width // 2, n, 2, 2, a.filters)) if level < a.levels - 1 else None
    return Buffer(jnp.zeros((width, 2 * layers + 1, n, a.filters)), grown)


def at(x: jax.Array, place: jax.Array) -> jax.Array:
    """One entry along the first axis."""
    return lax.dynamic_index_in_dim(x, place, keepdims=False)


def written(buffer: Buffer, found: Buffer, column: jax.Array) -> Buffer:
    """The buffer with the maps of one column of its level."""
    maps = lax.dynamic_update_index_in_dim(buffer.maps, found.maps, column, 0)
    if buffer.grown is None:
        return Buffer(maps, None)
    return Buffer(maps, lax.dynamic_update_index_in_dim(buffer.grown, found.grown, column // 2, 0))


def column_of(buffer: Buffer, column: jax.Array) -> Buffer:
    """What the buffer holds of one column of its level."""
    return Buffer(at(buffer.maps, column), None if buffer.grown is None else at(buffer.grown, column // 2))
