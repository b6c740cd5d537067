"""The spec file of an import, JSON: what a source does not say about its networks.

    {"activation": "relu", "normalisation": {"mean": [0.1307], "std": [0.3081]}, "data": "mnist"}

activation: a name of `architectures.ANY_ACTIVATION`; "unknown" leaves rescalings of hidden units out of the symmetries.
normalisation: mean and std per input channel, "none" for inputs as they are, or "unknown".
data: name of the data set; may be left out.
leaves: the tensors in the order of the vector, `{"name": "fc1.weight", "shape": [16, 64]}` with PyTorch's names and
    shapes; may be left out where the source has its tensors by name.
groups: with it, leaves have the fields of `WeightSpec.to_json`, and symmetries are as given; else they are inferred.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxweights import files, state_dicts
from jaxweights.errors import UserError
from jaxweights.layouts import architectures
from jaxweights.layouts.architectures import UNKNOWN, Architecture
from jaxweights.layouts.base import Normalisation, Recipe
from jaxweights.spec import WeightSpec

_KEYS = ("activation", "normalisation", "data", "leaves", "groups")
GIVEN = "the spec file"
"""Source of a recipe that is given."""

_CURE = (
    'It needs "activation" and "normalisation", see docs/importing.md; --spec_template=FILE writes one to be completed.'
)
_WHAT = "spec of an import"
_LEAF = {"name": str, "shape": [int]}


@dataclasses.dataclass(frozen=True)
class Spec:
    """A spec file.

    Attributes:
      activation: of `architectures.ANY_ACTIVATION`.
      normalisation: of the inputs, or None for one that is not known.
      data: name of the data set, or empty.
      shapes: tensors by name in the order of the vector, as in a state dict; empty where the source has them.
      symmetries: the whole meaning of a vector where it is given.
    """

    activation: str
    normalisation: Normalisation | None
    data: str = ""
    shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    symmetries: WeightSpec | None = None


def read(path: pathlib.Path | str) -> Spec:
    """Reads a spec file.

    Raises:
      UserError: no such file, other content than the schema's, or leaves that contradict themselves.
    """
    data = files.read_json(pathlib.Path(path).expanduser(), _WHAT, _CURE, {"activation": str})
    unknown = sorted(set(data) - set(_KEYS))
    if unknown or "normalisation" not in data:
        problem = f"it has {', '.join(unknown)}" if unknown else "it has no normalisation"
        raise UserError(f"{path} is not a {_WHAT}: {problem}; there are {', '.join(_KEYS)}. {_CURE}")
    activation = architectures.check_activation(data["activation"], str(path))
    shapes, symmetries = _leaves(path, data)
    known = str(data.get("data", ""))
    return Spec(activation, _normalisation(path, data["normalisation"]), known, shapes, symmetries)


def _normalisation(path: pathlib.Path | str, value: Any) -> Normalisation | None:
    if value == UNKNOWN:
        return None
    if value == "none":
        return Normalisation()
    parts: list[Any] = [value.get(key) for key in ("mean", "std")] if isinstance(value, Mapping) else []
    good = len(parts) == 2 and all(
        isinstance(part, list) and part and all(type(x) in (int, float) and math.isfinite(x) for x in part)
        for part in parts
    )
    if not good or len(parts[0]) != len(parts[1]) or min(parts[1]) <= 0:
        raise UserError(
            f'{path}: normalisation is {value!r}; give {{"mean": [...], "std": [...]}} with one positive std per mean, '
            '"none" or "unknown".'
        )
    return Normalisation(tuple(map(float, parts[0])), tuple(map(float, parts[1])))


def _leaves(path: pathlib.Path | str, data: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], WeightSpec | None]:
    if "leaves" not in data:
        if "groups" in data:
            raise UserError(f"{path} has groups without leaves. {_CURE}")
        return {}, None
    files.read_json(pathlib.Path(path).expanduser(), _WHAT, _CURE, {"leaves": [_LEAF]})
    names = [leaf["name"] for leaf in data["leaves"]]
    if not names or len(set(names)) < len(names):
        raise UserError(f"{path} is not a {_WHAT}: its leaves are none, or a name stands twice. {_CURE}")
    if min(min(leaf["shape"], default=1) for leaf in data["leaves"]) < 1:
        raise UserError(f"{path} is not a {_WHAT}: a leaf has a size below 1. {_CURE}")
    if "groups" not in data:
        return {leaf["name"]: tuple(leaf["shape"]) for leaf in data["leaves"]}, None
    try:
        symmetries = WeightSpec.from_json({"leaves": data["leaves"], "groups": data["groups"]})
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"{path} is not a {_WHAT}: {error}. {_CURE}") from error
    names = state_dicts.torch_names(symmetries)
    shapes = {names[leaf.name]: leaf.stored_shapes[-1] for leaf in symmetries.leaves}
    return shapes, symmetries


def template(shapes: Mapping[str, tuple[int, ...]], recipe: Recipe) -> str:
    """The text of a spec file of a source to be completed: what is not known is null."""
    normalisation: Any = None
    if recipe.normalisation is not None:
        mean, std = recipe.normalisation.mean, recipe.normalisation.std
        normalisation = {"mean": list(mean), "std": list(std)} if mean else "none"
    known = {"activation": recipe.activation or None, "normalisation": normalisation, "data": recipe.data}
    lines = [f"  {json.dumps({'name': name, 'shape': list(shape)})}" for name, shape in shapes.items()]
    return json.dumps(known)[:-1] + ',\n "leaves": [\n' + ",\n".join(lines) + "\n]}\n"


def meaning(
    shapes: Mapping[str, tuple[int, ...]], recipe: Recipe, given: Spec | None
) -> tuple[Architecture, Recipe, list[str]]:
    """What vectors of a source mean: from a spec file, or from names and shapes and what is published.

    Args:
      shapes: tensors of the source by name.
      recipe: what is published.
      given: the spec file, or None.

    Returns:
      The architecture, the recipe with what the file says, and what was assumed.

    Raises:
      UserError: a spec file of another network.
    """
    if given is not None:
        recipe = dataclasses.replace(
            recipe,
            activation=given.activation,
            normalisation=given.normalisation,
            data=given.data or recipe.data,
            source=GIVEN,
        )
        if given.shapes:
            shapes = _matched(shapes, given.shapes)
        if given.symmetries is not None:
            count = len(given.symmetries.groups)
            title = f"{len(shapes)} tensors with {count} groups of hidden units by the spec file"
            return Architecture(title, given.symmetries, True), recipe, []
    found = architectures.infer(shapes, recipe.activation, recipe.nets if given is None else ())
    notes = []
    if not found.known:
        notes.append(
            "hidden units that can be reordered are not known (--spec may give groups): reordered copies are not found"
        )
    elif not found.net and found.title.startswith(("MLP", "convolutional")):
        notes.append("layers follow one another without skip connections")
    return found, recipe, notes


def check(recipe: Recipe) -> None:
    """Raises `UserError` where nothing says what the activation and the normalisation are."""
    if not recipe.activation:
        raise UserError(
            "The activation of these networks and the normalisation of their inputs are in no state dict, and this "
            'layout has no published ones. Give --spec=FILE with {"activation": "relu", "normalisation": {"mean": '
            '[0.1307], "std": [0.3081]}} (or "none", "unknown"); --spec_template=FILE writes it with the tensors found.'
        )


def _matched(
    found: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]
) -> Mapping[str, tuple[int, ...]]:
    if not found:
        return given
    names = [name for name in given if name not in found] + [name for name in found if name not in given]
    if names:
        raise UserError(
            f"The spec file is of another network: only it or only the source has {', '.join(names[:3])}. "
            "--spec_template=FILE writes one of this source."
        )
    wrong = [f"{n} {found[n]} instead of {given[n]}" for n in given if tuple(found[n]) != tuple(given[n])]
    if wrong:
        raise UserError(f"The spec file is of another network: the source has {'; '.join(wrong[:3])}.")
    return given
