"""Arrays from files of every kind that `formats` reads: those of populations, and the tensors of one network."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights import formats
from jaxweights.errors import UserError

WEIGHTS = "weights"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a file is read for, in messages.

    Attributes:
      what: name of the content, e.g. "The imported population".
      setting: the setting that names the file; empty where none does.
    """

    what: str
    setting: str = ""

    def read(self, path: pathlib.Path | str) -> Any:
        """What the file holds; raises `UserError`, see `formats.read`."""
        setting = f"Set {self.setting} to" if self.setting else "Give"
        if not str(path):
            raise UserError(f"{self.what} has no file. {setting} the path of one.")
        return formats.read(path, self.what, f"{setting} the path of a file.").value


def tensors(path: pathlib.Path | str, wanted: Wanted) -> dict[str, np.ndarray]:
    """The arrays of a file by name, under the wrappers of checkpoints; a single array is called `weights`.

    Args:
      path: the file; "~" is the home folder.
      wanted: what it is read for.

    Raises:
      UserError: no file, one that is not read, or one without arrays by name.
    """
    value, what = wanted.read(path), f"{wanted.what} {path}"
    if isinstance(value, np.ndarray):
        return {WEIGHTS: value}
    found = formats.flat(formats.unwrapped(value, what), what)
    if not found:
        raise UserError(f"{what} has no arrays.")
    return found


def network(path: pathlib.Path | str, wanted: Wanted) -> dict[str, np.ndarray]:
    """The tensors of one network by name, without prefixes and counters, or its flat vector as `weights`.

    Raises:
      UserError: see `tensors`.
    """
    value, what = wanted.read(path), f"{wanted.what} {path}"
    if isinstance(value, np.ndarray):
        return {WEIGHTS: value}
    if isinstance(value, Mapping) and isinstance(value.get(WEIGHTS), np.ndarray):
        return formats.flat(value, what)
    return formats.state_dict(value, what)[0]


def rows(path: pathlib.Path | str, wanted: Wanted) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays of a file of networks, of all networks each.

    Args:
      path: the file. An array `[N, P]`; a list of N vectors or state dicts; or arrays by name, `weights` `[N, P]` or a
        tensor `[N, ...]` per leaf, and columns.
      wanted: what it is read for.

    Returns:
      The arrays by name, and whether their order is that of the tensors of a network, as it is where the file has state
      dicts.

    Raises:
      UserError: see `tensors`; or networks of several sizes.
    """
    value, what = wanted.read(path), f"{wanted.what} {path}"
    if isinstance(value, np.ndarray):
        return {WEIGHTS: value}, False
    if isinstance(value, (list, tuple)):
        return _stacked(value, what)
    if isinstance(value, Mapping) and isinstance(value.get(WEIGHTS), (list, tuple)):
        found, ordered = _stacked(value[WEIGHTS], what)
        return {**found, **_columns({k: v for k, v in value.items() if k != WEIGHTS})}, ordered
    mapping = formats.unwrapped(value, what)
    found = {**formats.flat(mapping, what), **_columns(mapping)}
    if len(found) == 1:
        ((name, array),) = found.items()
        if array.ndim == 2 and "." not in name and "/" not in name:
            return {WEIGHTS: array}, False
    return found, False


def _stacked(networks: Sequence[Any], what: str) -> tuple[dict[str, np.ndarray], bool]:
    """Vectors or state dicts of networks as one array, or one per tensor."""
    if networks and all(isinstance(network, Mapping) for network in networks):
        dicts = [formats.state_dict(network, f"Network {i} of {what}")[0] for i, network in enumerate(networks)]
        first = {name: array.shape for name, array in dicts[0].items()}
        for i, found in enumerate(dicts):
            shapes = {name: array.shape for name, array in found.items()}
            if shapes != first:
                other = next(n for n in [*first, *shapes] if first.get(n) != shapes.get(n))
                raise UserError(
                    f"{what} has networks of several kinds: {other} has shape {first.get(other, 'of none')} in network "
                    f"0, and {shapes.get(other, 'of none')} in network {i}. Give networks of one architecture."
                )
        return {name: np.stack([found[name] for found in dicts]) for name in first}, True
    if not networks or not all(isinstance(network, np.ndarray) for network in networks):
        kinds = sorted({type(network).__name__ for network in networks})
        raise UserError(
            f"{what} is a list of {', '.join(kinds) or 'nothing'}. Give an array [N, P], or a list of weight vectors "
            "or of state dicts."
        )
    shapes = sorted({network.shape for network in networks})
    if len(shapes) > 1:
        raise UserError(
            f"{what} is a list of vectors of several sizes ({', '.join(map(str, shapes[:3]))}). Give vectors of one "
            "architecture."
        )
    return {WEIGHTS: np.stack(networks)}, False


def _columns(mapping: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """Lists of numbers or texts by name, which are columns of records."""
    plain = (int, float, str)
    return {
        str(name): np.asarray(values)
        for name, values in mapping.items()
        if isinstance(values, list) and values and all(isinstance(value, plain) for value in values)
    }
