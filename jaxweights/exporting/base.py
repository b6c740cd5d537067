"""What the formats of an export have in common."""

from __future__ import annotations

import abc
import pathlib
from typing import ClassVar

import numpy as np

from jaxweights.exporting.networks import Contents, Report
from jaxweights.population import Population


class Format(abc.ABC):
    """How networks are laid out in files.

    Attributes:
      MANY: whether a file holds many networks, as rows in their order.
      EXAMPLES: whether it has the images that networks classify, and what these make of the training images.
    """

    MANY: ClassVar[bool] = False
    EXAMPLES: ClassVar[bool] = False

    @abc.abstractmethod
    def write(self, folder: pathlib.Path, contents: Contents, report: Report) -> None:
        """Writes the files of the networks.

        Args:
          folder: empty folder.
          contents: the networks.
          report: is told how many networks are done.

        Raises:
          UserError: networks that this format cannot hold.
        """

    @abc.abstractmethod
    def files(self, contents: Contents) -> list[str]:
        """The file of every network, relative to the folder."""

    @abc.abstractmethod
    def usage(self, contents: Contents) -> str:
        """How the files are read, as Markdown for the card."""


def numbered(networks: Population, suffix: str) -> list[str]:
    """A file for every network, by its split and the number of its row."""
    splits = networks.records["split"].tolist()
    return [f"networks/{split}/{row:06d}{suffix}" for row, split in enumerate(splits)]


def make_folders(folder: pathlib.Path, names: list[str]) -> None:
    """Makes the folders that files are in."""
    for parent in sorted({pathlib.PurePath(name).parent for name in names}):
        (folder / parent).mkdir(parents=True, exist_ok=True)


def splits(networks: Population) -> list[str]:
    """The splits that there are, sorted."""
    return np.unique(networks.records["split"]).tolist()
