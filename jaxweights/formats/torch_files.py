"""Files of `torch.save`, in the zip container and in the one of PyTorch before 1.6, without PyTorch.

Both hold a pickle whose tensors refer to storages by persistent ids. The old one is five pickles in a row (magic
number, protocol, facts of the machine, the object, the keys of its storages), then for every storage its number of
elements and the elements.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxweights.formats import allowed, archives, pickles, tensors
from jaxweights.formats.contents import Refused, check_tree
from jaxweights.formats.machine import Machine

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PROTOCOL = 1001
_DEEPEST = 3  # files within files
_SHARED = 16  # bytes of tensors per byte of the file, at most: views may overlap
_ALWAYS = 1 << 26


def read_zip(archive: zipfile.ZipFile, size: int, map_: Any = None) -> Any:
    """The object of a zip container.

    Args:
      archive: the container.
      size: bytes of the file.
      map_: a map of it, which storages are views of; None for storages of their own.

    Raises:
      Refused: a program (TorchScript), or a pickle that is not allowed.
      ValueError: it is damaged.
    """
    members = archives.members(archive, size)
    if not any(member.CRC for member in members.values()):
        for member in members.values():
            del member.CRC  # as PyTorch writes files without checksums; without the attribute zipfile compares none
    roots = [name.removesuffix("data.pkl") for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError(f"{len(roots)} of its members are called data.pkl")
    (root,) = roots
    if f"{root}constants.pkl" in members or any(name.startswith(f"{root}code/") for name in members):
        raise Refused(
            "is a TorchScript archive, which is a program. Load it with torch.jit.load where you trust it, and save "
            "its weights: torch.save(module.state_dict(), path)."
        )
    order = archives.content(archive, members[f"{root}byteorder"]) if f"{root}byteorder" in members else b"little"
    if order not in (b"little", b"big"):
        raise ValueError("its byte order is neither little nor big")

    def load(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        member = members.get(f"{root}data/{key}")
        if member is None:
            raise ValueError(f"the storage {key[:40]!r} is missing")
        if member.file_size != count * dtype.itemsize:
            raise ValueError(f"the storage {key[:40]!r} has {member.file_size:,} bytes instead of {count:,} numbers")
        return tensors.from_bytes(archives.array(archive, member, map_), dtype, order == b"big")

    data = archives.content(archive, members[f"{root}data.pkl"])
    return _made(data, 0, pickles.scan(data), _Storages(load, size))


def read_old(data: Any, depth: int = 0, copy: bool = True) -> Any:
    """The object of a container of PyTorch before 1.6.

    Args:
      data: bytes, or a map of a file.
      depth: number of files that it is in.
      copy: whether storages are of their own, or views of the data.

    Raises:
      Refused, ValueError: see `read_zip`.
    """
    ends = [0]
    for _ in range(5):
        ends.append(pickles.scan(data, ends[-1]))
    protocol, machine, keys = (_plain(data, *ends[i : i + 2]) for i in (1, 2, 4))
    if protocol != _PROTOCOL or not isinstance(machine, dict) or not isinstance(machine.get("little_endian"), bool):
        raise ValueError("it is of an unknown version")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("it has no list of storages")
    sizes: dict[str, tuple[np.dtype, int]] = {}
    left = len(data)

    def note(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        nonlocal left
        sizes[key], left = (dtype, count), left - count * dtype.itemsize
        if left < 0:
            raise ValueError(f"the storage {key[:40]!r} is said to have {count:,} numbers")
        return np.empty(count, dtype) if copy else np.ndarray((count,), dtype, data)

    # Where the elements are depends on the types that the object names, so it is made twice.
    _made(data, ends[3], ends[4], _Storages(note, len(data), depth))
    places, at = {}, ends[5]
    order = "little" if machine["little_endian"] else "big"
    for key in keys:
        if key not in sizes:
            raise ValueError(f"no tensor has the storage {key[:40]!r}")
        dtype, count = sizes[key]
        if int.from_bytes(data[at : at + 8], order, signed=True) != count:
            raise ValueError(f"the storage {key[:40]!r} has another size than its tensors say")
        places[key], at = at + 8, at + 8 + count * dtype.itemsize
    if at != len(data):
        raise ValueError(f"it has {len(data):,} bytes instead of {at:,}")

    def load(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        if key not in places:
            raise ValueError(f"the storage {key[:40]!r} is missing")
        raw = np.frombuffer(data, np.uint8, count * dtype.itemsize, places[key])
        return tensors.from_bytes(raw.copy() if copy else raw, dtype, order == "big")

    return _made(data, ends[3], ends[4], _Storages(load, len(data), depth))


def read_pickle(data: Any) -> Any:
    """The object of a pickle, whose tensors are files within it.

    Raises:
      Refused, ValueError: see `read_zip`.
    """
    end = pickles.scan(data)
    if end != len(data):
        raise ValueError(f"{len(data) - end:,} bytes follow after its end")
    return _made(data, 0, end, _Storages(_none, len(data)))


class _Storages:
    """The storages of a file by key.

    Args:
      load: reads one, from its key, type and number of elements.
      size: bytes of the file.
      depth: number of files that it is in.
    """

    def __init__(self, load: Callable[[str, np.dtype, int], np.ndarray], size: int, depth: int = 0):
        self._load, self.size, self.depth = load, size, depth
        self._found: dict[str, tuple[str, np.ndarray]] = {}

    def find(self, given: Any) -> np.ndarray:
        """The storage `[n]` of a persistent id."""
        if not isinstance(given, tuple) or not given or given[0] not in ("storage", "module"):
            raise Refused("refers to something outside of it that is no storage of a tensor, which is not read.")
        if given[0] == "module":
            raise Refused(
                "holds a whole module with its source text. Load it with PyTorch where you trust it, and save its "
                "weights: torch.save(module.state_dict(), path)."
            )
        _, kind, key, _, count, *view = (*given, None) if len(given) == 5 else given if len(given) == 6 else [None] * 6
        if not isinstance(kind, allowed.Name) or kind.dtype is None:
            raise ValueError("a storage has no type that is read")
        if not isinstance(key, str) or type(count) is not int or not 0 <= count < 1 << 62:
            raise ValueError("a storage has no key or size")
        if key not in self._found:
            self._found[key] = kind.name, self._load(key, kind.dtype, count)
        name, storage = self._found[key]
        if name != kind.name or len(storage) != count:
            raise ValueError(f"the storage {key[:40]!r} has two types or sizes")
        return storage if view == [None] else _part(storage, view[0])


def _part(storage: np.ndarray, view: Any) -> np.ndarray:
    """A storage that is a part of another one, as PyTorch before 0.4 has it."""
    if not isinstance(view, tuple) or len(view) != 3 or not all(type(n) is int and n >= 0 for n in view[1:]):
        raise ValueError("a part of a storage has no place")
    first, count = view[1:]
    if first + count > len(storage):
        raise ValueError("a part of a storage reaches beyond it")
    return storage[first : first + count]


def _made(data: Any, start: int, end: int, storages: _Storages) -> Any:
    """The object of a pickle that has been scanned."""

    def nested(arguments: tuple[Any, ...]) -> Any:
        content = arguments[0] if len(arguments) == 1 else None
        if storages.depth >= _DEEPEST or not isinstance(content, bytes) or not content.startswith(MAGIC):
            raise ValueError("a file within it is nested too deeply, or of an unknown kind")
        return read_old(content, storages.depth + 1)

    value = Machine(storages.find, nested).load(data, start, end)
    check_tree(value, _SHARED * storages.size + _ALWAYS)
    return value


def _plain(data: Any, start: int, end: int) -> Any:
    """The object of a pickle without tensors."""
    return _made(data, start, end, _Storages(_none, 0, _DEEPEST))


def _none(key: str, dtype: np.dtype, count: int) -> np.ndarray:
    raise ValueError("it has a tensor where none is expected")
