"""The section `sweep` of a config: what is varied, how recipes are chosen, and how many seeds each has."""

from __future__ import annotations

import dataclasses
import math
import numbers
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from jaxweights.checks import shown
from jaxweights.errors import UserError
from jaxweights.settings import Settings, setting

GRID, UNIFORM, LOG_UNIFORM, CHOICE = "grid", "uniform", "log_uniform", "choice"
_DIGITS = 6  # of drawn values, so that tables and flags show them as they are


@dataclasses.dataclass(frozen=True)
class Axis:
    """One setting that a sweep varies.

    Attributes:
      name: dotted name of the setting, e.g. "zoo.learning_rate".
      kind: "grid" (a plain list of values), "choice", "uniform" or "log_uniform".
      values: the values, or the lowest and the highest.
    """

    name: str
    kind: str
    values: tuple[Any, ...]

    @property
    def discrete(self) -> bool:
        """Whether there is a list of values."""
        return self.kind in (GRID, CHOICE)

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in self.values)

    @property
    def logarithmic(self) -> bool:
        """Whether plots show it on a logarithmic scale."""
        if self.kind == LOG_UNIFORM:
            return True
        return self.discrete and self.numeric and min(self.values) > 0 and max(self.values) >= 20 * min(self.values)

    def draw(self, seed: int, recipe: int) -> Any:
        """The value of one recipe of a random search; it depends on these two numbers and the name alone."""
        stream = np.random.default_rng([seed, recipe, zlib.crc32(self.name.encode())])
        if self.discrete:
            return self.values[stream.integers(len(self.values))]
        low, high = self.values
        if self.kind == UNIFORM:
            found = stream.uniform(low, high)
        else:
            found = math.exp(stream.uniform(math.log(low), math.log(high)))
        return float(np.clip(float(f"{found:.{_DIGITS}g}"), low, high))

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return {"name": self.name, "kind": self.kind, "values": list(self.values)}


@dataclasses.dataclass(frozen=True)
class SweepSettings(Settings):
    """Settings of a sweep.

    Attributes:
      space: what is varied, by section and setting as in the config itself: a list of values, or a mapping with `kind`
        "choice" (with `values`), "uniform" or "log_uniform" (with `low` and `high`). Settings of `zoo`, `net` and
        `data` make a sweep of recipes, those of `generators.NAME` one of a generator.
      draws: recipes of a random search; 0 for the grid of all values.
      seeds: runs of every recipe; run i is run i of the zoo of that recipe, or the i-th training of the generator.
      audit: whether the samples of every training of a generator are judged by the audit, and not by accuracy alone.
      cell: runs that are kept together, and lost together where a job is killed; 0 to choose by memory.
      lanes: trainings of a generator that one program does together on a device, 0 to choose by backend.
    """

    SECTION: ClassVar[str] = "sweep"

    space: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    draws: int = setting(0, at_least=0, at_most=10_000_000)
    seeds: int = setting(3, at_least=1, at_most=1_000_000)
    audit: bool = False
    cell: int = setting(0, at_least=0, at_most=1_000_000)
    lanes: int = setting(0, at_least=0, at_most=1024)

    def __post_init__(self) -> None:
        super().__post_init__()
        for axis in self.axes:
            if not self.draws and not axis.discrete:
                raise UserError(
                    f"sweep.space.{axis.name} is drawn from a {axis.kind} distribution, so there is no grid. Set "
                    "sweep.draws to the number of recipes of a random search, or give a list of values."
                )

    @property
    def axes(self) -> tuple[Axis, ...]:
        """What is varied, in the order of the config."""
        return tuple(_axes(self.space, ""))

    def recipes(self, seed: int) -> list[dict[str, Any]]:
        """The values of all recipes by name: the grid, whose last setting varies fastest, or the draws."""
        axes = self.axes
        if self.draws:
            return [{axis.name: axis.draw(seed, number) for axis in axes} for number in range(self.draws)]
        sizes = [len(axis.values) for axis in axes]
        places = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), axis=1)
        return [{a.name: a.values[i] for a, i in zip(axes, place, strict=True)} for place in places]


def _axes(node: Mapping[str, Any], prefix: str) -> Iterator[Axis]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and not isinstance(value.get("kind"), str):
            if not value:
                raise UserError(f"sweep.space.{name} is empty; give its values, or remove it.")
            yield from _axes(value, f"{name}.")
        else:
            yield _axis(name, value)


def _axis(name: str, value: Any) -> Axis:
    """Reads the values of one setting."""
    path = f"sweep.space.{name}"
    cure = (
        f"{path} is {shown(value)}; give a list of values, or a mapping with kind='choice' and values, or "
        "kind='uniform'|'log_uniform' with low and high."
    )
    if not isinstance(value, Mapping):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise UserError(cure)
        return Axis(name, GRID, _distinct(path, value))
    kind = value["kind"]
    names = {CHOICE: {"values"}, UNIFORM: {"low", "high"}, LOG_UNIFORM: {"low", "high"}}.get(kind)
    if names is None or set(value) != {"kind", *names}:
        raise UserError(cure)
    if kind == CHOICE:
        if isinstance(value["values"], str) or not isinstance(value["values"], Sequence):
            raise UserError(cure)
        return Axis(name, kind, _distinct(path, value["values"]))
    low, high = value["low"], value["high"]
    if not all(isinstance(x, numbers.Real) and not isinstance(x, bool) and math.isfinite(x) for x in (low, high)):
        raise UserError(f"{path}: low and high are numbers; got {shown(low)} and {shown(high)}.")
    if low >= high or (kind == LOG_UNIFORM and low <= 0):
        raise UserError(f"{path}: low must lie below high, and log_uniform needs low > 0; got {low} and {high}.")
    return Axis(name, kind, (float(low), float(high)))


def _distinct(path: str, values: Sequence[Any]) -> tuple[Any, ...]:
    found = tuple(_frozen(value) for value in values)
    if not found:
        raise UserError(f"{path} has no values; give at least one.")
    twice = next((v for i, v in enumerate(found) if v in found[:i]), None)
    if twice is not None:
        raise UserError(f"{path} has {shown(twice)} twice; give every value once.")
    return found


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
