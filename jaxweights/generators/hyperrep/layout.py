"""How a flat weight vector falls into the layers and units of its network."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxweights.errors import UserError
from jaxweights.spec import FIXED, WeightSpec


class Layer(NamedTuple):
    """A layer of the task network in the flat vector.

    Attributes:
      name: name in the spec.
      units: neurons or channels.
      parts: `(start, fan)` of each tensor `[units, fan]` of the layer, in flat order; weights first, then the bias.
      outgoing: `(start, outputs, fan)` of the following layer's tensor `[outputs, units, fan]` that reads this one's
        units, or None.
    """

    name: str
    units: int
    parts: tuple[tuple[int, int], ...]
    outgoing: tuple[int, int, int] | None

    @property
    def fan(self) -> int:
        """Values per unit."""
        return sum(fan for _, fan in self.parts)

    @property
    def size(self) -> int:
        """Values of the whole layer."""
        return self.units * self.fan


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class UnitLayout:
    """How a flat vector falls into layers and units; static in pytrees, so that a generator's constants can hold it.

    Attributes:
      spec: meaning of the vector.
    """

    spec: WeightSpec

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in flat order.

        Raises:
          UserError: the tensors of some layer do not have the same number of units.
        """
        members: dict[str, list] = {}
        for leaf, span in self.spec.spans():
            members.setdefault(leaf.name.rpartition("/")[0], []).append((leaf, span))
        groups = list(members.items())
        layers = []
        for i, (name, leaves) in enumerate(groups):
            units = {leaf.stored_axes[0] for leaf, _ in leaves}
            if len(units) != 1:
                raise UserError(
                    f"Layer {name!r} of the task network has tensors of {sorted(units)} units: the generator hyperrep "
                    "needs layers whose tensors all have one entry per unit. Use another network or generator."
                )
            parts = tuple((span.start, leaf.size // leaf.stored_axes[0]) for leaf, span in leaves)
            following = groups[i + 1][1] if i + 1 < len(groups) else []
            layers.append(Layer(name, units.pop(), parts, _outgoing(leaves, following)))
        return tuple(layers)

    @property
    def num_params(self) -> int:
        """Length of the flat vector, P."""
        return self.spec.num_params

    def spans(self, layer: Layer) -> list[slice]:
        """The slices of the flat vector that hold a layer."""
        return [slice(start, start + layer.units * fan) for start, fan in layer.parts]

    def per_layer(self, values: jax.Array | np.ndarray) -> list[Any]:
        """Sums `[P]` over each layer."""
        return [sum(values[span].sum() for span in self.spans(layer)) for layer in self.layers]

    def spread(self, values: np.ndarray) -> np.ndarray:
        """One value per layer, `[num_layers]`, to one per weight, `[P]`."""
        out = np.empty(self.num_params, np.float32)
        for layer, value in zip(self.layers, values, strict=True):
            for span in self.spans(layer):
                out[span] = value
        return out


def _outgoing(leaves: list, following: list) -> tuple[int, int, int] | None:
    """See `Layer.outgoing`."""
    writes = {leaf.groups[leaf.order[0]] for leaf, _ in leaves} - {FIXED}
    for leaf, span in following:
        if len(leaf.order) > 1 and leaf.groups[leaf.order[1]] in writes:
            outputs, units, *rest = leaf.stored_axes
            return span.start, outputs, math.prod(rest)
    return None


def check_layout(layout: UnitLayout, encoding: str) -> None:
    """Raises UserError where the network's weights cannot be encoded in this way."""
    if encoding == "weight":
        return
    for layer in layout.layers[:-1]:
        if encoding == "neuron_in_out" and layer.outgoing is None:
            raise UserError(
                f'The encoding "neuron_in_out" needs a chain of layers, but what follows layer {layer.name!r} does not '
                'read its units. Set the encoding of the generator hyperrep to "neuron".'
            )
