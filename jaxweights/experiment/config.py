"""The config of an experiment, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxweights import auditing, generators, report, settings, studies, tasks
from jaxweights.auditing import MIN_HELDOUT
from jaxweights.errors import UserError
from jaxweights.experiment.stages import CONTROLS


def check(config: Mapping[str, Any]) -> None:
    """Refuses an impossible config before anything is computed.

    Raises:
      UserError: a missing section, a held-out split that is too small, no runs, no samples, or an unknown generator.
    """
    for section in ("seed", "data", "net", "zoo", "generators", "num_samples", "audit", "studies", "report"):
        if section not in config:
            raise UserError(f"The config has no section {section!r}. Start from configs/base.py.")
    task = tasks.get(config.get("task", tasks.DEFAULT))
    task.check_network(config["net"].get("name"))
    settings.make(task.data_settings, config["data"])
    settings.make(task.zoo_settings, config["zoo"])
    zoo = config["zoo"]
    if zoo["num_runs"] < 1 and not zoo["import_npz"]:
        raise UserError(f"zoo.num_runs is {zoo['num_runs']}: a zoo needs at least one training run.")
    if zoo["num_heldout"] < MIN_HELDOUT:
        raise UserError(
            f"zoo.num_heldout is {zoo['num_heldout']}, but an audit needs at least {MIN_HELDOUT} held-out runs: "
            "without runs that "
            "no generator has seen there is nothing to compare a distance with."
        )
    if config["num_samples"] < 1:
        raise UserError(f"num_samples is {config['num_samples']}: an audit needs at least one sample per generator.")
    reserved = {*CONTROLS, *auditing.RESERVED, *studies.STUDIES, studies.shapes.TRAINING_SHAPES}
    for name in config["generators"]:
        if name in reserved:
            raise UserError(
                f"A generator cannot be called {name!r}: the audit uses that name itself. Rename generators.{name}."
            )
    generators.resolve(config["generators"])
    settings.make(auditing.AuditSettings, config["audit"])
    studies.make(config["studies"])
    settings.make(report.ReportSettings, config["report"])
