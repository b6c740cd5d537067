"""State dicts of PyTorch modules as flat weight vectors, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxweights import arrays
from jaxweights.errors import UserError
from jaxweights.spec import Leaf, WeightSpec

_COUNTER = "num_batches_tracked"
_FLAX = ("kernel", "scale")  # of a layer, what PyTorch calls its weight


def from_state_dicts(networks: Iterable[Mapping[str, Any]], spec: WeightSpec) -> np.ndarray:
    """Weight vectors of networks that are given by their state dicts.

    Args:
      networks: state dicts, one per network: tensors (on the CPU) or arrays by name. Names are those of `torch_names`,
        or of the leaves with "." for "/", possibly behind a prefix that all share ("model."). Counters of batches are
        ignored.
      spec: the network's leaves.

    Returns:
      `[N, P]` float32, leaf by leaf in the order of the spec, each in the order of PyTorch: the output axis first.

    Raises:
      UserError: no networks; tensors that are missing, left over or of another shape; values that are not finite.
    """
    _check_spec(spec)
    if isinstance(networks, Mapping) or not isinstance(networks, Iterable):
        one = " in a list" if isinstance(networks, Mapping) else ", not " + type(networks).__name__
        raise UserError(f"The networks are given by their state dicts, one each{one}.")
    rows = [_vector(f"State dict {number}", network, spec) for number, network in enumerate(networks)]
    if not rows:
        raise UserError("There are no state dicts; give at least one network.")
    return np.stack(rows)


def to_state_dict(vector: Any, spec: WeightSpec) -> dict[str, np.ndarray]:
    """The tensors of a weight vector `[P]` by PyTorch's names, float32; the inverse of `from_state_dicts`.

    Raises:
      UserError: a vector of another size, or of something else than numbers.
    """
    _check_spec(spec)
    vector = np.array(arrays.real(vector, "The weight vector"), np.float32)
    if vector.shape != (spec.num_params,):
        raise UserError(f"The weight vector has shape {vector.shape}, but the spec describes [{spec.num_params}].")
    theirs = torch_names(spec)
    return {theirs[leaf.name]: vector[span].reshape(leaf.stored_shapes[-1]) for leaf, span in spec.spans()}


def torch_names(spec: WeightSpec) -> dict[str, str]:
    """PyTorch's name of every leaf: "conv1.weight" of "conv1/kernel". Where two leaves would have the same one,
    all keep their own names, with "." for "/"."""
    found = {leaf.name: _torch_name(leaf) for leaf in spec.leaves}
    return found if len(set(found.values())) == len(found) else {leaf.name: dotted(leaf) for leaf in spec.leaves}


def _torch_name(leaf: Leaf) -> str:
    layer, dot, last = dotted(leaf).rpartition(".")
    return f"{layer}.weight" if dot and last in _FLAX else dotted(leaf)


def without_counters(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without the numbers of batches that normalisations have seen, which no output depends on."""
    return {name: value for name, value in tensors.items() if not name.endswith(_COUNTER)}


def names(what: str, tensors: Mapping[str, Any], spec: WeightSpec, cure: str) -> dict[str, str]:
    """The name in a state dict of every leaf.

    Args:
      what: the state dict, in messages.
      tensors: its tensors.
      spec: the network's leaves.
      cure: what to do about another network.

    Raises:
      UserError: tensors that are missing or left over.
    """
    usual = torch_names(spec)
    first = spec.leaves[0]
    prefix = _prefix(tensors, usual[first.name]) or _prefix(tensors, dotted(first))
    own = {leaf.name: prefix + dotted(leaf) for leaf in spec.leaves}
    theirs = {k: own[k] if own[k] in tensors else prefix + name for k, name in usual.items()}
    missing = [name for name in theirs.values() if name not in tensors]
    extra = sorted(set(tensors) - set(theirs.values()))
    if len(missing) == len(theirs):
        raise UserError(
            f"{what} has none of the tensors of this network ({', '.join(missing[:3])}, ...), but "
            f"{', '.join(extra[:5]) or 'no arrays'}. {cure}"
        )
    if missing or extra:
        raise UserError(
            f"{what} is of another network: {len(missing)} tensors are missing ({', '.join(missing[:5])}), "
            f"{len(extra)} are left over ({', '.join(extra[:5])}). {cure}"
        )
    return theirs


def fits(found: tuple[int, ...], leaf: Leaf) -> bool:
    """Whether a tensor of this shape is the leaf's in a state dict: the output axis first, and flattened where a dense
    layer reads a feature map. Some formats (MATLAB) add axes of size 1 to vectors and leave them out of tensors."""
    shapes = leaf.stored_shapes
    return found in shapes or any(len(found) != len(one) and _squeezed(found) == _squeezed(one) for one in shapes)


def dotted(leaf: Leaf) -> str:
    """The path of a leaf with "." for "/", as `torch.func` and Flax's state dicts have it."""
    return leaf.name.replace("/", ".")


def misfit(found: tuple[int, ...], leaf: Leaf, cure: str) -> str:
    """What is wrong with a tensor of this shape, and what to do; `cure` where it is of another network."""
    if found == leaf.shape:
        cure = "Its axes are in Flax's order; store them in PyTorch's, the output axis first."
    return f"has shape {found}, this network needs {leaf.stored_shapes[-1]}. {cure}"


def _check_spec(spec: Any) -> None:
    if not isinstance(spec, WeightSpec):
        raise UserError(f"spec is of type {type(spec).__name__}; give a WeightSpec, e.g. of jw.Leaves.")


def _vector(what: str, network: Any, spec: WeightSpec) -> np.ndarray:
    if not isinstance(network, Mapping):
        kind = type(network).__name__
        raise UserError(f"{what} is of type {kind}; give the tensors of a network by name: module.state_dict().")
    tensors, cure = without_counters(network), "Give the spec of this network, or state dicts of that of the spec."
    theirs, parts = names(what, tensors, spec, cure), []
    for leaf in spec.leaves:
        name = theirs[leaf.name]
        value = arrays.float32(tensors[name], f"Tensor {name!r} of {what[:1].lower()}{what[1:]}")
        if not fits(value.shape, leaf):
            raise UserError(f"{what}: {name} {misfit(value.shape, leaf, cure)}")
        parts.append(value.ravel())
    return np.concatenate(parts)


def _prefix(tensors: Mapping[str, Any], first: str) -> str:
    """What stands before a top-level tensor's name."""
    found = [name[: -len(first)] for name in tensors if name == first or name.endswith(f".{first}")]
    return min(found, key=len, default="")


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
