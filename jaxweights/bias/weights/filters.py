"""Coarse and fine parts of every matrix: truncated singular value decompositions, and low and high frequencies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import fft

from jaxweights.bias.weights.base import Architecture, matrices
from jaxweights.bias.weights.summaries import _OfMatrices
from jaxweights.settings import setting
from jaxweights.spec import FIXED


@dataclasses.dataclass(frozen=True)
class LowRank(_OfMatrices):
    """Every matrix as the sum of its largest singular components, or what these leave.

    Attributes:
      rank: components.
      keep: the components, with all vectors (biases) of the network; or the residual, with zeros for them.
    """

    KIND: ClassVar[str] = "low_rank"
    DECOMPOSES: ClassVar[bool] = True
    NETWORK: ClassVar[bool] = True
    KEEPS: ClassVar[str] = "the largest singular components of every matrix, or the rest"

    rank: int = setting(1, at_least=1)
    keep: Literal["components", "residual"] = "components"

    def check(self, of: Architecture) -> None:
        """Refuses ranks that every matrix has at most."""
        super().check(of)
        largest = max(min(m.shape) for m in matrices(of.spec))
        if self.rank >= largest:
            self.refuse("rank", f"no matrix has a rank above {largest}, so set it below that")

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """The network `[P]` of these parts."""
        found = row
        for matrix in matrices(of.spec):
            left, values, right = jnp.linalg.svd(matrix.of(row), full_matrices=False)
            rank = min(self.rank, len(values))
            kept = (left[:, :rank] * values[None, :rank]) @ right[:rank]
            found = found.at[matrix.span].set(kept.reshape(-1))
        return found if self.keep == "components" else row - found


class _Filtered(NamedTuple):
    """A tensor with inputs that have an order.

    Attributes:
      span: its entries in the flat vector.
      shape: `[units, ...]`.
      axes: positions of ordered axes.
    """

    span: slice
    shape: tuple[int, ...]
    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Frequencies(_OfMatrices):
    """Low or high frequencies of weights along inputs that have an order: of images, and of windows of convolutions.

    Every unit's weights are a picture, whose discrete cosine transform is cut off. Inputs that are hidden units have no
    order, and tensors without any ordered inputs are left out.

    Attributes:
      keep: low frequencies, or high ones.
      cutoff: distance from the origin of the kept (or removed) frequencies; 1 is the highest frequency along an axis.
    """

    KIND: ClassVar[str] = "frequencies"
    KEEPS: ClassVar[str] = "smooth or fine structure along inputs"

    keep: Literal["low", "high"] = "low"
    cutoff: float = setting(0.5, above=0, below=1.5)

    def check(self, of: Architecture) -> None:
        """Refuses networks whose inputs have no order."""
        super().check(of)
        if not list(_filtered(of)):
            self.refuse_network("none of their tensors reads inputs that have an order")

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """The filtered tensors, one after another."""
        parts = []
        for span, shape, axes in _filtered(of):
            values = row[span].reshape(shape)
            bases = [jnp.asarray(cosines(shape[axis])) for axis in axes]
            for axis, basis in zip(axes, bases, strict=True):
                values = _along(basis, values, axis)
            values = values * self._mask(shape, axes)
            for axis, basis in zip(axes, bases, strict=True):
                values = _along(basis.T, values, axis)
            parts.append(values.reshape(-1))
        return jnp.concatenate(parts)

    def _mask(self, shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
        """Which frequencies are kept, in the shape of the tensor."""
        squares = np.zeros(shape, np.float32)
        for axis in axes:
            place = (1,) * axis + (-1,) + (1,) * (len(shape) - 1 - axis)
            squares += np.square(np.arange(shape[axis]) / (shape[axis] - 1)).reshape(place)
        low = np.sqrt(squares) <= self.cutoff
        return (low if self.keep == "low" else ~low).astype(np.float32)


def cosines(size: int) -> np.ndarray:
    """The orthonormal cosine transform (DCT-II) as a matrix `[size, size]` float32."""
    return np.asarray(fft.dct(np.eye(size), axis=0, norm="ortho"), np.float32)


def _along(basis: jax.Array, values: jax.Array, axis: int) -> jax.Array:
    """A matrix times one axis of a tensor."""
    return jnp.moveaxis(jnp.tensordot(basis, values, axes=(1, axis)), 0, axis)


def _filtered(of: Architecture) -> Iterator[_Filtered]:
    """The tensors whose inputs have an order. A dense layer that reads the network's input reads rows and columns of
    its images."""
    image = () if of.net is None else of.net.image_shape
    for leaf, span in matrices(of.spec):
        shape, groups = leaf.stored_axes, [leaf.groups[axis] for axis in leaf.order]
        if len(shape) == 2 and groups[1] == FIXED and len(image) == 3 and math.prod(image) == shape[1]:
            shape, groups = (shape[0], *image), [groups[0], FIXED, FIXED, FIXED]
        axes = tuple(i for i in range(1, len(shape)) if groups[i] == FIXED and shape[i] > 1)
        if axes:
            yield _Filtered(span, shape, axes)
