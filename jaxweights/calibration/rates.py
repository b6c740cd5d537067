"""How often every control gets its name: counts of verdicts, their rates, and where thresholds may lie."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from scipy import special

from jaxweights.auditing import HELDOUT_CONTROL, THRESHOLDS, Thresholds
from jaxweights.auditing.statistics import Estimate, share_interval
from jaxweights.calibration.controls import CONTROLS, LEAK, NOT_FLAGGED, Control

FOUND, FALSE = 0.95, 0.05
"""Targets: least share of positive controls that get their name, largest share of negative ones that are flagged."""

GRID: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "z_u": (-2.0, -3.0, -4.0, -6.0),
        "share": (0.005, 0.01, 0.05),
        "most": (0.25, 0.5, 0.75),
        "error_quantile": (0.9, 0.95, 0.99),
        "saturated": (0.95, 0.99, 1.0),
        "accuracy_quantile": (0.01, 0.05, 0.1),
        "memorised_ratio": (0.25, 1 / 3, 0.4, 0.5),
        "collapsed_ratio": (0.075, 0.1, 0.125, 0.15, 0.2, 0.25),
        "mixture_factor": (0.25, 1 / 3, 0.4, 0.5, 0.65, 0.8),
        "near_ratio": (0.35, 0.5, 0.65, 0.8),
        "single_ratio": (0.7, 0.8, 0.9, 1.0),
        "variation_ratio": (0.8, 0.85, 0.9, 0.95, 1.0),
        "novelty": (0.3, 0.4, 0.45),
    }
)
"""Values of the thresholds that are tried, one threshold at a time."""

_HALF = Control("half of the held-out runs", NOT_FLAGGED, lambda parts, scale, seed: parts.heldout, positive=False)
JUDGED: Mapping[str, Control] = MappingProxyType({**CONTROLS, HELDOUT_CONTROL: _HALF})
"""All series that are counted."""


@dataclasses.dataclass(frozen=True)
class Count:
    """Verdicts of one control over experiments.

    Attributes:
      n: experiments.
      named: those in which it got a right verdict.
      flagged: those in which it was flagged.
      labels: how often it got each label.
      rules: how often each rule applied, as if it were asked first.
      saturated: experiments in which errors tell nothing apart.
    """

    n: int
    named: int
    flagged: int
    labels: Mapping[str, int]
    rules: Mapping[str, int]
    saturated: int

    @property
    def rate(self) -> Estimate:
        """Share of right verdicts, with its exact interval."""
        return share_interval(self.named, self.n)

    @property
    def flags(self) -> Estimate:
        """Share of experiments in which it was flagged, with its exact interval."""
        return share_interval(self.flagged, self.n)

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        ordered = {name: dict(sorted(getattr(self, name).items())) for name in ("labels", "rules")}
        return {**dataclasses.asdict(self), **ordered}


def count(name: str, verdicts: Sequence[Mapping[str, Any]]) -> Count:
    """Counts the verdicts of one control.

    Args:
      name: of the control.
      verdicts: of `cells.judge`, one per experiment.
    """
    names = JUDGED[name].names
    named = sum(v["leaked"] if LEAK in names else v["label"] in names for v in verdicts)
    labels = Counter(v["label"] + ", leak" * v["leaked"] for v in verdicts)
    rules = Counter(rule for v in verdicts for rule in v["rules"])
    flagged, saturated = (sum(v[key] for v in verdicts) for key in ("flagged", "saturated"))
    return Count(len(verdicts), named, flagged, labels, rules, saturated)


def counts(cells: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Count]:
    """Counts of all controls, in the order of `JUDGED`; those that no experiment has are left out."""
    found = {name: [cell[name] for cell in cells if name in cell] for name in JUDGED}
    return {name: count(name, verdicts) for name, verdicts in found.items() if verdicts}


def together(parts: Iterable[Count]) -> Count:
    """The counts of several kinds of zoos, added."""
    parts = list(parts)
    n, named, flagged, saturated = (sum(getattr(p, f) for p in parts) for f in ("n", "named", "flagged", "saturated"))
    labels, rules = (sum((Counter(getattr(p, f)) for p in parts), Counter()) for f in ("labels", "rules"))
    return Count(n, named, flagged, labels, rules, saturated)


def settings() -> Iterator[tuple[str, float, Thresholds]]:
    """Every threshold with every value of `GRID`, and the thresholds with this one changed."""
    for name, values in GRID.items():
        for value in values:
            yield name, value, dataclasses.replace(THRESHOLDS, **{name: value})


def power(samples: int, heldout: int, thresholds: Thresholds = THRESHOLDS) -> float:
    """Probability that networks of new runs are called as novel as new runs, by the normal approximation of the
    Mann-Whitney statistic.

    Args:
      samples: networks of the series.
      heldout: held-out networks.
      thresholds: where the verdicts draw their lines.
    """
    deviation = math.sqrt((samples + heldout + 1) / (12 * samples * heldout))
    return float(special.ndtr((0.5 - thresholds.novelty) / deviation - special.ndtri(0.975)))


def summary(by_kind: Mapping[str, Mapping[str, Count]]) -> dict[str, Any]:
    """What counts for a choice of thresholds.

    Args:
      by_kind: counts of every control, by kind of zoo.

    Returns:
      `found`: share of right verdicts over the positive controls that the target is about; `least`: the smallest share
      of any of these in any kind, and `least_of`, which; `flagged`: share of flagged negative controls; `most` and
      `most_of` likewise.
    """
    cells = [(kind, name, c) for kind, found in by_kind.items() for name, c in found.items()]
    aimed = [c for c in cells if JUDGED[c[1]].positive and JUDGED[c[1]].aim]
    negative = [c for c in cells if not JUDGED[c[1]].positive]
    least = min(aimed, key=lambda c: c[2].rate.value)
    most = max(negative, key=lambda c: c[2].flags.value)
    return {
        "found": together(c[2] for c in aimed).rate.to_json(),
        "least": least[2].rate.value,
        "least_of": [least[1], least[0]],
        "flagged": together(c[2] for c in negative).flags.to_json(),
        "most": most[2].flags.value,
        "most_of": [most[1], most[0]],
    }
