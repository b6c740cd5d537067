"""Estimates of `metrics.json` and the measures that tables show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxweights import auditing
from jaxweights.tasks import Terms

_MOST_DECIMALS = 5  # more of them are written with an exponent
_SMALLEST, _LARGEST = 1e-3, 1e7  # where all numbers of a column are below, or a number is above
_ROUNDING = 1e-9  # width of an interval, relative to the value, that is none


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number that every series may have.

    Attributes:
      path: keys in the series' entry of `metrics.json`.
      title: column head, in which {names in braces} are the task's terms.
      scale: factor for display, 100 for shares.
      digits: number of decimals; None for as many as the interval justifies.
      beside: whether tables show what stands beside the value: that of held-out networks at the same number, and p.
    """

    path: tuple[str, ...]
    title: str
    scale: float = 1.0
    digits: int | None = None
    beside: bool = False

    def head(self, terms: Terms) -> str:
        """The title in the words of a task."""
        return self.title.format(**dataclasses.asdict(terms))

    def decimals(self, found: Estimate) -> int:
        """Decimals of an estimate and its interval: down to the first digit of half the interval's width.

        Without an interval, or with one of no width but for rounding, three significant digits of the value.
        """
        if self.digits is not None:
            return self.digits
        value, half = abs(self.scale * found.value), self.scale * found.half_width
        size = half if half > _ROUNDING * value else value / 100
        needed = max(-math.floor(math.log10(size)), 0) if size and math.isfinite(size) else 0
        return needed if value < _SMALLEST else min(needed, _MOST_DECIMALS)

    def shared(self, found: Sequence[Estimate], share: float = 0.75) -> int:
        """Decimals that all estimates of a column have.

        Few series, of copies or that diverged, do not decide how the others are shown.

        Args:
          found: the column.
          share: part of the estimates that have all digits that their intervals justify; those of zero do not count.
        """
        if self.digits is not None:
            return self.digits
        needed = sorted(self.decimals(e) for e in found if e.value)
        if not needed:
            return 0
        chosen = needed[min(int(share * len(needed)), len(needed) - 1)]
        small = all(abs(self.scale * e.value) < _SMALLEST for e in found)
        return chosen if small else min(chosen, _MOST_DECIMALS)

    def text(self, found: Estimate) -> str:
        """The value of an estimate as it is displayed."""
        return self.number(found.value, self.decimals(found))

    def number(self, value: float, decimals: int) -> str:
        """A value as it is displayed."""
        shown = self.scale * value
        if decimals > _MOST_DECIMALS or abs(shown) >= _LARGEST:
            return f"{shown:.1e}" if shown else "0"
        text = f"{shown:.{decimals}f}"
        return text.lstrip("-") if float(text) == 0 else text

    def find(self, entry: Mapping[str, Any]) -> Estimate | None:
        """The measure's estimate in a series' entry, or None where it was not measured."""
        return Estimate.of(self._node(entry))

    def besides(self, entry: Mapping[str, Any], decimals: int) -> list[str]:
        """What stands beside the estimate, as it is displayed; see `beside`."""
        node = self._node(entry) if self.beside else None
        if not isinstance(node, Mapping):
            return []
        null, p = node.get("heldout"), node.get("p")
        texts = [] if null is None else [f"new runs {self.number(null, decimals)}"]
        return texts if p is None else [*texts, f"p = {p:.3f}"]

    def _node(self, entry: Mapping[str, Any]) -> Any:
        node: Any = entry
        for key in self.path:
            node = node.get(key) if isinstance(node, Mapping) else None
        return node


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, the ends of its 95 % interval (None without one), and the number n of networks behind it."""

    value: float
    low: float | None
    high: float | None
    n: int | None

    @property
    def margins(self) -> tuple[float, float]:
        """Lengths of the interval below and above the value, at least 0; 0 without an interval."""
        if self.low is None or self.high is None:
            return 0.0, 0.0
        return max(self.value - self.low, 0.0), max(self.high - self.value, 0.0)

    @property
    def half_width(self) -> float:
        """Half of the interval's width; 0 without one."""
        return 0.0 if self.low is None or self.high is None else 0.5 * (self.high - self.low)

    @classmethod
    def of(cls, node: Any) -> Estimate | None:
        """Reads `{"mean" or "value", "ci95", "n"}`; None for anything else."""
        if not isinstance(node, Mapping) or node.get("mean", node.get("value")) is None:
            return None
        low, high = node.get("ci95") or (None, None)
        return cls(node.get("mean", node.get("value")), low, high, node.get("n"))

    @classmethod
    def read(cls, node: Any) -> Estimate:
        """Reads an estimate that has to be there, see `of`."""
        found = cls.of(node)
        if found is None:
            raise ValueError(f"{node!r} is not an estimate")
        return found

    def above(self, bound: float) -> bool:
        """Whether the whole interval lies above a bound; False without an interval."""
        return self.low is not None and self.low > bound

    def at_most(self, bound: float) -> bool:
        """Whether the whole interval lies at or below a bound; False without an interval."""
        return self.high is not None and self.high <= bound


MAIN = (
    Measure(("accuracy",), "{column}", 100),
    Measure(("aligned_min_l2",), "aligned min L2"),
    Measure(("min_l2",), "min L2"),
    Measure(("tests", "novelty"), "farther than new runs (%)", 100, 0),
    Measure(("tests", "z_u"), "Z_U", 1, 1),
    Measure(("tests", "memorised_share"), "copies (%)", 100, 0),
    Measure(("tests", "copied_share"), "copies of checkpoints (%)", 100, 0),
    Measure(("tests", "interpolated_share"), "mixtures (%)", 100, 0),
    Measure(("tests", "affine_share"), "affine mixtures (%)", 100, 0),
    Measure(("max_error_iou",), "max {overlap}", 1, 2),
)
"""What the verdict rests on; see `main`."""
MORE = (
    Measure(("loss",), "loss"),
    Measure(("tests", "auth_pct"), "AuthPct (%)", 1, 1),
    Measure(("tests", "z_ratio"), "Z_U of distance ratios", 1, 1),
    Measure(("tests", "collapsed_share"), "collapsed (%)", 100, 1),
    Measure(("tests", "closer_than_heldout"), "closer than any held-out (%)", 100, 1),
    Measure(("tests", "iou_above_heldout"), "{overlap} above held-out (%)", 100, 1),
    Measure(("hull_residual",), "distance to mixtures"),
    Measure(("hull_residual_relative", "to_nearest"), "mixtures over nearest"),
    Measure(("hull_residual_relative", "to_heldout"), "mixtures over held-out's"),
    Measure(("by_run", "same_run_l2"), "min L2, own run"),
    Measure(("by_run", "other_run_l2"), "min L2, other runs"),
    Measure(("undefined", "share"), "undefined (%)", 100, 1),
    Measure(("leaks", "share"), "held-out networks (%)", 100, 1),
)
FUNCTION = (
    Measure(("function", "function_l2"), "outputs: min L2"),
    Measure(("function", "function_max"), "largest difference"),
    Measure(("tests", "function", "novelty"), "outputs farther (%)", 100, 0),
    Measure(("tests", "function", "z_u"), "Z_U of outputs", 1, 1),
    Measure(("tests", "function", "memorised_share"), "copies by outputs (%)", 100, 0),
    Measure(("function", "nearest_disagreement"), "disagreement with nearest (%)", 100),
    Measure(("function", "disagreement"), "disagreement within (%)", 100),
    Measure(("function", "ensemble_gain"), "ensemble gain (points)", 100),
    Measure(("function", "barrier"), "barrier", 1, 4),
    Measure(("function", "aligned_barrier"), "aligned barrier", 1, 4),
    Measure(("function", "wrong"), "errors behind {overlap}"),
)
"""Of what networks compute."""
BATTERY = (
    Measure(("battery", "c_t"), "C_T", 1, 1, True),
    Measure(("battery", "calibrated_distance_share"), "calibrated distance (%)", 100, 0, True),
    Measure(("battery", "nn_ratio_share"), "neighbour ratio (%)", 100, 0, True),
    Measure(("battery", "precision"), "precision", 1, 2, True),
    Measure(("battery", "recall"), "recall", 1, 2, True),
    Measure(("battery", "density"), "density", 1, 2, True),
    Measure(("battery", "coverage"), "coverage", 1, 2, True),
    Measure(("battery", "fld"), "FLD", 1, None, True),
    Measure(("battery", "fld_gap"), "generalization gap", 1, None, True),
    Measure(("battery", "mmd"), "MMD\u00b2", 1, None, True),
    Measure(("battery", "c2st"), "C2ST (%)", 100, 0, True),
    Measure(("battery", "c2st_invariant"), "C2ST, invariants (%)", 100, 0, True),
    Measure(("battery", "pairs"), "pairs", 1, 2, True),
    Measure(("battery", "one_nna"), "1-NNA (%)", 100, 0, True),
    Measure(("battery", "vendi"), "Vendi", 1, None, True),
    Measure(("battery", "vendi_gaussian"), "Vendi, Gaussian", 1, None, True),
    Measure(("battery", "twonn"), "dimension, TwoNN", 1, None, True),
    Measure(("battery", "levina_bickel"), "dimension, Levina\u2013Bickel", 1, None, True),
)
"""Of a series as a population."""
PERFORMANCE = (
    Measure(("performance", "novelty"), "novelty"),
    Measure(("performance", "excess"), "above the baselines (points)", 100),
    Measure(("performance", "novel_and_performing", "tau_run", "1"), "novel and performing (%)", 100, 0),
    Measure(("performance", "novel_and_performing", "of_heldout"), "of held-out's own (%)", 100, 0),
    Measure(("performance", "novel_and_performing", "tau_all", "1"), "as published, 1\u03c4 (%)", 100, 0),
    Measure(("performance", "novel_and_performing", "tau_all", "4"), "as published, 4\u03c4 (%)", 100, 0),
)
"""Against the baselines."""
RAW = (
    Measure(("min_l2",), "min L2"),
    Measure(("tests", "raw", "novelty"), "farther than new runs (%)", 100, 0),
    Measure(("tests", "raw", "z_u"), "Z_U", 1, 1),
    Measure(("tests", "raw", "auth_pct"), "AuthPct (%)", 1, 1),
    Measure(("tests", "raw", "memorised_share"), "copies (%)", 100, 1),
    Measure(("tests", "raw", "closer_than_heldout"), "closer than any held-out (%)", 100, 1),
)


def main(metrics: Mapping[str, Any]) -> list[Measure]:
    """`MAIN` without raw distances where there are aligned ones."""
    aligned = any(entry.get("aligned_min_l2") for entry in metrics["series"].values())
    return [m for m in MAIN if not (aligned and m.path == ("min_l2",))]


def count(entry: Mapping[str, Any]) -> int:
    """Networks of a series."""
    return entry["n"] if "n" in entry else entry["min_l2"]["n"]


def training_networks(metrics: Mapping[str, Any]) -> int:
    """Training networks of an audit, of which the series of that name may be a part."""
    return metrics.get("training", {}).get("networks", count(metrics["series"][auditing.TRAINING]))
