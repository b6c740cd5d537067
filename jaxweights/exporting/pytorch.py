"""State dicts as `torch.save` writes them since PyTorch 1.6, without PyTorch.

A zip archive of `data.pkl`, a pickle of protocol 2 in which tensors refer to storages by number, and of the storages.
`torch.load(path, weights_only=True)` reads it, and `load_state_dict` takes it. The state dict has no `_metadata`, as
those of PyTorch before 0.4, so that modules with batch normalisation make the counters that are not there.
"""

from __future__ import annotations

import itertools
import math
import pickle
import pickletools
from collections.abc import Mapping, Sequence
from typing import Any

from jaxweights import state_dicts
from jaxweights.exporting.archive import Archive, Member
from jaxweights.spec import WeightSpec

SUFFIX = ".pt"
_ROOT = "archive"  # the folder that `torch.save` writes into where it is given no file name
_ALIGNMENT = 64  # bytes, of storages, so that they can be mapped into memory
_ORDERED = pickle.GLOBAL + b"collections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE
_REBUILD = pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n"
_STORAGE = pickle.GLOBAL + b"torch\nFloatStorage\n"


def archive(spec: WeightSpec, names: Mapping[str, str] | None = None) -> Archive:
    """The file of a state dict, for the weight vectors of a spec.

    Args:
      spec: what a vector means.
      names: of the tensors, by leaf; those of `state_dicts.torch_names` by default.
    """
    names = state_dicts.torch_names(spec) if names is None else names
    tensors = [(names[leaf.name], leaf.stored_shapes[-1]) for leaf in spec.leaves]
    members = [
        Member("data.pkl", structure(tensors)),
        Member(".format_version", b"1"),
        Member(".storage_alignment", str(_ALIGNMENT).encode()),
        Member("byteorder", b"little"),
        *(Member(f"data/{i}", span=span) for i, (_, span) in enumerate(spec.spans())),
        Member("version", b"3\n"),
    ]
    return Archive([Member(f"{_ROOT}/{m.name}", m.head, m.span) for m in members], _ALIGNMENT)


def structure(tensors: Sequence[tuple[str, tuple[int, ...]]]) -> bytes:
    """The pickle of an ordered dict of float32 tensors, each the whole of the storage of its number.

    Args:
      tensors: names and shapes.
    """
    items = (_plain(name) + _tensor(number, shape) for number, (name, shape) in enumerate(tensors))
    content = _ORDERED + pickle.MARK + b"".join(items) + pickle.SETITEMS
    return pickletools.optimize(pickle.PROTO + b"\x02" + content + pickle.STOP)


def _tensor(number: int, shape: tuple[int, ...]) -> bytes:
    """The call that makes a contiguous tensor of its storage, with offset 0, no gradient and no hooks."""
    size = _plain("storage") + _STORAGE + _plain(str(number)) + _plain("cpu") + _plain(math.prod(shape))
    storage = pickle.MARK + size + pickle.TUPLE + pickle.BINPERSID
    view = _plain(0) + _plain(shape) + _plain(_strides(shape))
    return _REBUILD + pickle.MARK + storage + view + pickle.NEWFALSE + _ORDERED + pickle.TUPLE + pickle.REDUCE


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor, in elements."""
    return tuple(itertools.accumulate(reversed(shape[1:]), int.__mul__, initial=1))[::-1] if shape else ()


def _plain(value: Any) -> bytes:
    """The opcodes that push text, a whole number or a tuple of numbers."""
    return pickle.dumps(value, 2)[2:-1]  # between the protocol and the end
