"""The protocol of a comparison: which examples a source classifier learns from, which it is asked about, what it is
worth.

Collections are classes. Examples are split by group (a run of a network, an image and its copies), so that no group is
on both sides. Every repeat has a fresh subset; validation sets of repeats share no group. The control cuts one
collection at random groups into as many pseudo-collections: whatever is found between these is no bias.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import special

from jaxweights.auditing.statistics import CONFIDENCE, Estimate
from jaxweights.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """One training of a source classifier.

    Attributes:
      inputs: index of the transformed examples in a stack `[T, n, ...]`.
      labels: `[n]` int32 in `0 ... K - 1`; of the rows below alone.
      train: `[m]` int rows.
      validation: `[k]` int rows.
      seed: of the initial weights and of the batches.
    """

    inputs: int
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a trial.

    Attributes:
      predictions: `[k]` int32, the classes of the validation rows as the classifier sees them.
      train_accuracy: share of the training rows that it classifies correctly.
      explain: from examples `[n, H, W, C]`, stored as those that it learned from, and classes `[n]` to Grad-CAM
        `[n, H, W]`, None of networks that have none; None where examples are no images.
    """

    predictions: np.ndarray
    train_accuracy: float
    explain: Callable[[np.ndarray, np.ndarray], np.ndarray | None] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Rows of one repeat.

    Attributes:
      labels: `[n]` int32; those of rows that the repeat does not use mean nothing.
      train: `[m]` int64 rows, as many groups of every class.
      validation: `[k]` int64 rows, as many groups of every class.
    """

    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray

    def trial(self, inputs: int, seed: int) -> Trial:
        """The trial of a transformation, and of a seed."""
        return Trial(inputs, self.labels, self.train, self.validation, seed)


def splits(
    labels: np.ndarray, groups: np.ndarray, num_train: int, num_validation: int, repeats: int = 3, seed: int = 0
) -> list[Split]:
    """Draws the subsets of the repeats.

    Where collections hold the same groups (networks of the same seeds), these fall on the same side in all of them.

    Args:
      labels: `[n]` int, the collection of each example, `0 ... K - 1`.
      groups: `[n]` int, what must not be on both sides.
      num_train: groups of each collection to learn from, in every repeat.
      num_validation: groups of each collection to be asked about.
      repeats: number of subsets. Their training sets overlap where there are too few groups for disjoint ones, their
        validation sets never do.
      seed: random seed.

    Raises:
      UserError: too few groups, or a group that would be on both sides.
    """
    labels, groups = np.asarray(labels, np.int32), np.asarray(groups)
    names, groups = np.unique(groups, return_inverse=True)
    place = np.random.default_rng([seed, 0]).permutation(len(names))  # of every group in the order of drawing
    chosen = []
    for source in range(int(labels.max()) + 1):
        own = np.unique(groups[labels == source])
        needed = max(repeats * num_validation, num_train + num_validation)
        if len(own) < needed:
            raise UserError(
                f"Collection {source} has {len(own)} independent examples, but {repeats} repeats of {num_validation} "
                f"for validation and {num_train} for training need {needed}. Give more examples, or lower "
                "bias.num_train and bias.num_validation."
            )
        own = own[np.argsort(place[own])]
        step = max(num_validation, len(own) // repeats)
        turns = [np.roll(own, -r * step) for r in range(repeats)]
        chosen.append([(turn[num_validation : num_validation + num_train], turn[:num_validation]) for turn in turns])
    out = []
    for r in range(repeats):
        train, validation = (rows_of(labels, groups, [own[r][side] for own in chosen]) for side in (0, 1))
        shared = np.intersect1d(groups[train], groups[validation])
        if len(shared):
            raise UserError(
                f"{len(shared)} examples are in several collections, in different order, so that a classifier would "
                "learn from what it is asked about. Remove them from all collections but one."
            )
        out.append(Split(labels, train, validation))
    return out


def control_splits(
    labels: np.ndarray, groups: np.ndarray, num_train: int, num_validation: int, repeats: int = 3, seed: int = 0
) -> list[Split]:
    """Draws the subsets of the control: repeat r has collection `r % K`, cut into K pseudo-collections of random
    groups.

    A pseudo-collection has as many examples as a collection would, or else as many as there are, in the same
    proportion.

    Args:
      labels: `[n]` int, the collection of each example.
      groups: `[n]` int, see `splits`.
      num_train: groups of each pseudo-collection to learn from.
      num_validation: groups of each pseudo-collection to be asked about.
      repeats: number of subsets.
      seed: random seed.

    Raises:
      UserError: a collection with fewer than two groups per pseudo-collection.
    """
    labels = np.asarray(labels, np.int32)
    _, groups = np.unique(np.asarray(groups), return_inverse=True)
    count, out = int(labels.max()) + 1, []
    for r in range(repeats):
        rng = np.random.default_rng([seed, 1, r])
        rows = np.flatnonzero(labels == r % count)
        own = rng.permutation(np.unique(groups[rows]))
        share = len(own) // count
        if share < 2:
            raise UserError(
                f"Collection {r % count} has {len(own)} independent examples; the control needs {2 * count}, two for "
                f"each of {count} pseudo-collections. Give more examples."
            )
        asked = min(num_validation, max(1, share * num_validation // (num_train + num_validation)))
        pseudo = np.full(int(groups.max()) + 1, -1, np.int32)
        parts = own[: share * count].reshape(count, share)
        pseudo[parts] = np.arange(count, dtype=np.int32)[:, None]
        renamed = np.full(len(labels), -1, np.int32)
        renamed[rows] = pseudo[groups[rows]]
        train = rows_of(renamed, groups, [part[asked : asked + num_train] for part in parts])
        out.append(Split(renamed, train, rows_of(renamed, groups, [part[:asked] for part in parts])))
    return out


def rows_of(
    labels: np.ndarray, groups: np.ndarray, chosen: Sequence[np.ndarray], among: np.ndarray | None = None
) -> np.ndarray:
    """Rows of chosen groups of every class, class by class.

    Args:
      labels: `[n]` int.
      groups: `[n]` int.
      chosen: groups of every class.
      among: `[n]` bool, rows that count; None for all.
    """
    kept = np.ones(len(labels), bool) if among is None else among
    return np.concatenate([np.flatnonzero((labels == i) & np.isin(groups, own) & kept) for i, own in enumerate(chosen)])


def wilson(correct: float, n: int) -> Estimate:
    """Returns the share `correct / n` with its 95 % interval (Wilson 1927).

    Args:
      correct: successes; a mean over repeats may be no whole number.
      n: independent examples.

    Raises:
      UserError: unless 0 <= correct <= n and n > 0.
    """
    if not 0 <= correct <= n or n == 0:
        raise UserError(f"A share of {correct} in {n} examples has no interval; there must be at least one example.")
    z = float(special.ndtri(0.5 + CONFIDENCE / 2))
    share = correct / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * float(np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)))
    # Rounding may put an end of the interval that is the share itself beyond it.
    return Estimate(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)), n)


def confusion(trials: Sequence[Trial], outcomes: Sequence[Outcome], num_classes: int) -> np.ndarray:
    """Counts `[K, K]` of validation rows by true class (rows) and predicted class (columns)."""
    out = np.zeros((num_classes, num_classes), np.int64)
    for trial, outcome in zip(trials, outcomes, strict=True):
        np.add.at(out, (trial.labels[trial.validation], outcome.predictions), 1)
    return out


def accuracy(trials: Sequence[Trial], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The accuracy of repeats.

    Args:
      trials: repeats of one classification.
      outcomes: of each.

    Returns:
      `value`, `ci95` (Wilson) and `n`, the distinct examples that it rests on; `repeats`, the accuracy of each, and
      `sd`, their standard deviation.
    """
    right = [trial.labels[trial.validation] == o.predictions for trial, o in zip(trials, outcomes, strict=True)]
    asked = np.concatenate([trial.validation for trial in trials])
    n = len(np.unique(asked))
    each = [float(np.mean(one)) for one in right]
    estimate = wilson(float(np.mean(np.concatenate(right))) * n, n)
    return {
        **estimate.to_json(),
        "repeats": each,
        "sd": float(np.std(each, ddof=1)) if len(each) > 1 else None,
    }


def summary(
    trials: Sequence[Trial], outcomes: Sequence[Outcome], num_classes: int, control: Sequence[bool]
) -> dict[str, Any]:
    """What repeats of one transformation and their controls say.

    Args:
      trials: repeats and controls.
      outcomes: of each.
      num_classes: K.
      control: whether each is one of pseudo-collections.

    Returns:
      `accuracy` and `control`, see `accuracy`; `train_accuracy` and `control_train_accuracy`, means; `recall` `[K]`
      and `confusion` `[K][K]` counts, of the repeats.
    """
    real, pseudo = (
        [(t, o) for t, o, c in zip(trials, outcomes, control, strict=True) if bool(c) == kind] for kind in (False, True)
    )
    counts = confusion(*zip(*real, strict=True), num_classes)  # type: ignore[misc]
    found: dict[str, Any] = {
        "accuracy": accuracy(*zip(*real, strict=True)),  # type: ignore[misc]
        "train_accuracy": float(np.mean([o.train_accuracy for _, o in real])),
        "recall": (np.diag(counts) / np.maximum(counts.sum(axis=1), 1)).tolist(),
        "confusion": counts.tolist(),
    }
    if pseudo:
        found["control"] = accuracy(*zip(*pseudo, strict=True))  # type: ignore[misc]
        found["control_train_accuracy"] = float(np.mean([o.train_accuracy for _, o in pseudo]))
    return found
