"""A weight vector as a sequence of tokens: one for every output channel of a layer, or several where it is long."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np

from jaxweights.spec import FIXED, Leaf, WeightSpec

_BIAS, _RUNNING = "bias", "running_"


class Layer(NamedTuple):
    """What is standardised together: a tensor, with its bias where it has one.

    Attributes:
      name: name of the tensor.
      rows: `[channels, values]` int64 places in the flat vector; a bias is the last column.
      has_bias: whether there is one.
      statistics: whether these are running statistics of batch normalisation.
    """

    name: str
    rows: np.ndarray
    has_bias: bool
    statistics: bool


class Symmetry(NamedTuple):
    """How a permutation of hidden units moves single numbers: place `p` of the permuted vector holds place
    `base[p] + sum(stride[:, p] * order[unit[:, p]])` of the vector, where `order` numbers the units of every group.

    Attributes:
      base: `[P]` int32.
      unit: `[axes, P]` int32 numbers of units, those of all groups one after the other.
      stride: `[axes, P]` int32, 0 where an axis is not permuted.
    """

    base: np.ndarray
    unit: np.ndarray
    stride: np.ndarray


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class TokenSequence:
    """The tokens of SANE (section 3.1 of the paper); static in pytrees.

    Tensors in flat order are matrices `[output channels, rest]`, of which the last column is the bias. Every row is
    padded with zeros to a multiple of the token size and cut. Tensors that the published code knows nothing of (a bias
    without a weight, a class token) are rows as well.

    Attributes:
      spec: meaning of the vector.
      token_size: values per token; None for the longest row, 0 for the longest row of layers with a bias, which is what
        the published code finds.
      norms: whether layers with running statistics have tokens.
    """

    spec: WeightSpec
    token_size: int | None
    norms: bool = True

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that have tokens, in flat order."""
        members: dict[str, list[tuple[Leaf, slice]]] = {}
        for leaf, span in self.spec.spans():
            members.setdefault(leaf.name.rpartition("/")[0], []).append((leaf, span))
        found = []
        for leaves in members.values():
            if self.norms or not any(_is_statistics(leaf) for leaf, _ in leaves):
                found += _layers(leaves)
        return tuple(found)

    @functools.cached_property
    def size(self) -> int:
        """Values per token."""
        if self.token_size:
            return self.token_size
        every = self.token_size is None
        # To the published code running statistics are their own bias: rows of two values.
        lengths = [2 if layer.statistics and not every else layer.rows.shape[1] for layer in self.layers]
        biased = [n for n, layer in zip(lengths, self.layers, strict=True) if layer.has_bias or layer.statistics]
        return max(lengths if every else biased, default=1)

    @functools.cached_property
    def index(self) -> np.ndarray:
        """`[tokens, size]` int32 places in the flat vector, -1 for padding."""
        parts = []
        for layer in self.layers:
            channels, values = layer.rows.shape
            rows = np.full((channels, -(-values // self.size) * self.size), -1, np.int32)
            rows[:, :values] = layer.rows
            parts.append(rows.reshape(-1, self.size))
        return np.concatenate(parts)

    @property
    def mask(self) -> np.ndarray:
        """`[tokens, size]` bool: False for padding."""
        return self.index >= 0

    @functools.cached_property
    def positions(self) -> np.ndarray:
        """`[tokens, 3]` number in the sequence, of the layer, and of the output channel; int16, int32 beyond 32,767.

        Tokens of one channel differ in the first alone.
        """
        parts = [np.zeros((0, 2), np.int64)]
        for number, layer in enumerate(self.layers):
            channels, values = layer.rows.shape
            channel = np.repeat(np.arange(channels), -(-values // self.size))
            parts.append(np.stack([np.full_like(channel, number), channel], axis=1))
        both = np.concatenate(parts)
        found = np.concatenate([np.arange(len(both))[:, None], both], axis=1)
        return found.astype(np.int16 if found.max(initial=0) <= np.iinfo(np.int16).max else np.int32)

    @functools.cached_property
    def slots(self) -> np.ndarray:
        """`[P]` int32 places in the flattened tokens, -1 for numbers that have none."""
        found = np.full(self.spec.num_params, -1, np.int32)
        flat = self.index.reshape(-1)
        found[flat[flat >= 0]] = np.flatnonzero(flat >= 0)
        return found

    @property
    def num_tokens(self) -> int:
        """Tokens of one vector."""
        return sum(len(layer.rows) * -(-layer.rows.shape[1] // self.size) for layer in self.layers)

    @functools.cached_property
    def symmetry(self) -> Symmetry:
        """How permutations of hidden units move numbers."""
        offsets = np.cumsum([0, *(group.size for group in self.spec.groups)])
        parts = []
        for leaf, span in self.spec.spans():
            base = np.full(leaf.size, span.start, np.int64)
            units, strides = [], []
            places = np.unravel_index(np.arange(leaf.size), leaf.stored_axes)
            for place, axis in enumerate(leaf.order):
                stride = int(np.prod(leaf.stored_axes[place + 1 :], dtype=np.int64))
                if leaf.groups[axis] == FIXED:
                    base = base + stride * places[place]
                else:
                    units.append(places[place] + offsets[leaf.groups[axis]])
                    strides.append(np.full(leaf.size, stride))
            parts.append((base, units, strides))
        most = max((len(units) for _, units, _ in parts), default=0)
        bases = np.concatenate([base for base, _, _ in parts]).astype(np.int32)
        unit, stride = (np.zeros((most, self.spec.num_params), np.int32) for _ in range(2))
        for (_, span), (_, units, strides) in zip(self.spec.spans(), parts, strict=True):
            for axis in range(len(units)):
                unit[axis, span], stride[axis, span] = units[axis], strides[axis]
        return Symmetry(bases, unit, stride)


def tokens_of(x: jax.Array, index: jax.Array) -> jax.Array:
    """Vectors `[n, P]` as tokens `[n, *index.shape]`, zero where the index is -1."""
    return jax.numpy.where((index >= 0)[None], x[:, jax.numpy.maximum(index, 0)], 0.0)


def vectors_of(tokens: jax.Array, slots: jax.Array, others: jax.Array) -> jax.Array:
    """Inverse of `tokens_of`: tokens `[n, tokens, size]` to vectors `[n, P]`.

    Args:
      tokens: `[n, tokens, size]`.
      slots: see `TokenSequence.slots`.
      others: `[P]` of which numbers without tokens are.
    """
    flat = tokens.reshape(tokens.shape[0], -1)
    return jax.numpy.where((slots >= 0)[None], flat[:, jax.numpy.maximum(slots, 0)], others[None])


def _layers(leaves: list[tuple[Leaf, slice]]) -> list[Layer]:
    """The tensors of one layer; the bias belongs to the first of the others, where it has as many channels."""
    rows = {_name(leaf): _rows(leaf, span) for leaf, span in leaves}
    first = next((name for name in rows if name != _BIAS), None)
    joined = _BIAS in rows and first is not None and len(rows[_BIAS]) == len(rows[first])
    found = []
    for leaf, _ in leaves:
        name = _name(leaf)
        if name == _BIAS and joined:
            continue
        has_bias = joined and name == first
        own = np.concatenate([rows[name], rows[_BIAS]], axis=1) if has_bias else rows[name]
        found.append(Layer(leaf.name, own, has_bias, _is_statistics(leaf)))
    return found


def _name(leaf: Leaf) -> str:
    return leaf.name.rpartition("/")[2]


def _is_statistics(leaf: Leaf) -> bool:
    return _name(leaf).startswith(_RUNNING)


def _rows(leaf: Leaf, span: slice) -> np.ndarray:
    channels = leaf.stored_axes[0] if leaf.stored_axes else 1
    return np.arange(span.start, span.stop).reshape(channels, -1)
