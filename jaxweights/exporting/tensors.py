"""Headers of safetensors and `.npy` files, which the data follow as they are in memory."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxweights import state_dicts
from jaxweights.exporting.archive import Archive, Member
from jaxweights.formats import safetensors
from jaxweights.spec import WeightSpec

FLOAT32 = np.dtype("<f4")
_NAMES = {dtype: name for name, dtype in safetensors.TYPES.items()}


class Layout(NamedTuple):
    """Type and shape of an array."""

    dtype: np.dtype
    shape: tuple[int, ...]


def safetensors_header(arrays: Mapping[str, Layout], metadata: Mapping[str, str]) -> bytes:
    """What a safetensors file begins with; the arrays follow one after the other, little-endian, rows first.

    Args:
      arrays: by name.
      metadata: texts by name.
    """
    header: dict[str, object] = {safetensors.METADATA: dict(metadata)}
    place = 0
    for name, array in arrays.items():
        end = place + math.prod(array.shape) * array.dtype.itemsize
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data are aligned
    return len(text).to_bytes(8, "little") + text


def npy_header(array: Layout) -> bytes:
    """What a `.npy` file begins with."""
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(array.dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": array.shape})
    return file.getvalue()


def layouts(spec: WeightSpec) -> dict[str, Layout]:
    """The tensors of a state dict by PyTorch's names, in the order of the flat vector."""
    names = state_dicts.torch_names(spec)
    return {names[leaf.name]: Layout(FLOAT32, leaf.stored_shapes[-1]) for leaf in spec.leaves}


def npz(spec: WeightSpec) -> Archive:
    """The `.npz` file of a state dict, for the weight vectors of a spec."""
    found = zip(layouts(spec).items(), spec.spans(), strict=True)
    return Archive([Member(f"{name}.npy", npy_header(array), span) for (name, array), (_, span) in found])
