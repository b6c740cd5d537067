"""Training networks in one form, for generators of vectors: hidden units in one order, of one scale.

The order is that of a reference: the first training network as it is (DeepWeightFlow, arXiv 2601.05052), or the
generalised mean of all, to which single networks bring no noise of their own. Of a run with several checkpoints the
last one is matched and all have its order: training does not permute units.

Scales are left as they are, balanced (`auditing.alignment.canonical`), or those of weightflow (Erdogan 2025, arXiv
2504.03710): what writes a hidden unit has norm 1, without its bias, and so has the matrix of outputs as a whole. The
last step changes logits by a factor, which `restored` gives back as its mean over training networks.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import numpy as np

from jaxweights import population
from jaxweights.auditing.alignment import canonical, coordinates, reordering
from jaxweights.auditing.alignment.canonical import stored_groups, unit_offsets
from jaxweights.errors import UserError
from jaxweights.population import Population
from jaxweights.spec import FIXED, WeightSpec

Order = Literal["none", "first", "mean"]
"""Order of hidden units: as they are, of the first training network, of the generalised mean."""
Scale = Literal["none", "balanced", "unit"]
"""Scale of hidden units: as it is, balanced, or of norm 1."""


@dataclasses.dataclass(frozen=True)
class Form:
    """The form that networks of a spec are brought to.

    Attributes:
      spec: meaning of the vectors.
      scale: see `Scale`.
      reference: `[P]` whose order they have; None leaves orders as they are.
      gain: what `scale="unit"` divides outputs by, the geometric mean over training networks; else 1.
    """

    spec: WeightSpec
    scale: Scale
    reference: np.ndarray | None
    gain: float

    @classmethod
    def of(cls, training: Population, order: Order, scale: Scale) -> tuple[Form, np.ndarray]:
        """The form that training networks define, and these in it `[N, P]` float32.

        Raises:
          UserError: `scale="unit"` of networks that have no such form.
        """
        spec = training.spec
        scaled, gains = _scaled(spec, np.asarray(training.weights[:]), scale)
        reference = None
        if spec.groups and order != "none":
            last = scaled[population.last_checkpoints(training.records)]
            reference = scaled[0] if order == "first" else coordinates.generalised_mean(spec, last)
        form = cls(spec, scale, reference, float(np.exp(np.log(gains).mean())))
        return form, form._ordered(scaled, training.records)

    def __call__(self, networks: Population) -> np.ndarray:
        """Networks `[n, P]` in this form, float32."""
        return self._ordered(_scaled(self.spec, np.asarray(networks.weights[:]), self.scale)[0], networks.records)

    def _ordered(self, scaled: np.ndarray, records) -> np.ndarray:
        if self.reference is None:
            return scaled.astype(np.float32)
        last = np.flatnonzero(population.last_checkpoints(records))
        _, orders = coordinates.brought(self.spec, scaled[last], self.reference)
        runs = records["run"][last]
        by_run = np.argsort(runs)
        own = orders[by_run[np.searchsorted(runs[by_run], records["run"])]]
        units = unit_offsets(self.spec)[-1]
        moved = reordering.reordered(self.spec, scaled, own[:, :units], own[:, units:])
        return moved.astype(np.float32)


class Spheres(NamedTuple):
    """Where the weights are that `scale="unit"` gives norm 1.

    Attributes:
      hidden: by group of hidden units, flat places `[units, weights]` of what writes each.
      output: flat places of the matrix of outputs.
      output_bias: flat places of the biases of outputs.
    """

    hidden: tuple[np.ndarray, ...]
    output: np.ndarray
    output_bias: np.ndarray


def spheres(spec: WeightSpec) -> Spheres:
    """The spheres of a spec.

    Raises:
      UserError: hidden units that admit no positive rescaling, that several layers write, or that are written by others
        of a later group; or more than one layer of outputs.
    """
    hidden: list[list[np.ndarray]] = [[] for _ in spec.groups]
    outputs, biases = [], {}
    for leaf, span in spec.spans():
        index = np.arange(span.start, span.stop).reshape(leaf.stored_axes)
        roles, groups = [leaf.roles[axis] for axis in leaf.order], stored_groups(leaf)
        written = [place for place, role in enumerate(roles) if role > 0]
        if len(leaf.axes) == 1:
            if not written:
                biases[leaf.name.rpartition("/")[0]] = index
        elif not written:
            outputs.append((leaf.name, index.ravel()))
        else:
            group = groups[written[0]]
            later = [g for g in groups if g != FIXED and g > group]
            if len(written) > 1 or later or spec.groups[group].scaling != "positive":
                _refuse(leaf.name)
            hidden[group].append(np.moveaxis(index, written[0], 0).reshape(spec.groups[group].size, -1))
    if len(outputs) != 1 or any(len(parts) != 1 for parts in hidden):
        _refuse(outputs[1][0] if len(outputs) > 1 else spec.leaves[0].name)
    name, output = outputs[0]
    none = np.zeros(0, np.int64)
    return Spheres(tuple(parts[0] for parts in hidden), output, biases.get(name.rpartition("/")[0], none))


def _refuse(leaf: str) -> None:
    raise UserError(
        f"Networks with {leaf} have no form with units of norm 1: that is for chains of layers of ReLU units. Set "
        'scale to "balanced" or "none".'
    )


def _scaled(spec: WeightSpec, rows: np.ndarray, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """Networks `[n, P]` float64 of a scale, and what their outputs were divided by `[n]`."""
    if scale == "balanced":
        return canonical.balance(spec, rows), np.ones(len(rows))
    scaled = rows.astype(np.float64)
    if scale == "none":
        return scaled, np.ones(len(rows))
    places, offsets = spheres(spec), unit_offsets(spec)
    for group, own in enumerate(places.hidden):
        norms = np.linalg.norm(scaled[:, own], axis=2)
        scales = np.ones((len(rows), offsets[-1]))
        scales[:, offsets[group] : offsets[group + 1]] = 1 / np.where(norms > 0, norms, 1)
        scaled = canonical.rescaled(spec, scaled, scales)
    gains = np.linalg.norm(scaled[:, places.output], axis=1)
    gains = np.where(gains > 0, gains, 1)
    scaled[:, np.concatenate([places.output, places.output_bias])] /= gains[:, None]
    return scaled, gains
