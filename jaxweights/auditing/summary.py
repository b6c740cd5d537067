"""From measurements to tests and verdicts: every series against the null, and the controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from jaxweights.auditing import statistics, verdict
from jaxweights.auditing.measurements import (
    HELDOUT,
    HELDOUT_CONTROL,
    LEAKED_OUTPUTS,
    RESERVED,
    TRAINING,
    Measured,
)
from jaxweights.auditing.verdict import THRESHOLDS, Thresholds
from jaxweights.tasks import Terms


def summarise(
    measured: Mapping[str, Measured],
    controls: tuple[str, ...],
    resamples: int,
    seed: int,
    terms: Terms | None = None,
    one_run: bool = False,
    thresholds: Thresholds = THRESHOLDS,
    baselines: Collection[str] = (),
) -> dict[str, Any]:
    """Tests every series and judges it; a pure function of the measurements.

    Args:
      measured: by series name, with "training" and "heldout".
      controls: names of the positive controls.
      resamples: number of bootstrap resamples.
      seed: random seed of the bootstrap and of the split of the held-out runs.
      terms: words of the task, for the verdicts; those of classification by default.
      one_run: whether all training networks are checkpoints of one run. Then no sample has a next run to be compared
        with, and copies are those that lie within a third of the steps between checkpoints.
      thresholds: where the verdicts draw their lines.
      baselines: names of the series that a generator has to beat.

    Returns:
      `{"series": {name: ...}, "checks": {...}}`.
    """
    train, heldout = measured[TRAINING], measured[HELDOUT]
    series: dict[str, Any] = {}
    for number, (name, one) in enumerate(measured.items()):
        rng = np.random.default_rng([seed, number])
        judge = _Judge(train, heldout, resamples, rng, one_run, thresholds)
        entry = judge.estimates(one)
        known = one if one.defined.all() else one.rows(one.defined)
        if name not in (TRAINING, HELDOUT):
            entry["tests"] = judge.tests(known) if len(known) else None
        entry |= judge.neighbourhood(known)
        entry["role"] = _role(name, controls, baselines)
        series[name] = entry | counts(one)
    # The negative control: half of the held-out runs stand in for a generator's samples and are judged against the
    # other half.
    rng = np.random.default_rng([seed, 10_000])
    order = rng.permutation(len(heldout))
    half = len(order) // 2
    stand_in, null = heldout.rows(order[:half]), heldout.rows(order[half:])
    judge = _Judge(train, null, resamples, rng, one_run, thresholds)
    series[HELDOUT_CONTROL] = {
        **judge.estimates(stand_in),
        "tests": judge.tests(stand_in),
        **judge.neighbourhood(stand_in),
        "role": "control",
        **counts(stand_in),
    }
    judged = [n for n in series if "tests" in series[n]]
    for name in judged:
        series[name]["verdict"] = verdict.judge(series[name], series[HELDOUT], terms, thresholds)
    missed = [n for n in controls if not series[n]["verdict"]["flagged"]]
    if series[HELDOUT_CONTROL]["verdict"]["flagged"]:
        missed.append(HELDOUT_CONTROL)
    for name in judged:
        found = series[name]["verdict"]
        failed = [c for c in missed if verdict.rests_on(found, c, series[c]["verdict"])]
        if failed and series[name]["role"] != "control":
            series[name]["verdict"] = verdict.undecided(found, failed)
    return {"series": series, "checks": {"controls_passed": not missed, "failed_controls": missed}}


def counts(one: Measured) -> dict[str, Any]:
    """Networks of a series, those of them that are undefined, and those that are held-out networks; shares are None
    where there are none."""

    def count(chosen: np.ndarray) -> dict[str, Any]:
        found = int(chosen.sum())
        return {"count": found, "share": statistics.share(chosen).to_json() if found else None}

    leak = one.leak if len(one.leak) else np.zeros(len(one))
    return {
        "n": len(one),
        "undefined": count(~one.defined),
        "leaks": {**count(leak > 0), "outputs": int((leak == LEAKED_OUTPUTS).sum())},
    }


def _role(name: str, controls: Collection[str], baselines: Collection[str]) -> str:
    if name in RESERVED:
        return name
    return "control" if name in controls else "baseline" if name in baselines else "generator"


@dataclasses.dataclass(frozen=True)
class _Judge:
    """Estimates and tests of one series at a time.

    Attributes:
      train, heldout: measurements of the training networks and of the null.
      resamples: number of bootstrap resamples.
      rng: random generator of the bootstrap; every estimate draws from it in turn.
      one_run: see `summarise`.
      thresholds: what counts as a copy or a mixture.
    """

    train: Measured
    heldout: Measured
    resamples: int
    rng: np.random.Generator
    one_run: bool
    thresholds: Thresholds

    def estimates(self, one: Measured) -> dict[str, Any]:
        """Means of all measures; None for those that there are not. Undefined networks have an accuracy alone."""
        qualities = one.accuracy[np.isfinite(one.accuracy)]
        accuracy = self._mean(qualities)
        if accuracy is not None:
            accuracy["q05"] = float(np.quantile(qualities, self.thresholds.accuracy_quantile))
        one = one if one.defined.all() else one.rows(one.defined)
        return {
            "accuracy": accuracy,
            "loss": self._mean(one.loss),
            "min_l2": self._mean(one.min_l2),
            "aligned_min_l2": self._mean(one.aligned_min_l2),
            "max_error_iou": self._mean(one.max_error_iou),
            "hull_residual": self._mean(one.hull_residual),
        }

    def neighbourhood(self, one: Measured) -> dict[str, Any]:
        """Distances by run, and what mixtures explain; None where there is nothing to measure or to compare with."""
        by_run = {name: self._mean_of_known(getattr(one, name)) for name in ("same_run_l2", "other_run_l2")}
        residual, null = one.hull_residual, self.heldout.hull_residual
        ratio = np.divide(residual, one.distance, out=np.zeros(len(residual)), where=one.distance > 0)
        compared = None
        if len(one) and self._unexplained():
            compared = statistics.bootstrap_median_ratio(residual, null, self.resamples, self.rng).to_json()
        return {
            "by_run": by_run,
            "hull_residual_relative": {"to_nearest": self._mean_of_known(ratio), "to_heldout": compared},
        }

    def tests(self, one: Measured) -> dict[str, Any]:
        """Statistical tests of one series; `raw` holds the distance tests without alignment."""
        train, heldout, limits = self.train, self.heldout, self.thresholds
        aligned = bool(one.aligned_min_l2.size)
        tests = self._distance_tests(one.distance, one.second, one.nearest_row, train.distance, heldout.distance)
        tests["distance"] = "aligned" if aligned else "raw"
        if aligned:
            tests["raw"] = self._distance_tests(
                one.min_l2, one.second_l2, one.nearest[:, 0], train.min_l2, heldout.min_l2
            )
        tests["iou_above_heldout"] = self._same_errors(one)
        # Without another run, the next network is the next checkpoint of the run itself.
        second = train.distance[one.nearest_row] if self.one_run else one.second
        copies = (one.distance == 0) | (one.distance < limits.memorised_ratio * second)
        tests["copied_share"] = statistics.share(copies).to_json() if self.one_run else None
        null = np.median(heldout.hull_residual)
        mixtures = (one.hull_residual < limits.mixture_factor * null) & self._unexplained()
        if self.one_run:
            # Whatever stays near the run is near the hull of its checkpoints; mixing them has to explain more than
            # being near one of them does.
            mixtures &= one.hull_residual < limits.mixture_factor * one.distance
        tests["interpolated_share"] = statistics.share(mixtures & ~copies).to_json()
        return tests

    def _distance_tests(self, distance, second, nearest, train_distance, heldout_distance) -> dict[str, Any]:
        z_u = statistics.bootstrap_z_u(distance, heldout_distance, self.resamples, self.rng)
        authentic = statistics.bootstrap_auth_pct(distance, nearest, train_distance, self.resamples, self.rng)
        memorised = None
        if not self.one_run:
            memorised = statistics.nn_ratio_share(distance, second, self.thresholds.memorised_ratio).to_json()
        return {
            "z_u": z_u.to_json(),
            "auth_pct": authentic.to_json(),
            "memorised_share": memorised,
            "closer_than_heldout": statistics.share(distance < heldout_distance.min()).to_json(),
        }

    def _same_errors(self, one: Measured) -> dict[str, Any] | None:
        """The share of networks with a larger error IoU than most held-out runs; None without an evaluation."""
        if not len(one.max_error_iou):
            return None
        limit = np.quantile(self.heldout.max_error_iou, self.thresholds.error_quantile)
        return {**statistics.share(one.max_error_iou > limit).to_json(), "limit": float(limit)}

    def _unexplained(self) -> bool:
        """Whether held-out runs lie outside of the training networks' hull: one that fills the space explains
        anything."""
        residual, distance = np.median(self.heldout.hull_residual), np.median(self.heldout.distance)
        return bool(residual > self.thresholds.explained * distance)

    def _mean(self, values: np.ndarray) -> dict[str, Any] | None:
        return statistics.bootstrap_mean(values, self.resamples, self.rng).to_json("mean") if len(values) else None

    def _mean_of_known(self, values: np.ndarray) -> dict[str, Any] | None:
        return self._mean(values[~np.isnan(values)])
