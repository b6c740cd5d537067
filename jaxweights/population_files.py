"""Populations from files and folders that other programs, or this library, wrote."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from jaxweights import array_files, arrays, state_dicts, store
from jaxweights.errors import UserError
from jaxweights.population import (
    COLUMNS,
    DIVERGED,
    GENERATED,
    HELDOUT,
    HYPER,
    PROPERTY,
    TRAIN,
    Population,
    check_variances,
    check_weights,
    without_symmetries,
)
from jaxweights.spec import WeightSpec

_SHOWN = 5


def load(path: pathlib.Path | str, spec: WeightSpec, setting: str = "") -> Population:
    """A population whose networks are to be evaluated; see `read`.

    Raises:
      UserError: see `read`; or negative variances.
    """
    found, _ = read(path, spec, setting=setting)
    check_variances(found.weights[:], spec, f"The population {path}")
    return found


def read(
    path: pathlib.Path | str, spec: WeightSpec | None, what: str = "The population", setting: str = ""
) -> tuple[Population, bool]:
    """A population from a file or folder.

    Args:
      path: a file that `formats.read` reads, with an array `[N, P]`, a list of N weight vectors or state dicts, or
        arrays by name: `weights` `[N, P]` and, if wanted, columns as in `population.COLUMNS`; with a spec also a tensor
        `[N, ...]` per leaf, under its name ("fc1.weight" or "fc1/weight"), as `torch.func.stack_module_state` makes
        them; or the folder of a stored population.
      spec: what a row means; by default the stored population's own, or a single tensor without symmetries.
      what: name of the networks in messages.
      setting: the setting that names the file, for messages.

    Returns:
      The population, and whether the file says of what split its networks are.

    Raises:
      UserError: nothing there, damaged, wrong shapes, weights that are no finite numbers, an empty population, a column
        with values that its type cannot hold, or an unknown split name.
    """
    place = pathlib.Path(path).expanduser()
    if str(path) and (place / store.INDEX).is_file():
        return _stored(place, what, spec), True
    content, ordered = array_files.rows(path, array_files.Wanted(what, setting))
    named = f"{what} {path}"
    if array_files.WEIGHTS not in content and spec is not None:
        content = _joined(content, spec, named)
    elif ordered and array_files.WEIGHTS not in content:
        tensors = {name: array for name, array in content.items() if not _is_column(name)}
        columns = {name: array for name, array in content.items() if _is_column(name)}
        count = len(next(iter(tensors.values())))
        flat = [array.reshape(count, -1) for array in tensors.values()]
        content = {array_files.WEIGHTS: np.concatenate(flat, axis=1), **columns}
    return _from_columns(content, spec, named), "split" in content


def _from_columns(content: Mapping[str, np.ndarray], spec: WeightSpec | None, what: str) -> Population:
    """A population of arrays by name."""
    if array_files.WEIGHTS not in content:
        names = ", ".join(sorted(content)[:8]) + (", ..." if len(content) > 8 else "")
        raise UserError(
            f"{what} has no array `weights` (it has {names or 'no arrays'}). Write the networks as its rows, "
            "numpy.savez(path, weights=...), or give the spec of their tensors."
        )
    weights = content[array_files.WEIGHTS]
    columns = {name: array for name, array in content.items() if name != array_files.WEIGHTS}
    spec = without_symmetries(weights, what) if spec is None else spec
    check_weights(weights, spec, what)
    weights = arrays.float32(weights, what, arrays.LARGEST_WEIGHT)
    unknown = sorted(name for name in columns if not _is_column(name))
    if unknown:
        raise UserError(f"{what} has unknown columns {unknown}; known: {', '.join(COLUMNS)}, hyper/* and property/*.")
    for name in columns:
        if name.startswith(HYPER):
            arrays.real(columns[name], f"Column {name!r} of {what}")
    try:
        population = Population.create(weights, spec, **columns)
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
    splits = set(np.unique(population.records["split"]).tolist()) - {TRAIN, HELDOUT, DIVERGED, GENERATED}
    if splits:
        raise UserError(f"{what} has unknown splits {sorted(splits)}; use {TRAIN!r} and {HELDOUT!r}.")
    return population


def _is_column(name: str) -> bool:
    return name in COLUMNS or name.startswith((HYPER, PROPERTY))


def _stored(place: pathlib.Path, what: str, spec: WeightSpec | None) -> Population:
    """All networks of a stored population."""
    opened = store.PopulationStore.open(place)
    if not opened.complete:
        raise UserError(f"{what} {place} is unfinished; run the program that makes it to its end.")
    if spec is None:
        return opened.read()
    if opened.spec.num_params != spec.num_params:
        raise UserError(
            f"{what} {place} has {opened.spec.num_params:,} parameters per network, but spec describes "
            f"{spec.num_params:,}."
        )
    theirs, ours = ([leaf.size for leaf in one.leaves] for one in (opened.spec, spec))
    if theirs != ours and len(theirs) > 1:
        raise UserError(
            f"{what} {place} has tensors of {theirs} numbers, but those of this network have {ours}. Give the spec, or "
            "set net and data, as the networks were made."
        )
    found = opened.read()
    return Population(found.weights, spec, found.records)


def _joined(content: Mapping[str, np.ndarray], spec: WeightSpec, what: str) -> dict[str, np.ndarray]:
    """`weights` `[N, P]` of stacked tensors by name, with the columns beside them."""
    columns = {name: array for name, array in content.items() if _is_column(name)}
    tensors = {name.replace("/", "."): array for name, array in content.items() if name not in columns}
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
    return {array_files.WEIGHTS: np.concatenate(parts, axis=1), **columns}
