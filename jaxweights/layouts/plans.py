"""What an import is going to read: the networks of a source in order, their runs and splits, and what they mean."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from jaxweights.errors import UserError
from jaxweights.layouts import specs, splits
from jaxweights.layouts.architectures import Architecture
from jaxweights.layouts.base import Entry, Found, Layout, Options, Recipe, natural
from jaxweights.layouts.splits import Split
from jaxweights.layouts.tensors import shapes_of
from jaxweights.population import GENERATED, HELDOUT, TRAIN

_RANGE = re.compile(r"(\d+)-(\d+)")
_SHOWN = 3
_TRIED = 8  # networks of which one has to be readable, to know what networks look like


@dataclasses.dataclass(frozen=True)
class Plan:
    """An import.

    Attributes:
      found: what the source holds.
      entries: the networks to read, run by run, a run's in the order of its steps.
      split: the runs.
      shapes: tensors of a network by name, in the order of the vector.
      architecture: what a vector means.
      recipe: what is known besides.
      notes: what was assumed, a sentence each.
    """

    found: Found
    entries: Sequence[Entry]
    split: Split
    shapes: Mapping[str, tuple[int, ...]]
    architecture: Architecture
    recipe: Recipe
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Checksum of everything that decides what is written."""
        parts = [(entry.key, entry.run, entry.step, entry.split) for entry in self.entries]
        facts = (str(self.found.place.resolve()), parts, self.split.split, self.architecture.spec.to_json())
        return hashlib.sha256(repr(facts).encode()).hexdigest()


def make(
    layout: Layout,
    path: pathlib.Path,
    options: Options,
    *,
    spec: specs.Spec | None = None,
    steps: str = "all",
    num_heldout: int | None = None,
    seed: int = 0,
) -> Plan:
    """Looks at a source and decides how it is read.

    Args:
      layout: of the source.
      path: the source.
      options: what it does not say itself.
      spec: a spec file, or None.
      steps: checkpoints of a run: "all", "last", or the steps from A to B as "A-B".
      num_heldout: see `splits.divide`.
      seed: of the split.

    Raises:
      UserError: no networks, two of one run and step, or what `specs.meaning` and `splits.divide` refuse.
    """
    found = layout.find(path, options)
    if spec is None and found.spec_file is not None:
        spec = specs.read(found.spec_file)
    entries = _ordered(_chosen(found.entries, steps), path)
    split = splits.divide(entries, num_heldout, seed)
    tensors = shapes(found, entries) or dict(spec.shapes if spec else {})
    if not tensors:
        raise UserError(
            f"{path} holds rows of numbers, and nothing says of which tensors. Give them as leaves of --spec, "
            '{"name": "fc1.weight", "shape": [10, 784]} each, in the order of the rows.'
        )
    architecture, recipe, notes = specs.meaning(tensors, found.recipe, spec)
    if spec is not None and spec.shapes and not found.by_order:
        tensors = spec.shapes
    return Plan(found, entries, split, tensors, architecture, recipe, (*found.notes, *split.notes, *notes))


def _chosen(entries: Sequence[Entry], steps: str) -> Sequence[Entry]:
    if steps == "all":
        return entries
    if steps == "last":
        last: dict[str, Entry] = {}
        for entry in entries:
            if entry.run not in last or entry.step >= last[entry.run].step:
                last[entry.run] = entry
        return list(last.values())
    match = _RANGE.fullmatch(steps)
    if match is None:
        raise UserError(f"--steps is {steps!r}; give all, last, or the first and last step as in 21-25.")
    low, high = int(match[1]), int(match[2])
    chosen = [entry for entry in entries if low <= entry.step <= high]
    if not chosen:
        there = sorted({entry.step for entry in entries})
        raise UserError(f"No checkpoint is of --steps={steps}; steps are between {there[0]} and {there[-1]}.")
    return chosen


def _ordered(entries: Sequence[Entry], path: pathlib.Path) -> list[Entry]:
    order = sorted(entries, key=lambda entry: (natural(entry.run), entry.step))
    for a, b in zip(order[:-1], order[1:], strict=True):
        if (a.run, a.step) == (b.run, b.step):
            raise UserError(
                f"{path} has two networks of the run {a.run} at step {a.step} ({a.key} and {b.key}), so which is later "
                "is unknown. Give --runs=files where they are runs of their own, or other names."
            )
    return order


def shapes(found: Found, entries: Sequence[Entry]) -> dict[str, tuple[int, ...]]:
    """Tensors of the first network that can be read, by name; raises `UserError` where none of the first can."""
    problems = []
    for entry in entries[:_TRIED]:
        try:
            return shapes_of(found, entry.key)
        except UserError as error:
            problems.append(f"{entry.key}: {error}")
    raise UserError(f"The first {len(problems)} networks of {found.place} cannot be read. {problems[0]}")


def rows(plan: Plan) -> list[tuple[str, str]]:
    """What is printed of a plan: names and texts."""
    found, split = plan.found, plan.split
    steps = [entry.step for entry in plan.entries if entry.step >= 0]
    per_run = sorted(collections.Counter(entry.run for entry in plan.entries).values())
    each = f"{per_run[0]}" if per_run[0] == per_run[-1] else f"{per_run[0]} to {per_run[-1]}"
    spans = f", steps {min(steps):,} to {max(steps):,}" if steps else ""
    parts = [f"{split.count(name):,} {name}" for name in (TRAIN, HELDOUT, GENERATED) if split.count(name)]
    spec, recipe = plan.architecture.spec, plan.recipe
    lines = [
        ("source", f"{found.place} ({found.layout})"),
        ("runs", f"{len(split.runs):,}: {', '.join(parts)}"),
        ("checkpoints", f"{len(plan.entries):,}, {each} per run{spans}"),
        ("network", f"{plan.architecture.title}, {spec.num_params:,} parameters in {len(spec.leaves)} tensors"),
        ("tensors", _listed([f"{name} {list(shape)}" for name, shape in plan.shapes.items()])),
        ("hidden units", _groups(plan.architecture)),
    ]
    known = _known(plan.entries)
    if known:
        lines.append(("stated", known))
    given = "given" if recipe.source == specs.GIVEN else "assumed" if recipe.activation else "missing"
    lines += [(given, note) for note in _recipe(recipe)] + [("assumed", note) for note in plan.notes]
    lines += [("cannot be used", f"{item}: {reason}") for item, reason in found.bad[:_SHOWN]]
    if len(found.bad) > _SHOWN:
        lines.append(("", f"and {len(found.bad) - _SHOWN:,} more"))
    return lines


def _recipe(recipe: Recipe) -> list[str]:
    if not recipe.activation:
        return ["activation and normalisation of the inputs: nothing says what they are"]
    by = f" ({recipe.source})" if recipe.source else ""
    scaled = "scaling of inputs unknown" if recipe.normalisation is None else str(recipe.normalisation)
    return [f"activation {recipe.activation}, {scaled}{f', data {recipe.data}' if recipe.data else ''}{by}"]


def _groups(architecture: Architecture) -> str:
    groups = architecture.spec.groups
    if not groups:
        return "none that are known to be exchangeable"
    kinds = collections.Counter(group.scaling for group in groups)
    how = {"positive": "with positive rescaling", "sign": "with sign flips", "none": "without rescaling"}
    parts = ", ".join(f"{count} {how[kind]}" for kind, count in kinds.items())
    return f"{len(groups)} group{'s' * (len(groups) > 1)} that can be reordered: {parts}"


def _known(entries: Sequence[Entry]) -> str:
    """What the source states of its networks."""
    parts = []
    for name, values in (("accuracy", [e.accuracy for e in entries]), ("loss", [e.loss for e in entries])):
        stated = [value for value in values if math.isfinite(value)]
        if stated:
            parts.append(f"{name} of {len(stated):,}, mean {np.mean(stated):.4g}")
    names = list(dict.fromkeys(name for entry in entries for name in entry.properties))
    if names:
        parts.append(_listed(names))
    return "; ".join(parts)


def _listed(parts: Sequence[str]) -> str:
    shown = 8
    return ", ".join(parts[:shown]) + (f" and {len(parts) - shown} more" if len(parts) > shown else "")
