"""Which networks of a population are exported."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from jaxweights import population
from jaxweights.errors import UserError
from jaxweights.exporting.networks import chosen, runs_of
from jaxweights.population import Population
from jaxweights.settings import Settings, setting

ALL = "all"
SPLITS = (ALL, population.TRAIN, population.HELDOUT)
GENERATED = f"{population.GENERATED}:"
"""Before the name of a generator."""


@dataclasses.dataclass(frozen=True)
class Selection(Settings):
    """What is left out.

    Attributes:
      checkpoints: of every run, all, the last one or the first one.
      min_accuracy: networks below this test accuracy are left out, and those whose accuracy is unknown; 0 for none.
      max_runs: runs of each split, the first ones; 0 for all.
    """

    SECTION = "select"
    checkpoints: Literal["all", "last", "first"] = "all"
    min_accuracy: float = setting(0.0, at_least=0, at_most=1)
    max_runs: int = setting(0, at_least=0)

    def of(self, networks: Population, what: str = ALL) -> Population:
        """The networks that are selected, in their order; their weights stay where they are.

        Args:
          networks: of all splits.
          what: "all", or a split. Diverged networks are in none.

        Raises:
          UserError: none is left.
        """
        records = networks.records
        kept = records["split"] == what if what != ALL else records["split"] != population.DIVERGED
        if not kept.any():
            there = ", ".join(np.unique(records["split"]).tolist())
            raise UserError(f"There are no networks of the split {what!r}: all are {there}.")
        if self.checkpoints != ALL:
            sign = 1 if self.checkpoints == "last" else -1
            kept &= population.last_checkpoints({"run": runs_of(networks), "step": sign * records["step"]})
        if self.max_runs:
            kept &= _first_runs(runs_of(networks), records["split"], kept, self.max_runs)
        if self.min_accuracy:
            kept &= records["accuracy"] >= self.min_accuracy  # NaN is not
        if not kept.any():
            raise UserError(f"No network has {self.section}.min_accuracy = {self.min_accuracy:g} or more; lower it.")
        return chosen(networks, np.flatnonzero(kept))


def _first_runs(run: np.ndarray, split: np.ndarray, kept: np.ndarray, count: int) -> np.ndarray:
    """`[N]` bool: whether a network is of one of the first runs of its split."""
    found = np.zeros(len(run), bool)
    for name in np.unique(split):
        here = kept & (split == name)
        found |= here & np.isin(run, np.unique(run[here])[:count])
    return found
