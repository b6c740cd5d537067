"""Prototype enhancement: training examples with two near values of a feature, and the mass half way between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights.probing.features import Design
from jaxweights.probing.probes import histograms
from jaxweights.probing.probes.additivity import Mixture, gap_of
from jaxweights.probing.probes.base import Measured

_HALF = 0.25  # half of the centre's width, in gaps


@dataclasses.dataclass(frozen=True)
class Prototype(Mixture):
    """Whether values between the trained ones come out more often than the mean of single outputs says (Zhao et al.
    2018, arXiv 1811.03259).

    The centre is the middle half of the gap between the outermost values.
    """

    KIND = "prototype"

    def judge(self, designs: Mapping[str, Design], measured: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
        """Mass at the centre, and how much more that is than the additive prediction.

        Returns:
          `mixtures.<name>` with `values`, `centre` (its limits), `mass` (share of the mixture's output in it),
          `additive`, `heldout` (the same of fresh training examples), `enhancement` (mass minus additive), whether it
          `holds` (its interval lies above 0), the `mode` (centre of the most frequent bin), `gap` and `power`, see
          `Additivity.judge`.
        """
        found = {}
        for place, (name, values, column, bins, mixed, singles) in enumerate(self.parts(designs, measured)):
            rng = np.random.default_rng(place)
            width = _HALF * (values[-1] - values[0])
            limits = (values[0] + values[-1]) / 2 - width, (values[0] + values[-1]) / 2 + width
            together, alone = _inside(mixed, column, limits), [_inside(one, column, limits) for one in singles]
            draws, n = histograms.resampled(together, rng)[:, 0], histograms.total(together)
            draws_alone = np.mean([histograms.resampled(one, rng)[:, 0] for one in alone], axis=0)
            mass = float(histograms.mean(together)[0])
            additive = float(np.mean([histograms.mean(one)[0] for one in alone]))
            heldout = _inside(mixed, column, limits, "heldout")
            enhancement = histograms.number(mass - additive, draws - draws_alone, n)
            shares = histograms.mean([bins.one_hot(v) for v in histograms.column(mixed, "generated", column)])
            peak = int(shares[: bins.size].argmax())
            found[name] = {
                "values": values,
                "centre": list(limits),
                "mass": histograms.number(mass, draws, n),
                "additive": histograms.number(additive, draws_alone, sum(map(histograms.total, alone))),
                "heldout": histograms.number(
                    float(histograms.mean(heldout)[0]),
                    histograms.resampled(heldout, rng)[:, 0],
                    histograms.total(heldout),
                ),
                "enhancement": enhancement,
                "holds": enhancement["ci95"][0] > 0,
                "mode": (bins.edges[peak] + bins.edges[peak + 1]) / 2 if shares[peak] > 0 else None,
                **gap_of(values, singles, column),
            }
        return {"feature": self.feature, "mixtures": found}


def _inside(
    measured: Sequence[Measured], column: int, limits: tuple[float, float], part: str = "generated"
) -> list[np.ndarray]:
    """Whether each value lies between the limits, `[n, 1]` per training; values that are not defined do not."""
    values = histograms.column(measured, part, column)
    return [((v >= limits[0]) & (v <= limits[1]))[:, None].astype(np.float64) for v in values]
