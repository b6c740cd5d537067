"""A network's weights from a file: a flat vector, or the tensors of a published state dict by name."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping

import jax
import numpy as np

from jaxweights import array_files, arrays, nets, state_dicts
from jaxweights.data import Dataset
from jaxweights.errors import UserError
from jaxweights.population import check_variances
from jaxweights.spec import Leaf, WeightSpec

_SETTING = "zoo.base.import_npz"
_OTHER = (
    "Set net as the file was made, and give the state dict of such a network under PyTorch's names, or its flat vector "
    "as `weights`."
)


def read_weights(path: pathlib.Path | str, net: nets.TaskNet, seed: int) -> np.ndarray:
    """Reads a network from a file of any kind that `formats` reads.

    Args:
      path: the file. Either an array `[P]` or `[1, P]` in flat order, possibly called `weights`, or one per tensor of
        PyTorch's state dict under its name, possibly behind a prefix that all share ("model.") and under wrappers of
        checkpoints ("state_dict"). Counters of batches are ignored.
      net: the network. If its last layer has another number of classes, that one is initialised.
      seed: random seed of that initialisation.

    Returns:
      `[P]` float32.

    Raises:
      UserError: no such file, one of another kind or damaged; tensors that the network lacks, does not have, or has in
        another shape; values that are no finite numbers; or a negative running variance.
    """
    tensors = array_files.network(path, array_files.Wanted("The base network", _SETTING))
    if "weights" in tensors:
        vector = _vector(path, tensors, net)
    else:
        vector = _from_state_dict(path, tensors, net, seed)
    check_variances(vector[None], net.spec, f"The base network {path}")
    return vector


def scaling(dataset: Dataset) -> str:
    """How the inputs of networks are scaled, for those that come from elsewhere."""
    if (dataset.scale == 1).all() and (dataset.shift == 0).all():
        return f"those of {dataset.name}, as they are"
    mean, std = -dataset.shift / dataset.scale, 1 / dataset.scale
    return f"those of {dataset.name}, less {_listed(mean)}, divided by {_listed(std)}"


def _listed(values: np.ndarray) -> str:
    shown = [f"{x:.4g}" for x in values]
    return shown[0] if len(set(shown)) == 1 else f"({', '.join(shown)})"


def _vector(path: pathlib.Path | str, content: Mapping[str, np.ndarray], net: nets.TaskNet) -> np.ndarray:
    """The flat vector of a file with `weights`."""
    others, shape = sorted(set(content) - {"weights"}), content["weights"].shape
    size = net.spec.num_params
    if shape not in ((size,), (1, size)):
        cure = "Set net as the file was made, or give the file of such a network."
        if len(shape) == 2 and shape[1] == size:
            one = f"numpy.savez(path, weights=numpy.load({str(path)!r})['weights'][0])"
            cure = f"It is a population; take one network of it: {one}."
        raise UserError(
            f"The base network {path}: `weights` has shape {shape}, but the network {net.name!r} has {size} "
            f"parameters. {cure}"
        )
    if others:
        raise UserError(
            f"The base network {path} has `weights` and also {', '.join(others[:5])}. Keep either the flat vector or "
            "the tensors by name."
        )
    return arrays.float32(content["weights"].reshape(-1), f"The base network {path}")


def _from_state_dict(
    path: pathlib.Path | str, tensors: dict[str, np.ndarray], net: nets.TaskNet, seed: int
) -> np.ndarray:
    what, tensors = f"The base network {path}", state_dicts.without_counters(tensors)
    theirs = state_dicts.names(what, tensors, net.spec, _OTHER)
    head, fresh, parts = _head(net.spec), [], []
    for leaf, span in net.spec.spans():
        name = theirs[leaf.name]
        value = arrays.float32(tensors[name], f"The tensor {name} of {path}")
        if state_dicts.fits(value.shape, leaf):
            parts.append(value.ravel())
        elif leaf.name.rpartition("/")[0] == head and value.ndim and value.shape[1:] == leaf.stored_axes[1:]:
            fresh.append(f"{leaf.name} {value.shape} -> {leaf.shape}")
            parts.append(np.asarray(jax.jit(net.init)(jax.random.key(seed)))[span])
        else:
            cure = "Set net, and the size and colours of the images, as the file was made."
            raise UserError(f"{what}: {name} {state_dicts.misfit(value.shape, leaf, cure)}")
    if fresh:
        name = pathlib.Path(path).name
        print(f"base: {name} has another last layer, which is initialised: {', '.join(fresh)}", file=sys.stderr)
    return np.concatenate(parts)


def _head(spec: WeightSpec) -> str:
    """The last layer, which has an output per class."""
    last: Leaf = spec.leaves[-1]
    return last.name.rpartition("/")[0]
