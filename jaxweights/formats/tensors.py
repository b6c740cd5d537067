"""Types of stored tensors, and views of storages that stay within them."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
TYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": BFLOAT16,
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "bool": np.dtype(np.bool_),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
}
"""NumPy's types by PyTorch's names."""
STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}
"""PyTorch's types by the beginnings of its storages' names."""
_AXES = 32


def from_bytes(raw: np.ndarray, dtype: np.dtype, big_endian: bool = False) -> np.ndarray:
    """Bytes `[n]` as read-only values `[n / itemsize]` of a type, without a copy where they are little-endian."""
    if big_endian and dtype.itemsize > 1:
        size = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
        raw = raw.view(f"u{size}").byteswap()
    values = raw.view(dtype)
    if dtype.kind == "b" and (raw > 1).any():
        raise ValueError("a truth value is neither 0 nor 1")
    values.flags.writeable = False
    return values


def view(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """The tensor of a storage `[n]` with these sizes and strides, counted in elements.

    Raises:
      ValueError: they are no such numbers, or reach beyond the storage.
    """
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise ValueError("a tensor has no storage")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride) or len(size) > _AXES:
        raise ValueError("sizes and strides of a tensor are no tuples of one length")
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in (offset, *size, *stride)):
        raise ValueError("sizes, strides or the offset of a tensor are no whole numbers from 0")
    count = math.prod(size)
    if max(size, default=0) >= 1 << 40:
        raise ValueError(f"a tensor has the shape {size}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
    if last >= max(len(storage), 1):
        raise ValueError(f"a tensor of shape {size} reaches element {last:,} of a storage of {len(storage):,}")
    item = storage.itemsize
    return np.ndarray(size, storage.dtype, storage, offset * item if count else 0, [n * item for n in stride])
