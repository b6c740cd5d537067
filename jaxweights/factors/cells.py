"""The cells of a study of modelling factors: the generator of a config, and copies of it with one factor changed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from jaxweights import auditing, generators
from jaxweights.checks import suggest
from jaxweights.errors import UserError
from jaxweights.generators.base import LearnedGenerator

DEFAULT = "default"
SET, SEEDS = "set", "seeds"
ALL = "all"
_SIZES = {"set_3": 3, "set_10": 10}
_SEEDS = 3  # trainings of the default that the factor "seeds" asks for
_LABELS = {
    auditing.TRAINING: "training networks",
    auditing.HELDOUT: "held-out runs",
    "training_33": "training 33 %",
    "training_50": "training 50 %",
    "wide": "wider",
    "narrow": "narrower",
    "deep": "more layers",
    "shallow": "fewer layers",
    "dropout_10": "dropout 10 %",
    "dropout_20": "dropout 20 %",
    "more_noise": "Gaussian noise",
    "set_3": "training set x 3",
    "set_10": "training set x 10",
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training of the generator.

    Attributes:
      factor: what is changed; "default" where nothing is.
      level: how.
      changes: settings of the generator that differ, by field name.
      size: training networks, in multiples of the config's.
      seed: number of the training among those of the same level.
    """

    factor: str
    level: str
    changes: Mapping[str, Any]
    size: int = 1
    seed: int = 0

    @property
    def name(self) -> str:
        """The generator's name in the experiment."""
        return f"{self.level}-{self.seed}" if self.seed else self.level

    @property
    def label(self) -> str:
        """The level in words."""
        return label(self.level)

    @property
    def text(self) -> str:
        """The settings that differ."""
        return ", ".join(f"{name} {_short(value)}" for name, value in self.changes.items())


def label(level: str) -> str:
    """A level in words."""
    return _LABELS.get(level, level.replace("_", " "))


def _short(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "-".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def generator_of(config: Mapping[str, Any], name: str | None = None) -> tuple[str, LearnedGenerator]:
    """The learned generator that a study is about, with its name in the config.

    Args:
      config: of an experiment.
      name: of the generator, or of another way of sampling from it; may be None where one alone is trained.

    Raises:
      UserError: there is none, several and no name, or another kind of that name.
    """
    resolved = generators.resolve(config.get("generators", {}))
    learned = {n: g for n, (g, _) in resolved.items() if isinstance(g, LearnedGenerator)}
    known = ", ".join(learned) or "none"
    trained = [n for n in learned if resolved[n][1] == n]
    if name is None and len(trained) != 1:
        raise UserError(f"A study is about one learned generator; this config has: {known}. Name it with --generator.")
    if name is not None and name not in learned:
        raise UserError(f"{name!r} is no learned generator of this config; there are: {known}. Name one of them.")
    chosen = trained[0] if name is None else name
    return chosen, learned[chosen]


def choose(
    config: Mapping[str, Any],
    generator: LearnedGenerator,
    wanted: Collection[str],
    seeds: int = 1,
    begun: Collection[str] = (),
) -> tuple[list[Cell], list[str]]:
    """The cells of a study, those of the default first.

    Args:
      config: of an experiment.
      generator: what is varied.
      wanted: factors, or single levels; "all" are all that the generator and the zoo have.
      seeds: trainings of every level.
      begun: names of cells that are there and stay.

    Returns:
      The cells, and sentences about levels that are none.

    Raises:
      UserError: an unknown factor or level, one that the generator or the zoo does not have, or one whose settings are
        impossible.
    """
    every = [Cell(DEFAULT, DEFAULT, {})]
    for factor, levels in generator.FACTORS.items():
        every += [Cell(factor, level, change(generator)) for level, change in levels.items()]
    if not config["zoo"].get("import_npz"):
        every += [Cell(SET, level, {}, size) for level, size in _SIZES.items()]
    _refuse_unknown(wanted, every)
    chosen, notes = [], []
    for cell in every:
        if cell.level == DEFAULT:
            count = max(seeds, _SEEDS if {ALL, SEEDS}.intersection(wanted) else 1)
        else:
            count = seeds if {ALL, cell.factor, cell.level}.intersection(wanted) else 0
        if count and cell.changes and all(getattr(generator, name) == value for name, value in cell.changes.items()):
            notes.append(f"{cell.label} is what the default has")
            continue
        known = [seed for seed in range(len(begun) + 1) if dataclasses.replace(cell, seed=seed).name in begun]
        trainings = sorted({*range(count), *known})
        if trainings:
            generator.replace(**cell.changes)  # refuses what is impossible before anything is trained
        chosen += [dataclasses.replace(cell, seed=seed) for seed in trainings]
    return chosen, notes


def _refuse_unknown(wanted: Iterable[str], every: Iterable[Cell]) -> None:
    names = list(dict.fromkeys([ALL, SEEDS, *(cell.factor for cell in every), *(cell.level for cell in every)]))
    for name in set(wanted).difference(names):
        if name in (SET, *_SIZES):
            raise UserError(
                f"There is no {name!r} of imported networks (zoo.import_npz): there are no more of them. Leave it "
                "out, or train the zoo."
            )
        raise UserError(f"This generator has no factor or level {name!r}; {suggest(name, names)}.")


def experiment(config: Mapping[str, Any], name: str, chosen: Sequence[Cell]) -> dict[str, Any]:
    """The config of the experiment whose generators are cells of one size of the training set.

    Args:
      config: of the experiment that is varied, with all settings in force.
      name: of its generator.
      chosen: the cells.
    """
    changed, entry = copy.deepcopy(dict(config)), _entry(config, name)
    changed["generators"] = {cell.name: {**entry, **cell.changes} for cell in chosen}
    changed["zoo"] = _larger(changed["zoo"], chosen[0].size)
    changed["audit"] = {**changed["audit"], "barriers": 0}  # which no table of a study shows, and which take longest
    return changed


def _entry(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings of a generator; with all of those of the one whose training it uses."""
    entry = dict(config["generators"][name])
    return {**config["generators"][entry.pop("of")], **entry} if "of" in entry else entry


def _larger(zoo: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The settings of a zoo with a multiple of the training networks: of its runs, or where there is one run, of the
    consecutive steps that it keeps."""
    if size == 1:
        return dict(zoo)
    kept = zoo.get("snapshot_range")
    if zoo["num_runs"] > 1 or not kept:
        return {**zoo, "num_runs": size * zoo["num_runs"]}
    more = (size - 1) * (kept[1] - kept[0] + 1)
    steps = {"steps": zoo["steps"] + more} if zoo["steps"] else {}
    return {**zoo, **steps, "snapshot_range": (kept[0], kept[1] + more)}
