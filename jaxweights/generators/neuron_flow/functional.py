"""Universal neural functionals: all linear maps of weights that commute with orders of the hidden units, and a network
of them (Zhou et al., 2024, arXiv 2402.05232), whose blocks the time modulates (adaLN-Zero).

A tensor is an array over its permuted axes; what is fixed (inputs, outputs, kernel offsets) are channels. A linear map
from one tensor to another that commutes with all orders has one free number, here a matrix of channels, for every
*partition* of the axes of both into blocks of the same group (Maron et al., 2019, arXiv 1812.09902): axes of one block
share their index, blocks of the input alone are averaged over, blocks of the output alone are filled alike.
"""

from __future__ import annotations

import functools
import itertools
import string
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.generators.neuron_flow.network import beside, modulated, zeros
from jaxweights.nn.activations import gelu
from jaxweights.nn.dense import Dense, matmul
from jaxweights.nn.parameters import FAN_IN_UNIFORM, constant, normal, parameter
from jaxweights.nn.transformer import Architecture, scalar_features
from jaxweights.spec import FIXED, WeightSpec

_PARTS = 3  # of a modulation: shift, scale and gate


class Term(NamedTuple):
    """A partition of the axes of an output and an input: a letter for each, the same within a block.

    Attributes:
      output: letters of the output's axes.
      input: letters of the input's axes.
    """

    output: str
    input: str


@functools.cache
def terms(output: tuple[int, ...], inputs: tuple[int, ...]) -> tuple[Term, ...]:
    """All terms of linear maps from axes of some groups to axes of others."""
    axes = (*output, *inputs)
    own = [[i for i, group in enumerate(axes) if group == wanted] for wanted in sorted(set(axes))]
    found = []
    for chosen in itertools.product(*(list(_partitions(places)) for places in own)):
        letters = [""] * len(axes)
        for letter, block in zip(string.ascii_lowercase, itertools.chain.from_iterable(chosen), strict=False):
            for place in block:
                letters[place] = letter
        found.append(Term("".join(letters[: len(output)]), "".join(letters[len(output) :])))
    return tuple(found)


def _partitions(items: Sequence[int]) -> Iterator[list[list[int]]]:
    """All partitions of items into blocks."""
    if not items:
        yield []
        return
    first, *rest = items
    for partition in _partitions(rest):
        yield [[first], *partition]
        for number, block in enumerate(partition):
            yield [*partition[:number], [first, *block], *partition[number + 1 :]]


def gathered(term: Term, x: jax.Array) -> jax.Array:
    """The means `[n, *letters of both, c]` of an input `[n, *axes, c]` over its blocks that the output lacks."""
    kept = _distinct(letter for letter in term.output if letter in term.input)
    sizes = dict(zip(term.input, x.shape[1:-1], strict=True))
    count = np.prod([size for letter, size in sizes.items() if letter not in kept], dtype=np.float64)
    return jnp.einsum(f"Z{term.input}Y->Z{kept}Y", x) / count


def spread(term: Term, y: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Fills an output `[n, *shape, d]` with what `gathered` found, at equal indices of every block."""
    whole = _distinct(term.output)
    sizes = dict(zip(term.output, shape, strict=True))
    absent = [place for place, letter in enumerate(whole) if letter not in term.input]
    y = jnp.expand_dims(y, [1 + place for place in absent])
    if whole == term.output:
        return y  # broadcast by the sum
    y = jnp.broadcast_to(y, (len(y), *(sizes[letter] for letter in whole), y.shape[-1]))
    letters, deltas = list(term.output), list[str]()
    spare = iter(string.ascii_uppercase)
    for place, letter in enumerate(term.output):
        if letter in term.output[:place]:
            letters[place] = next(spare)
            deltas.append(letter + letters[place])
    eyes = [jnp.eye(sizes[pair[0]], dtype=y.dtype) for pair in deltas]
    return jnp.einsum(f"Z{whole}Y,{','.join(deltas)}->Z{''.join(letters)}Y", y, *eyes)


def _distinct(letters: Any) -> str:
    return "".join(dict.fromkeys(letters))


class Tensors(NamedTuple):
    """How vectors are cut into arrays over permuted axes.

    Attributes:
      spec: meaning of the vectors.
    """

    spec: WeightSpec

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The groups of the permuted axes of every tensor, as stored."""
        return tuple(tuple(leaf.groups[i] for i in leaf.order if leaf.groups[i] != FIXED) for leaf in self.spec.leaves)

    def split(self, x: jax.Array) -> list[jax.Array]:
        """Vectors `[n, P]` to arrays `[n, *permuted axes, channels]`."""
        found = []
        for leaf, span in self.spec.spans():
            free, fixed = _places(leaf)
            part = x[:, span].reshape(-1, *leaf.stored_axes).transpose(0, *(1 + i for i in (*free, *fixed)))
            found.append(part.reshape(len(x), *(leaf.stored_axes[i] for i in free), -1))
        return found

    def join(self, parts: Sequence[jax.Array]) -> jax.Array:
        """Inverse of `split`."""
        found = []
        for leaf, part in zip(self.spec.leaves, parts, strict=True):
            order = (*_places(leaf)[0], *_places(leaf)[1])
            part = part.reshape(-1, *(leaf.stored_axes[i] for i in order))
            found.append(part.transpose(0, *(1 + int(i) for i in np.argsort(order))).reshape(len(part), -1))
        return jnp.concatenate(found, axis=1)


def _places(leaf: Any) -> tuple[list[int], list[int]]:
    """The places of the permuted and of the fixed axes among the stored ones."""
    free = [place for place, axis in enumerate(leaf.order) if leaf.groups[axis] != FIXED]
    return free, [place for place in range(len(leaf.order)) if place not in free]


class Linear(nn.Module):
    """All linear maps that commute with orders of the hidden units, with a matrix of channels for every term.

    Attributes:
      tensors: how vectors are cut.
      features: channels of every output.
      dtype: type of the products.
    """

    tensors: Tensors
    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, xs: Sequence[jax.Array]) -> list[jax.Array]:
        """Maps arrays `[n, *axes, c]`, one per tensor, to `[n, *axes, features]`."""
        groups, found = self.tensors.groups, []
        for number, (own, x) in enumerate(zip(groups, xs, strict=True)):
            total = jnp.zeros((*x.shape[:-1], self.features))
            kinds = [(place, term) for place, other in enumerate(groups) for term in terms(own, other)]
            width = sum(xs[place].shape[-1] for place, _ in kinds)
            for index, (place, term) in enumerate(kinds):
                shape = (xs[place].shape[-1], self.features)
                kernel = parameter(self, f"kernel_{number}_{index}", shape, normal(width**-0.5))
                product = matmul(gathered(term, xs[place]), kernel, self.dtype)
                total = total + spread(term, product, x.shape[1:-1])
            for index, term in enumerate(terms(own, ())):
                bias = parameter(self, f"bias_{number}_{index}", (self.features,), constant(0.0))
                total = total + spread(term, bias[None, :], x.shape[1:-1])
            found.append(total)
        return found


class Functional(nn.Module):
    """Maps noised networks, seen in several coordinates, to one number for each of their parameters; 0 at
    initialisation. Units in another order give the same numbers in that order.

    Attributes:
      tensors: how vectors are cut.
      architecture: width and blocks; there are no heads.
    """

    tensors: Tensors
    architecture: Architecture

    @nn.compact
    def __call__(self, views: list[jax.Array], times: jax.Array, table: jax.Array) -> jax.Array:
        """Maps views `[n, P]` of the same networks and scalars `[n]` of their times, embedded by a table of
        frequencies, to `[n, P]` float32."""
        a = self.architecture
        parts = [jnp.concatenate(part, axis=-1) for part in zip(*map(self.tensors.split, views), strict=True)]
        xs = [self._dense(f"in_{i}", a.width, part) for i, part in enumerate(parts)]
        hidden = nn.silu(self._dense("time_1", a.width, scalar_features(times, table)))
        condition = nn.silu(self._dense("time_2", a.width, hidden))
        for number in range(a.blocks):
            shift, scale, gate = jnp.split(self._zeros(f"modulation_{number}", condition, _PARTS * a.width), _PARTS, -1)
            seen = [modulated(x, shift, scale) for x in xs]
            mixed = Linear(self.tensors, a.width, a.dtype, name=f"linear_{number}")(seen)
            wide = [gelu(y) for y in mixed]
            out = [self._dense(f"out_{number}_{i}", a.width, y) for i, y in enumerate(wide)]
            xs = [x + beside(gate, x) * y for x, y in zip(xs, out, strict=True)]
        shift, scale = jnp.split(self._zeros("modulation", condition, 2 * a.width), 2, axis=-1)
        channels = [part.shape[-1] // len(views) for part in parts]
        last = [modulated(x, shift, scale) for x in xs]
        return self.tensors.join(
            [self._zeros(f"last_{i}", x, count) for i, (x, count) in enumerate(zip(last, channels, strict=True))]
        )

    def _dense(self, name: str, features: int, x: jax.Array) -> jax.Array:
        return Dense(features, FAN_IN_UNIFORM, convention="flax", dtype=self.architecture.dtype, name=name)(x)

    def _zeros(self, name: str, x: jax.Array, features: int) -> jax.Array:
        return zeros(self, name, x, features, self.architecture.dtype)
