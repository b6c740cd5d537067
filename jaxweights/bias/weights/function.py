"""What networks compute: products of consecutive layers, and outputs for given inputs."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.bias.weights.base import Architecture, WeightTransformation, matrices
from jaxweights.settings import setting
from jaxweights.spec import FIXED, Leaf, WeightSpec


@dataclasses.dataclass(frozen=True)
class Products(WeightTransformation):
    """The product of all layers: `W2 W1` of a network of two, as if there were no activations.

    It depends neither on the order of hidden units nor on their scale. Windows of later convolutions, and places of a
    flattened map, are summed over; the first layer keeps its own.
    """

    KIND: ClassVar[str] = "products"
    KEEPS: ClassVar[str] = "paths from inputs to outputs, summed"

    def check(self, of: Architecture) -> None:
        """Refuses networks whose layers do not follow one another."""
        if not _chain(of.spec):
            self.refuse_network(
                "their layers are no chain of at least two, each of which alone writes the hidden units that the next "
                "one alone reads"
            )

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """`[outputs * inputs]`, where inputs are those of a unit of the first layer."""
        first, *others = _chain(of.spec)
        found = row[first.span].reshape(first.leaf.stored_axes)
        found = jnp.moveaxis(found, first.writes, 0).reshape(found.shape[first.writes], -1)
        for link in others:
            values = jnp.moveaxis(row[link.span].reshape(link.leaf.stored_axes), (link.writes, link.reads), (0, 1))
            found = values.reshape(*values.shape[:2], -1).sum(axis=-1) @ found
        return found.reshape(-1)


class _Link(NamedTuple):
    """A layer of a chain.

    Attributes:
      leaf: its matrix or kernel.
      span: its entries in the flat vector.
      reads, writes: positions among the stored axes of the units that it reads, -1 for none, and writes.
    """

    leaf: Leaf
    span: slice
    reads: int
    writes: int


def _chain(spec: WeightSpec) -> list[_Link]:
    """The layers from inputs to outputs, where they follow one another; empty where they do not."""
    links: dict[int, tuple[_Link, int]] = {}  # by the group that is read
    writing: set[int] = set()
    for leaf, span in matrices(spec):
        roles, groups = ([by[axis] for axis in leaf.order] for by in (leaf.roles, leaf.groups))
        if roles.count(1) > 1 or roles.count(-1) > 1:
            return []
        link = _Link(leaf, span, roles.index(-1) if -1 in roles else -1, roles.index(1) if 1 in roles else 0)
        read, written = (groups[roles.index(role)] if role in roles else FIXED for role in (-1, 1))
        if read in links or written in writing:
            return []
        links[read] = link, written
        writing.add(written)
    found, at = [], FIXED
    while at in links and len(found) < len(links):
        link, at = links[at]
        found.append(link)
        if at == FIXED:
            break
    return found if len(found) == len(links) > 1 and at == FIXED else []


@dataclasses.dataclass(frozen=True)
class Outputs(WeightTransformation):
    """Natural outputs, e.g. probabilities of classes, for inputs of Gaussian noise, the same for all networks.

    Attributes:
      inputs: number of inputs.
      scale: standard deviation of the noise; standardised images have 1.
    """

    KIND: ClassVar[str] = "outputs"
    KEEPS: ClassVar[str] = "the function on a few inputs"

    inputs: int = setting(64, at_least=1, at_most=65_536)
    scale: float = setting(1.0, above=0)

    def check(self, of: Architecture) -> None:
        """Refuses vectors without a network that could be run."""
        if of.net is None or of.net.task is None:
            self.refuse_network("nothing says what they compute; give the collections' network (data, net)")

    def fit(self, of: Architecture, weights: np.ndarray, key: jax.Array) -> jax.Array:
        """The inputs `[n, ...]`."""
        assert of.net is not None
        return self.scale * jax.random.normal(key, (self.inputs, *of.net.input_shape))

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """Outputs `[n * K]`; those that are not finite are 0."""
        assert of.net is not None
        found = of.net.task.predictions(of.net, of.net.apply(row, state))
        return jnp.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0).reshape(-1)
