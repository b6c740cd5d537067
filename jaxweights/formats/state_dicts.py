"""The tensors of one network, from whatever a checkpoint wraps them in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from jaxweights import arrays
from jaxweights.errors import UserError
from jaxweights.formats.contents import Bag

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "G_ema", "ema", "params")
"""Keys under which checkpoints have a state dict, in the order in which they are looked for."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What `DataParallel`, `torch.compile` and modules around a module put before all names."""
_COMPILED = "_orig_mod"
_COUNTER = "num_batches_tracked"
_SHOWN = 3


@dataclasses.dataclass
class Notes:
    """What was done to a state dict.

    Attributes:
      wrappers: keys under which it was.
      prefixes: what was taken from all names.
      dropped: names of counters, which no output depends on.
      others: names of values that are no tensors.
      integers: tensors of whole numbers or truth values by name, which are no weights.
      aliases: names of tensors that are others', by the name that was kept.
      dtypes: types of the file by name, where they were not float32.
    """

    wrappers: list[str] = dataclasses.field(default_factory=list)
    prefixes: list[str] = dataclasses.field(default_factory=list)
    dropped: list[str] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)
    integers: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    aliases: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    dtypes: dict[str, str] = dataclasses.field(default_factory=dict)

    def lines(self) -> list[str]:
        """One sentence part for everything that was done."""
        found = []
        if self.wrappers:
            found.append(f"the tensors are under {' / '.join(map(repr, self.wrappers))}")
        if self.prefixes:
            found.append(f"names lose {' and '.join(map(repr, self.prefixes))}")
        for what, names in (
            ("counters of batches are left out", self.dropped),
            ("no tensors", self.others),
            ("whole numbers are no weights", list(self.integers)),
        ):
            if names:
                found.append(f"{what}: {_shown(names)}")
        found += [f"{_shown(names)} shares the numbers of {kept}" for kept, names in self.aliases.items()]
        for dtype in sorted(set(self.dtypes.values())):
            names = [name for name, given in self.dtypes.items() if given == dtype]
            found.append(f"{dtype} became float32: {_shown(names)}")
        return found


def state_dict(value: Any, what: str) -> tuple[dict[str, np.ndarray], Notes]:
    """The tensors of a network by name, as float32, from what `read` returns.

    Wrappers are opened, prefixes that all names have are taken off, and nested mappings get names with dots.

    Args:
      value: a state dict, or mappings around one.
      what: its name in messages.

    Returns:
      Tensors in the order of the file, read-only where they are the file's own, and what was done.

    Raises:
      UserError: no tensors, or two of one name.
    """
    notes = Notes()
    found = flat(unwrapped(value, what, notes), what, notes)
    names = _names(found, what, notes)
    tensors: dict[str, np.ndarray] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, array in zip(names, found.values(), strict=True):
        if name.rpartition(".")[2] == _COUNTER:
            notes.dropped.append(name)
        elif not _floating(array.dtype):
            notes.integers[name] = array
        else:
            place = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype)
            kept = seen.setdefault(place, name) if array.size else name
            if kept != name:
                notes.aliases.setdefault(kept, []).append(name)
                continue
            if array.dtype != np.float32:
                notes.dtypes[name] = array.dtype.name
            tensors[name] = np.ascontiguousarray(arrays.narrow(array, f"Tensor {name!r} of {what}"))
    if not tensors:
        raise UserError(f"{what} has no tensors of real numbers. Give the state dict of a network.")
    return tensors, notes


def unwrapped(value: Any, what: str, notes: Notes | None = None) -> Mapping[Any, Any]:
    """The mapping of a checkpoint that has the tensors of its network.

    Raises:
      UserError: there is none.
    """
    notes = Notes() if notes is None else notes
    while True:
        if isinstance(value, Bag):
            value = value.attributes
        if not isinstance(value, Mapping):
            raise UserError(
                f"{what} is {_kind(value)}, not tensors by name. Give the state dict of a network, e.g. of "
                "torch.save(module.state_dict(), path)."
            )
        inside = [key for key in WRAPPERS if isinstance(value.get(key), (Mapping, Bag))]
        if not inside or any(_is_parameter(key, inner) for key, inner in value.items()):
            return value
        notes.wrappers.append(inside[0])
        value = value[inside[0]]


def _is_parameter(name: Any, value: Any) -> bool:
    """Whether it is a tensor of a network, not a number of steps or a random state beside one."""
    return isinstance(value, np.ndarray) and isinstance(name, str) and "." in name


def flat(tree: Mapping[Any, Any], what: str, notes: Notes | None = None) -> dict[str, np.ndarray]:
    """Arrays by name, with a dot between the names of mappings within each other; other values are left out.

    Raises:
      UserError: two arrays of one name.
    """
    notes = Notes() if notes is None else notes
    found: dict[str, np.ndarray] = {}

    def walk(prefix: str, inner: Any) -> None:
        if isinstance(inner, np.ndarray):
            if prefix in found:
                raise UserError(f"{what} has two tensors that are called {prefix!r}.")
            found[prefix] = inner
        elif isinstance(inner, Mapping) and inner:
            for key, value in inner.items():
                walk(f"{prefix}.{key}" if prefix else str(key), value)
        else:
            notes.others.append(prefix)

    walk("", tree)
    return found


def _names(found: Mapping[str, np.ndarray], what: str, notes: Notes) -> list[str]:
    """The names of arrays without what wraps their module."""
    names = list(found)
    while names:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) and name != p for name in names)), None)
        if prefix is None:
            break
        notes.prefixes.append(prefix)
        names = [name.removeprefix(prefix) for name in names]
    inner = [".".join(part for part in name.split(".") if part != _COMPILED) for name in names]
    if inner != names:
        notes.prefixes.append(f"{_COMPILED}.")
    if len(set(inner)) < len(inner):
        twice = next(name for name in inner if inner.count(name) > 1)
        raise UserError(f"{what} has two tensors that are called {twice!r} without their wrappers.")
    return inner


def _floating(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return f"a {type(value).__name__}"


def _shown(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else "")
