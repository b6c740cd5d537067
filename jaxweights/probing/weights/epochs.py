"""How long a network was trained, from its weights: a regression on what neither the order of hidden units nor the
scale of the weights changes."""

from __future__ import annotations

import dataclasses

import numpy as np

_TINY = 1e-6
_WIDTH = 4.0  # of the kernel, in mean squared distances per number
_RIDGE = 1e-2
_REACH = 0.99  # quantile of true networks' distances to those of other runs
_BEYOND = 2.0  # of that distance, above which networks have no epoch


def invariants(weights: np.ndarray, inputs: int, hidden: int, outputs: int) -> np.ndarray:
    """Numbers `[n, D]` float64 of perceptrons with one hidden layer that do not change when hidden units are permuted
    or logits multiplied: all weights by a number, but the biases of the outputs by its square.

    Logarithms of norms of all tensors, singular values of the matrices and of their product, norms of what every input
    and, sorted, what every unit and output carries; and the sorted biases of the outputs.

    Args:
      weights: `[n, P]`: incoming weights `[hidden, inputs]`, biases, outgoing weights `[outputs, hidden]`, biases.
      inputs, hidden, outputs: sizes of the layers.
    """
    rows = np.asarray(weights, np.float64)
    scale = np.maximum(np.linalg.norm(rows[:, :-outputs], axis=1, keepdims=True), _TINY)
    ends = np.cumsum([hidden * inputs, hidden, outputs * hidden])
    first, bias, second, last = np.split(rows / scale, ends, axis=1)
    last = last / scale
    first, second = first.reshape(-1, hidden, inputs), second.reshape(-1, outputs, hidden)
    product = second @ first
    sizes = [np.linalg.norm(x.reshape(len(rows), -1), axis=1)[:, None] for x in (first, bias, second, last)]
    spectra = [np.linalg.svd(m, compute_uv=False) for m in (first, second, product)]
    of_inputs = [np.linalg.norm(m, axis=1) for m in (first, product)]
    of_units = [np.linalg.norm(first, axis=2), np.linalg.norm(second, axis=1)]
    of_outputs = [np.linalg.norm(m, axis=2) for m in (second, product)]
    ordered = [np.sort(x, axis=1) for x in (*of_units, *of_outputs)]
    logarithms = [np.log(x + _TINY) for x in (*sizes, *spectra, *of_inputs, *ordered)]
    return np.concatenate([*logarithms, np.sort(last, axis=1)], axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Regression:
    """Kernel ridge regression of the logarithm of the epoch on `invariants`, with a Gaussian kernel.

    Attributes:
      mean, sd: `[D]`, of the numbers of the networks that it learned from.
      known: `[m, D]`, these networks, standardised.
      weights: `[m]`, of the kernel.
      offset: mean logarithm.
      reach: mean squared distance to the nearest known network, beyond which there is no epoch.
    """

    mean: np.ndarray
    sd: np.ndarray
    known: np.ndarray
    weights: np.ndarray
    offset: float
    reach: float

    @classmethod
    def fit(cls, found: np.ndarray, epochs: np.ndarray, runs: np.ndarray) -> Regression:
        """Learns from networks of known epoch.

        Args:
          found: `[m, D]`, their invariants.
          epochs: `[m]`, positive.
          runs: `[m]`, what they are checkpoints of.
        """
        mean, sd = found.mean(axis=0), found.std(axis=0) + _TINY
        known, target = (found - mean) / sd, np.log(epochs)
        apart = _distances(known, known)
        kernel = np.exp(-apart / _WIDTH) + _RIDGE * np.eye(len(known))
        weights = np.linalg.solve(kernel, target - target.mean())
        nearest = np.where(runs[:, None] == runs, np.inf, apart).min(axis=1)
        reach = _BEYOND**2 * float(np.quantile(nearest, _REACH))
        return cls(mean, sd, known, weights, float(target.mean()), reach)

    def epochs(self, found: np.ndarray) -> np.ndarray:
        """Epochs `[n]` of networks with invariants `[n, D]`; NaN of those that are unlike all that were learned from,
        whose nearest one is twice as far as that of 99 % of true networks among other runs."""
        apart = _distances((found - self.mean) / self.sd, self.known)
        told = np.exp(np.exp(-apart / _WIDTH) @ self.weights + self.offset)
        return np.where(apart.min(axis=1) <= self.reach, told, np.nan)


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean squared differences `[n, m]` of rows."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.maximum(squares, 0) / a.shape[1]
