"""Exports of this library, in all their formats; see `exporting`."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from jaxweights import files, formats, population
from jaxweights.errors import UserError
from jaxweights.exporting.networks import RECORDS
from jaxweights.exporting.writing import CARD, FORMAT, SPEC, VERSION
from jaxweights.layouts import specs
from jaxweights.layouts.base import GENERATED, TEST, TRAIN, Entry, Found, Layout, Options
from jaxweights.layouts.tensors import Files, Matrix
from jaxweights.population import HYPER

_NAME = "exported"
_CURE = "Export the networks again with launch.export_zoo."
_SHAPE = {"format": str, "version": int, "layout": {"format": str}}
_SPLITS = {population.TRAIN: TRAIN, population.HELDOUT: TEST, population.GENERATED: GENERATED}
_BY_ORDER = "model_zoos"  # whose tensors are called as its own networks' are


@dataclasses.dataclass(frozen=True)
class Rows:
    """Reads rows of `weights` `[N, P]` in files; a key is the file and the number of the row in it.

    Attributes:
      folder: the export.
      opened: matrices of its files by name, which stay on disk where the format lets them.
    """

    folder: pathlib.Path
    opened: dict[str, Matrix] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __call__(self, key: str) -> np.ndarray:
        """The vector `[P]` of a row."""
        name, _, row = key.rpartition(":")
        if name not in self.opened:
            self.opened[name] = _weights(self.folder / name)
        return self.opened[name][int(row)]


def _weights(path: pathlib.Path) -> Matrix:
    content = formats.read(path, "the export", mapped=True).value
    weights = content.get("weights") if isinstance(content, Mapping) else None
    if weights is None or np.ndim(weights) != 2:
        raise UserError(f"The export {path} has no array weights [N, P]. {_CURE}")
    return weights


def recognise(path: pathlib.Path) -> bool:
    """Whether a folder has the card of an export."""
    card = path / CARD
    if not card.is_file():
        return False
    with card.open("rb") as file:
        return f'"format": "{FORMAT}"'.encode() in file.read(200)


def find(path: pathlib.Path, options: Options) -> Found:
    """The networks of `records.csv`."""
    del options
    card = files.read_json(path / CARD, "card of an export", _CURE, _SHAPE)
    if card["version"] != VERSION:
        raise UserError(f"{path} is an export of version {card['version']}, but this program reads {VERSION}. {_CURE}")
    given = specs.read(path / SPEC)
    table = _records(path / RECORDS)
    keys = (
        [f"{file}:{row}" for file, row in zip(table["file"], table["row"], strict=True)]
        if "row" in table
        else table["file"]
    )
    own = population.GENERATED in table["split"] or any(int(run) < 0 for run in table["run"])
    runs = [str(row) for row in range(len(keys))] if own else table["run"]
    entries = [
        Entry(
            key,
            run,
            int(table["step"][row]),
            _SPLITS.get(table["split"][row], ""),
            int(table["seed"][row]),
            float(table["accuracy"][row]),
            float(table["loss"][row]),
            {name: float(column[row]) for name, column in table.items() if name.startswith(HYPER)},
        )
        for row, (key, run) in enumerate(zip(keys, runs, strict=True))
    ]
    return Found(
        _NAME,
        path,
        entries,
        Rows(path) if "row" in table else Files(path),
        shapes=given.shapes,
        by_order=card["layout"]["format"] == _BY_ORDER,
        one_file="row" in table,
        spec_file=path / SPEC,
    )


def _records(path: pathlib.Path) -> dict[str, list[str]]:
    """The columns of the table of records."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            names, *lines = csv.reader(file)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}). {_CURE}") from error
    lacking = {"file", *population.COLUMNS} - set(names)
    if lacking or not lines or any(len(line) != len(names) for line in lines):
        problem = f"lacks {', '.join(sorted(lacking))}" if lacking else "has no lines" if not lines else "is cut off"
        raise UserError(f"{path} is no table of records: it {problem}. {_CURE}")
    return dict(zip(names, map(list, zip(*lines, strict=True)), strict=True))


LAYOUT = Layout(
    _NAME,
    "export of this library (launch.export_zoo)",
    f"{CARD} of an export",
    recognise,
    find,
    rank=0,
)
