"""The Small CNN Zoo (Unterthiner et al., arXiv 2002.11448): `weights.npy`, `metrics.csv.gz` and `layout.csv`, in
TensorFlow's order."""

from __future__ import annotations

import ast
import dataclasses
import math
import pathlib
import random

import numpy as np
import pandas as pd

from jaxweights import formats
from jaxweights.errors import UserError
from jaxweights.layouts.base import TEST, TRAIN, VALIDATION, Entry, Found, Layout, Options, Recipe
from jaxweights.layouts.modelzoos import KNOWN_ACTIVATIONS

_WEIGHTS, _METRICS, _LAYOUT = "weights.npy", ("metrics.csv.gz", "metrics.csv"), "layout.csv"
_CONFIG = "config."
_FINAL = 86  # step of the final checkpoints
_TEST_SHARE, _TRAIN_SHARE = 0.5, 0.8  # of neural functionals (nfn): half of the runs, then four fifths of the rest


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in the rows of the array: its place, its shape there, and the order of its axes in PyTorch."""

    start: int
    stop: int
    shape: tuple[int, ...]
    order: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Reads rows of the array.

    Attributes:
      rows: the array `[N, P]`, which stays on disk.
      tensors: by name.
    """

    rows: np.ndarray
    tensors: dict[str, Tensor]

    def __call__(self, key: str) -> dict[str, np.ndarray]:
        """The tensors of a row by name, kernels with their output axis first."""
        row = np.asarray(self.rows[int(key)])
        return {
            name: row[one.start : one.stop].reshape(one.shape).transpose(one.order)
            for name, one in self.tensors.items()
        }


def recognise(path: pathlib.Path) -> bool:
    """Whether a folder has the three files."""
    return path.is_dir() and (path / _WEIGHTS).is_file() and (path / _LAYOUT).is_file() and _metrics(path) is not None


def _metrics(path: pathlib.Path) -> pathlib.Path | None:
    return next((path / name for name in _METRICS if (path / name).is_file()), None)


def find(path: pathlib.Path, options: Options) -> Found:
    """All rows; the runs are told by `modeldir`, or by their configurations."""
    metrics = _metrics(path)
    assert metrics is not None
    try:
        table, layout = pd.read_csv(metrics), pd.read_csv(path / _LAYOUT)
        rows = formats.read(path / _WEIGHTS, "the array", mapped=True).value
        tensors = _tensors(layout)
    except (ValueError, KeyError, OSError, SyntaxError, EOFError) as error:
        raise UserError(f"The tables or the array of {path} cannot be read ({error}). Download them again.") from error
    if len(rows) != len(table):
        raise UserError(f"{path / _WEIGHTS} has {len(rows):,} rows, {metrics} {len(table):,}. Download them again.")
    runs, notes = _runs(table), ["kernels and matrices are turned into PyTorch's order"]
    splits = [""] * len(rows)
    if options.splits:
        splits = _split(table, runs, pathlib.Path(options.splits).expanduser())
        notes.append("split by the index file, as in nfn: half of the final networks are the test split")
    entries = [_entry(i, row, runs[i], splits[i]) for i, row in enumerate(table.to_dict("records"))]
    recipe = _recipe(table)
    return Found("smallcnn", path, entries, Rows(rows, tensors), recipe, notes=tuple(notes), one_file=True)


def _tensors(layout: pd.DataFrame) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    layers: dict[str, str] = {}
    counts = {"conv": 0, "fc": 0}
    rows = layout.to_dict("records")
    for row in rows:
        layer, _, kind = str(row["varname"]).rpartition("/")
        shape = tuple(int(x) for x in ast.literal_eval(str(row["shape"])))
        if len(shape) > 1 and layer not in layers:
            name = "conv" if len(shape) == 4 else "fc"
            counts[name] += 1
            layers[layer] = f"{name}{counts[name]}"
    for row in rows:
        layer, _, kind = str(row["varname"]).rpartition("/")
        shape = tuple(int(x) for x in ast.literal_eval(str(row["shape"])))
        order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(shape), tuple(range(len(shape))))
        name = f"{layers[layer]}.{'weight' if kind.startswith('kernel') else 'bias'}"
        found[name] = Tensor(int(row["start_idx"]), int(row["end_idx"]), shape, order)
    return found


def _runs(table: pd.DataFrame) -> list[str]:
    if "modeldir" in table:
        return [str(name).rstrip("/").rpartition("/")[2] for name in table["modeldir"]]
    columns = [name for name in table if str(name).startswith(_CONFIG)]
    if not columns:
        raise UserError("metrics.csv has no columns modeldir or config.*, so runs are not known.")
    groups = table.groupby(columns, dropna=False, sort=False).ngroup()
    return [f"run{number}" for number in groups]


def _entry(number: int, row: dict, run: str, split: str) -> Entry:
    properties: dict[str, float | str] = {}
    for name in ("train_accuracy", "train_loss"):
        if name in row:
            properties[name] = float(row[name])
    seed = -1
    for name, value in row.items():
        if not str(name).startswith(_CONFIG):
            continue
        short = str(name).removeprefix(_CONFIG)
        if short == "random_seed":
            seed = int(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            properties[f"hyper/{short}"] = float(value)
        else:
            properties[short] = str(value)
    accuracy, loss = (float(row.get(name, math.nan)) for name in ("test_accuracy", "test_loss"))
    return Entry(str(number), run, int(row.get("step", -1)), split, max(seed, -1), accuracy, loss, properties)


def _recipe(table: pd.DataFrame) -> Recipe:
    name = f"{_CONFIG}activation"
    stated = sorted({str(value) for value in table[name]}) if name in table else []
    if len(stated) == 1 and stated[0] in KNOWN_ACTIVATIONS:
        return Recipe(stated[0], source="configuration of the runs")
    return Recipe("unknown", source=f"runs have {', '.join(stated)}" if stated else "not stated")


def _split(table: pd.DataFrame, runs: list[str], path: pathlib.Path) -> list[str]:
    """Splits of rows by the order in an index file (nfn, `experiments/data_utils.py`)."""
    try:
        order = pd.read_csv(path, header=None).to_numpy().ravel().astype(int)
    except (OSError, ValueError) as error:
        raise UserError(f"The index file {path} cannot be read ({error}).") from error
    if sorted(order.tolist()) != list(range(len(table))):
        raise UserError(f"The index file {path} is no order of the {len(table):,} rows.")
    final = order[table["step"].to_numpy()[order] == _FINAL].tolist()
    known = list(range(int(_TEST_SHARE * len(final))))
    random.Random(0).shuffle(known)
    point = int(_TRAIN_SHARE * len(known))
    by_run = {runs[row]: TEST for row in final}
    by_run |= {runs[final[i]]: TRAIN for i in known[:point]} | {runs[final[i]]: VALIDATION for i in known[point:]}
    return [by_run.get(run, "") for run in runs]


LAYOUT = Layout(
    "smallcnn",
    "Small CNN Zoo (dnn_predict_accuracy)",
    f"{_WEIGHTS}, {_METRICS[0]} and {_LAYOUT}",
    recognise,
    find,
)
