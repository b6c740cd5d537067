"""State dicts and data sets as `torch.save` writes them since PyTorch 1.6, without PyTorch.

A zip archive of `data.pkl`, a pickle of protocol 2 in which tensors refer to storages by number, and of the storages.
`torch.load(path, weights_only=True)` reads it, and `load_state_dict` takes it. The state dict has no `_metadata`, as
those of PyTorch before 0.4, so that modules with batch normalisation make the counters that are not there.
"""

from __future__ import annotations

import itertools
import math
import pathlib
import pickle
import pickletools
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights import state_dicts
from jaxweights.exporting.archive import Archive, Member, add
from jaxweights.exporting.networks import raw
from jaxweights.exporting.tensors import FLOAT32
from jaxweights.spec import WeightSpec

SUFFIX = ".pt"
_ROOT = "archive"  # the folder that `torch.save` writes into where it is given no file name
_ALIGNMENT = 64  # bytes, of storages, so that they can be mapped into memory
_ORDERED = pickle.GLOBAL + b"collections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE
_REBUILD = pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n"
_STORAGES = {FLOAT32: b"Float", np.dtype("<i8"): b"Long"}
_DATASET = pickle.GLOBAL + b"torch.utils.data.dataset\nTensorDataset\n" + pickle.EMPTY_TUPLE + pickle.NEWOBJ


def archive(spec: WeightSpec, names: Mapping[str, str] | None = None) -> Archive:
    """The file of a state dict, for the weight vectors of a spec.

    Args:
      spec: what a vector means.
      names: of the tensors, by leaf; those of `state_dicts.torch_names` by default.
    """
    names = state_dicts.torch_names(spec) if names is None else names
    tensors = [(names[leaf.name], leaf.stored_shapes[-1]) for leaf in spec.leaves]
    storages = [Member(f"{_ROOT}/data/{i}", span=span) for i, (_, span) in enumerate(spec.spans())]
    members = [*_heads(structure(tensors)), *storages, _VERSION]
    return Archive(members, _ALIGNMENT)


def save_datasets(path: pathlib.Path, parts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Writes a file of `TensorDataset`s by name.

    Reading it in PyTorch needs `torch.load(path, weights_only=False)`, as for all files of data sets.

    Args:
      path: the file.
      parts: inputs `[n, ...]` float32 and classes `[n]` int64 by name, little-endian and contiguous.
    """
    content, storages = b"", []
    for name, arrays in parts.items():
        tensors = b"".join(_tensor(len(storages) + i, a.shape, a.dtype) for i, a in enumerate(arrays))
        storages += arrays
        state = pickle.EMPTY_DICT + _plain("tensors") + tensors + pickle.TUPLE2 + pickle.SETITEM
        content += _plain(name) + _DATASET + state + pickle.BUILD
    whole = pickle.EMPTY_DICT + pickle.MARK + content + pickle.SETITEMS
    members = [(head.name, head.head) for head in _heads(pickle.PROTO + b"\x02" + whole + pickle.STOP)]
    members += [(f"{_ROOT}/data/{i}", raw(array)) for i, array in enumerate(storages)]
    with open(path, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, inner in [*members, (_VERSION.name, _VERSION.head)]:
            add(archive, file.tell(), name, inner, _ALIGNMENT)


_VERSION = Member(f"{_ROOT}/version", b"3\n")


def _heads(content: bytes) -> list[Member]:
    """The members in front of the storages, for a pickle."""
    heads = {
        "data.pkl": content,
        ".format_version": b"1",
        ".storage_alignment": str(_ALIGNMENT).encode(),
        "byteorder": b"little",
    }
    return [Member(f"{_ROOT}/{name}", head) for name, head in heads.items()]


def structure(tensors: Sequence[tuple[str, tuple[int, ...]]]) -> bytes:
    """The pickle of an ordered dict of float32 tensors, each the whole of the storage of its number.

    Args:
      tensors: names and shapes.
    """
    items = (_plain(name) + _tensor(number, shape) for number, (name, shape) in enumerate(tensors))
    content = _ORDERED + pickle.MARK + b"".join(items) + pickle.SETITEMS
    return pickletools.optimize(pickle.PROTO + b"\x02" + content + pickle.STOP)


def _tensor(number: int, shape: tuple[int, ...], dtype: np.dtype = FLOAT32) -> bytes:
    """The call that makes a contiguous tensor of its storage, with offset 0, no gradient and no hooks."""
    kind = pickle.GLOBAL + b"torch\n" + _STORAGES[dtype] + b"Storage\n"
    size = _plain("storage") + kind + _plain(str(number)) + _plain("cpu") + _plain(math.prod(shape))
    storage = pickle.MARK + size + pickle.TUPLE + pickle.BINPERSID
    view = _plain(0) + _plain(shape) + _plain(_strides(shape))
    return _REBUILD + pickle.MARK + storage + view + pickle.NEWFALSE + _ORDERED + pickle.TUPLE + pickle.REDUCE


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor, in elements."""
    return tuple(itertools.accumulate(reversed(shape[1:]), int.__mul__, initial=1))[::-1] if shape else ()


def _plain(value: Any) -> bytes:
    """The opcodes that push text, a whole number or a tuple of numbers."""
    return pickle.dumps(value, 2)[2:-1]  # between the protocol and the end
