"""Tokens of one size that a network is cut into, and the code of their places."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from jaxweights.spec import Leaf, Tokens, WeightSpec

Granularity = Literal["vector", "tensor", "rows"]
"""What is cut into tokens: the whole vector (published: 0), every tensor (1), a tensor's output rows (2)."""
Positions = Literal["2d", "1d"]
"""Places of tokens: the tensor and the token's place in it, or the token's place in the network."""

_PERIOD = 10_000.0


class Layout(NamedTuple):
    """Where the entries of a network stand in its tokens.

    Attributes:
      tokens: places of the entries.
      tensors: `[tokens]` number of the tensor that a token belongs to; 0 where tokens are of the whole vector.
      places: `[tokens]` number of a token within it.
    """

    tokens: Tokens
    tensors: np.ndarray
    places: np.ndarray


def layout(spec: WeightSpec, size: int, granularity: Granularity, leave_scalars: bool = False) -> Layout:
    """Cuts networks into tokens of `size` entries.

    Args:
      spec: meaning of the vectors.
      size: entries of a token; short tokens are padded at their end.
      granularity: see `Granularity`.
      leave_scalars: whether tensors of a single entry are in no token.
    """
    spans = [(leaf, span) for leaf, span in spec.spans() if leaf.size > 1 or not leave_scalars]
    places = [np.arange(span.start, span.stop) for _, span in spans]
    if granularity == "vector":
        parts = [_pieces(np.concatenate(places), size)]
    elif granularity == "tensor":
        parts = [_pieces(own, size) for own in places]
    else:
        parts = [_rows(own.reshape(_shape(leaf)), size) for own, (leaf, _) in zip(places, spans, strict=True)]
    numbers = [(tensor, place) for tensor, rows in enumerate(parts) for place in range(len(rows))]
    tensors, within = np.array(numbers, np.int32).T
    return Layout(Tokens.of([row for rows in parts for row in rows], size), tensors, within)


def code(layout: Layout, width: int, positions: Positions) -> np.ndarray:
    """Sines and cosines of the places of tokens, `[tokens, width]` float32.

    For "2d" the first half of the width is of the place within the tensor, the second of the tensor.
    """
    if positions == "1d":
        return _sinusoids(np.arange(len(layout.places)), width).astype(np.float32)
    parts = [_sinusoids(numbers, width // 2) for numbers in (layout.places, layout.tensors)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _sinusoids(numbers: np.ndarray, width: int) -> np.ndarray:
    """Sines at even, cosines at odd entries, at geometrically falling frequencies."""
    frequencies = np.exp(np.arange(0, width, 2) * -(math.log(_PERIOD) / width))
    angles = numbers[:, None] * frequencies[None, :]
    return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(len(numbers), width)


def _shape(leaf: Leaf) -> tuple[int, ...]:
    """As in a state dict: the output axis first, the inputs of a dense layer in one axis."""
    return leaf.stored_shapes[-1]


def _pieces(places: np.ndarray, size: int) -> list[np.ndarray]:
    return [places[start : start + size] for start in range(0, len(places), size)]


def _rows(places: np.ndarray, size: int) -> list[np.ndarray]:
    """As many output rows per token as fit and divide their number; rows that do not fit are cut by their own rows."""
    if places.size <= size:
        return [places.ravel()]
    count, per_row = len(places), places[0].size
    if per_row > size:
        return [token for row in places for token in _rows(row, size)]
    tokens = int(count / (size / per_row))
    while count % tokens or per_row * (count // tokens) > size:
        tokens += 1
    return list(places.reshape(tokens, -1))
