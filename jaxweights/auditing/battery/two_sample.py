"""Do two sets come from one distribution? MMD with a permutation test, 1-NN accuracy, and a classifier.

Gretton et al. 2012 (JMLR 13); Lopez-Paz and Oquab 2017 (arXiv 1610.06545).
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from scipy import special

from jaxweights.auditing import statistics
from jaxweights.auditing.battery.diversity import gaussian_kernel
from jaxweights.auditing.battery.pairwise import Nearest, among
from jaxweights.auditing.battery.sampling import Resampling, each
from jaxweights.auditing.statistics import Estimate

COMPONENTS = 64
"""Principal components that the classifier sees."""
_HIDDEN = 20  # of the published classifier
_SOME = 500  # networks that components are found of
_FOLDS = 4
_INVERSE_PENALTY = 0.1  # features are many beside a few hundred networks, and go together


class Pooled(NamedTuple):
    """Distances of two sets.

    Attributes:
      first: `[n, n]` in the first set.
      second: `[m, m]` in the second.
      between: `[n, m]`.
    """

    first: np.ndarray
    second: np.ndarray
    between: np.ndarray

    def joined(self) -> np.ndarray:
        """`[n + m, n + m]`, the first set first."""
        return np.block([[self.first, self.between], [self.between.T, self.second]])


def mmd_kernel(distances: Pooled) -> np.ndarray | None:
    """The Gaussian kernel of both sets, of the median distance of all pairs; None where that is 0.

    The kernel's mean is subtracted, which the unbiased MMD does not see, and the diagonal, which it leaves out, is 0.
    """
    joined = distances.joined()
    above = np.triu_indices(len(joined), 1)
    width = float(np.median(joined[above]))
    if width == 0:
        return None
    kernel = gaussian_kernel(joined, width)
    kernel -= kernel[above].mean()
    np.fill_diagonal(kernel, 0.0)
    return kernel.astype(np.float32)


def mmd(kernel: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The unbiased squared MMD of pairs of subsets.

    Args:
      kernel: `[N, N]` float32 with zeros on the diagonal.
      first: `[R, N]` bool, the first set of every pair.
      second: `[R, N]` bool, the second, disjoint with it.

    Returns:
      `[R]` float64.
    """
    a, b = (x.astype(np.float32) for x in (first, second))
    of_a, of_b = a @ kernel, b @ kernel
    n, m = first.sum(axis=1, dtype=np.float64), second.sum(axis=1, dtype=np.float64)

    def total(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        return np.einsum("rn,rn->r", rows, chosen, dtype=np.float64)

    return total(of_a, a) / (n * (n - 1)) + total(of_b, b) / (m * (m - 1)) - 2.0 * total(of_a, b) / (n * m)


def mmd_test(kernel: np.ndarray, size: int, permutations: int, resampling: Resampling) -> tuple[Estimate, float]:
    """The squared MMD of the first `size` networks and the others, and the p-value of the permutation test.

    Args:
      kernel: `[N, N]` float32 of both sets, see `mmd_kernel`.
      size: networks of the first set.
      permutations: B, random divisions into sets of the same sizes.
      resampling: how intervals are made.

    Returns:
      The estimate, with an interval from random halves of both sets, and `(1 + #{permuted >= observed}) / (1 + B)`.
    """
    total = len(kernel)
    is_first = np.arange(total) < size
    value = float(mmd(kernel, is_first[None, :], ~is_first[None, :])[0])
    shuffled = resampling.rng.permuted(np.broadcast_to(is_first, (permutations, total)), axis=1)
    p = (1.0 + np.sum(mmd(kernel, shuffled, ~shuffled) >= value)) / (1.0 + permutations)

    def of_halves(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        empty = np.zeros_like(first), np.zeros_like(second)
        return mmd(kernel, np.hstack([first, empty[1]]), np.hstack([empty[0], second]))

    return resampling.of_halves(of_halves, value, [size, total - size]), float(p)


def nearest_is_own(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether the nearest network is of a network's own set, `[n]` float64; half where both are as near.

    Args:
      own: `[n]` distance to the nearest network of its own set.
      other: `[n]` distance to the nearest one of the other set.
    """
    return (own < other) + 0.5 * (own == other)


def one_nna(
    generated: Nearest,
    to_train: Nearest,
    train: Nearest,
    to_generated: Nearest,
    resampling: Resampling,
) -> tuple[Estimate, float]:
    """Leave-one-out accuracy of the 1-NN classifier that tells generated from training networks.

    The mean of the accuracies on both sets, so that they may differ in size; 1/2 for sets of one distribution, below
    it for copies, down to 0 where every training network has one, 1 for sets apart.

    All neighbours are as many as `pairwise.listed(1)`.

    Args:
      generated: those of generated networks among themselves.
      to_train: those of generated networks among training networks.
      train: those of training networks among themselves.
      to_generated: those of training networks among generated ones.
      resampling: how intervals are made.

    Returns:
      The estimate, with an interval from random halves of both sets, and the share of generated networks whose nearest
      network is a generated one, `(n - 1) / (N + n - 1)` for sets of one distribution.
    """
    lists = (generated, to_train), (train, to_generated)
    shares = [float(nearest_is_own(own.distances[:, 0], other.distances[:, 0]).mean()) for own, other in lists]

    def of_halves(*chosen: np.ndarray) -> float:
        halves = []
        for (own, other), ours, theirs in zip(lists, chosen, chosen[::-1], strict=True):
            halves.append(nearest_is_own(among(own, ours, 1)[ours], among(other, theirs, 1)[ours]).mean())
        return 0.5 * float(sum(halves))

    sizes = [len(own.distances) for own, _ in lists]
    return resampling.of_halves(each(of_halves), 0.5 * sum(shares), sizes, (0.0, 1.0)), shares[0]


def c2st(generated: np.ndarray, train: np.ndarray, seed: int) -> tuple[Estimate, float]:
    """Accuracy on unseen networks of a classifier that tells generated from training networks.

    A network of one hidden layer of 20 units, as published, on half of both sets. It sees their standardised principal
    components and the logarithms of the distances to their mean and to their span.

    Args:
      generated: `[n, D]` floats.
      train: `[n, D]` floats, as many.
      seed: random seed of halves and classifier.

    Returns:
      The share of the other half that is told right, with its exact interval, and the p-value against chance by the
      normal law `N(1/2, 1 / (4 n_test))`.
    """
    from sklearn.exceptions import ConvergenceWarning  # slow to import
    from sklearn.neural_network import MLPClassifier

    rng = np.random.default_rng(seed)
    sets = [x[rng.permutation(len(x))] for x in (generated, train)]
    half = len(generated) // 2
    seen, unseen = (np.concatenate([x[part] for x in sets]) for part in (slice(half), slice(half, None)))
    labels, truth = (np.repeat([1, 0], [len(x) // 2] * 2) for x in (seen, unseen))
    features, others = _features(seen, unseen, seed)
    order = rng.permutation(len(seen))  # once: the classifier's own shuffling takes longer than its steps
    classifier = MLPClassifier((_HIDDEN,), max_iter=100, shuffle=False, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of epochs, as published
        classifier.fit(features[order], labels[order])
    right = classifier.predict(others) == truth
    estimate = statistics.share(right)
    return estimate, float(special.ndtr((0.5 - estimate.value) * 2.0 * np.sqrt(len(right))))


def c2st_of_features(generated: np.ndarray, train: np.ndarray, seed: int) -> tuple[Estimate, float]:
    """Accuracy on unseen networks of a logistic regression that tells generated from training networks by some numbers
    of each; every network is judged by the one of four that was fitted without it.

    Args:
      generated: `[n, F]` floats, n at least 4.
      train: `[n, F]` floats, as many.
      seed: random seed of the four parts.

    Returns:
      The share that is told right, with an interval as if networks were judged independently, and the p-value against
      chance by the normal law `N(1/2, 1 / (8 n))`.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.concatenate([generated, train])
    labels = np.repeat([1, 0], len(generated))
    parts = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=_INVERSE_PENALTY, max_iter=1000))
    estimate = statistics.share(cross_val_predict(model, features, labels, cv=parts) == labels)
    return estimate, float(special.ndtr((0.5 - estimate.value) * 2.0 * np.sqrt(len(labels))))


def pairs_ratio(own: np.ndarray, theirs: np.ndarray, resampling: Resampling) -> Estimate:
    """Mean distance of pairs of one set over that of another, with an interval from random halves of both.

    Args:
      own: `[n, n]` distances in the set, n at least 2; 0 on the diagonal.
      theirs: `[m, m]` in the other, not all of which are 0.
      resampling: how intervals are made.
    """

    def mean(distances: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        rows = chosen.astype(np.float64)
        size = rows.sum(axis=1)
        return np.einsum("rn,rn->r", rows @ distances, rows) / (size * (size - 1))

    def ratio(ours: np.ndarray, others: np.ndarray) -> np.ndarray:
        return mean(own, ours) / mean(theirs, others)

    whole = [np.ones((1, len(x)), bool) for x in (own, theirs)]
    return resampling.of_halves(ratio, float(ratio(*whole)[0]), [len(own), len(theirs)], (0.0, np.inf))


def _features(seen: np.ndarray, unseen: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features of the classifier.

    Components are found in both halves, without labels: networks lie nearer to components that were fitted to them, and
    a classifier that saw only such networks would take all others for one class.
    """
    from sklearn.decomposition import PCA

    rows = np.concatenate([seen, unseen])
    some = rows[np.random.default_rng(seed).permutation(len(rows))[:_SOME]]
    # Of few networks all components would explain everything.
    components = max(1, min(COMPONENTS, len(some) // 4, rows.shape[1]))
    model = PCA(components, svd_solver="randomized", random_state=seed).fit(some)
    scores = model.transform(rows)
    norms = np.square(rows - model.mean_).sum(axis=1) + np.finfo(np.float32).tiny
    left = np.maximum(norms - np.square(scores).sum(axis=1), 1e-6 * norms)  # rounding is not told apart
    features = np.column_stack([scores, np.log(norms), np.log(left)])
    deviation = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return features[: len(seen)], features[len(seen) :]
