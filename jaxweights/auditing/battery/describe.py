"""The battery: tests of a whole series against training and held-out networks, in one system of coordinates."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxweights.auditing import statistics
from jaxweights.auditing.battery import copying, dimension, diversity, invariants, manifolds, pairwise, two_sample
from jaxweights.auditing.battery.likelihood import Likelihood
from jaxweights.auditing.battery.reference import Reference, Sample
from jaxweights.auditing.battery.sampling import Resampling
from jaxweights.auditing.measurements import HELDOUT, TRAINING
from jaxweights.auditing.rows import Progress, counter
from jaxweights.errors import UserError
from jaxweights.settings import Settings, setting
from jaxweights.spec import WeightSpec

COPYING = ("c_t", "calibrated_distance_share", "nn_ratio_share")
LIKELIHOOD = ("fld", "fld_gap")
COMPARED = ("precision", "recall", "density", "coverage", "mmd", "one_nna", "c2st", "c2st_invariant", "pairs")
ALONE = ("vendi", "vendi_gaussian", "twonn", "levina_bickel")
NAMES = (*COPYING, *COMPARED, *LIKELIHOOD, *ALONE)
"""What is computed of every series; of the training networks `ALONE`."""

_FEWEST = 8
_LARGEST_SPECTRUM = 256  # eigenvalues cost the cube, and every half has its own


@dataclasses.dataclass(frozen=True)
class BatterySettings(Settings):
    """How the battery compares populations.

    Attributes:
      neighbours: the neighbour that balls of precision, recall, density and coverage reach to.
      cells: cells of C_T.
      components: principal components that cells are found in.
      permutations: random divisions of the MMD's test.
      bootstrap: resamples of bootstrap intervals.
      halves: random halves of intervals that cannot be bootstrapped.
      largest: most networks of a series, and most training networks that cells are found of; of more a random part is
        taken.
      largest_train: most training networks; likewise, but for the distance to the nearest.
    """

    SECTION = "audit.battery"

    neighbours: int = setting(5, at_least=1, at_most=100)
    cells: int = setting(3, at_least=1)
    components: int = setting(64, at_least=1)
    permutations: int = setting(999, at_least=1)
    bootstrap: int = setting(1000, at_least=1)
    halves: int = setting(100, at_least=2)
    largest: int = setting(1000, at_least=8)
    largest_train: int = setting(5000, at_least=8)


class NearestRuns(NamedTuple):
    """Distances that were measured elsewhere, e.g. modulo symmetries pair by pair.

    Attributes:
      first: `[n]` distance to the nearest training network.
      second: `[n]` distance to the nearest one of another run than that one's; NaN where there is none.
    """

    first: np.ndarray
    second: np.ndarray


Entry = dict[str, Any]


def describe(
    coordinates: Mapping[str, Any],
    settings: BatterySettings | None = None,
    seed: int = 0,
    *,
    runs: np.ndarray | None = None,
    nearest: Mapping[str, NearestRuns] | None = None,
    spec: WeightSpec | None = None,
    progress: Progress | None = None,
) -> dict[str, dict[str, Entry | None]]:
    """Computes every statistic of every series.

    Statistics that depend on the size of a set are taken at the size of the smaller of it and the held-out networks,
    and the held-out networks' own value at that size stands beside.

    Args:
      coordinates: `[n, D]` floats by series name, with "training" and "heldout"; Euclidean distances of them must mean
        something, so symmetries are to be taken out before.
      settings: None for the defaults.
      seed: random seed. A series' numbers do not depend on which others there are.
      runs: `[T]` integers, the runs of the training networks; None where each is a run of its own.
      nearest: by series name, distances for C_T and the ratio of nearest neighbours; None for those of the coordinates.
      spec: of networks whose canonical coordinates these are; without it there is no `c2st_invariant`.
      progress: called with (series done, series in all).

    Returns:
      By series name, by `NAMES`: `{"value", "ci95", "n"}` and, with generated series, `heldout` (and `training` where
      they have one), the value of these at the same size; or None where there are too few networks. `mmd` and the
      `c2st` have `p`, `coverage`, `one_nna`, the `c2st` and `pairs` have `expected` for sets of one distribution, the
      shares a `limit`.

    Raises:
      UserError: no training or held-out networks, series of different width, or a number that is not finite.
    """
    settings = settings or BatterySettings()
    _check(coordinates, runs)
    battery = _Battery(coordinates[TRAINING], coordinates[HELDOUT], settings, seed, runs, nearest or {}, spec)
    tick = counter(progress, len(coordinates))
    found = {}
    for name, networks in coordinates.items():
        found[name] = battery.describe(name, networks)
        tick()
    return found


class _Battery:
    """Training and held-out networks, ready to be compared with one series after another."""

    def __init__(
        self,
        train: Any,
        heldout: Any,
        settings: BatterySettings,
        seed: int,
        runs: np.ndarray | None,
        nearest: Mapping[str, NearestRuns],
        spec: WeightSpec | None,
    ):
        self._settings, self._seed, self._nearest, self._spec = settings, seed, nearest, spec
        rng = self._resampling(TRAINING).rng
        sizes = (settings.largest_train, settings.largest)
        self._reference = Reference(train, runs, sizes, max(settings.neighbours, pairwise.listed(1)), rng)
        self._cells = copying.Cells(
            self._reference.train[: settings.largest], settings.cells, settings.components, _seed(rng)
        )
        self._heldout = self._reference.sample(heldout, self._resampling(HELDOUT).rng)
        self._half = len(self._heldout) // 2
        self._likelihood = None
        if self._half > 1:
            self._likelihood = Likelihood(self._reference.train, self._heldout.part(slice(self._half, None)).rows)
        self._known: dict[tuple[str, int], dict[str, Entry]] = {}
        self._size = min(len(self._heldout), len(self._reference.within))
        self._width = float(np.median(self._reference.within[np.triu_indices(len(self._reference.within), 1)]))

    def describe(self, name: str, networks: Any) -> dict[str, Entry | None]:
        """All numbers of one series."""
        if name == TRAINING:
            found = self._of_training(self._size)
        elif name == HELDOUT:
            found = self._of_heldout(self._size)
        elif len(networks):
            found = self._of_generated(name, networks)
        else:
            found = {}
        return dict.fromkeys(NAMES) | found

    def _of_generated(self, name: str, networks: Any) -> dict[str, Entry]:
        resampling = self._resampling(name)
        ours = self._reference.sample(networks, resampling.rng)
        size = min(len(ours), self._size)
        part = ours.part(slice(size))
        found = self._copying(name, ours, (HELDOUT, self._heldout), resampling) | self._fld(ours, resampling)
        found |= self._compared(part, resampling) | self._alone(part.rows, part.within, resampling)
        for beside, values in ((HELDOUT, self._of_heldout(size)), (TRAINING, self._of_training(size))):
            for statistic in found.keys() & values.keys():
                found[statistic][beside] = values[statistic]["value"]
        return found

    def _of_heldout(self, size: int) -> dict[str, Entry]:
        """Of the first held-out networks; where the null itself is needed, of one half against the other."""

        def compute(resampling: Resampling) -> dict[str, Entry]:
            part, half = self._heldout.part(slice(size)), self._half
            found = self._compared(part, resampling) | self._alone(part.rows, part.within, resampling)
            if half:
                ours, null = self._heldout.part(slice(half)), self._heldout.part(slice(half, None))
                found |= self._copying(HELDOUT, ours, (HELDOUT, null), resampling) | self._fld(ours, resampling)
            return found

        return self._once(HELDOUT, size, compute)

    def _of_training(self, size: int) -> dict[str, Entry]:
        rows, within = self._reference.train[:size], self._reference.within[:size, :size]
        return self._once(TRAINING, size, lambda resampling: self._alone(rows, within, resampling))

    def _once(self, name: str, size: int, compute: Callable[[Resampling], dict[str, Entry]]) -> dict[str, Entry]:
        """Computes what is known of a set of this size, the first time."""
        if (name, size) not in self._known:
            self._known[name, size] = compute(self._resampling(name, size))
        return self._known[name, size]

    def _resampling(self, name: str, *size: int) -> Resampling:
        rng = np.random.default_rng([self._seed, zlib.crc32(name.encode()), *size])
        return Resampling(rng, self._settings.bootstrap, self._settings.halves)

    # The statistics, by what they ask for.

    def _copying(self, name: str, ours: Sample, null: tuple[str, Sample], resampling: Resampling) -> dict[str, Entry]:
        """Of distances to the nearest training networks, against those of held-out ones."""
        sets = ours, null[1]
        distances = self._nearest_runs(name, ours), self._nearest_runs(*null)
        in_cells = [
            copying.InCells(nearest.first, self._cells(one.rows)) for nearest, one in zip(distances, sets, strict=True)
        ]
        # Half of an even spread, where that is fewer than published.
        fewest = min(copying.FEWEST, len(ours) // (2 * self._settings.cells))
        values = [copying.calibrated_distance(one.to_runs.distances) for one in sets]
        found = {
            "c_t": copying.c_t(in_cells[0], in_cells[1], resampling, fewest),
            "calibrated_distance_share": copying.share_below_heldout(values[0], values[1], resampling),
        }
        if self._reference.several_runs and not any(np.isnan(nearest.second).any() for nearest in distances):
            ratios = [statistics.nn_ratio(nearest.first, nearest.second) for nearest in distances]
            found["nn_ratio_share"] = copying.share_below_heldout(ratios[0], ratios[1], resampling)
        return {name: entry for name, entry in found.items() if entry is not None}

    def _nearest_runs(self, name: str, ours: Sample) -> NearestRuns:
        if name in self._nearest:
            return NearestRuns(*(np.asarray(x)[ours.order] for x in self._nearest[name]))
        distances = ours.to_runs.distances.astype(np.float64)
        return NearestRuns(distances[:, 0], distances[:, min(1, distances.shape[1] - 1)])

    def _compared(self, ours: Sample, resampling: Resampling) -> dict[str, Entry]:
        """Of two sets, the series and training networks, as many where the statistic asks for it."""
        k, size, reference = self._settings.neighbours, len(ours), self._reference
        found: dict[str, Entry] = {}
        if min(size, len(reference.train)) < max(2 * (k + 1), _FEWEST):
            return found
        own = pairwise.nearest(ours.within, pairwise.listed(k), within=True)
        radii = reference.nearest.distances[:, k - 1]
        balls = manifolds.estimates(ours.to_train, radii, own, k, resampling)
        found |= {name: estimate.to_json() for name, estimate in balls.items()}
        found["coverage"]["expected"] = manifolds.expected_coverage(len(reference.train), size, k)
        across = [pairwise.nearest(x, pairwise.listed(1)) for x in (ours.to_train, ours.to_train.T)]
        nna, share = two_sample.one_nna(own, across[0], reference.nearest, across[1], resampling)
        total = len(reference.train) + size
        expected = {"expected": 0.5 * (total - 2) / (total - 1), "generated_share": share}
        found["one_nna"] = nna.to_json() | expected | {"generated_expected": (size - 1) / (total - 1)}
        pooled = two_sample.Pooled(ours.within, reference.within[:size, :size], ours.to_train[:, :size])
        kernel = two_sample.mmd_kernel(pooled)
        if kernel is not None:
            estimate, p = two_sample.mmd_test(kernel, size, self._settings.permutations, resampling)
            found["mmd"] = estimate.to_json() | {"p": p}
        estimate, p = two_sample.c2st(ours.rows, reference.train[:size], _seed(resampling.rng))
        found["c2st"] = estimate.to_json() | {"p": p, "expected": 0.5}
        if self._width:
            among = reference.within[:size, :size]
            found["pairs"] = two_sample.pairs_ratio(ours.within, among, resampling).to_json() | {"expected": 1.0}
        if self._spec is not None:
            features = [invariants.describe(self._spec, rows) for rows in (ours.rows, reference.train[:size])]
            estimate, p = two_sample.c2st_of_features(features[0], features[1], _seed(resampling.rng))
            found["c2st_invariant"] = estimate.to_json() | {"p": p, "expected": 0.5}
        return found

    def _fld(self, ours: Sample, resampling: Resampling) -> dict[str, Entry]:
        """With as many generated networks as half of the held-out ones, whose own value is of as many."""
        if self._likelihood is None or len(self._reference.train) < _FEWEST:
            return {}
        found = self._likelihood(ours.rows[: self._half], resampling)
        return {name: estimate.to_json() for name, estimate in found.items()}

    def _alone(self, rows: np.ndarray, within: np.ndarray, resampling: Resampling) -> dict[str, Entry]:
        """Of one set."""
        found = dimension.estimates(within, resampling)
        count = min(len(rows), _LARGEST_SPECTRUM)
        if count > 1:
            rows, within = rows[:count] - self._reference.centre, within[:count, :count]
            found["vendi"] = diversity.estimate(diversity.cosine_kernel(rows), resampling)
            if self._width:
                found["vendi_gaussian"] = diversity.estimate(diversity.gaussian_kernel(within, self._width), resampling)
        return {name: estimate.to_json() for name, estimate in found.items()}


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 31))


def _check(coordinates: Mapping[str, Any], runs: np.ndarray | None) -> None:
    missing = [name for name in (TRAINING, HELDOUT) if not len(coordinates.get(name, ()))]
    if missing:
        raise UserError(
            f"The battery has no {' and no '.join(missing)} networks to compare with. Give coordinates of "
            f'"{TRAINING}" and "{HELDOUT}".'
        )
    width = coordinates[TRAINING].shape[1]
    for name, networks in coordinates.items():
        if networks.ndim != 2 or networks.shape[1] != width:
            raise UserError(
                f"The coordinates of {name} have shape {networks.shape}, but those of the training networks "
                f"{coordinates[TRAINING].shape}; networks of another architecture cannot be compared."
            )
        bad = np.flatnonzero(~np.isfinite(networks).all(axis=1))
        if len(bad):
            raise UserError(
                f"{len(bad)} of {len(networks)} networks of {name} have coordinates that are not finite, the first in "
                f"row {bad[0]}. Leave undefined networks out."
            )
    if runs is not None and len(runs) != len(coordinates[TRAINING]):
        raise UserError(f"There are {len(runs)} run numbers for {len(coordinates[TRAINING])} training networks.")
