"""A model that turns images into words or numbers: a row of a table for each."""

from __future__ import annotations

import abc
import dataclasses

from jaxweights.bias.adapters.folder import Step
from jaxweights.bias.adapters.models import ModelSettings


@dataclasses.dataclass(frozen=True)
class TableTask(ModelSettings, abc.ABC):
    """Settings of a task; `SECTION` is its name."""

    @abc.abstractmethod
    def step(self) -> Step:
        """What makes a JSON object of every image: its row, without the image's name."""
