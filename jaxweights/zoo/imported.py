"""A network's weights from a file: a flat vector, or the tensors of a published state dict by name."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from jaxweights import nets
from jaxweights.errors import UserError
from jaxweights.spec import Leaf, WeightSpec


def read_weights(path: pathlib.Path, net: nets.TaskNet, seed: int) -> np.ndarray:
    """Reads a network from an `.npz` file.

    Args:
      path: the file. Either `weights`, `[P]` or `[1, P]` in flat order, or one array per tensor of PyTorch's state dict
        under its name, possibly behind a prefix that all share ("model."). Counters of batches are ignored.
      net: the network. If its last layer has another number of classes, that one is initialised.
      seed: random seed of that initialisation.

    Returns:
      `[P]` float32.

    Raises:
      UserError: no such file, or tensors that the network lacks, does not have, or has in another shape.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            tensors = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}. Give zoo.base.import_npz the path of an .npz file.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not an .npz file of arrays ({error}). Save it with numpy.savez.") from error
    if set(tensors) >= {"weights"}:
        vector = np.asarray(tensors["weights"], np.float32)
        if vector.shape not in ((net.spec.num_params,), (1, net.spec.num_params)):
            raise UserError(
                f"{path}: `weights` has shape {vector.shape}, but the network {net.name!r} has {net.spec.num_params} "
                "parameters. Set net as the file was made."
            )
        return vector.reshape(-1)
    return _from_state_dict(path, tensors, net, seed)


def _from_state_dict(path: pathlib.Path, tensors: dict[str, np.ndarray], net: nets.TaskNet, seed: int) -> np.ndarray:
    tensors = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    dotted = {leaf.name: leaf.name.replace("/", ".") for leaf in net.spec.leaves}
    prefix = _prefix(tensors, dotted[net.spec.leaves[0].name])
    theirs = {name: prefix + dotted[name] for name in dotted}
    missing = [name for name in theirs.values() if name not in tensors]
    extra = sorted(set(tensors) - set(theirs.values()))
    if missing or extra:
        raise UserError(
            f"{path} does not hold the network {net.name!r}: {len(missing)} tensors are missing "
            f"({', '.join(missing[:5])}), {len(extra)} are left over ({', '.join(extra[:5])}). Set net as the file was "
            "made."
        )
    head, fresh, parts = _head(net.spec), [], []
    start = np.asarray(jax.jit(net.init)(jax.random.key(seed)))
    for leaf, span in net.spec.spans():
        value = tensors[theirs[leaf.name]]
        if value.shape in (leaf.shape, leaf.stored_axes):
            parts.append(np.asarray(value, np.float32).ravel())
        elif leaf.name.rpartition("/")[0] == head:
            fresh.append(f"{leaf.name} {value.shape} -> {leaf.shape}")
            parts.append(start[span])
        else:
            raise UserError(
                f"{path}: {theirs[leaf.name]} has shape {value.shape}, this network needs {leaf.stored_axes}. Set net, "
                "and the size and colours of the images, as the file was made."
            )
    if fresh:
        print(f"base: {path.name} has another last layer, which is initialised: {', '.join(fresh)}")
    return np.concatenate(parts)


def _prefix(names: Mapping[str, np.ndarray], first: str) -> str:
    """What stands before a top-level tensor's name."""
    found = [name[: -len(first)] for name in names if name == first or name.endswith(f".{first}")]
    return min(found, key=len, default="")


def _head(spec: WeightSpec) -> str:
    """The last layer, which has an output per class."""
    last: Leaf = spec.leaves[-1]
    return last.name.rpartition("/")[0]
