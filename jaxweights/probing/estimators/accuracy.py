"""How right an estimator is, on images whose features are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxweights.bias.protocol import wilson
from jaxweights.probing.data import DesignedData, draw, images_of
from jaxweights.probing.data.base import FEATURE
from jaxweights.probing.designs import everything
from jaxweights.probing.estimators.base import Estimator
from jaxweights.probing.features import Design, Feature


def accuracy(
    data: DesignedData,
    estimator: Estimator,
    state: Any,
    n: int = 2000,
    seed: int = 0,
    design: Design | None = None,
    mesh: Mesh | None = None,
) -> dict[str, dict[str, Any]]:
    """The share of true images that an estimator puts into the right bin of each feature.

    Args:
      data: kind of images; see `DesignedData.unseen`.
      estimator: measures them.
      state: the estimator's, see `Estimator.fit`.
      n: number of images.
      seed: random seed of the images.
      design: their features; None for all values of all features, independently.
      mesh: devices; None for all.

    Returns:
      Of `errors`.

    Raises:
      UserError: images that the estimator cannot measure, or that cannot be drawn.
    """
    estimator.check(data)
    design = everything(data.features, n, seed) if design is None else design
    drawn = draw(data.unseen(), design, n, seed, mesh=mesh)
    measured = estimator.measure(state, data, images_of(drawn))
    exact = np.stack([np.asarray(drawn.records[FEATURE + f.name]) for f in data.features], axis=1)
    return errors(data.features, exact, measured)


def errors(features: Sequence[Feature], exact: np.ndarray, measured: np.ndarray) -> dict[str, dict[str, Any]]:
    """How right measured features are.

    Args:
      features: F of them.
      exact: `[n, F]`, their true values; NaN where one is not defined.
      measured: `[n, F]` likewise.

    Returns:
      For every feature `value`, the share in the right bin, `ci95` (Wilson) and `n`; `bias` and `sd`, mean and standard
      deviation of measured minus exact values, over examples in which both are defined, None where there are none;
      `by_value`, a list of `exact` (a value of the feature), `value`, `ci95` and `n` for those that occur.
    """
    out = {}
    for feature, true, found in zip(features, exact.T, measured.T, strict=True):
        place = feature.bin(true)
        right = (feature.bin(found) == place) & (place >= 0)
        error = (found - true)[np.isfinite(found) & np.isfinite(true)]
        by_value = [
            {"exact": value, **wilson(float(right[own].sum()), int(own.sum())).to_json()}
            for value, own in zip(feature.values, place == feature.bin(np.array(feature.values))[:, None], strict=True)
            if own.any()
        ]
        moments = {"bias": float(error.mean()), "sd": float(error.std())} if len(error) else {"bias": None, "sd": None}
        out[feature.name] = {**wilson(float(right.sum()), len(true)).to_json(), **moments, "by_value": by_value}
    return out
