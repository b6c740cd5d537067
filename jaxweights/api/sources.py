"""What an audit reads from files: networks, what their vectors mean, and their predictions."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from jaxweights import array_files, files, population, population_files, store
from jaxweights.errors import UserError
from jaxweights.population import TRAIN, Population
from jaxweights.spec import WeightSpec

_SPEC_SHAPE = {
    "leaves": [{"name": str, "shape": [int], "axes": [int], "groups": [int], "roles": [int], "order": [int]}],
    "groups": [{"size": int}],
}
_SHOWN = 5


def is_path(value: Any) -> bool:
    """Whether an argument names a file or folder."""
    return isinstance(value, (str, os.PathLike))


def networks(path: Any, what: str, spec: WeightSpec | None, split: str = "", setting: str = "") -> Population:
    """Networks from a file or folder, see `population_files.read`.

    Args:
      path: the file or folder.
      what: name of the networks in messages.
      spec: what a row means; of a stored population by default its own.
      split: the split that is wanted where the file has a column `split`; diverged networks are always left out.
      setting: the flag that names the file, for messages.

    Raises:
      UserError: nothing there, damaged, or without such networks.
    """
    place = pathlib.Path(path).expanduser()
    if place.is_dir() and not (place / store.INDEX).exists():
        _refuse_folder(place, what)
    found, given = population_files.read(place, spec, what, setting)
    if not given:
        return found
    splits = found.records["split"]
    kept = splits == split if split else splits != population.DIVERGED
    if not kept.any():
        there = ", ".join(sorted(set(splits.tolist())))
        raise UserError(f"{what} {place} has no network of the split {split or TRAIN!r}: all are {there}.")
    return found.select(kept)


def _refuse_folder(place: pathlib.Path, what: str) -> None:
    """Raises `UserError` for a folder that holds stored populations, but is none."""
    inside = sorted(str(index.parent) for index in place.glob(f"*/{store.INDEX}"))
    samples = sorted(str(index.parent) for index in place.glob(f"samples/*/{store.INDEX}"))
    there = ", ".join((inside + samples)[:_SHOWN])
    if there:
        raise UserError(f"{what} {place} is a folder without a population; give a stored population in it ({there}).")


def spec(path: Any) -> WeightSpec:
    """What vectors mean, from a JSON file of `WeightSpec.to_json`.

    Raises:
      UserError: no such file, or one of something else.
    """
    cure = "Write it with json.dump(spec.to_json(), file), e.g. of zoo.spec."
    what = "spec of weights"
    data = files.read_json(pathlib.Path(path).expanduser(), what, cure, _SPEC_SHAPE)
    try:
        found = WeightSpec.from_json(data)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a {what}: {error} {cure}") from error
    if not found.leaves or min(min(leaf.shape, default=1) for leaf in found.leaves) < 1:
        raise UserError(f"{path} is not a {what}: it has no leaves, or leaves of size 0. {cure}")
    return found


def predictions(path: Any, setting: str = "") -> dict[str, np.ndarray]:
    """Predictions by series, and `labels`, from a file of arrays by name.

    Raises:
      UserError: no such file, or one that is not read.
    """
    return array_files.tensors(path, array_files.Wanted("predictions", setting))
