"""Estimators of the features of images, by kind.

To add one: a frozen dataclass that derives from `Estimator`, in a file of its own, and one line in `ESTIMATORS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxweights import settings
from jaxweights.probing.estimators.accuracy import accuracy, errors
from jaxweights.probing.estimators.base import Estimator
from jaxweights.probing.estimators.discs import DiscsEstimator
from jaxweights.probing.estimators.dots import DotsEstimator
from jaxweights.probing.estimators.pies import PiesEstimator
from jaxweights.probing.estimators.scenes import SceneEstimator
from jaxweights.probing.estimators.triples import TriplesEstimator

__all__ = ["ESTIMATORS", "Estimator", "accuracy", "errors", "make"]

_KINDS = (DotsEstimator, PiesEstimator, DiscsEstimator, SceneEstimator, TriplesEstimator)
ESTIMATORS: dict[str, type[Estimator]] = {kind.KIND: kind for kind in _KINDS}


def make(values: str | Mapping[str, Any], section: str = "probing.estimator") -> Estimator:
    """An estimator from a config.

    Args:
      values: its kind, or a mapping with `kind` and any of its settings.
      section: where the values stand, for messages.

    Raises:
      UserError: an unknown kind or setting, or a value that a setting cannot have.
    """
    return settings.make_kind(ESTIMATORS, values, section)
