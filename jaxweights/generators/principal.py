"""Principal components of training networks, through the smaller of the two Gram matrices, in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxweights import parallel


class Components(NamedTuple):
    """Principal components, those of the largest variance first.

    Attributes:
      mean: `[P]` float64.
      directions: `[k, P]` float64, orthogonal, each as long as the standard deviation along it.
      std: `[k]` float64, their lengths.
    """

    mean: np.ndarray
    directions: np.ndarray
    std: np.ndarray

    @property
    def basis(self) -> np.ndarray:
        """Orthonormal directions `[k, P]`; zero where nothing varies."""
        return self.directions / np.where(self.std > 0, self.std, 1)[:, None]


def components(rows: np.ndarray, count: int) -> Components:
    """The leading principal components of rows `[N, P]`, N > 1; at most min(N - 1, P) are meant."""
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    with parallel.host_products(*centred.shape):
        if len(rows) <= rows.shape[1]:
            values, left = np.linalg.eigh(centred @ centred.T)
            directions = left.T @ centred  # row i has length sqrt(values[i])
        else:
            values, right = np.linalg.eigh(centred.T @ centred)
            directions = right.T * np.sqrt(np.maximum(values, 0))[:, None]
    keep = np.argsort(values)[::-1][:count]
    scale = np.sqrt(len(rows) - 1)
    return Components(mean, directions[keep] / scale, np.linalg.norm(directions[keep], axis=1) / scale)


def basis_of(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The leading principal components of rows `[N, P]` in arrays of a given size.

    Returns:
      Mean `[P]`, orthonormal basis `[count, P]` and standard deviations along it `[count]`, all float64; zeros where
      there are fewer components than asked for.
    """
    found = components(rows, count)
    basis, std = np.zeros((count, rows.shape[1])), np.zeros(count)
    basis[: len(found.std)], std[: len(found.std)] = found.basis, found.std
    return found.mean, basis, std
