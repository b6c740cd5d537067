"""Networks of others in the layouts of published zoos, in miniature, with the names that these have."""

import collections
import io
import json
import pickle
import sys
import types
import zipfile

import numpy as np
from audited import write_safetensors


def rng(seed=0):
    return np.random.default_rng(seed)


def mlp(seed, widths=(6, 4, 3), name="fc{}", first=1, step=1):
    """The state dict of an MLP."""
    found = {}
    for i, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        layer = name.format(first + step * i)
        found[f"{layer}.weight"] = rng(1000 * seed + i).normal(size=(outputs, inputs)).astype("f4")
        found[f"{layer}.bias"] = rng(1000 * seed + i + 500).normal(size=outputs).astype("f4")
    return found


def flat(state_dict):
    """The tensors of a state dict one after the other."""
    return np.concatenate([tensor.ravel() for tensor in state_dict.values()])


def save(path, state_dict):
    """Writes a safetensors file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, state_dict)


class _Storage:
    """Stands for a storage class of torch, by name."""


def _torch(monkeypatch):
    """A module `torch` that pickles can name."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    kind = type("FloatStorage", (_Storage,), {"__module__": "torch", "__qualname__": "FloatStorage"})

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError("a file is written, not read")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2, torch.FloatStorage, torch._utils = _rebuild_tensor_v2, kind, utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return kind, _rebuild_tensor_v2


def save_torch(path, value, monkeypatch):
    """Writes the zip container of `torch.save`: any objects, in which arrays of float32 are tensors."""
    storage, rebuild = _torch(monkeypatch)
    arrays = []

    class Reference:
        def __init__(self, number):
            self.number = number

    class Pickler(pickle.Pickler):
        def reducer_override(self, found):
            if not isinstance(found, np.ndarray):
                return NotImplemented
            arrays.append(np.ascontiguousarray(found, "<f4"))
            strides = tuple(s // 4 for s in arrays[-1].strides)
            reference = Reference(len(arrays) - 1)
            return rebuild, (reference, 0, found.shape, strides, False, collections.OrderedDict())

        def persistent_id(self, found):
            if isinstance(found, Reference):
                size = arrays[found.number].size
                return ("storage", storage, str(found.number), "cpu", size)
            return None

    content = io.BytesIO()
    Pickler(content, protocol=2).dump(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content.getvalue())
        for number, array in enumerate(arrays):
            archive.writestr(f"archive/data/{number}", array.tobytes())
        archive.writestr("archive/version", "3\n")


def write_json(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
