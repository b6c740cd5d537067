"""The Vendi score: the effective number of different networks (Friedman and Dieng 2023, arXiv 2210.02410)."""

from __future__ import annotations

import math

import numpy as np
from scipy import linalg, stats

from jaxweights.auditing.statistics import CONFIDENCE, Estimate


def cosine_kernel(rows: np.ndarray) -> np.ndarray:
    """Cosines of all pairs of `[n, D]` rows, `[n, n]` float64; rows of zeros are alike and unlike all others."""
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    zero = norms[:, 0] == 0
    return rows @ rows.T + np.outer(zero, zero)


def gaussian_kernel(distances: np.ndarray, width: float) -> np.ndarray:
    """`exp(-d^2 / (2 width^2))` of `[n, m]` distances, float64."""
    return np.exp(-0.5 * np.square(distances.astype(np.float64) / width))


def vendi(kernel: np.ndarray) -> Estimate:
    """The Vendi score of n networks: the exponential of the entropy of the eigenvalues of `kernel / n`.

    It is 1 for equal networks and n for networks without similarity. The interval is that of the delta method on the
    logarithm: with eigenvectors u, a network's influence on the entropy is `-sum_a n λ_a u_ia^2 log λ_a` less the
    entropy. A score depends on n, so sets are compared at equal size.

    Args:
      kernel: `[n, n]` similarities, positive semidefinite, with ones on the diagonal.
    """
    count = len(kernel)
    values, vectors = linalg.eigh(kernel / count)
    values = np.maximum(values, 0.0)
    logs = np.log(values, out=np.zeros(count), where=values > 0)
    entropy = -float(values @ logs)
    influence = -count * (np.square(vectors) @ (values * logs)) - entropy
    error = stats.norm.ppf(0.5 + CONFIDENCE / 2.0) * influence.std() / math.sqrt(count)
    low, high = (min(max(math.exp(entropy + sign * error), 1.0), count) for sign in (-1.0, 1.0))
    return Estimate(math.exp(entropy), low, high, count)
