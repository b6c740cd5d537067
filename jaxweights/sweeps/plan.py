"""What a sweep consists of: its recipes, which of them one compiled program trains, and the cells that runs are kept
in."""

from __future__ import annotations

import copy
import dataclasses
import functools
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxweights import nets, tasks
from jaxweights.errors import UserError
from jaxweights.experiment.config import ExperimentSettings, complete, parse
from jaxweights.generators.base import LearnedGenerator
from jaxweights.sweeps.settings import Axis, SweepSettings
from jaxweights.zoo import Distribution, Recipe
from jaxweights.zoo.bulk import runs_in_memory

ZOO, GENERATORS = "zoo", "generators"
_SECTIONS = (ZOO, "net", "data")  # of recipes
_NO_RECIPE = (
    *("num_runs", "num_heldout", "import_npz", "use", "chunk_size", "lanes", "heldout_snapshots"),
    *("snapshots", "snapshot_epochs", "snapshot_range", "random_snapshots"),
)
_LAST = {"snapshots": (-1,), "snapshot_epochs": (), "snapshot_range": (), "random_snapshots": 0}
_MULTIPLE = 64  # of runs in a cell: whole lanes on any usual number of devices
_TRAININGS = 8  # of a generator in a cell, where nothing else bounds them


@dataclasses.dataclass(frozen=True)
class Group:
    """Recipes that one compiled program trains: they differ in traced settings alone.

    Attributes:
      number: from 0.
      fixed: values of the settings that are not traced, by name.
      recipes: numbers of its recipes.
      config: the experiment's, with these values, and distributions in place of traced hyper-parameters of zoos.
      settings: the same, checked.
    """

    number: int
    fixed: Mapping[str, Any]
    recipes: tuple[int, ...]
    config: Mapping[str, Any]
    settings: ExperimentSettings


class Cell(NamedTuple):
    """Runs that are trained and kept together.

    Attributes:
      number: from 0; its file has that name.
      group: number of the group.
      recipes, seeds: `[n]`, of every run.
      size: runs of the group's largest cell, which the compiled program takes.
    """

    number: int
    group: int
    recipes: np.ndarray
    seeds: np.ndarray
    size: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes:
      config: the experiment that is varied, with all settings in force.
      settings: the section `sweep`.
      seed: random seed of draws and of all training.
      axes: what is varied.
      traced: names of the settings that are traced.
      recipes: values of every recipe by name.
      groups: what one program each trains.
      generator: name of the generator that is swept; "" for recipes of zoos.
      data_dir: folder of data sets that are not embedded.
    """

    config: Mapping[str, Any]
    settings: SweepSettings
    seed: int
    axes: tuple[Axis, ...]
    traced: tuple[str, ...]
    recipes: Sequence[Mapping[str, Any]]
    groups: tuple[Group, ...]
    generator: str
    data_dir: str | None = None

    @property
    def task(self) -> tasks.Task:
        """What the networks are for."""
        return tasks.get(self.config["task"])

    @property
    def num_runs(self) -> int:
        """Runs of all recipes."""
        return len(self.recipes) * self.settings.seeds

    @functools.cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, group by group; they do not depend on devices or processes."""
        out: list[Cell] = []
        for group in self.groups:
            recipes = np.repeat(np.array(group.recipes), self.settings.seeds)
            seeds = np.tile(np.arange(self.settings.seeds), len(group.recipes))
            size = self._cell_size(group, len(recipes))
            for start in range(0, len(recipes), size):
                chosen = slice(start, start + size)
                out.append(Cell(len(out), group.number, recipes[chosen], seeds[chosen], size))
        return tuple(out)

    def _cell_size(self, group: Group, runs: int) -> int:
        """Runs per cell: as many as memory allows, spread evenly."""
        if self.generator:
            return min(runs, self.settings.cell or _TRAININGS)
        params = self.outline(group).spec.num_params
        most = self.settings.cell or runs_in_memory(params, 1, runs)
        even = -(-runs // -(-runs // most))
        return -(-even // _MULTIPLE) * _MULTIPLE if not self.settings.cell and runs > _MULTIPLE else even

    def outline(self, group: Group) -> nets.TaskNet:
        """The task network of a group, from sizes alone."""
        examples = self.examples(group)
        return self.task.build(group.config["net"], examples.shape, examples.outputs)

    def examples(self, group: Group) -> tasks.Examples:
        """The size of a group's data set."""
        return self.task.examples(group.settings.data, net=group.config["net"], data_dir=self.data_dir)

    def recipe(self, group: Group, num_examples: int) -> Recipe:
        """How the runs of a group are trained."""
        return Recipe.from_settings(group.settings.zoo, num_examples)

    def traced_values(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Values `[n]` float32 of the traced settings of recipes `[n]`, by the setting's own name."""
        return {
            name.rpartition(".")[2]: np.array([self.recipes[i][name] for i in numbers], np.float32)
            for name in self.traced
        }

    def facts(self) -> dict[str, Any]:
        """What all results depend on, as JSON data."""
        parts = ["seed", "task", "data", "net", "zoo"]
        kept: dict[str, Any] = {name: self.config[name] for name in parts}
        swept = {k: v for k, v in dataclasses.asdict(self.settings).items() if k not in ("space", "audit", "lanes")}
        swept["space"] = {axis.name: axis.to_json() for axis in self.axes}
        if not self.generator:
            kept["zoo"] = {name: value for name, value in kept["zoo"].items() if name not in _NO_RECIPE}
        else:
            kept[GENERATORS] = {self.generator: self.config[GENERATORS][self.generator]}
            kept["num_samples"], swept["audit"] = self.config["num_samples"], self.settings.audit
            if self.settings.audit:
                kept["audit"] = self.config["audit"]
        return {**kept, "sweep": swept}


def make(config: Mapping[str, Any], data_dir: str | None = None) -> Plan:
    """Plans the sweep of a config.

    Args:
      config: of an experiment, with a section `sweep`.
      data_dir: folder of data sets that are not embedded.

    Raises:
      UserError: nothing to sweep, settings that are no recipe's, unknown ones, or values that do not go together.
    """
    parsed = parse(config)
    whole, chosen = complete(config, parsed), parsed.sweep
    if not chosen.axes:
        raise UserError(
            "The config says nothing to sweep. Give values in sweep.space, e.g. config.sweep.space = "
            "{'zoo': {'learning_rate': (0.01, 0.1)}}."
        )
    generator = _subject(chosen.axes, parsed)
    if generator and "of" in whole[GENERATORS][generator]:
        raise UserError(
            f"generators.{generator} is a way of sampling from {whole[GENERATORS][generator]['of']!r}, which is "
            "the one that is trained. Vary settings of that."
        )
    if not generator:
        _check_zoo(parsed.zoo)
        whole["zoo"] |= {name: value for name, value in _LAST.items() if name in whole["zoo"]}
    traced = tuple(axis.name for axis in chosen.axes if _is_traced(axis, parsed, generator))
    for axis in chosen.axes:
        _check_values(whole, axis, axis.name in traced, generator)
    recipes = chosen.recipes(parsed.seed)
    with_traced = whole
    if not generator:
        with_traced = _with(whole, {a.name: _distribution(a) for a in chosen.axes if a.name in traced})
    groups = _groups(with_traced, recipes, [a.name for a in chosen.axes if a.name not in traced])
    return Plan(whole, chosen, parsed.seed, chosen.axes, traced, recipes, groups, generator, data_dir)


def _subject(axes: Sequence[Axis], parsed: ExperimentSettings) -> str:
    """The name of the generator that is swept; "" for recipes."""
    sections = {axis.name.partition(".")[0] for axis in axes}
    if sections <= set(_SECTIONS):
        for axis in axes:
            section, _, field = axis.name.partition(".")
            if (section == ZOO and field.partition(".")[0] in (*_NO_RECIPE, "base")) or axis.name == "net.name":
                raise UserError(
                    f"sweep.space.{axis.name} is no setting of a recipe that a sweep varies: every run keeps its last "
                    "weights alone, starts from an initialisation, and has the config's network. Remove it."
                )
        return ""
    if sections != {GENERATORS}:
        raise UserError(
            f"sweep.space has settings of {', '.join(sorted(sections))}. Vary settings of zoo, net and data (recipes "
            "of zoos), or settings of generators.NAME (a generator), one of the two."
        )
    names = sorted({axis.name.split(".")[1] for axis in axes})
    if len(names) != 1 or any(axis.name.count(".") < 2 for axis in axes):
        raise UserError(
            f"sweep.space.generators has {', '.join(names)}. Vary the settings of one generator: "
            "sweep.space.generators.NAME.SETTING."
        )
    learned = [n for n, g in parsed.generators.items() if isinstance(g, LearnedGenerator)]
    if names[0] not in learned:
        raise UserError(
            f"sweep.space.generators.{names[0]} is no learned generator of this config; there are: "
            f"{', '.join(learned) or 'none'}."
        )
    return names[0]


def _check_zoo(zoo: Any) -> None:
    """Refuses zoos whose runs do not start from initialisations."""
    base = getattr(zoo, "base", None)
    for wrong, what in (
        (zoo.import_npz, "zoo.import_npz reads networks instead of training them"),
        (base is not None and base.exists, "zoo.base trains one network before all others"),
        (zoo.start not in ("own", "shared"), f"zoo.start = {zoo.start!r} takes weights of another network"),
    ):
        if wrong:
            raise UserError(
                f"{what}, but in a sweep every run starts from an initialisation. Set zoo.start to own, and "
                "zoo.import_npz and zoo.base to nothing."
            )


def _is_traced(axis: Axis, parsed: ExperimentSettings, generator: str) -> bool:
    """Whether one program serves all values of a setting."""
    field = axis.name.rpartition(".")[2]
    if generator:
        return field in parsed.generators[generator].TRACED and axis.numeric
    section = axis.name.rpartition(".")[0]
    return section == ZOO and typing.get_type_hints(type(parsed.zoo)).get(field) is Distribution


def _distribution(axis: Axis) -> Any:
    """Traced hyper-parameters of a zoo as a setting has them."""
    if axis.discrete:
        return {"kind": "choice", "values": axis.values}
    return {"kind": axis.kind, "low": axis.values[0], "high": axis.values[1]}


def _check_values(config: Mapping[str, Any], axis: Axis, traced: bool, generator: str) -> None:
    """Refuses an unknown setting, and values that it cannot have."""
    if generator and axis.name.rpartition(".")[2] in _generator(parse(config), generator).SAMPLING:
        raise UserError(
            f"sweep.space.{axis.name} changes only how samples are drawn, which needs no other training: add "
            f"generators {{'of': {generator!r}, ...}} to the config and run launch.run."
        )
    if not axis.discrete and not traced:
        if not _has(config, axis.name):
            parse(_with(config, {axis.name: axis.values[0]}))  # says what there is instead
        raise UserError(
            f"sweep.space.{axis.name} is drawn from a {axis.kind} distribution, but every value of it is another "
            "program to compile. Give a list of values."
        )
    if traced and not generator:
        parse(_with(config, {axis.name: _distribution(axis)}))
        return
    for value in axis.values:
        parse(_with(config, {axis.name: value}))


def _generator(parsed: ExperimentSettings, name: str) -> LearnedGenerator:
    return parsed.generators[name]


def _groups(config: Mapping[str, Any], recipes: Sequence[Mapping[str, Any]], names: Sequence[str]):
    members: dict[tuple[Any, ...], list[int]] = {}
    for number, recipe in enumerate(recipes):
        members.setdefault(tuple(recipe[name] for name in names), []).append(number)
    out = []
    for values, numbers in members.items():
        fixed = dict(zip(names, values, strict=True))
        changed = _with(config, fixed)
        out.append(Group(len(out), fixed, tuple(numbers), changed, parse(changed)))
    return tuple(out)


def _has(config: Mapping[str, Any], name: str) -> bool:
    """Whether a config has a setting, by dotted name."""
    node: Any = config
    for key in name.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return False
        node = node[key]
    return True


def _with(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A config with some settings changed, by dotted name."""
    changed = copy.deepcopy(dict(config))
    for name, value in values.items():
        *sections, last = name.split(".")
        node = changed
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return changed
