"""Settings of the report."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jaxweights.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class ReportSettings(Settings):
    """What the page shows.

    Attributes:
      boundary_resolution: grid points per side of decision regions; published: 300 (Zeng et al. 2025).
    """

    SECTION: ClassVar[str] = "report"

    boundary_resolution: int = setting(300, at_least=2, at_most=4096)
