"""What is asked of a trained generator beyond the audit of its samples: a study for what each kind can do.

To add one: a module with `run` and one line in `_study`. `shapes` is about all series at once, not about one generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxweights.generators import Autoencoding, Prompted
from jaxweights.studies import autoencoder, prompting, shapes
from jaxweights.studies.base import Subject

__all__ = ["Subject", "check", "exist_for", "run", "shapes"]

Findings = tuple[dict[str, Any], dict[str, np.ndarray]]


def check(settings: Mapping[str, Any]) -> None:
    """Refuses impossible settings, `config.studies`, with a UserError that names the field."""
    prompting.check(settings)
    shapes.check(settings)


def exist_for(generator: Any) -> bool:
    """Whether there is a study of such generators."""
    return _study(generator) is not None


def run(
    subject: Subject,
    generator: Any,
    state: Mapping[str, Any],
    settings: Mapping[str, Any],
    resamples: int,
    seed: int,
    mesh: Mesh,
) -> Findings:
    """Studies one trained generator.

    Args:
      subject: what to look at.
      generator: for which a study exists.
      state: of the trained generator.
      settings: `config.studies`.
      resamples: of every interval.
      seed: of every random choice.
      mesh: devices.

    Returns:
      JSON data, and per-network arrays for the figures.
    """
    return _study(generator)(subject, generator, state, settings, resamples, seed, mesh)


def _study(generator: Any) -> Callable[..., Findings] | None:
    if isinstance(generator, Autoencoding):
        return autoencoder.run
    if isinstance(generator, Prompted):
        return prompting.run
    return None
