"""Tensors from safetensors files, read without the package of that name; the layout is checked before the data."""

from __future__ import annotations

import json
import math
from typing import IO, Any

import ml_dtypes
import numpy as np

_LENGTH = 8  # bytes of the header's length, little-endian
_LARGEST_HEADER = 100_000_000  # bytes, as the format has it
METADATA = "__metadata__"
TYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}


def fits(head: bytes) -> bool:
    """Whether a file with these first bytes looks like a safetensors file."""
    return head[_LENGTH : _LENGTH + 1] == b"{" and int.from_bytes(head[:_LENGTH], "little") < 1 << 32


def read(file: IO[bytes], size: int, data: Any = None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a safetensors file by name, in the order of the file, and its texts by name.

    Args:
      file: the file, which `fits`.
      size: its bytes.
      data: a map of it, which the tensors are read-only views of; None for tensors of their own.

    Raises:
      ValueError: a type that NumPy does not have, or a header that does not describe the data: holes, overlaps, names
        that stand twice, sizes that do not fit.
    """
    entries, texts, start = _header(file, size)
    _check_layout(entries, size - start)
    return {name: _tensor(file, start, entry, data) for name, entry in entries.items()}, texts


def _header(file: IO[bytes], size: int) -> tuple[dict[str, dict[str, Any]], dict[str, str], int]:
    """The entries of the header by name, its texts, and where the data begin."""
    length = int.from_bytes(file.read(_LENGTH), "little")
    if length > _LARGEST_HEADER:
        raise ValueError(f"its header is said to have {length:,} bytes")
    if length > size - _LENGTH:
        raise ValueError("it ends within its header")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    texts = header.pop(METADATA, {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"its {METADATA} is no text by name")
    return header, texts, _LENGTH + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in its header")
    return found


def _check_layout(entries: dict[str, dict[str, Any]], size: int) -> None:
    """Raises `ValueError` unless the tensors fill the data one after the other."""
    spans = []
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
            raise ValueError(f"the entry of {name!r} lacks dtype, shape or data_offsets")
        if entry["dtype"] not in TYPES:
            raise ValueError(f"{name!r} has the type {entry['dtype']!r}; there are {', '.join(TYPES)}")
        numbers = [entry["shape"], entry["data_offsets"]]
        if not all(isinstance(x, list) and all(type(n) is int and n >= 0 for n in x) for x in numbers):
            raise ValueError(f"the shape or the offsets of {name!r} are no lists of whole numbers from 0")
        if len(entry["data_offsets"]) != 2:
            raise ValueError(f"{name!r} has {len(entry['data_offsets'])} offsets instead of 2")
        first, last = entry["data_offsets"]
        if last - first != math.prod(entry["shape"]) * TYPES[entry["dtype"]].itemsize:
            raise ValueError(f"{name!r} has {last - first} bytes, which do not fit its shape {entry['shape']}")
        spans.append((first, last))
    place = 0
    for first, last in sorted(spans):
        if first != place:
            raise ValueError(
                f"its tensors {'overlap' if first < place else 'leave a hole'} at byte {min(first, place)}"
            )
        place = last
    if place != size:
        raise ValueError(f"its tensors have {place:,} bytes, its data {size:,}")


def _tensor(file: IO[bytes], start: int, entry: dict[str, Any], data: Any) -> np.ndarray:
    first, last = entry["data_offsets"]
    dtype = TYPES[entry["dtype"]]
    dtype = dtype.newbyteorder("<") if dtype.kind in "iuf" else dtype
    if data is not None:
        return np.ndarray(tuple(entry["shape"]), dtype, data, start + first)
    file.seek(start + first)
    return np.frombuffer(file.read(last - first), dtype).reshape(entry["shape"])
