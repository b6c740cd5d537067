"""Probes, by kind.

To add one: a frozen dataclass that derives from `Probe`, in a file of its own, and one line in `PROBES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxweights import settings
from jaxweights.probing.probes.additivity import Additivity
from jaxweights.probing.probes.base import Measured, Probe
from jaxweights.probing.probes.combinations import Combinations
from jaxweights.probing.probes.exceptions import Exceptions
from jaxweights.probing.probes.impulse import Impulse
from jaxweights.probing.probes.prototype import Prototype

__all__ = ["PROBES", "Measured", "Probe", "make"]

PROBES: dict[str, type[Probe]] = {
    kind.KIND: kind for kind in (Impulse, Additivity, Prototype, Combinations, Exceptions)
}


def make(values: str | Mapping[str, Any], section: str = "probing.probes") -> Probe:
    """A probe from a config.

    Args:
      values: its kind, or a mapping with `kind` and any of its settings.
      section: where the values stand, for messages.

    Raises:
      UserError: an unknown kind or setting, or a value that a setting cannot have.
    """
    return settings.make_kind(PROBES, values, section)
