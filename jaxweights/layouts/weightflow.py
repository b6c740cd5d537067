"""Zoos of weightflow (Erdogan, arXiv 2504.03710): one HDF5 data set of rows, runs of which are not stored."""

from __future__ import annotations

import pathlib

import numpy as np

from jaxweights import formats
from jaxweights.errors import UserError
from jaxweights.layouts import orders
from jaxweights.layouts.base import Entry, Found, Layout, Options, Recipe
from jaxweights.layouts.tensors import Rows

_SUFFIXES, _MAGIC, _NAME = (".h5", ".hdf5"), b"\x89HDF\r\n\x1a\n", b"dataset"
_SHAPES = {"fc1.weight": (10, 784), "fc1.bias": (10,), "fc2.weight": (10, 10), "fc2.bias": (10,)}
_SIZE = 7_960
_HEAD = 1 << 16
_NET = {"name": "mlp", "hidden": (10,), "input_shape": (28, 28, 1), "outputs": 10}


def recognise(path: pathlib.Path) -> bool:
    """Whether a file is HDF5 and names such a data set."""
    if path.suffix not in _SUFFIXES or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return head.startswith(_MAGIC) and _NAME in head


def find(path: pathlib.Path, options: Options) -> Found:
    """All rows, of which as many as the options say are one run."""
    matrix = formats.read(path, "the zoo of weightflow", mapped=True).value.get("dataset")
    shape = np.shape(matrix)
    if len(shape) != 2 or shape[1] != _SIZE:
        raise UserError(f"{path} has a data set of shape {shape}; zoos of weightflow have [n, {_SIZE}].")
    if not options.rows_per_run:
        raise UserError(
            f"{path} has {shape[0]:,} rows, and does not say which are of one run: consecutive rows are, and a split "
            "by rows would hold out runs that are trained on. Give --rows_per_run, the checkpoints that were kept of "
            "every run (1 where every row is a run of its own)."
        )
    entries = rows_as_runs(shape[0], options.rows_per_run)
    rows = Rows(matrix, orders.index(_SHAPES, orders.TRANSPOSED))
    recipe = Recipe("relu", None, "mnist", "published code of weightflow", (_NET,))
    notes = (
        f"rows of one run, which follow each other: {options.rows_per_run}",
        "matrices are turned, and biases put behind theirs",
    )
    return Found("weightflow", path, entries, rows, recipe, shapes=_SHAPES, notes=notes, one_file=True)


def rows_as_runs(count: int, per_run: int) -> list[Entry]:
    """Rows as checkpoints of runs that follow one another."""
    if count % per_run:
        raise UserError(f"{count:,} rows are no whole number of runs of --rows_per_run={per_run} checkpoints.")
    return [Entry(str(row), f"run{row // per_run}", row % per_run if per_run > 1 else -1) for row in range(count)]


LAYOUT = Layout("weightflow", "weightflow, HDF5", "an HDF5 file with a data set 'dataset'", recognise, find)
