"""What a flat vector means, from names and shapes of its tensors: plain chains of layers, ResNets, and networks of this
library. Activations and the scaling of inputs are in no state dict."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxweights import tasks
from jaxweights.errors import UserError
from jaxweights.nets.field import SCALINGS
from jaxweights.nn.activations import ACTIVATIONS, scaling
from jaxweights.nn.leaves import Leaves
from jaxweights.spec import FIXED, Leaf, WeightSpec

Shapes = Mapping[str, tuple[int, ...]]

UNKNOWN = "unknown"
ANY_ACTIVATION = (*ACTIVATIONS, "sine", UNKNOWN)

_STATISTICS = ("running_mean", "running_var")
_NUMBERED = re.compile(r"(.*?)(\d+)((?:\.linear|\.conv|\.fc)?)$")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a flat vector means.

    Attributes:
      title: in words, for messages.
      spec: leaves named as in the source ("/" for "."), in the order of its state dict.
      known: whether hidden units that can be reordered are known.
      net: settings of this library's network that has these vectors; empty where there is none.
    """

    title: str
    spec: WeightSpec
    known: bool
    net: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def infer(shapes: Shapes, activation: str, candidates: Sequence[Mapping[str, Any]] = ()) -> Architecture:
    """The architecture of a state dict.

    Args:
      shapes: shapes of the tensors by name, in order.
      activation: of `ANY_ACTIVATION`, or empty where it is not known.
      candidates: settings of networks of this library, with `input_shape` and `outputs`, of which the first that has
        these shapes is meant.
    """
    for net in candidates:
        spec = _of_net(shapes, net)
        if spec is not None:
            return Architecture(f"the network {net['name']} of this library", spec, True, net)
    layers = _layers(shapes)
    for build in (_chain, _resnet):
        found = build(layers, activation or UNKNOWN)
        if found is not None:
            return found
    leaves = Leaves()
    for name, shape in shapes.items():
        leaves.tensor(_slashed(name), shape, (FIXED,) * len(shape), (0,) * len(shape))
    return Architecture(f"{len(shapes)} tensors of an unknown network", leaves.spec(), False)


def unit_scaling(activation: str, pooled: bool = False) -> str:
    """The rescaling that hidden units admit."""
    if activation == UNKNOWN:
        return "none"
    return SCALINGS[activation] if activation in SCALINGS else scaling(activation, pooled)


class _Layer(NamedTuple):
    """The tensors of a layer by their last name, in order."""

    name: str
    tensors: dict[str, tuple[int, ...]]

    @property
    def weight(self) -> tuple[int, ...]:
        return self.tensors.get("weight", ())


def _layers(shapes: Shapes) -> list[_Layer]:
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        layer, _, tensor = name.rpartition(".")
        found.setdefault(layer, {})[tensor] = tuple(shape)
    return [_Layer(name, tensors) for name, tensors in found.items()]


def _slashed(name: str) -> str:
    return name.replace(".", "/")


def _of_net(shapes: Shapes, net: Mapping[str, Any]) -> WeightSpec | None:
    """The spec of a network of this library under the names of a source; None where shapes differ."""
    settings = {key: value for key, value in net.items() if key not in ("input_shape", "outputs")}
    spec = tasks.build(settings, net["input_shape"], net["outputs"]).spec
    if len(spec.leaves) != len(shapes):
        return None
    pairs = list(zip(spec.leaves, shapes.items(), strict=True))
    if not all(tuple(shape) in leaf.stored_shapes for leaf, (_, shape) in pairs):
        return None
    leaves = tuple(dataclasses.replace(leaf, name=_slashed(name)) for leaf, (name, _) in pairs)
    return WeightSpec(leaves, spec.groups)


def _chain(layers: list[_Layer], activation: str) -> Architecture | None:
    """Dense layers, or convolutions and then dense layers, each of which reads the one before; names have to be numbers
    in order (fc1, fc2; layers.0, layers.2; conv1, conv2, fc1), since skip connections do not show in shapes."""
    if not _in_order([layer.name for layer in layers]):
        return None
    leaves, reads, units, parts = Leaves(), FIXED, 0, []
    for number, layer in enumerate(layers):
        last, shape = number == len(layers) - 1, layer.weight
        if set(layer.tensors) - {"weight", "bias"} or len(shape) not in (2, 4) or 0 in shape:
            return None
        if layer.tensors.get("bias", shape[:1]) != shape[:1]:
            return None
        if not parts:
            units = shape[1]
        name, outputs = _slashed(layer.name), shape[0]
        if len(shape) == 4:
            if (number and len(layers[number - 1].weight) != 4) or last or shape[1] != units or shape[2] != shape[3]:
                return None
            # Whether pooling follows a convolution is not known; sign flips do not commute with a maximum.
            writes = leaves.group(outputs, unit_scaling(activation, pooled=True))
            leaves.conv(name, shape[2], shape[1], outputs, reads, writes, "bias" in layer.tensors)
        else:
            inputs: int | tuple[int, ...] = shape[1]
            if number and len(layers[number - 1].weight) == 4:
                inputs = _map_of(shape[1], units)
                if not inputs:
                    return None
            elif shape[1] != units:
                return None
            writes = FIXED if last else leaves.group(outputs, unit_scaling(activation))
            leaves.dense(name, inputs, outputs, reads, writes, "bias" in layer.tensors)
        parts.append(outputs)
        reads, units = writes, outputs
    widths = "-".join(str(x) for x in (layers[0].weight[1], *parts))
    kind = "convolutional network" if len(layers[0].weight) == 4 else "MLP"
    spec = _in_source_order(leaves.spec(), layers)
    return None if spec is None else Architecture(f"{kind} {widths}", spec, True)


def _in_source_order(spec: WeightSpec, layers: list[_Layer]) -> WeightSpec | None:
    """Leaves in the order of the state dict, in which a bias may stand before its weight."""
    order = [f"{_slashed(layer.name)}/{tensor}" for layer in layers for tensor in layer.tensors]
    by_name: dict[str, Leaf] = {leaf.name.replace("/kernel", "/weight"): leaf for leaf in spec.leaves}
    return WeightSpec(tuple(by_name[name] for name in order), spec.groups) if set(order) == set(by_name) else None


def _map_of(inputs: int, channels: int) -> tuple[int, ...]:
    """Rows, columns and channels of a flattened map; empty where it is none."""
    pixels, rest = divmod(inputs, channels)
    if rest or not pixels:
        return ()
    side = math.isqrt(pixels)
    return (side, side, channels) if side * side == pixels else (pixels, 1, channels)


def _in_order(names: list[str]) -> bool:
    """Whether names of layers are one or two stems with numbers that grow."""
    found = [_NUMBERED.match(name) for name in names]
    if not names or any(match is None for match in found):
        return False
    stems, last = [], -1
    for match in found:
        assert match is not None
        stem, number = match[1], int(match[2])
        if not stems or stem != stems[-1]:
            if stem in stems:
                return False
            stems.append(stem)
            last = -1
        if number <= last:
            return False
        last = number
    return len(stems) <= 2


_BLOCK = re.compile(r"(layer\d+\.\d+)\.(conv|bn)(\d)$")
_SHORTCUT = re.compile(r"(layer\d+\.\d+)\.(?:downsample|shortcut)\.([01])$")


def _resnet(layers: list[_Layer], activation: str) -> Architecture | None:
    """A ResNet of torchvision's names: conv1, bn1, blocks layer1.0 with conv1, bn1, ... and a projected shortcut
    (downsample or shortcut), and one dense layer."""
    del activation  # units are normalised before it, and have no rescaling
    named = {layer.name: layer for layer in layers}
    if not {"conv1", "bn1"} <= set(named) or len(layers[-1].weight) != 2:
        return None
    blocks: dict[str, list[str]] = {}
    for layer in layers[2:-1]:
        match = _BLOCK.match(layer.name) or _SHORTCUT.match(layer.name)
        if match is None:
            return None
        blocks.setdefault(match[1], []).append(layer.name)
    try:
        spec = _resnet_spec(layers, blocks, named)
    except (KeyError, IndexError, ValueError):
        return None  # other tensors than such networks have
    if spec is None:
        return None
    return Architecture(f"ResNet of {len(blocks)} blocks, {layers[-1].weight[0]} outputs", spec, True)


def _resnet_spec(
    layers: list[_Layer], blocks: Mapping[str, list[str]], named: Mapping[str, _Layer]
) -> WeightSpec | None:
    leaves = Leaves()

    def conv(name: str, reads: int, writes: int) -> None:
        outputs, inputs, window, _ = named[name].weight
        leaves.conv(_slashed(name), window, inputs, outputs, reads, writes, "bias" in named[name].tensors)

    def norm(name: str, writes: int) -> None:
        statistics = _STATISTICS[0] in named[name].tensors
        leaves.norm(_slashed(name), named[name].weight[0], writes, statistics)

    stream = leaves.group(named["conv1"].weight[0])
    conv("conv1", FIXED, stream)
    norm("bn1", stream)
    for block, names in blocks.items():
        count = sum(bool(_BLOCK.match(name)) and ".conv" in name[len(block) :] for name in names)
        shortcut = [name for name in names if _SHORTCUT.match(name)]
        outputs = named[f"{block}.conv{count}"].weight[0]
        after = leaves.group(outputs) if shortcut else stream
        reads = stream
        for i in range(1, count + 1):
            writes = after if i == count else leaves.group(named[f"{block}.conv{i}"].weight[0])
            conv(f"{block}.conv{i}", reads, writes)
            norm(f"{block}.bn{i}", writes)
            reads = writes
        if shortcut:
            conv(shortcut[0], stream, after)
            norm(shortcut[1], after)
        stream = after
    head = layers[-1]
    leaves.dense(_slashed(head.name), head.weight[1], head.weight[0], stream, FIXED, "bias" in head.tensors)
    return _in_source_order(leaves.spec(), layers)


def check_activation(name: str, what: str) -> str:
    """An activation's name; raises `UserError` for one that is not known."""
    if name not in ANY_ACTIVATION:
        raise UserError(f"{what} has the activation {name!r}; there are {', '.join(ANY_ACTIVATION)}.")
    return name
