"""Precision, recall, density and coverage of manifolds that balls around networks estimate.

Kynkäänniemi et al. 2019 (arXiv 1904.06991) and Naeem et al. 2020 (arXiv 2002.09797). A ball around every network
reaches to its k-th nearest neighbour in its own set, borders excluded.
"""

from __future__ import annotations

import numpy as np

from jaxweights.auditing.battery.pairwise import Nearest, among
from jaxweights.auditing.battery.sampling import Resampling, each
from jaxweights.auditing.statistics import Estimate

_SOME = 1000  # training networks, which are in random order, that the scatter of the recall is taken of


def precision(between: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Whether a generated network lies in the ball of a training network, `[n]` float64; the mean is the precision.

    Args:
      between: `[n, N]` distances of generated to training networks.
      radii: `[N]` radii of the training networks' balls.
    """
    return np.asarray((between < radii[None, :]).any(axis=1), np.float64)


def density(between: np.ndarray, radii: np.ndarray, k: int) -> np.ndarray:
    """In how many balls of training networks a generated one lies, over k, `[n]`; the mean is the density.

    Args:
      between: `[n, N]` distances of generated to training networks.
      radii: `[N]` radii of the training networks' balls.
      k: the neighbour that a ball reaches to.
    """
    return (between < radii[None, :]).sum(axis=1) / k


def recall(between: np.ndarray, radii: np.ndarray) -> float:
    """The share of training networks that lie in the ball of a generated one.

    Args:
      between: `[n, N]` distances of generated to training networks.
      radii: `[n]` radii of the generated networks' balls.
    """
    return float((between < radii[:, None]).any(axis=0).mean())


def coverage(between: np.ndarray, radii: np.ndarray) -> float:
    """The share of training networks with a generated one in their ball.

    Args:
      between: `[n, N]` distances of generated to training networks.
      radii: `[N]` radii of the training networks' balls.
    """
    return float((between.min(axis=0) < radii).mean())


def expected_coverage(train: int, generated: int, k: int) -> float:
    """The coverage of a generated set of the training networks' own distribution, in expectation and any dimension.

    The nearest generated network has to come before the k-th training one in a random order of `train - 1` training and
    `generated` generated networks.
    """
    j = np.arange(k)
    return float(1.0 - np.prod((train - 1.0 - j) / (train - 1.0 + generated - j)))


def estimates(
    between: np.ndarray, train_radii: np.ndarray, own: Nearest, k: int, resampling: Resampling
) -> dict[str, Estimate]:
    """The four numbers with intervals over the generated networks; the training networks stay as they are.

    Those of precision and density are bootstrap intervals of means; recall and coverage use random halves, see
    `sampling`.

    Args:
      between: `[n, N]` distances of generated to training networks, these in random order.
      train_radii: `[N]` radii of the training networks' balls.
      own: neighbours of generated networks among themselves, as many as `pairwise.listed(k)`.
      k: the neighbour that a ball reaches to.
      resampling: how intervals are made.
    """
    count = len(between)
    covered = (between < train_radii[None, :]).astype(np.float32)

    some = np.ascontiguousarray(between[:, :_SOME])

    def half_recall(chosen: np.ndarray) -> float:
        return recall(some[chosen], among(own, chosen, k)[chosen][:, -1])

    def half_coverage(chosen: np.ndarray) -> np.ndarray:
        return (chosen.astype(np.float32) @ covered > 0).mean(axis=1)

    return {
        "precision": resampling.mean(precision(between, train_radii)),
        "recall": resampling.of_halves(
            each(half_recall), recall(between, own.distances[:, k - 1]), [count], (0.0, 1.0)
        ),
        "density": resampling.mean(density(between, train_radii, k)),
        "coverage": resampling.of_halves(half_coverage, coverage(between, train_radii), [count], (0.0, 1.0)),
    }
