"""Generators of weights behind one protocol (`base`). To add one: a module here and one line in `GENERATORS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxweights.errors import UserError
from jaxweights.generators import baselines, imported, pdiff
from jaxweights.generators.base import ClosedFormGenerator, LearnedGenerator, Samples, Stage

__all__ = ["GENERATORS", "ClosedFormGenerator", "LearnedGenerator", "Samples", "Stage", "build", "is_learned"]

GENERATORS = {
    "copy": baselines.Copy,
    "noise": baselines.Noise,
    "average": baselines.Average,
    "gaussian": baselines.Gaussian,
    "pca_gaussian": baselines.PCAGaussian,
    "interpolation": baselines.Interpolation,
    "file": imported.Imported,
    "pdiff": pdiff.PDiff,
}


def build(name: str, config: Mapping[str, Any]) -> ClosedFormGenerator | LearnedGenerator:
    """Builds a generator.

    Args:
      name: what the audit and the report call it.
      config: `kind`, a key of `GENERATORS`, and that class's fields.

    Raises:
      UserError: unknown kind (the message lists the known ones) or unknown settings.
    """
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(config).items()}
    kind = settings.pop("kind", None)
    if kind not in GENERATORS:
        raise UserError(f"Unknown generator {kind!r} under generators.{name}; known: {', '.join(sorted(GENERATORS))}.")
    try:
        return GENERATORS[kind](**settings, name=name)
    except TypeError as error:
        raise UserError(f"The generator {name!r} does not take these settings: {error}.") from error


def is_learned(generator: ClosedFormGenerator | LearnedGenerator) -> bool:
    """Whether the generator is trained by `fit.fit` rather than fitted in closed form."""
    return hasattr(generator, "stages")
