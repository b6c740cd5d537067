"""The section `probing` of a config: what is probed, by which probes, and sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxweights.errors import UserError
from jaxweights.probing import probes
from jaxweights.probing.probes import Probe
from jaxweights.settings import Settings, make, refuse_unknown, setting

NULL = "heldout"
"""Name, beside those of models, of fresh examples of the same designs: what a model without any error makes."""


@dataclasses.dataclass(frozen=True)
class ProbingSettings(Settings):
    """Settings of a study of what models make of designed training sets.

    Attributes:
      data: `kind` and settings of the designed examples, see `data.DATA`, and `weights.NETWORKS` for networks.
      estimator: `kind` and settings of what measures features of images, see `estimators.ESTIMATORS`; none of networks,
        whose features are exact.
      models: by name; each a mapping with its `kind` and settings, see `models.MODELS`, and `generators.GENERATORS` for
        networks.
      probes: by name; each a mapping with its `kind` and settings, see `probes.PROBES`. Designs that several ask for
        are trained once.
      num_train: training examples of every design.
      num_heldout: fresh examples of every design, and examples that the estimator's accuracy is measured on.
      num_samples: samples of every trained model.
      seeds: trainings of every model on every design, each on fresh examples.
      together: whether all trainings of a model are one program; if not, one follows the other, each split over all
        devices and resumed from its own checkpoints, for models of the published size.
      shown: pictures of every training, for the report.
    """

    SECTION: ClassVar[str] = "probing"

    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    estimator: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    models: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    probes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_train: int = setting(1000, at_least=2)
    num_heldout: int = setting(1000, at_least=2)
    num_samples: int = setting(1000, at_least=2)
    seeds: int = setting(2, at_least=1, at_most=1000)
    together: bool = True
    shown: int = setting(6, at_least=1, at_most=20)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("data", "models", "probes"):
            if not getattr(self, field):
                self.refuse(field, "give one entry at least")
        for name in (*self.models, *self.probes):
            if not name.replace("_", "").replace("-", "").isalnum():
                raise UserError(f"{name!r} is no name of a model or a probe; use letters, digits, - and _.")
        if NULL in self.models:
            raise UserError(f"probing.models has {NULL!r}, the name of fresh training examples. Choose another name.")

    def chosen_probes(self) -> dict[str, Probe]:
        """The probes by name, in the order of their names."""
        return {name: probes.make(self.probes[name], f"probing.probes.{name}") for name in sorted(self.probes)}


def is_one(config: Mapping[str, Any]) -> bool:
    """Whether a config is of such a study."""
    return ProbingSettings.SECTION in config


def parse(config: Mapping[str, Any]) -> ProbingSettings:
    """The section of a config; data, models and probes are checked by `study.subject_of`.

    Raises:
      UserError: see `ProbingSettings`.
    """
    if not is_one(config):
        raise UserError(
            "The config has no section probing: there is nothing to probe. Give one such as configs/probing_dots.py; "
            "experiments are run by launch.run, comparisons of data sets by launch.classify."
        )
    refuse_unknown(config, ("seed", ProbingSettings.SECTION), "")
    return make(ProbingSettings, config[ProbingSettings.SECTION])
