"""From measurements to tests and verdicts: every series against the null, and the controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxweights.auditing import front, statistics, verdict
from jaxweights.auditing.distances import function
from jaxweights.auditing.measurements import (
    HELDOUT,
    HELDOUT_CONTROL,
    LEAKED_OUTPUTS,
    NOISE_LADDER,
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
      measured: by series name, with "training" and "heldout"; those of `front.ladder` where there are any.
      controls: names of the positive controls.
      resamples: number of bootstrap resamples.
      seed: random seed of the bootstrap and of the split of the held-out runs.
      terms: words of the task, for the verdicts; those of classification by default.
      one_run: whether all training networks are checkpoints of one run. Then no sample has a next run to be compared
        with, and copies are those that lie within a third of the steps between checkpoints.
      thresholds: where the verdicts draw their lines.
      baselines: names of the series that a generator has to beat.

    Returns:
      `{"series": {name: ...}, "checks": {...}, "baselines": {...}}`.
    """
    noise = measured.get(NOISE_LADDER)
    measured = {name: one for name, one in measured.items() if name != NOISE_LADDER}
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
        entry["function"] = function.describe(known, resamples, np.random.default_rng([seed, number, 1]))
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
        "function": function.describe(stand_in, resamples, np.random.default_rng([seed, 10_000, 1])),
        "role": "control",
        **counts(stand_in),
    }
    judged = [n for n in series if "tests" in series[n]]
    for name in judged:
        series[name]["verdict"] = verdict.judge(series[name], series[HELDOUT], terms, thresholds)
    missed = [n for n in (*controls, HELDOUT_CONTROL) if verdict.missed(n, series[n]["verdict"])]
    for name in judged:
        found = series[name]["verdict"]
        failed = [c for c in missed if verdict.rests_on(found, c, series[c]["verdict"])]
        if failed and series[name]["role"] != "control":
            series[name]["verdict"] = verdict.undecided(found, failed)
    checks = {"controls_passed": not missed, "failed_controls": missed}
    found = {**measured, HELDOUT_CONTROL: stand_in}
    compared = _compared(found, tuple(controls), tuple(baselines), noise, one_run, thresholds, resamples, seed)
    for name in judged:
        one = found[name]
        performance = compared.of(name, one) if compared is not None and len(one.accuracy) else None
        series[name]["performance"] = performance
        series[name]["verdict"]["beats_baselines"] = front.answer(performance, (terms or Terms()).measure)
    return {"series": series, "checks": checks, "baselines": None if compared is None else compared.baselines()}


def _compared(measured, controls, baselines, noise, one_run, thresholds, resamples, seed) -> front.Performance | None:
    """The baselines' front, to which controls belong; None where networks were not evaluated."""
    if not len(measured[HELDOUT].accuracy):
        return None
    names = [n for n in (*baselines, *controls) if n in measured and len(measured[n].accuracy)]
    noise = noise if noise is not None and len(noise.accuracy) else None
    return front.Performance(measured, names, noise, one_run, thresholds.accuracy_quantile, resamples, seed)


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


class Space(NamedTuple):
    """Distances of one kind to training networks: to the nearest one, to the next run, and the row of the nearest.
    Where these are distances of training networks, `places` says which row's are where, see `Measured.places`."""

    distance: np.ndarray
    second: np.ndarray
    nearest: np.ndarray
    places: Callable[[np.ndarray], np.ndarray]


def _space(one: Measured, name: str) -> Space | None:
    """The distances of a kind: of "weights" those of the tests, of "raw" weights where these are aligned, of the
    "function"; None where there are none."""
    if name == "function":
        found = one.function_l2, one.function_second, one.function_nearest
        return Space(*found, one.places) if len(one.function_l2) else None
    if name == "raw":
        return Space(one.min_l2, one.second_l2, one.nearest[:, 0], one.places) if one.aligned_min_l2.size else None
    return _weights(one)


def _weights(one: Measured) -> Space:
    return Space(one.distance, one.second, one.nearest_row, one.places)


def _copied(one: Space, train: Space, thresholds: Thresholds, one_run: bool) -> np.ndarray:
    """Which networks are copies: much nearer to a training network than to the next run or, where there is none, than
    the network is to its own next checkpoint."""
    second = train.distance[one.nearest.astype(np.int64)] if one_run else one.second
    return (one.distance == 0) | (one.distance < thresholds.memorised_ratio * second)


def _relative(residual: np.ndarray, distance: np.ndarray) -> np.ndarray:
    return np.divide(residual, distance, out=np.zeros(len(residual)), where=distance > 0)


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
        overlap = self._mean(one.max_error_iou)
        if overlap is not None and len(one.wrong):
            overlap["errors"] = float(one.wrong.mean())
        return {
            "accuracy": accuracy,
            "loss": self._mean(one.loss),
            "min_l2": self._mean(one.min_l2),
            "aligned_min_l2": self._mean(one.aligned_min_l2),
            "max_error_iou": overlap,
            "hull_residual": self._mean(one.hull_residual),
        }

    def neighbourhood(self, one: Measured) -> dict[str, Any]:
        """Distances by run, and what mixtures explain; None where there is nothing to measure or to compare with."""
        by_run = {name: self._mean_of_known(getattr(one, name)) for name in ("same_run_l2", "other_run_l2")}
        residual, null = one.hull_residual, self.heldout.hull_residual
        ratio = _relative(residual, one.distance)
        compared = None
        if len(one) and self._unexplained():
            compared = statistics.bootstrap_median_ratio(residual, null, self.resamples, self.rng).to_json()
        return {
            "by_run": by_run,
            "hull_residual_relative": {"to_nearest": self._mean_of_known(ratio), "to_heldout": compared},
        }

    def tests(self, one: Measured) -> dict[str, Any]:
        """Statistical tests of one series; `raw` holds the distance tests without alignment, `function` those of
        outputs."""
        train, heldout = self.train, self.heldout
        spaces = {}
        for name in ("weights", "raw", "function"):
            ours, theirs, null = (_space(series, name) for series in (one, train, heldout))
            if ours is not None and theirs is not None and null is not None:
                spaces[name] = self._distance_tests(ours, theirs, null)
        tests = spaces["weights"]
        tests |= {name: spaces[name] for name in ("raw", "function") if name in spaces}
        tests["distance"] = "aligned" if one.aligned_min_l2.size else "raw"
        tests["iou_above_heldout"] = self._same_errors(one)
        tests["interpolated_share"] = self._share(*(self._explained(x, "hull_residual") for x in (one, heldout)))
        tests["affine_share"] = self._share(*(self._explained(x, "affine_residual") for x in (one, heldout)))
        if not len(one.affine_residual) or not self._unexplained("affine_residual"):
            tests["affine_share"] = None
        tests["collapsed_share"] = self._collapsed(one)
        return tests

    def _distance_tests(self, one: Space, train: Space, heldout: Space) -> dict[str, Any]:
        """Tests of distances to training networks; see `docs/audit.md`."""
        z_u = statistics.bootstrap_z_u(one.distance, heldout.distance, self.resamples, self.rng)
        authentic = self._authentic(one, train)
        share = self._share(*(_copied(x, train, self.thresholds, self.one_run) for x in (one, heldout)))
        null = len(heldout.distance)
        return {
            "z_u": z_u.to_json(),
            "novelty": {**statistics.win_rate(z_u, null).to_json(), "heldout": null},
            "z_ratio": self._z_ratio(one, heldout),
            "distance_ratio": self._distance_ratio(one, heldout),
            "auth_pct": authentic,
            "memorised_share": None if self.one_run else share,
            "copied_share": share if self.one_run else None,
            "closer_than_heldout": statistics.share(one.distance < heldout.distance.min()).to_json(),
        }

    def _authentic(self, one: Space, train: Space) -> dict[str, Any] | None:
        """AuthPct of the networks whose nearest training network was compared with the others; None without any."""
        places = train.places(one.nearest)
        known = places >= 0
        if not known.any():
            return None
        distances = one.distance[known], places[known], train.distance
        return statistics.bootstrap_auth_pct(*distances, self.resamples, self.rng).to_json()

    def _z_ratio(self, one: Space, heldout: Space) -> dict[str, Any] | None:
        """Z_U of the ratios of the distance to the nearest network to that to the next run: below 0 for networks that
        are close to single training networks; None where there is no next run."""
        ratios, null = (statistics.nn_ratio(x.distance, x.second) for x in (one, heldout))
        if np.isnan(ratios).any() or np.isnan(null).any():
            return None
        return statistics.bootstrap_z_u(ratios, null, self.resamples, self.rng).to_json()

    def _distance_ratio(self, one: Space, heldout: Space) -> dict[str, Any] | None:
        """The median distance over that of held-out runs; None where these are at 0."""
        if not np.median(heldout.distance) > 0:
            return None
        return statistics.bootstrap_median_ratio(one.distance, heldout.distance, self.resamples, self.rng).to_json()

    def _share(self, chosen: np.ndarray, null: np.ndarray) -> dict[str, Any]:
        """A share with the limit that it has to exceed: that of the thresholds, or of the held-out runs."""
        limit = max(self.thresholds.share, float(null.mean()) if len(null) else 0.0)
        return {**statistics.share(chosen).to_json(), "limit": limit}

    def _explained(self, one: Measured, residual: str) -> np.ndarray:
        """Which networks are much closer to mixtures than held-out runs are, also relative to the nearest network:
        whatever stays near a training network is near its mixtures, which then explain no more than it does."""
        found, null = getattr(one, residual), getattr(self.heldout, residual)
        if not len(found) or not self._unexplained(residual):
            return np.zeros(len(one), bool)
        factor = self.thresholds.mixture_factor
        relative = np.median(_relative(null, self.heldout.distance))
        near = (found < factor * np.median(null)) & (_relative(found, one.distance) < factor * relative)
        return near & (one.distance > self.thresholds.explained * np.median(self.heldout.distance))

    def _collapsed(self, one: Measured) -> dict[str, Any] | None:
        """The share of networks that are near another one of their series; None where that was not measured."""
        null = self.heldout.sibling_l2
        if len(one) < 2 or not len(one.sibling_l2) or not len(null) or not np.median(null) > 0:
            return None
        return statistics.share(one.sibling_l2 < self.thresholds.collapsed_ratio * np.median(null)).to_json()

    def _same_errors(self, one: Measured) -> dict[str, Any] | None:
        """The share of networks with a larger error IoU than most held-out runs; None without an evaluation."""
        if not len(one.max_error_iou):
            return None
        limit = float(np.quantile(self.heldout.max_error_iou, self.thresholds.error_quantile))
        saturated = limit >= self.thresholds.saturated
        return {**statistics.share(one.max_error_iou > limit).to_json(), "limit": limit, "saturated": saturated}

    def _unexplained(self, residual: str = "hull_residual") -> bool:
        """Whether held-out runs lie outside of the hull of training networks: one that fills the space explains
        anything."""
        found = getattr(self.heldout, residual)
        if not len(found) or np.isnan(found).any():
            return False
        return bool(np.median(found) > self.thresholds.explained * np.median(self.heldout.distance))

    def _mean(self, values: np.ndarray) -> dict[str, Any] | None:
        return statistics.bootstrap_mean(values, self.resamples, self.rng).to_json("mean") if len(values) else None

    def _mean_of_known(self, values: np.ndarray) -> dict[str, Any] | None:
        return self._mean(values[~np.isnan(values)])
