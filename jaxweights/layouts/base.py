"""What a layout of checkpoints on disk says: which networks there are, how one is read, and what is published of
them."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxweights.errors import UserError

TRAIN, VALIDATION, TEST, GENERATED = "train", "val", "test", "generated"
"""Splits of a source."""

Tensors = Mapping[str, np.ndarray] | np.ndarray
"""A network as it is read: its tensors by name, or its flat vector `[P]` in the order of its state dict."""

Reader = Callable[[str], Tensors]
"""Reads the network of an entry by its key. It can be pickled, and raises `UserError` for what cannot be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One network of a source.

    Attributes:
      key: what the reader takes: a file relative to the source, or a key or row in it.
      run: identity of the training run; all its checkpoints share it.
      step: steps or epochs of training; -1 where it is not known.
      split: split of the source, see above; empty where it has none.
      seed: seed of the run, -1 where it is not known.
      accuracy: test accuracy that the source states, a fraction.
      loss: test loss that the source states.
      properties: other numbers and words that the source states, by name.
    """

    key: str
    run: str
    step: int = -1
    split: str = ""
    seed: int = -1
    accuracy: float = math.nan
    loss: float = math.nan
    properties: Mapping[str, float | str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """How inputs are scaled before a network sees them: less `mean`, divided by `std`, one entry per channel or one
    for all; empty for inputs as they are."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __str__(self) -> str:
        if not self.mean:
            return "inputs as they are"
        mean, std = (", ".join(f"{x:g}" for x in values) for values in (self.mean, self.std))
        return f"inputs less ({mean}), divided by ({std})"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is known of a source's networks from elsewhere: state dicts do not hold it.

    Attributes:
      activation: name in `nn.activations`, "sine", or "unknown"; empty where nothing is published.
      normalisation: of the inputs; None where nothing is published.
      data: data set, with its images' shape where that is published.
      source: where it is published.
      nets: settings of networks of this library (`config.net`), with `input_shape` and `outputs`, of which the first
        that has these shapes is meant.
    """

    activation: str = ""
    normalisation: Normalisation | None = None
    data: str = ""
    source: str = ""
    nets: tuple[Mapping[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Found:
    """What a source holds.

    Attributes:
      layout: name of the layout.
      place: the source.
      entries: its networks, in an order of their own.
      read: reads one of them.
      recipe: what is published of them.
      shapes: shapes by name in order, of sources that hold flat vectors; empty where nothing says them.
      by_order: whether tensors are told by their order rather than by their names, which differ between runs.
      notes: what was assumed, a sentence each.
      bad: items that cannot be used, with the reason.
      one_file: whether all networks are in one file, which threads do not read faster.
      spec_file: what a source says of its networks in a file as `specs` reads them; None for none.
    """

    layout: str
    place: pathlib.Path
    entries: list[Entry]
    read: Reader
    recipe: Recipe = Recipe()
    shapes: Mapping[str, tuple[int, ...]] | None = None
    by_order: bool = False
    notes: tuple[str, ...] = ()
    bad: tuple[tuple[str, str], ...] = ()
    one_file: bool = False
    spec_file: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Options:
    """What a source does not say itself.

    Attributes:
      runs: of plain folders, "names" for runs by the files' names, "files" where every file is a run of its own,
        "folders" where the files of a folder are the checkpoints of one run.
      rows_per_run: of rows without runs, how many in a row are one run; 0 where nothing is said.
      splits: file or folder that lists the splits, where that is not part of the source; empty for none.
      order: order of the numbers in rows of an array, see `orders`.
    """

    runs: str = "names"
    rows_per_run: int = 0
    splits: str = ""
    order: str = "state_dict"


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout of checkpoints on disk.

    Attributes:
      name: name in the registry.
      title: what it is, for tables.
      looks_for: what `recognise` looks for, for messages.
      recognise: whether a path has this layout, by names and first bytes alone.
      find: all networks in it, without reading them; raises `UserError` where it is not as it has to be.
      rank: of layouts that fit, those of the lowest rank are meant: 0 for files that name their layout, 2 for what fits
        nearly everything.
    """

    name: str
    title: str
    looks_for: str
    recognise: Callable[[pathlib.Path], bool]
    find: Callable[[pathlib.Path, Options], Found]
    rank: int = 1


def natural(text: str) -> list[Any]:
    """Sort key in which run2 comes before run10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


def fraction(value: float) -> float:
    """An accuracy as a fraction, where it may be in percent."""
    return value / 100 if value > 1 else value


def nothing(layout: str, path: pathlib.Path, wanted: str) -> UserError:
    """What to say where a layout holds no networks."""
    return UserError(f"{path} looks like {layout}, but holds no networks: {wanted}. Give the folder that holds them.")


def runs_of(entries: Iterable[Entry]) -> list[str]:
    """Identities of the runs in natural order."""
    return sorted({entry.run for entry in entries}, key=natural)
