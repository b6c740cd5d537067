"""Transformations of weights, and what tells collections of networks apart after them.

To add a transformation: a class and one line in `TRANSFORMATIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxweights.bias.weights import features, filters, function, reconstruction, shuffles, summaries, units, values
from jaxweights.bias.weights.base import Architecture, HostTransformation, WeightTransformation, transform
from jaxweights.checks import choose
from jaxweights.errors import UserError
from jaxweights.settings import make as make_settings

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
    found = {"kind": values} if isinstance(values, str) else dict(values)
    kind = found.pop("kind", None)
    if kind not in TRANSFORMATIONS:
        raise UserError(f"{section}.kind is {kind!r}; {choose(kind, list(TRANSFORMATIONS))}.")
    return make_settings(TRANSFORMATIONS[kind], found, section)
