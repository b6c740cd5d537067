"""What was published, or shown beside the paper, as reference rows: Zhao et al. 2018, arXiv 1811.03259, and the public
tallies and notebooks of its authors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SOURCE = "arXiv 1811.03259; tallies and curves from the authors' slides and public notebooks"


class Tally(NamedTuple):
    """Generated counts after training on images with one number of objects.

    Attributes:
      trained: that number.
      first: the count of the first share.
      shares: of counts from `first` on.
      n: samples.
    """

    trained: int
    first: int
    shares: tuple[float, ...]
    n: int

    @property
    def counts(self) -> np.ndarray:
        """Counts of the shares."""
        return self.first + np.arange(len(self.shares))

    @property
    def mean(self) -> float:
        """Mean count."""
        return float(self.counts @ self._normed)

    @property
    def cv(self) -> float:
        """Coefficient of variation."""
        variance = float((self.counts - self.mean) ** 2 @ self._normed)
        return variance**0.5 / self.mean

    @property
    def _normed(self) -> np.ndarray:
        return np.array(self.shares) / sum(self.shares)


DOTS = (
    Tally(1, 1, (0.94, 0.06), 100),
    Tally(2, 1, (0.01, 0.71, 0.27, 0.01), 100),
    Tally(3, 1, (0.0, 0.11, 0.49, 0.36, 0.04), 100),
    Tally(4, 1, (0.0, 0.0, 0.09, 0.45, 0.37, 0.08, 0.01), 100),
    Tally(5, 1, (0.0, 0.0, 0.04, 0.19, 0.45, 0.22, 0.10), 100),
)
"""Dots."""
SCENES = (
    Tally(1, 0, (0.052, 0.857, 0.090), 1278),
    Tally(2, 0, (0.0, 0.077, 0.807, 0.116, 0.001), 1278),
    Tally(3, 0, (0.0, 0.002, 0.150, 0.690, 0.151, 0.007), 1278),
)
"""CLEVR; 1277 to 1280 images each."""
TALLIES = {"dots": DOTS, "scenes": SCENES}
"""By kind of data."""

PIES_IOU = {
    10: 1.0,
    20: 1.0,
    30: 1.0,
    50: 0.905,
    60: 0.885,
    75: 0.905,
    100: 0.86,
    150: 0.71,
    200: 0.595,
    300: 0.57,
    400: 0.565,
}
"""IoU of training cells and as many generated ones over N, pies in 500 cells, fully connected WGAN-GP at 64 pixels."""
PIES_CELLS = 500

STATEMENTS = (
    ("one value", "counts peak at the trained one and spread like a log-normal; the spread grows with the count"),
    ("one value, red share", "peaks at the trained value; narrower at .1 and .9 than between"),
    ("several values", "{2, 7} objects, or a red share of .3 with .5, .7 or .9: the mean of the single outputs"),
    ("near values", "{2, 4} objects: 3 is the most likely count; red .3 and .4: one mode near .36"),
    ("combinations", "few are memorised; of many, nearly all combinations of their values come out"),
)
"""What it found, in words."""
