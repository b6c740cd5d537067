"""`jw.sweep`: a grid or a random search of recipes of a zoo."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxweights import settings
from jaxweights.api import arguments
from jaxweights.api.zoo import deal, task_of
from jaxweights.sweeps import outcome, study, table

_PARTS = ("net", "zoo", "data")


@dataclasses.dataclass(frozen=True, repr=False)
class SweepResult:
    """What a sweep found.

    Attributes:
      data: every number, with the layout of `sweep.json`.
    """

    data: dict[str, Any]

    @property
    def runs(self) -> dict[str, np.ndarray]:
        """Columns `[N]` of all runs: recipe, seed, accuracy, loss (NaN where it is not finite), diverged."""
        kinds = {"recipe": int, "seed": int, "accuracy": float, "loss": float, "diverged": bool}
        return {name: np.array(values, kinds.get(name)) for name, values in self.data["runs"].items()}

    @property
    def recipes(self) -> list[dict[str, Any]]:
        """Settings, diverged seeds, accuracy with its interval over seeds and loss of every recipe."""
        return self.data["recipes"]

    @property
    def best(self) -> dict[str, Any]:
        """The settings of the best recipe, as keywords of `train_zoo`; empty where every recipe has runs that
        diverged."""
        if not self.data["best"]:
            return {}
        names, values = outcome.short(self.data), self.recipes[self.data["best"][0]]["values"]
        return dict(zip(names, values.values(), strict=True))

    def csv(self) -> str:
        """One line per recipe, see `docs/sweeps.md`."""
        return table.recipes_csv(self.data)

    def __repr__(self) -> str:
        return "\n".join([*table.counts(self.data), *table.aligned(table.best_rows(self.data))])


def sweep(
    source: str = "digits",
    space: Mapping[str, Any] | None = None,
    *,
    draws: int = 0,
    seeds: int = 3,
    seed: int = 0,
    path: pathlib.Path | str | None = None,
    network: str | None = None,
    task: str | None = None,
    data_dir: str | None = None,
    mesh: Mesh | None = None,
    **options: Any,
) -> SweepResult:
    """Trains a grid, or a random search, of recipes of a zoo, each with several seeds, and ranks them.

    Args:
      source: name of a data set.
      space: what is varied: lists of values, or mappings with `kind` "choice", "uniform" or "log_uniform", by names of
        options. Hyper-parameters are traced, so one compiled program serves all of their values.
      draws: recipes of a random search; 0 for the grid of all values.
      seeds: runs of every recipe; run i is run i of `train_zoo` with that recipe.
      seed: random seed of draws and training.
      path: folder in which the same call resumes, and in which tables, figures and `sweep.html` are written; None for
        memory.
      network, task, data_dir, mesh: see `train_zoo`.
      **options: settings that all recipes share, see `train_zoo`.

    Raises:
      UserError: unknown settings (naming the nearest known one), or values that they cannot have.
    """
    chosen = task_of(task, network, arguments.instance(source, str, "source", "give the name of a data set"), None)
    network = network or chosen.default_network
    dealt = deal(options, chosen, network, _PARTS, "sweep")
    varied = {part: found for part, found in deal(space or {}, chosen, network, _PARTS, "space").items() if found}
    config = {
        "seed": arguments.seed(seed),
        "task": chosen.name,
        "data": settings.plain(settings.make(chosen.data_settings, {"name": source, **dealt["data"]})),
        "net": {"name": network, **dealt["net"]},
        "zoo": settings.plain(settings.make(chosen.zoo_settings, dealt["zoo"])),
        "sweep": {"space": varied, "draws": draws, "seeds": seeds},
    }
    if path is not None:
        return SweepResult(study.run(config, path, data_dir, mesh))
    with tempfile.TemporaryDirectory() as folder:
        return SweepResult(study.run(config, folder, data_dir, mesh, report=False))
