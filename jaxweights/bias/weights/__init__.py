"""Transformations of weights, and what tells collections of networks apart after them.

To add a transformation: a class and one line in `TRANSFORMATIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxweights import settings
from jaxweights.bias.weights import features, filters, function, reconstruction, shuffles, summaries, units, values
from jaxweights.bias.weights.base import Architecture, HostTransformation, WeightTransformation, transform

__all__ = ["TRANSFORMATIONS", "Architecture", "HostTransformation", "WeightTransformation", "make", "transform"]

TRANSFORMATIONS: dict[str, type[WeightTransformation]] = {
    kind.KIND: kind
    for kind in (
        units.Raw,
        units.Permuted,
        units.Canonical,
        units.Matched,
        shuffles.Shuffled,
        shuffles.Sorted,
        summaries.Statistics,
        summaries.SingularValues,
        summaries.Norms,
        filters.LowRank,
        filters.Frequencies,
        values.Sign,
        values.Magnitude,
        values.Quantised,
        function.Products,
        function.Outputs,
        reconstruction.PCA,
        features.Features,
    )
}


def make(values: str | Mapping[str, Any], section: str = "bias.transformations") -> WeightTransformation:
    """A transformation of weights from a config.

    Args:
      values: its kind, or a mapping with `kind` and any of its settings.
      section: where the values stand, for messages.

    Raises:
      UserError: an unknown kind or setting, or a value that a setting cannot have.
    """
    return settings.make_kind(TRANSFORMATIONS, values, section)
