"""Studies: what is asked of trained generators beyond the audit of their samples.

To add one: a module with a class of settings and `run`, one line in `STUDIES`, and for its part of the page one line in
`report.studies.PARTS` (a table of functions there, since nothing here imports the report).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jaxweights import data, nets, settings
from jaxweights.errors import UserError
from jaxweights.generators import GENERATORS, Autoencoding, Generator, Prompted, flow
from jaxweights.settings import Settings
from jaxweights.studies import autoencoder, copying, giveaway, probing, prompting, shapes
from jaxweights.studies.base import Estimation, Findings, Series, Study, Subject

__all__ = [
    "STUDIES",
    "Estimation",
    "Series",
    "Study",
    "Subject",
    "asked_for",
    "check",
    "make",
    "of_experiment",
    "of_generator",
    "of_series",
    "run",
]

STUDIES: dict[str, Study] = {
    "autoencoder": Study(autoencoder.AutoencoderSettings, autoencoder.run, generators=Autoencoding),
    "prompting": Study(prompting.PromptingSettings, prompting.run, generators=Prompted),
    "copying": Study(copying.CopyingSettings, copying.run, generators=flow.Flow),
    "shapes": Study(shapes.ShapesSettings, shapes.run, exists=shapes.exists, task="field", net={"signal": "occupancy"}),
    "giveaway": Study(giveaway.GiveawaySettings, giveaway.run, asked=giveaway.asked),
    "probing": Study(probing.ProbingSettings, probing.run, asked=probing.asked),
}


def make(config: Mapping[str, Any]) -> dict[str, Settings]:
    """The settings of all studies, by name.

    Args:
      config: `config.studies`; a study that it leaves out has its defaults.

    Raises:
      UserError: an unknown study or setting, or an impossible value.
    """
    settings.refuse_unknown(config, STUDIES, "studies")
    return {name: settings.make(s.settings, config.get(name, {}), f"studies.{name}") for name, s in STUDIES.items()}


def of_experiment(task: str, net: Settings, generators: Iterable[Generator]) -> tuple[str, ...]:
    """The names of the studies that an experiment with this task, networks and generators may have."""
    studied, chosen = {of_generator(generator) for generator in generators}, settings.plain(net)
    return tuple(
        name
        for name, s in STUDIES.items()
        if s.task in (None, task) and s.net.items() <= chosen.items() and (not s.generators or name in studied)
    )


def check(given: Iterable[str], task: str, net: Settings, generators: Iterable[Generator]) -> None:
    """Refuses settings of studies that an experiment does not have.

    Args:
      given: names of the studies that it has settings of.
      task: its task.
      net: settings of its networks.
      generators: its generators.

    Raises:
      UserError: a study without a generator, or with another task or network, than it needs.
    """
    wrong = [name for name in given if name not in of_experiment(task, net, generators)]
    if not wrong:
        return
    name, needed = wrong[0], STUDIES[wrong[0]].generators
    if needed is None and STUDIES[name].task != task:
        problem, cure = f"the task is {task!r}", f"Set task to {STUDIES[name].task!r}"
    elif needed is None:
        chosen = settings.plain(net)
        other = next(key for key, value in STUDIES[name].net.items() if chosen[key] != value)
        problem = f"net.{other} is {chosen[other]!r}"
        cure = f"Set net.{other} to {STUDIES[name].net[other]!r}"
    else:
        kinds = [kind for kind, known in GENERATORS.items() if issubclass(known, needed)]
        problem = "there is no generator that it studies"
        cure = f"Add one of kind {' or '.join(kinds)} to generators"
    raise UserError(f"The config has the section studies.{name}, but {problem}. {cure}, or remove the section.")


def of_generator(generator: Generator) -> str | None:
    """The name of the study of such generators; None where there is none."""
    kinds = ((name, study.generators) for name, study in STUDIES.items())
    return next((name for name, kind in kinds if kind is not None and isinstance(generator, kind)), None)


def asked_for(chosen: Mapping[str, Settings]) -> tuple[str, ...]:
    """The names of the studies that settings, by name, ask for."""
    return tuple(name for name, made in chosen.items() if STUDIES[name].asked(made))


def of_series(net: nets.TaskNet, dataset: data.Dataset, chosen: Mapping[str, Settings]) -> tuple[str, ...]:
    """The names of the studies of all series together that exist for such networks and are asked for."""
    asked = asked_for(chosen)
    return tuple(n for n, s in STUDIES.items() if s.generators is None and n in asked and s.exists(net, dataset))


def run(name: str, subject: Subject | Series, config: Mapping[str, Any], estimation: Estimation) -> Findings:
    """Runs a study.

    Args:
      name: key of `STUDIES`.
      subject: what to look at: a generator, or all series.
      config: `config.studies`.
      estimation: how its numbers are estimated.

    Returns:
      JSON data, in which `study` is the name, and per-network arrays for the figures.
    """
    metrics, arrays = STUDIES[name].run(subject, make(config)[name], estimation)
    return {"study": name, **metrics}, arrays
