"""Files of `flax.serialization.to_bytes`: msgpack whose extensions are arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxweights.formats import tensors
from jaxweights.formats.contents import check_tree

_MAPS = (*range(0x81, 0x90), 0xDE, 0xDF)  # first bytes of mappings
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3  # extensions
_CHUNKED = "__msgpack_chunked_array__"


def fits(head: bytes) -> bool:
    """Whether a file with these first bytes may be a mapping in msgpack: the first key is a text."""
    keys = {0x81 <= head[0] <= 0x8F: 1, head[0] == 0xDE: 3, head[0] == 0xDF: 5} if head else {}
    place = keys.get(True, 0)
    return bool(place) and len(head) > place and (0xA0 <= head[place] <= 0xBF or head[place] in (0xD9, 0xDA))


def read(data: Any) -> Any:
    """The object of msgpack data: bytes, or a map of a file; raises `ValueError` where they are damaged."""
    import msgpack

    try:
        value = msgpack.unpackb(data, ext_hook=_extension, raw=False, strict_map_key=True)
    except (msgpack.UnpackException, RecursionError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    check_tree(value, len(data))
    return _joined(value)


def _extension(code: int, data: bytes) -> Any:
    import msgpack

    if code not in (_ARRAY, _COMPLEX, _SCALAR):
        raise ValueError(f"it has an extension {code} that Flax does not write")
    parts = msgpack.unpackb(data, raw=True)
    if code == _COMPLEX:
        return _complex(parts)
    if not isinstance(parts, list) or len(parts) != 3 or not isinstance(parts[2], bytes):
        raise ValueError("an array has no shape, type and content")
    shape, name, content = parts
    dtype = tensors.TYPES.get(name.decode("latin-1")) if isinstance(name, bytes) else None
    if dtype is None:
        raise ValueError(f"an array has the type {str(name)[:20]}; there are {', '.join(tensors.TYPES)}")
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
        raise ValueError("the shape of an array is no list of whole numbers from 0")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"an array of shape {shape} and type {dtype} has {len(content):,} bytes")
    array = np.frombuffer(content, dtype).reshape(shape)
    return array[()] if code == _SCALAR else array


def _complex(parts: Any) -> complex:
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, float) for part in parts):
        raise ValueError("a complex number has other parts than two numbers")
    return complex(*parts)


def _joined(value: Any) -> Any:
    """A tree whose large arrays, which are stored in pieces, are whole."""
    if isinstance(value, list):
        return [_joined(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if _CHUNKED not in value:
        return {key: _joined(inner) for key, inner in value.items()}
    shape, chunks = _numbered(value.get("shape")), _numbered(value.get("chunks"))
    if not all(isinstance(chunk, np.ndarray) and chunk.ndim == 1 for chunk in chunks) or not chunks:
        raise ValueError("the pieces of an array are no arrays")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("the shape of an array in pieces is no list of whole numbers from 0")
    return np.concatenate(chunks).reshape(shape)


def _numbered(items: Any) -> list[Any]:
    """A list that is stored by numbers."""
    if not isinstance(items, dict) or list(items) != [str(i) for i in range(len(items))]:
        raise ValueError("an array in pieces has no shape or no pieces")
    return list(items.values())
