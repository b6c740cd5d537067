"""What pickles may name, and what becomes of it. Nothing that a file names is imported or called: the functions here
stand in for it, and what is not listed is refused."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxweights.formats import tensors
from jaxweights.formats.contents import Bag

_SHOWN = 3
_LONGEST = 200
_LONGEST_PATH = 1 << 15


@dataclasses.dataclass(frozen=True, eq=False)
class Name:
    """What stands for a name.

    Attributes:
      name: module and name, with a dot between them.
      call: what becomes of a call, from its arguments; None where it may not be called.
      new: what becomes of an object that is made without arguments; None where none can be.
      dtype: the type of numbers that it names.
    """

    name: str
    call: Callable[..., Any] | None = dataclasses.field(default=None, repr=False)
    new: Callable[[], Any] | None = dataclasses.field(default=None, repr=False)
    dtype: np.dtype | None = dataclasses.field(default=None, repr=False)


class NumpyType:
    """A type of NumPy, whose byte order follows after it."""

    def __init__(self, text: Any, *_: Any):
        if not isinstance(text, str) or not re.fullmatch(r"[biufcSU][0-9]{1,9}", text):
            raise ValueError(f"arrays of the type {str(text)[:20]!r} are not read")
        self.dtype = np.dtype(text)

    def build(self, state: Any) -> None:
        """Takes the byte order."""
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise ValueError("arrays of records are not read")
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError("a type of numbers has no byte order")
        self.dtype = self.dtype.newbyteorder(state[1])


def find(module: str, name: str) -> Name | None:
    """What stands for a name; None where it is not allowed."""
    known = _NAMES.get((module, name))
    if known is None and any(module == root or module.startswith(f"{root}.") for root in _BAGS):
        full = f"{module}.{name}"
        return Name(full, new=lambda: Bag(full))
    return known


def unlisted(names: list[str]) -> str:
    """The sentence on names that are not allowed, for `Refused`."""
    shown = ", ".join(repr(name[:_LONGEST])[1:-1] for name in names[:_SHOWN]) + (", ..." if names[_SHOWN:] else "")
    return (
        f"names {shown}, which loading it would run or make; tensors, plain values and a few listed classes are read. "
        "Where it is written, keep tensors alone: torch.save(module.state_dict(), path)."
    )


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> np.ndarray:
    if len(rest) > 2 and rest[2]:
        raise ValueError("a tensor is stored with its sign or conjugate apart")
    return tensors.view(storage, offset, size, stride)


def _typed_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> np.ndarray:
    dtype = rest[2].dtype if len(rest) > 2 and isinstance(rest[2], Name) else None
    if dtype is None or not isinstance(storage, np.ndarray) or storage.ndim != 1 or (len(rest) > 3 and rest[3]):
        raise ValueError("a tensor has no type that is read")
    raw = storage.view(np.uint8)
    if len(raw) % dtype.itemsize:
        raise ValueError("a storage ends within a number")
    return tensors.view(raw.view(dtype), offset, size, stride)


def _first(value: Any, *_: Any) -> Any:
    if not isinstance(value, np.ndarray):
        raise ValueError("a parameter is no tensor")
    return value


def _with_attributes(function: Any, kind: Any, arguments: Any, _: Any) -> Any:
    rebuild = isinstance(function, Name) and function.name.startswith("torch._utils._rebuild")
    if not rebuild or not isinstance(kind, Name) or not kind.name.startswith("torch."):
        raise ValueError("a tensor with attributes is of an unknown kind")
    if not isinstance(arguments, tuple):
        raise ValueError("a call has no arguments")
    return function.call(*arguments) if function.call else None


def _size(sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, (tuple, list)) or not all(type(n) is int for n in sizes):
        raise ValueError("a size is no tuple of whole numbers")
    return tuple(sizes)


def _path(separator: str) -> Callable[..., str]:
    def joined(*parts: Any) -> str:
        if not all(isinstance(part, str) for part in parts) or sum(map(len, parts)) > _LONGEST_PATH:
            raise ValueError("a path is no text, or a very long one")
        root = parts[0] if parts and parts[0].endswith(separator) else ""
        return root + separator.join(parts[1:] if root else parts)

    return joined


def _pairs(pairs: Any = ()) -> dict[Any, Any]:
    if isinstance(pairs, dict):
        return dict(pairs)
    found = {}
    for pair in pairs if isinstance(pairs, (list, tuple)) else [None]:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError("a dictionary is no list of pairs")
        found[key(pair[0])] = pair[1]
    return found


def key(value: Any) -> Any:
    """A value as a key of a dictionary or a member of a set; raises `ValueError` for those that are slow to compare."""
    if _small(value) or (isinstance(value, tuple) and len(value) < 100 and all(map(_small, value))):
        return value
    raise ValueError(f"a key is of the type {type(value).__name__}")


def _small(value: Any) -> bool:
    return isinstance(value, (str, bytes, float, type(None), Name)) or (isinstance(value, int) and abs(value) < 1 << 64)


def _default(factory: Any = None, *rest: Any) -> dict[Any, Any]:
    if factory is not None and not isinstance(factory, Name):
        raise ValueError("a defaultdict has no type of its values")
    return _pairs(*rest)


def _members(kind: type) -> Callable[..., Any]:
    def made(values: Any = ()) -> Any:
        if not isinstance(values, (list, tuple)):
            raise ValueError(f"a {kind.__name__} is made of something else than a list")
        return kind(map(key, values)) if kind in (set, frozenset) else kind(values)

    return made


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes, as Python 3 writes them for Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise ValueError("bytes are given by something else than text")
    return text.encode(encoding)


def _bytes(*given: Any) -> bytes:
    if not given:
        return b""
    return bytes(given[0]) if isinstance(given[0], (bytes, bytearray)) else _encoded(*given)


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise ValueError("a complex number has other parts than two numbers")
    return complex(real, imaginary)


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        raise ValueError("a device has no name")
    return kind if index is None else f"{kind}:{index}"


def _unfilled(*_: Any) -> np.ndarray:
    """An array whose content follows, see `fill`."""
    return np.ndarray.__new__(np.ndarray, (0,), np.int8)


def fill(array: np.ndarray, state: Any) -> None:
    """Gives an array of `_unfilled` its shape, type and content."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("an array has no shape, type and content")
    found = _filled(state[4], state[2], state[1], "F" if state[3] else "C")
    content: Any = (1, found.shape, found.dtype, bool(state[3]), bytes(state[4]))
    array.__setstate__(content)
    array.flags.writeable = False


def _filled(content: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    if not isinstance(dtype, NumpyType) or not isinstance(content, (bytes, bytearray)) or order not in ("C", "F"):
        raise ValueError("an array holds Python objects")
    shape = _size(shape)
    if min(shape, default=0) < 0 or len(shape) > 32:
        raise ValueError(f"an array has the shape {shape}")
    found = np.ndarray(shape, dtype.dtype, bytes(content), order=order)
    if found.nbytes != len(content):
        raise ValueError(f"an array of shape {shape} has {len(content):,} bytes")
    return found


def _scalar(dtype: Any, content: Any) -> Any:
    return _filled(content, dtype, ())[()]


NESTED = Name("torch.storage._load_from_bytes")
"""What PyTorch writes where a tensor is in a plain pickle: a file within it."""
_BAGS = ("checkpoints_to_datasets", "ghrp", "SANE")
_REBUILD = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _typed_tensor,
    "_rebuild_parameter": _first,
    "_rebuild_parameter_with_state": _first,
}
_BUILTINS = {
    "set": _members(set),
    "frozenset": _members(frozenset),
    "list": _members(list),
    "tuple": _members(tuple),
    "dict": _pairs,
    "bytes": _bytes,
    "bytearray": _bytes,
    "complex": _complex,
    "int": None,
    "float": None,
}
_OBJECTS = ("torch.utils.data.dataset.TensorDataset", "argparse.Namespace", "types.SimpleNamespace")


def _table() -> dict[tuple[str, str], Name]:
    found = {("torch.storage", "_load_from_bytes"): NESTED}

    def add(module: str, name: str, call: Any = None, **options: Any) -> None:
        found[module, name] = Name(f"{module}.{name}", call, **options)

    for name, call in _REBUILD.items():
        add("torch._utils", name, call)
    add("torch._tensor", "_rebuild_from_type_v2", _with_attributes)
    add("torch", "Size", _size)
    add("torch", "device", _device)
    add("torch", "Tensor")
    add("torch.nn.parameter", "Parameter")
    for name, dtype in tensors.STORAGES.items():
        add("torch", f"{name}Storage", dtype=tensors.TYPES[dtype])
    add("torch.storage", "UntypedStorage", dtype=np.dtype(np.uint8))
    for name, dtype in tensors.TYPES.items():
        add("torch", name, dtype=dtype)
    add("collections", "OrderedDict", _pairs)
    add("collections", "Counter", _pairs)
    add("collections", "defaultdict", _default)
    add("_codecs", "encode", _encoded)
    for module in ("builtins", "__builtin__"):
        for name, call in _BUILTINS.items():
            add(module, name, call)
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"):
            add(module, name, _path("\\" if "Windows" in name else "/"))
    for root in ("numpy.core", "numpy._core"):
        add(f"{root}.multiarray", "_reconstruct", _unfilled)
        add(f"{root}.multiarray", "scalar", _scalar)
        add(f"{root}.numeric", "_frombuffer", _filled)
    add("numpy", "dtype", NumpyType)
    add("numpy", "ndarray")
    for full in _OBJECTS:
        module, _, name = full.rpartition(".")
        add(module, name, new=lambda full=full: Bag(full))
    return found


_NAMES = _table()
