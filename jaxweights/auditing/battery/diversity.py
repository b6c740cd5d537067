"""The Vendi score: the effective number of different networks (Friedman and Dieng 2023, arXiv 2210.02410)."""

from __future__ import annotations

import numpy as np
from scipy import linalg

from jaxweights.auditing.battery.sampling import Resampling, each
from jaxweights.auditing.statistics import Estimate


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


def vendi(kernel: np.ndarray) -> float:
    """The Vendi score of n networks: the exponential of the entropy of the eigenvalues of `kernel / n`.

    It is 1 for equal networks and n for networks without similarity. It depends on n, so sets are compared at equal
    size.

    Args:
      kernel: `[n, n]` similarities, positive semidefinite, with ones on the diagonal.
    """
    values = linalg.eigvalsh(kernel / len(kernel), check_finite=False)
    values = values[values > 0]
    return float(np.exp(-values @ np.log(values)))


def estimate(kernel: np.ndarray, resampling: Resampling) -> Estimate:
    """The Vendi score with an interval from random halves, see `sampling`; those of its logarithm, since scores may
    grow with the size of the set."""

    def of_half(chosen: np.ndarray) -> float:
        return float(np.log(vendi(kernel[np.ix_(chosen, chosen)])))

    found = resampling.of_halves(each(of_half), np.log(vendi(kernel)), [len(kernel)], (0.0, np.log(len(kernel))))
    value, low, high = np.exp([found.value, found.low, found.high]).tolist()
    return Estimate(value, low, high, found.n)
