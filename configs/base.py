"""Every field of an experiment with its default. A config file starts from here and says what is different."""

from typing import Any

from ml_collections import ConfigDict

from jaxweights import auditing, nets, report, settings, studies, tasks
from jaxweights.sweeps.settings import SweepSettings


def get_config(task: str = tasks.DEFAULT) -> ConfigDict:
    """The defaults of a task, without any generator; by default the digits network.

    Args:
      task: what the networks are for, see `tasks.TASKS`. The sections `data` and `zoo` are its own;
        `python -m launch.describe --config=... --fields` says what their fields mean.
    """
    chosen = tasks.get(task)
    config = ConfigDict()
    config.seed = 0
    config.num_samples = 256  # networks drawn from every generator
    config.task = task
    config.data = settings.config_dict(chosen.data_settings())
    config.net = network(chosen.default_network)
    config.zoo = settings.config_dict(chosen.zoo_settings())
    config.generators = ConfigDict()  # name -> kind and settings; see configs/generators.py
    config.audit = settings.config_dict(auditing.AuditSettings())
    config.report = settings.config_dict(report.ReportSettings())
    config.studies = ConfigDict()  # of a config's generators and task; see `add_study`
    for name in ("giveaway", "probing"):  # off, so that a flag can ask for them
        add_study(config, name)
    return config


def network(name: str, **changes: Any) -> ConfigDict:
    """The settings of a network, `config.net`: its defaults with some changes."""
    return settings.config_dict(settings.make(nets.settings_class(name), {"name": name, **changes}, "net"))


def add_study(config: ConfigDict, name: str) -> ConfigDict:
    """Puts the settings of a study into a config, with their defaults, and returns them."""
    config.studies[name] = settings.config_dict(studies.STUDIES[name].settings())
    return config.studies[name]


def sweep(*, draws: int = 0, seeds: int = 3, audit: bool = False, **space: Any) -> ConfigDict:
    """The section of a sweep, `config.sweep`; `space` is by section, see `jaxweights.sweeps.settings`."""
    return ConfigDict({**settings.config_dict(SweepSettings(draws=draws, seeds=seeds, audit=audit)), "space": space})
