"""The two leading principal components, for decision regions and trajectories."""

from __future__ import annotations

import numpy as np

_DENSE_SIZE = 1024  # largest symmetric matrix that is reduced completely


def leading(rows: np.ndarray) -> np.ndarray:
    """The two leading principal components of centred rows.

    Works on the smaller of the two products, `[D, D]` or `[n, n]`. The largest entry of each component is positive, so
    that pictures do not depend on a library's or machine's sign convention.

    Args:
      rows: `[n, D]` float64 with mean zero.

    Returns:
      `[2, D]` orthonormal rows; zeros in place of components that the rows do not have.
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
    """The two leading eigenvectors `[2, D]` of a symmetric matrix, up to sign; the second is 0 if D is 1."""
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
