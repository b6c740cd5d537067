"""How right an estimator is, on images whose features are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxweights.bias.protocol import wilson
from jaxweights.probing.data import DesignedData, draw, images_of
from jaxweights.probing.data.base import FEATURE
from jaxweights.probing.designs import everything
from jaxweights.probing.estimators.base import Estimator
from jaxweights.probing.features import Design


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
      For every feature `value`, `ci95` (Wilson) and `n`; `bias` and `sd`, mean and standard deviation of measured
      minus exact values, over images in which both are defined, None where there are none; `by_value`, a list of
      `exact` (a value of the feature), `value`, `ci95` and `n` for those that occur.

    Raises:
      UserError: images that the estimator cannot measure, or that cannot be drawn.
    """
    estimator.check(data)
    design = everything(data.features, n, seed) if design is None else design
    drawn = draw(data.unseen(), design, n, seed, mesh=mesh)
    measured = estimator.measure(state, data, images_of(drawn))
    out = {}
    for i, feature in enumerate(data.features):
        exact = np.asarray(drawn.records[FEATURE + feature.name])
        place = feature.bin(exact)
        right = (feature.bin(measured[:, i]) == place) & (place >= 0)
        error = (measured[:, i] - exact)[np.isfinite(measured[:, i]) & np.isfinite(exact)]
        by_value = [
            {"exact": value, **wilson(float(right[own].sum()), int(own.sum())).to_json()}
            for value, own in zip(feature.values, place == feature.bin(np.array(feature.values))[:, None], strict=True)
            if own.any()
        ]
        moments = {"bias": float(error.mean()), "sd": float(error.std())} if len(error) else {"bias": None, "sd": None}
        out[feature.name] = {**wilson(float(right.sum()), n).to_json(), **moments, "by_value": by_value}
    return out
