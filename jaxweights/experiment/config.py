"""The config of an experiment as typed settings, checked before anything is computed."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from jaxweights import auditing, generators, nets, settings, studies, tasks
from jaxweights.auditing import MIN_HELDOUT, AuditSettings
from jaxweights.errors import UserError
from jaxweights.experiment.stages import CONTROLS
from jaxweights.report import ReportSettings
from jaxweights.settings import Settings, setting
from jaxweights.sweeps.settings import SweepSettings
from jaxweights.zoo import ZooSettings
from jaxweights.zoo.recipe import FURTHER

_OWN = ("seed", "num_samples", "task")  # settings of the experiment itself; all others are sections
_OFF_DATA = ("skip_bad", "permute_pixels", "label_noise")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # of a generator


@dataclasses.dataclass(frozen=True)
class ExperimentSettings(Settings):
    """Settings of an experiment.

    Attributes:
      seed: random seed of the zoo, the generators, the samples and the statistics.
      num_samples: networks drawn from every generator.
      task: what the networks are for, see `tasks.TASKS`; the sections data and zoo are those of the task.
      data: data set.
      net: task network.
      zoo: runs of the task network and how they are trained.
      audit: how generated networks are measured.
      report: the HTML page.
      studies: studies of trained generators, by name.
      generators: generators by name, with all their settings.
      sweep: what `launch.sweep` varies; no part of the experiment itself.
    """

    data: Settings
    net: Settings
    zoo: ZooSettings
    audit: AuditSettings
    report: ReportSettings
    studies: Mapping[str, Any]
    generators: Mapping[str, Any]
    sweep: SweepSettings = SweepSettings()
    seed: int = setting(0, at_least=0, at_most=2**32 - 1)
    num_samples: int = setting(256, at_least=1)
    task: str = setting(tasks.DEFAULT, one_of=lambda: tasks.TASKS)

    def __post_init__(self) -> None:
        super().__post_init__()
        zoo = self.zoo
        if zoo.num_runs < 1 and not zoo.import_npz:
            zoo.refuse("num_runs", "a zoo needs at least one training run")
        if zoo.num_heldout < MIN_HELDOUT:
            zoo.refuse(
                "num_heldout",
                f"set it to at least {MIN_HELDOUT}: without runs that no generator has seen there is nothing to "
                "compare a distance with",
            )
        reserved = {*CONTROLS, *auditing.RESERVED, *studies.STUDIES, studies.shapes.TRAINING_SHAPES}
        for name in self.generators:
            if not _NAME.fullmatch(str(name)):
                raise UserError(
                    f"A generator cannot be called {name!r}: its folders have that name. Take 1 to 64 letters, digits, "
                    "_ and -, first a letter or digit."
                )
            if name in reserved:
                raise UserError(
                    f"A generator cannot be called {name!r}: the audit uses that name itself. Rename generators.{name}."
                )


_OF_OTHERS = {"bias": "launch.classify", "probing": "launch.probe"}  # programs by the section of their configs


def parse(config: Mapping[str, Any]) -> ExperimentSettings:
    """The settings of a config.

    Args:
      config: nested mapping, see `configs/base.py`. Sections and settings that it leaves out take their defaults.

    Raises:
      UserError: an unknown section or setting (naming the nearest known one), an impossible value, or a study of what
        there is not.
    """
    known = [field.name for field in dataclasses.fields(ExperimentSettings)]
    for name in set(_OF_OTHERS) & set(config):
        raise UserError(f"The config has a section {name}: it is no experiment. Run it by {_OF_OTHERS[name]}.")
    settings.refuse_unknown(config, known, "")
    for name in set(known) - set(_OWN):
        if not isinstance(config.get(name, {}), Mapping):
            raise UserError(f"{name} is {config[name]!r}; it is a section, a mapping of settings.")
    sections = {name: config.get(name, {}) for name in known if name not in _OWN}
    task = tasks.get(config.get("task", tasks.DEFAULT))
    network = sections["net"].get("name", task.default_network)
    task.check_network(network)
    own = {name: config[name] for name in _OWN if name in config}
    made = {n: g for n, (g, _) in generators.resolve(sections["generators"]).items()}
    chosen = studies.make(sections["studies"])
    net = settings.make(nets.settings_class(network), {**sections["net"], "name": network}, "net")
    studies.check(sections["studies"], task.name, net, made.values())
    return settings.make(
        ExperimentSettings,
        {
            **own,
            "data": settings.make(task.data_settings, sections["data"]),
            "net": net,
            "zoo": settings.make(task.zoo_settings, sections["zoo"]),
            "audit": settings.make(AuditSettings, sections["audit"]),
            "report": settings.make(ReportSettings, sections["report"]),
            "studies": chosen,
            "generators": made,
            "sweep": settings.make(SweepSettings, sections["sweep"]),
        },
    )


def complete(config: Mapping[str, Any], parsed: ExperimentSettings) -> dict[str, Any]:
    """A config as JSON data with every setting of the experiment in force: studies are those that there may be, and
    entries of generators stay as they are, since what one leaves out may depend on what another that refers to it
    sets."""
    completed = json.loads(json.dumps({**settings.plain(parsed), "generators": config.get("generators", {})}))
    possible = studies.of_experiment(parsed.task, parsed.net, parsed.generators.values())
    possible = set(possible) & set(studies.asked_for(parsed.studies))
    completed["studies"] = {name: chosen for name, chosen in completed["studies"].items() if name in possible}
    del completed["sweep"]
    # Off is no entry, so that workdirs from before these were settings belong to the same config.
    for name in _OFF_DATA:
        if not completed["data"].get(name):
            completed["data"].pop(name, None)
    for name, default in FURTHER.items():
        if completed["zoo"].get(name) == default:
            del completed["zoo"][name]
    return completed
