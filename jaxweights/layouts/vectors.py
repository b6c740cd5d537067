"""One file of many networks: rows `[N, P]`, or a list of state dicts."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxweights import formats
from jaxweights.errors import UserError
from jaxweights.layouts import gpt, hyperdiffusion, orders
from jaxweights.layouts.base import Found, Layout, Normalisation, Options, Recipe
from jaxweights.layouts.modelzoos_dataset import Held
from jaxweights.layouts.tensors import SUFFIXES, Rows
from jaxweights.layouts.weightflow import rows_as_runs

_WEIGHTS = "weights"
_FIELD = {
    "layers.0.weight": (128, 27),
    "layers.0.bias": (128,),
    "layers.1.weight": (128, 128),
    "layers.1.bias": (128,),
    "layers.2.weight": (128, 128),
    "layers.2.bias": (128,),
    "layers.3.weight": (1, 128),
    "layers.3.bias": (1,),
}
_KNOWN: dict[int, tuple[Mapping[str, tuple[int, ...]], Recipe]] = {
    36_737: (
        _FIELD,
        Recipe("relu", Normalisation(), "occupancy of shapes", "size of HyperDiffusion's", hyperdiffusion.nets()),
    ),
    7_960: (gpt.TASKS[0].shapes, dataclasses.replace(gpt.TASKS[0].recipe, source="size of G.pt's")),
}
"""Published networks by their number of parameters."""


def recognise(path: pathlib.Path) -> bool:
    """Whether it is a file whose ending is that of a file of tensors."""
    return path.is_file() and path.suffix in (*SUFFIXES, ".npy")


def find(path: pathlib.Path, options: Options) -> Found:
    """Every row or state dict is a network; they stay on disk until they are read, where the format lets them."""
    value: Any = formats.read(path, "the file of networks", mapped=True).value
    if isinstance(value, Mapping) and _WEIGHTS in value and np.ndim(value[_WEIGHTS]) == 2:
        value = value[_WEIGHTS]
    if isinstance(value, Mapping) and len(value) == 1 and np.ndim(next(iter(value.values()))) == 2:
        value = next(iter(value.values()))
    per_run = options.rows_per_run or 1
    said = (
        f"rows of one run, which follow each other: {per_run}"
        if options.rows_per_run
        else "every row is a run of its own (--rows_per_run)"
    )
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, Mapping) for one in value):
        entries = rows_as_runs(len(value), per_run)
        return Found("vectors", path, entries, Held(value), notes=(said,), one_file=True)
    if isinstance(value, (Mapping, list, tuple)) or np.ndim(value) != 2:
        raise UserError(
            f"{path} holds neither rows [N, P] nor a list of state dicts. Of one network per file, give the folder."
        )
    shapes, recipe = _KNOWN.get(value.shape[1], ({}, Recipe()))
    index = orders.index(shapes, options.order) if options.order != orders.STATE_DICT else None
    if index is not None and not shapes:
        raise UserError(f"--order={options.order} needs networks whose tensors are known by their size.")
    entries = rows_as_runs(len(value), per_run)
    return Found("vectors", path, entries, Rows(value, index), recipe, shapes=shapes, notes=(said,), one_file=True)


LAYOUT = Layout(
    "vectors",
    "one file of rows or of state dicts",
    f"a file ending in {', '.join((*SUFFIXES, '.npy'))}",
    recognise,
    find,
    rank=2,
)
