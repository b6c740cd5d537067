"""What an audit reads from files: networks, what their vectors mean, and their predictions."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxweights import array_files, files, formats, population, state_dicts, store
from jaxweights.errors import UserError
from jaxweights.formats import safetensors
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
    """Networks from a file or folder.

    Args:
      path: an `.npz` or safetensors file with `weights` `[N, P]` and, if wanted, columns as in `population.COLUMNS`;
        with a spec also one with a tensor `[N, ...]` per leaf, under its name ("fc1.weight" or "fc1/weight"), as
        `torch.func.stack_module_state` makes them; or the folder of a stored population.
      what: name of the networks in messages.
      spec: what a row means; of a stored population by default its own.
      split: the split that is wanted where the file has a column `split`; diverged networks are always left out.
      setting: the flag that names the file, for messages.

    Raises:
      UserError: nothing there, another kind of file, damaged, or without such networks.
    """
    place = pathlib.Path(path).expanduser()
    if place.is_dir():
        found, given = _stored(place, what, spec), True
    else:
        content = _arrays(place, array_files.Wanted(what, setting))
        given = "split" in content
        if "weights" not in content and spec is not None:
            content = _joined(content, spec, f"{what} {place}")
        found = population.from_columns(content, spec, place)
    if not given:
        return found
    splits = found.records["split"]
    kept = splits == split if split else splits != population.DIVERGED
    if not kept.any():
        there = ", ".join(sorted(set(splits.tolist())))
        raise UserError(f"{what} {place} has no network of the split {split or TRAIN!r}: all are {there}.")
    return found.select(kept)


def _stored(place: pathlib.Path, what: str, spec: WeightSpec | None) -> Population:
    """All networks of a stored population."""
    if not (place / store.INDEX).exists():
        inside = sorted(str(index.parent) for index in place.glob(f"*/{store.INDEX}"))
        samples = sorted(str(index.parent) for index in place.glob(f"samples/*/{store.INDEX}"))
        there = ", ".join((inside + samples)[:_SHOWN])
        hint = f"a stored population in it ({there})" if there else "an .npz or safetensors file, or a population"
        raise UserError(f"{what} {place} is a folder without a population; give {hint}.")
    opened = store.PopulationStore.open(place)
    if not opened.complete:
        raise UserError(f"{what} {place} is unfinished; run the program that makes it to its end.")
    found = opened.read()
    if spec is not None and spec.num_params != found.spec.num_params:
        raise UserError(
            f"{what} {place} has {found.spec.num_params:,} parameters per network, but spec describes "
            f"{spec.num_params:,}."
        )
    return found if spec is None else Population(found.weights, spec, found.records)


def _arrays(path: pathlib.Path, wanted: array_files.Wanted) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` or safetensors file by name."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        head = b""  # a sentence on it follows
    if safetensors.fits(head):
        return formats.read(path, wanted.what).value
    return array_files.read(path, wanted)


def _joined(content: Mapping[str, np.ndarray], spec: WeightSpec, what: str) -> dict[str, np.ndarray]:
    """`weights` `[N, P]` of stacked tensors by name, with the columns beside them."""
    columns = {n: a for n, a in content.items() if n in population.COLUMNS or n.startswith(population.HYPER)}
    tensors = {n.replace("/", "."): a for n, a in content.items() if n not in columns}
    tensors = state_dicts.without_counters(tensors)
    theirs = state_dicts.names(what, tensors, spec, "Give `weights`, or the tensors of spec stacked over networks.")
    count, parts = len(np.atleast_1d(tensors[theirs[spec.leaves[0].name]])), []
    for leaf in spec.leaves:
        name = theirs[leaf.name]
        tensor = tensors[name]
        if tensor.ndim < 1 or tensor.shape[1:] not in leaf.stored_shapes or len(tensor) != count:
            raise UserError(
                f"{what}: {name} has shape {tensor.shape}; give {(count, *leaf.stored_axes)}, the tensors of all "
                "networks stacked along a first axis."
            )
        parts.append(tensor.reshape(count, -1))
    return {"weights": np.concatenate(parts, axis=1), **columns}


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
    """Predictions by series, and `labels`, from an `.npz` or safetensors file.

    Raises:
      UserError: no such file, another kind, or a damaged one.
    """
    return _arrays(pathlib.Path(path).expanduser(), array_files.Wanted("predictions", setting, "tensors"))
