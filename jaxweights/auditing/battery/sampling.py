"""Intervals of the battery's statistics.

Where the numbers of single networks do not depend on which others there are, a bootstrap over networks gives the
interval. Statistics that compare the networks of a set with one another do not allow it: a resample has networks twice,
at distance 0 of themselves, which is what such statistics measure. Random halves have none: drawn without replacement
from n networks, a half's mean scatters around the whole set's as the whole set's does around the truth (the delete-half
jackknife; Shao and Tu 1995, section 2.3). A half's own bias, that of a smaller set, is taken off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxweights.auditing import statistics
from jaxweights.auditing.statistics import CONFIDENCE, Estimate


@dataclasses.dataclass(frozen=True)
class Resampling:
    """How intervals are made.

    Attributes:
      rng: random generator; every estimate draws from it in turn.
      bootstrap: resamples of a bootstrap.
      halves: random halves.
    """

    rng: np.random.Generator
    bootstrap: int = 1000
    halves: int = 100

    def mean(self, values: np.ndarray) -> Estimate:
        """The mean of `[n]` values, with a bootstrap interval."""
        return statistics.bootstrap_mean(values, self.bootstrap, self.rng)

    def of_counts(self, statistic: Callable[..., np.ndarray], value: float, sizes: Sequence[int]) -> Estimate:
        """A value with the bootstrap interval of a statistic of counts, see `statistics.bootstrap`; n is that of the
        first set."""
        low, high = statistics.bootstrap(statistic, sizes, self.bootstrap, self.rng)
        return Estimate(float(value), low, high, sizes[0])

    def of_halves(
        self,
        statistic: Callable[..., np.ndarray],
        value: float,
        sizes: Sequence[int],
        bounds: tuple[float, float] = (-np.inf, np.inf),
    ) -> Estimate:
        """A value with the 95 % interval from random halves.

        Args:
          statistic: maps one matrix of booleans `[R, n]` per set, which of its n networks are in a half, to `[R]`
            values.
          value: of the whole sets.
          sizes: number of networks of every set; at least two.
          bounds: of the statistic's values.

        Returns:
          The estimate; its n is the size of the first set.
        """
        values = np.asarray(statistic(*(self._masks(size) for size in sizes)), np.float64)
        # Exactly one for sets of even size.
        factor = np.sqrt((sizes[0] // 2) / (sizes[0] - sizes[0] // 2))
        tail = (1.0 - CONFIDENCE) / 2.0
        around = np.quantile(factor * (values - values.mean()), [tail, 1.0 - tail])
        low, high = np.clip(value + around, *bounds)
        return Estimate(float(value), float(low), float(high), sizes[0])

    def _masks(self, size: int) -> np.ndarray:
        """Halves of a set: `[halves, size]` bool, `size // 2` of each row True."""
        order = np.argsort(self.rng.random((self.halves, size)), axis=1)
        return order < size // 2


def each(statistic: Callable[..., float]) -> Callable[..., np.ndarray]:
    """Lets a statistic of one half per set be asked of many."""
    return lambda *masks: np.array([statistic(*one) for one in zip(*masks, strict=True)])
