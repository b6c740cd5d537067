"""Training sets: lists of combinations, drawn and published."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxweights.errors import UserError
from jaxweights.probing.features import Design, Feature


def grid(features: Sequence[Feature]) -> np.ndarray:
    """All combinations `[M, F]` float32 of the values of features, the last feature fastest."""
    axes = np.meshgrid(*(np.array(f.values, np.float32) for f in features), indexing="ij")
    return np.stack([axis.reshape(-1) for axis in axes], axis=1)


def everything(features: Sequence[Feature], n: int, seed: int = 0) -> Design:
    """Combinations `[n, F]` with every feature uniform over its values, independent of the others."""
    rng = np.random.default_rng([seed, 2])
    return Design(tuple(features), np.stack([rng.choice(f.values, n) for f in features], axis=1))


def combinations(features: Sequence[Feature], n: int, seed: int = 0, nested: bool = True) -> Design:
    """A random list of different combinations.

    Args:
      features: F of them.
      n: number of combinations.
      seed: random seed.
      nested: whether a longer list of the same seed begins with every shorter one, so that a curve over n changes
        nothing else. Lists of different n are unrelated otherwise, as most of the published ones.

    Raises:
      UserError: more combinations than there are.
    """
    return Design(tuple(features), _chosen(grid(features), n, [seed, 0] if nested else [seed, 0, n]))


def covering(
    features: Sequence[Feature], name: str, values: Sequence[float], n: int, seed: int = 0, nested: bool = True
) -> Design:
    """A random list of different combinations in which one feature takes given values in turn, each in n / len(values)
    of them (up to one): the published "pie_n_f_v".

    Args:
      features: F of them.
      name: of the feature.
      values: any that it can have, also others than a grid has.
      n: number of combinations.
      seed: random seed.
      nested: see `combinations`.

    Raises:
      UserError: an unknown feature, no value, or more combinations than there are.
    """
    names = [f.name for f in features]
    if name not in names or not len(values):
        raise UserError(f"There is no feature {name!r} with {len(values)} values; the features are {', '.join(names)}.")
    place = names.index(name)
    others = grid([f for f in features if f.name != name])
    lists = []
    for turn, value in enumerate(values):
        own = len(range(turn, n, len(values)))
        rows = _chosen(others, own, [seed, 1, turn] if nested else [seed, 1, turn, n])
        lists.append(np.insert(rows, place, value, axis=1))
    rows = np.array([lists[i % len(values)][i // len(values)] for i in range(n)]).reshape(n, len(names))
    return Design(tuple(features), rows)


def _chosen(rows: np.ndarray, n: int, seed: list[int]) -> np.ndarray:
    if not 0 <= n <= len(rows):
        raise UserError(f"A list of {n} different combinations was asked for, but there are {len(rows)}.")
    return rows[np.random.default_rng(seed).permutation(len(rows))[:n]]
