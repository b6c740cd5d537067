"""Collections of images: their readers, their checks, and divisions of one into several.

To add a reader: a frozen dataclass that derives from `Source`, and one line in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxweights import settings
from jaxweights.bias.collections.base import Collection, digest, from_arrays
from jaxweights.bias.collections.checks import Checked, balanced, check
from jaxweights.bias.collections.division import by_class, identical
from jaxweights.bias.collections.reading import Reading
from jaxweights.bias.collections.sources import Archive, Folder, ImageSet, Source

__all__ = [
    "SOURCES",
    "Checked",
    "Collection",
    "Reading",
    "Source",
    "balanced",
    "by_class",
    "check",
    "digest",
    "from_arrays",
    "identical",
    "make",
]

SOURCES: dict[str, type[Source]] = {source.KIND: source for source in (Folder, Archive, ImageSet)}


def make(values: Mapping[str, Any], section: str = "bias.collections") -> Source:
    """What a config says of a collection.

    Args:
      values: a mapping with `kind` and any settings of that kind.
      section: where the values stand, for messages.

    Raises:
      UserError: an unknown kind or setting, or a value that a setting cannot have.
    """
    return settings.make_kind(SOURCES, values, section)
