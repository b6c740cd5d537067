"""Where weights may lie: running variances of batch normalisation are positive, or a network has no outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.generators import rows
from jaxweights.population import Population, variance_spans

Variances = Literal["clip", "published"]
"""What becomes of drawn running variances below those of the training networks: these take their place, or nothing."""

_FLOOR = "variance_floor"


def floors(training: Population, *, by_tensor: bool = False) -> dict[str, np.ndarray]:
    """The smallest running variances of training networks, for the state of a generator.

    Args:
      training: training rows `[N, P]`.
      by_tensor: whether all entries of a tensor share the smallest of them, for generators that may put hidden units in
        another order; else every entry has its own.

    Returns:
      `{"variance_floor": [P] float32}`, minus infinity for all other parameters; empty where there are no variances.
    """
    spans = variance_spans(training.spec)
    if not spans:
        return {}
    floor = np.full(training.spec.num_params, -np.inf, np.float32)
    for span in spans:
        smallest = rows.smallest(training.weights, span)
        floor[span] = smallest.min() if by_tensor else smallest
    return {_FLOOR: floor}


def inside(weights: jax.Array, state: Mapping[str, Any], variances: Variances) -> jax.Array:
    """Drawn weights `[n, P]` with running variances of at least the floor that the state has, if it has one; as they
    are where they stay "published"."""
    if variances == "published" or _FLOOR not in state:
        return weights
    return jnp.maximum(weights, state[_FLOOR][None, :])
