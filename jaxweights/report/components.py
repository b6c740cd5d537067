"""The two leading principal components that decision regions and trajectories are drawn over."""

from __future__ import annotations

import numpy as np

_DENSE_SIZE = 1024  # rows of a symmetric matrix up to which all of the reduction is done at once


def leading(rows: np.ndarray) -> np.ndarray:
    """The directions in which centred rows vary most.

    Works on the smaller of the two products, `[D, D]` or `[n, n]`. Of each direction the largest entry is positive, so
    that no library's or machine's convention mirrors a picture.

    Args:
      rows: `[n, D]` float64 of mean zero.

    Returns:
      `[2, D]` orthonormal rows; zeros in the place of directions that the rows do not have.
    """
    if len(rows) < rows.shape[1]:
        components = _eigenvectors(rows @ rows.T) @ rows
        lengths = np.linalg.norm(components, axis=1)
        real = lengths > 1e-12 * max(lengths[0], np.finfo(float).tiny)
        components = np.where(real, 1 / np.where(real, lengths, 1.0), 0.0)[:, None] * components
    else:
        components = _eigenvectors(rows.T @ rows)
    largest = np.abs(components).argmax(axis=1)
    return components * np.where(components[np.arange(2), largest] < 0, -1.0, 1.0)[:, None]


def _eigenvectors(matrix: np.ndarray) -> np.ndarray:
    """`[2, D]` eigenvectors of a symmetric matrix with the largest eigenvalues, up to sign; zeros where D is 1."""
    import scipy.linalg
    import scipy.sparse.linalg

    size = len(matrix)
    if size > _DENSE_SIZE:  # a full reduction would take half a minute for colour images
        start = np.random.default_rng(0).normal(size=size)
        values, vectors = scipy.sparse.linalg.eigsh(matrix, k=2, v0=start)
        vectors = vectors[:, np.argsort(values)]
    else:
        vectors = scipy.linalg.eigh(matrix, subset_by_index=[max(size - 2, 0), size - 1])[1]
    components = np.zeros((2, size))
    components[: vectors.shape[1]] = vectors.T[::-1]
    return components
