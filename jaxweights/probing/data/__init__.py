"""Designed images, by kind.

To add one: a frozen dataclass that derives from `DesignedData`, in a file of its own, and one line in `DATA`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxweights import settings
from jaxweights.probing.data.base import DesignedData, draw, images_of, pixels
from jaxweights.probing.data.discs import Discs
from jaxweights.probing.data.dots import Dots
from jaxweights.probing.data.pies import Pies
from jaxweights.probing.data.scenes import ScenePairs, Scenes
from jaxweights.probing.data.triples import Triples

__all__ = [
    "DATA",
    "DesignedData",
    "Discs",
    "Dots",
    "Pies",
    "ScenePairs",
    "Scenes",
    "Triples",
    "draw",
    "images_of",
    "make",
    "pixels",
]

DATA: dict[str, type[DesignedData]] = {kind.KIND: kind for kind in (Dots, Pies, Discs, Scenes, ScenePairs, Triples)}


def make(values: str | Mapping[str, Any], section: str = "probing.data") -> DesignedData:
    """Designed data from a config.

    Args:
      values: its kind, or a mapping with `kind` and any of its settings.
      section: where the values stand, for messages.

    Raises:
      UserError: an unknown kind or setting, or a value that a setting cannot have.
    """
    return settings.make_kind(DATA, values, section)
