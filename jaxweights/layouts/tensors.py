"""One network of a source as a flat vector."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from jaxweights import arrays, formats
from jaxweights.errors import UserError
from jaxweights.layouts.base import Found, Tensors

SUFFIXES = (".pt", ".pth", ".th", ".safetensors", ".npz", ".bin", ".ckpt", ".h5", ".hdf5", ".msgpack")
"""Endings of files that hold one network each."""

_VARIANCE = "running_var"
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Files:
    """Reads files of one state dict each.

    Attributes:
      folder: what keys are relative to.
    """

    folder: pathlib.Path

    def __call__(self, key: str) -> dict[str, np.ndarray]:
        """The tensors of a file by name."""
        return read_tensors(self.folder / key)


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a file of one state dict by name, float32, without counters and the prefixes of wrappers."""
    return formats.state_dict(formats.read(path, "the checkpoint").value, f"the checkpoint {path.name}")[0]


class Matrix(Protocol):
    """Numbers `[N, P]` whose rows are read one by one, from memory or from disk."""

    def __getitem__(self, row: int, /) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Rows:
    """Reads rows of a matrix by number.

    Attributes:
      rows: `[N, P]`.
      index: where a row has the numbers of our order; None for the same.
    """

    rows: Matrix
    index: np.ndarray | None = None

    def __call__(self, key: str) -> np.ndarray:
        """The vector `[P]` of a row, float32."""
        row = np.asarray(self.rows[int(key)], np.float32)
        return row if self.index is None else row[self.index]


@dataclasses.dataclass(frozen=True)
class Flattener:
    """Makes flat vectors of networks that are alike.

    Attributes:
      shapes: shapes of the tensors by name, in the order of the vector.
      by_order: whether tensors are told by their order rather than by their names.
    """

    shapes: Mapping[str, tuple[int, ...]]
    by_order: bool = False

    def __call__(self, tensors: Tensors) -> np.ndarray:
        """The vector `[P]` float32.

        Raises:
          UserError: tensors that are missing, left over or of another shape, values that are not finite, or a negative
            running variance.
        """
        if isinstance(tensors, np.ndarray):
            return self._flat(tensors)
        chosen = list(tensors.values()) if self.by_order else self._by_name(tensors)
        found = [value.shape for value in chosen]
        if found != list(self.shapes.values()):
            raise UserError(self._misfit(found))
        for name, value in zip(self.shapes, chosen, strict=True):
            if not np.isfinite(value).all():
                raise UserError(f"NaN or infinite values in {name}")
            if name.endswith(_VARIANCE) and (value < 0).any():
                raise UserError(f"negative variances in {name}")
        vector = np.concatenate([np.asarray(value, np.float32).ravel() for value in chosen])
        return _bounded(vector)

    def _flat(self, vector: np.ndarray) -> np.ndarray:
        size = sum(int(np.prod(shape)) for shape in self.shapes.values())
        if vector.shape != (size,):
            raise UserError(f"a vector of shape {vector.shape} instead of ({size},)")
        if not np.isfinite(vector).all():
            raise UserError("NaN or infinite values")
        return _bounded(np.asarray(vector, np.float32))

    def _by_name(self, tensors: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        missing = [name for name in self.shapes if name not in tensors]
        extra = [name for name in tensors if name not in self.shapes]
        if missing or extra:
            parts = [
                f"{word} {', '.join(names[:_SHOWN])}"
                for word, names in (("lacks", missing), ("also has", extra))
                if names
            ]
            raise UserError(f"{' and '.join(parts)}: another network")
        return [tensors[name] for name in self.shapes]

    def _misfit(self, found: list[tuple[int, ...]]) -> str:
        if len(found) != len(self.shapes):
            return f"{len(found)} tensors instead of {len(self.shapes)}: another network"
        wrong = [
            f"{name} {shape} instead of {wanted}"
            for shape, (name, wanted) in zip(found, self.shapes.items(), strict=True)
            if shape != wanted
        ]
        return f"{'; '.join(wrong[:_SHOWN])}: another network"


def _bounded(vector: np.ndarray) -> np.ndarray:
    if vector.size and max(float(vector.max()), -float(vector.min())) > arrays.LARGEST_WEIGHT:
        raise UserError(f"weights beyond {arrays.LARGEST_WEIGHT:.2g}")
    return vector


def shapes_of(found: Found, key: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a network."""
    if found.shapes is not None:
        return dict(found.shapes)
    tensors = found.read(key)
    if isinstance(tensors, np.ndarray):
        raise ValueError(f"The layout {found.layout} has vectors, but no shapes.")
    return {name: tuple(value.shape) for name, value in tensors.items()}
