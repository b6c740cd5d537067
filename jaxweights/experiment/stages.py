"""The stages of an experiment: what each needs, which settings it depends on, and what it leaves in the workdir.

base → zoo → train <generator> → sample <series> → measure <series> → audit → report
                              ↘ study <subject> ───────────────────↗
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from jaxweights import auditing, generators, provenance, settings, studies
from jaxweights.generators.imported import Imported

# The positive controls of an audit, as far as networks have these symmetries: one that does not flag them is worth
# nothing.
CONTROLS: dict[str, dict[str, Any]] = {
    "copy": {"kind": "copy"},
    "noised_copy": {"kind": "noise", "sigma": 0.05, "relative": True},
    "permuted_copy": {"kind": "copy", "permute": True},
    "rescaled_copy": {"kind": "copy", "rescale": True},
    "sign_flipped_copy": {"kind": "copy", "flip": True},
}

# Settings of the audit that its measurements depend on.
_MEASURING = ("hull_neighbours", "hull_aligned_neighbours", "barriers", "probe")
_QUERIES = auditing.AuditSettings.training_queries


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of an experiment.

    Attributes:
      name: as in `timing.json`.
      settings: what the stage itself depends on, by dotted name.
      needs: names of the stages whose results it reads.
      leaves: glob patterns of its results, relative to the workdir.
      kept: whether its result took training and is never removed to make room for another config's.
    """

    name: str
    settings: Mapping[str, Any]
    needs: tuple[str, ...]
    leaves: tuple[str, ...]
    kept: bool = False


def stages(config: Mapping[str, Any], inputs: Mapping[str, str] = MappingProxyType({})) -> dict[str, Stage]:
    """Every stage of a config, by name, in an order in which they can run.

    Args:
      config: of an experiment, as JSON data with all defaults.
      inputs: checksums of what it reads, by the setting that names it; see `input_files`, and "data".
    """
    return {stage.name: stage for stage in _stages(config, inputs)}


def origin(config: Mapping[str, Any], inputs: Mapping[str, str], name: str) -> dict[str, Any]:
    """What the result of a stage depends on: its settings and those of all stages before it, by dotted name."""
    every = stages(config, inputs)

    def of(name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for needed in every[name].needs:
            found |= of(needed)
        return found | dict(every[name].settings)

    return of(name)


def input_files(config: Mapping[str, Any]) -> dict[str, str]:
    """The files that networks of an experiment are read from, by the setting that names them."""
    zoo = config["zoo"]
    found = {"zoo.import_npz": zoo.get("import_npz"), "zoo.base.import_npz": (zoo.get("base") or {}).get("import_npz")}
    for name, (generator, _) in generators.resolve(config["generators"]).items():
        if isinstance(generator, Imported):
            found[f"generators.{name}.path"] = generator.path
    return {setting: path for setting, path in found.items() if path}


def _stages(config: Mapping[str, Any], inputs: Mapping[str, str]) -> Iterator[Stage]:
    def read(setting: str) -> dict[str, Any]:
        return {f"inputs.{setting}": inputs[setting]} if setting in inputs else {}

    task = {key: config.get(key) for key in ("seed", "task", "data", "net")} | read("data")
    zoo = {key: value for key, value in config["zoo"].items() if key not in ("base", "use")}
    base, use = {"zoo.base": config["zoo"].get("base")}, {"zoo.use": config["zoo"]["use"]}
    base |= read("zoo.base.import_npz")
    yield _stage("base", task | base, (), ("base",), kept=True)
    yield _stage("zoo", task | base | {"zoo": zoo} | read("zoo.import_npz"), ("base",), ("zoo",), kept=True)
    resolved = generators.resolve(config["generators"])
    learned = {
        n: g for n, (g, trained) in resolved.items() if n == trained and isinstance(g, generators.LearnedGenerator)
    }
    for name, generator in learned.items():
        training = {k: v for k, v in _entry(config, name).items() if k not in generator.SAMPLING}
        data = {} if generator.TRAJECTORIES else use
        yield _stage(f"train {name}", {f"generators.{name}": training} | data, ("zoo",), (f"generators/{name}",), True)
    series = {**resolved, **generators.resolve(CONTROLS)}
    for name, (_, trained) in series.items():
        needs = f"train {trained}" if trained in learned else "zoo"
        entry = {**_entry(config, trained), **_entry(config, name)}
        drawn = {f"generators.{name}": entry, "num_samples": config["num_samples"]} | use
        drawn |= read(f"generators.{name}.path")
        yield _stage(f"sample {name}", drawn, (needs,), (f"samples/{name}",))
    made = studies.make(config["studies"])
    chosen = {study: settings.plain(made[study]) for study in studies.asked_for(made)}
    bootstrap = {"audit.bootstrap": config["audit"]["bootstrap"]}
    studied = {n: study for n, g in learned.items() if (study := studies.of_generator(g)) is not None}
    for name, study in studied.items():
        ways = tuple(f"sample {n}" for n, (_, trained) in series.items() if trained == name)
        depends = bootstrap | {f"studies.{study}": chosen[study]}
        yield _stage(f"studies {name}", depends, (f"train {name}", *ways), (f"studies/{name}.*",))
    shown = tuple(f"sample {name}" for name in resolved)
    compared = [name for name, study in studies.STUDIES.items() if study.generators is None and name in chosen]
    for name in compared:
        depends = bootstrap | use | {f"studies.{name}": chosen[name]}
        yield _stage(f"studies {name}", depends, ("zoo", *shown), (f"studies/{name}.*",))
    measuring = {f"audit.{key}": config["audit"].get(key) for key in _MEASURING} | use
    for name in (auditing.TRAINING, auditing.HELDOUT, auditing.NOISE_LADDER, *series):
        needs = f"sample {name}" if name in series else "zoo"
        own = {"audit.training_queries": config["audit"].get("training_queries", _QUERIES)}
        depends = measuring | own if name == auditing.TRAINING else measuring
        yield _stage(f"measure {name}", depends, (needs,), (f"audit/{name}.npz",))
    found = tuple(f"measure {n}" for n in (auditing.TRAINING, auditing.HELDOUT, auditing.NOISE_LADDER, *series))
    found += tuple(f"studies {n}" for n in (*studied, *compared))
    yield _stage("audit", {"audit": config["audit"]}, found, ("metrics.json",))
    yield _stage("report", {"report": config["report"]}, ("audit",), _REPORT)


_REPORT = ("report.html", "figures", "table.csv", "table.tex", "methods.tex", "references.bib")


def _entry(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings of a series that matter for it: of a generator, or of a control."""
    entry = config["generators"].get(name) or CONTROLS[name]
    return {key: value for key, value in entry.items() if key not in generators.LearnedGenerator.PLACEMENT}


def _stage(name, settings, needs, leaves, kept: bool = False) -> Stage:
    return Stage(name, provenance.flat_config(settings), needs, leaves, kept)


def stale_stages(before: Mapping[str, Stage], after: Mapping[str, Stage]) -> list[Stage]:
    """The stages whose results under one config are not those under another, or are no longer wanted."""
    stale = {name: stage for name, stage in before.items() if name not in after}
    for name, stage in after.items():  # in an order in which they can run: what a stage needs comes before it
        old = before.get(name)
        if old is None or old.settings != stage.settings or not stale.keys().isdisjoint((*old.needs, *stage.needs)):
            stale[name] = stage
    return list(stale.values())
