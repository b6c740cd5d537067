"""Feature likelihood divergence: how likely unseen networks are under a mixture around generated ones.

Jiralerspong et al. 2023 (arXiv 2302.04440), by their code: features are standardised by the test set; around every
generated network lies an isotropic Gaussian whose variance is fitted to the training networks. Generated networks that
are copies get variances of almost 0, which training networks find likely and unseen ones do not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxweights.auditing.battery.pairwise import distances
from jaxweights.auditing.battery.sampling import Resampling
from jaxweights.auditing.rows import row_blocks
from jaxweights.auditing.statistics import Estimate

LEARNING_RATE, EPOCHS = 0.5, 50
_OFFSET = 1e-3  # added to squared distances before the first variances are taken of them
_NARROWEST = 40.0  # bound of log variances
_DECAY = 0.9, 0.999  # Adam's
_LOG_2PI = np.log(2.0 * np.pi)
_FARTHEST = 1e9  # distance beyond which likelihoods would overflow
_CACHE_BYTES = 1 << 20  # arithmetic on more than this at a time waits for memory
_TO_MEAN = 0.81  # factor of squared distances to the training mean, during the fit
_SETTLED, _COMPARED = 5e-4, 5  # the fit ends where the last epochs differ by less


class Likelihood:
    """FLD and its generalization gap of one set of generated networks after another.

    Both are in hundredths of a nat per feature. FLD is how much less likely test networks are than under a mixture
    around half of the training networks, fitted to the others; the gap is how much less likely than training networks
    they are, negated: below 0 for what is fitted to the training networks alone. Intervals are over the networks whose
    likelihood it is, for the mixture as it is.
    """

    def __init__(self, train: np.ndarray, test: np.ndarray):
        """Standardises.

        Args:
          train: `[N, D]` floats in random order.
          test: `[m, D]` unseen networks, m > 1.
        """
        self._train, self._test = train, test
        self._frame = standardise(test)
        self._bases: dict[int, np.ndarray] = {}

    def __call__(self, generated: np.ndarray, resampling: Resampling) -> dict[str, Estimate]:
        """Returns "fld" and "fld_gap" of `[n, D]` generated networks; nothing where no feature varies."""
        if not self._frame.width:
            return {}
        log_variances = self._fitted(generated, self._train)
        of_train, of_test = (self._nll(x, generated, log_variances) for x in (self._train, self._test))
        fld = resampling.mean(100.0 * (of_test - self._base(len(generated))))
        sizes = len(of_train), len(of_test)

        def gap(train_counts: np.ndarray, test_counts: np.ndarray) -> np.ndarray:
            return 100.0 * (train_counts @ of_train / sizes[0] - test_counts @ of_test / sizes[1])

        value = 100.0 * float(of_train.mean() - of_test.mean())
        return {"fld": fld, "fld_gap": resampling.of_counts(gap, value, sizes)}

    def _base(self, size: int) -> np.ndarray:
        """Likelihoods of test networks under a mixture around `size` training networks, half of them at most."""
        size = min(size, len(self._train) // 2)
        if size not in self._bases:
            half, others = self._train[:size], self._train[size:]
            self._bases[size] = self._nll(self._test, half, self._fitted(half, others))
        return self._bases[size]

    def _fitted(self, centres: np.ndarray, train: np.ndarray) -> np.ndarray:
        mean = train.mean(axis=0, keepdims=True, dtype=np.float64)
        return fit(self._squared(train, centres), self._squared(train, mean)[:, 0], self._frame.width)

    def _nll(self, rows: np.ndarray, centres: np.ndarray, log_variances: np.ndarray) -> np.ndarray:
        return nll(self._squared(rows, centres), log_variances, self._frame.width)

    def _squared(self, rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
        apart = distances(rows, centres, self._frame.centre, self._frame.scale)
        return np.square(np.minimum(apart, _FARTHEST))


class Standardised(NamedTuple):
    """How features are standardised; those that do not vary are left out.

    Attributes:
      centre: `[D]` float64 means.
      scale: `[D]` float64 one over deviations; 0 for features that are left out.
      width: features that are left.
    """

    centre: np.ndarray
    scale: np.ndarray
    width: int


def standardise(test: np.ndarray) -> Standardised:
    """Standardisation by the test set, `[m, D]` with m > 1."""
    test = test.astype(np.float64)
    deviation = test.std(axis=0, ddof=1)
    varies = deviation > 1e-12 * np.abs(test).max(initial=0.0)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
    return Standardised(test.mean(axis=0), scale, int(varies.sum()))


def fit(squared: np.ndarray, to_mean: np.ndarray, width: int) -> np.ndarray:
    """Fits the mixture's log variances to training networks, by Adam.

    During the fit another component lies at the training networks' mean and keeps every likelihood finite.

    Args:
      squared: `[N, n]` squared distances of training to generated networks, standardised.
      to_mean: `[N]` those to the training networks' mean.
      width: features.

    Returns:
      `[n]` float32 log variances.
    """
    # The component at the mean is the last one; its weight is one, not one over their number.
    logs = np.append(np.log((squared.min(axis=0) + _OFFSET) / width), 0.0)
    first, second, losses = np.zeros_like(logs), np.zeros_like(logs), []
    for epoch in range(1, EPOCHS + 1):
        loss, gradient = _loss(squared, _TO_MEAN * to_mean, logs, width)
        first = _DECAY[0] * first + (1.0 - _DECAY[0]) * gradient
        second = _DECAY[1] * second + (1.0 - _DECAY[1]) * np.square(gradient)
        step = first / (1.0 - _DECAY[0] ** epoch), np.sqrt(second / (1.0 - _DECAY[1] ** epoch))
        logs -= LEARNING_RATE * step[0] / (step[1] + 1e-8)
        logs[:-1] = np.clip(logs[:-1], -_NARROWEST, _NARROWEST)
        losses.append(loss)
        if epoch > _COMPARED + 1 and np.abs(np.subtract(losses[-_COMPARED:], loss)).max() < _SETTLED:
            break
    return logs[:-1].astype(np.float32)


def nll(squared: np.ndarray, log_variances: np.ndarray, width: int) -> np.ndarray:
    """Negative log-likelihoods per feature `[A]` of networks at squared distances `[A, n]`, in nats."""
    out = np.empty(len(squared))
    for rows in _blocks(squared):
        largest, likelihoods = _components(squared[rows], log_variances, width)
        out[rows] = np.log(likelihoods.sum(axis=1, dtype=np.float64)) + largest
    return -(out - np.log(squared.shape[1])) / width


def _loss(squared: np.ndarray, to_mean: np.ndarray, logs: np.ndarray, width: int) -> tuple[float, np.ndarray]:
    """The negative log-likelihood per feature, and its gradient for all log variances, that of the mean last."""
    count, precisions = len(squared), np.exp(-logs)
    shares, weighted, total = np.zeros(len(logs)), np.zeros(len(logs)), 0.0
    of_mean = np.log(squared.shape[1]) - 0.5 * (to_mean * precisions[-1] + width * (logs[-1] + _LOG_2PI))
    for rows in _blocks(squared):
        block, mean = squared[rows], of_mean[rows]
        largest, likelihoods = _components(block, logs[:-1], width)
        # On the scale of the largest of all.
        top = np.maximum(largest, mean)
        down, by_mean = np.exp(largest - top), np.exp(mean - top)
        likelihoods *= down[:, None].astype(np.float32)
        sums = likelihoods.sum(axis=1, dtype=np.float64) + by_mean
        total += float(np.sum(np.log(sums) + top))
        inverse = (1.0 / sums).astype(np.float32)
        shares[:-1] += inverse @ likelihoods
        shares[-1] += inverse @ by_mean
        weighted[-1] += inverse @ (by_mean * to_mean[rows])
        likelihoods *= block
        weighted[:-1] += inverse @ likelihoods
    gradient = -0.5 * (weighted * precisions - width * shares) / (count * width)
    return -(total / count - np.log(squared.shape[1])) / width, gradient


def _components(squared: np.ndarray, log_variances: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest log-likelihood of every row `[b]`, and all likelihoods relative to it `[b, n]` float32."""
    logs = squared * (-0.5 * np.exp(-log_variances.astype(np.float32)))[None, :]
    logs -= (0.5 * width * (log_variances + _LOG_2PI)).astype(np.float32)[None, :]
    largest = logs.max(axis=1)
    logs -= largest[:, None]
    return largest.astype(np.float64), np.exp(logs, out=logs)


def _blocks(squared: np.ndarray):
    return row_blocks(len(squared), max(1, _CACHE_BYTES // (4 * squared.shape[1])))
