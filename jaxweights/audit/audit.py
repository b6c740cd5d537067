"""The audit: every series against the training networks, with held-out runs as the null and copies as the positive
controls.

Nothing here knows which generator made a series.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxweights import files, nets, parallel
from jaxweights.audit import alignment, distances, hull, similarity, statistics, verdict, vocabulary
from jaxweights.evaluate import Evaluation, evaluate
from jaxweights.population import Population
from jaxweights.progress import Progress

TRAINING, HELDOUT, HELDOUT_CONTROL = "training", "heldout", "heldout_control"
RESERVED = (TRAINING, HELDOUT, HELDOUT_CONTROL)
NEIGHBOURS = 3  # nearest training networks kept per sample, for the pictures
_ALIGNED_BLOCK = 256
# Neighbours in memory at a time. Small, so that the allocator recycles the buffers: fresh pages cost more than the
# arithmetic.
_HULL_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is audited.

    Attributes:
      net: task network.
      images: `[T, H, W, C]` float32, standardised test images; see `evaluate` for what takes their place.
      labels: `[T]` their classes.
      train: training networks that the generators saw.
      heldout: last checkpoints of runs that no generator saw.
      generated: samples by series name, in the order of the report.
      controls: names in `generated` that are positive controls.
    """

    net: nets.TaskNet
    images: np.ndarray
    labels: np.ndarray
    train: Population
    heldout: Population
    generated: Mapping[str, Population]
    controls: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Per-network measurements of one series of n networks; distances are Euclidean, to the training networks.

    Attributes:
      accuracy: `[n]` fraction; loss: `[n]` nats.
      max_error_iou: `[n]` largest IoU of the sets of misclassified examples, over training networks of other runs.
      min_l2: `[n]` distance to the nearest training network (of another run, for training networks).
      nearest: `[n, 3]` rows of the training population, nearest first.
      second_l2: `[n]` distance to the nearest training network of another run than the nearest one's.
      aligned_min_l2, aligned_nearest, aligned_second_l2: the same modulo permutations of the hidden units; empty where
        the network has no exact alignment (more than one hidden layer).
      aligned_permutation: `[n, 3, units]`, what brings the nearest networks' units onto the sample's.
      hull_residual: `[n]` distance to the best convex combination of nearest training networks, raw or aligned, the
        smaller.
    """

    accuracy: np.ndarray
    loss: np.ndarray
    max_error_iou: np.ndarray
    min_l2: np.ndarray
    nearest: np.ndarray
    second_l2: np.ndarray
    aligned_min_l2: np.ndarray
    aligned_nearest: np.ndarray
    aligned_second_l2: np.ndarray
    aligned_permutation: np.ndarray
    hull_residual: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """The distance that the tests use: aligned where there is an exact alignment, else raw."""
        return self.aligned_min_l2 if self.aligned_min_l2.size else self.min_l2

    @property
    def second(self) -> np.ndarray:
        """The second distance to go with `distance`."""
        return self.aligned_second_l2 if self.aligned_second_l2.size else self.second_l2

    @property
    def nearest_row(self) -> np.ndarray:
        """The nearest training row to go with `distance`."""
        return (self.aligned_nearest if self.aligned_nearest.size else self.nearest)[:, 0]


def load(path: pathlib.Path) -> Measured:
    """Reads the measurements of a series."""
    with np.load(path, allow_pickle=False) as archive:
        return Measured(**{f.name: archive[f.name] for f in dataclasses.fields(Measured)})


def run(
    subject: Subject, settings: Mapping[str, Any], seed: int, mesh: jax.sharding.Mesh, folder: pathlib.Path
) -> dict[str, Any]:
    """Measures every series and tests it.

    Args:
      subject: what to audit.
      settings: `bootstrap` (resamples), `hull_neighbours`, `hull_aligned_neighbours`.
      seed: of the bootstrap and of the split of the held-out runs.
      mesh: devices.
      folder: where the measurements of each series are kept; series that are there already are not measured again.

    Returns:
      JSON data: `series.<name>` and `checks`, see the README.
    """
    files.make_dir(folder)
    measure = _Measurer(subject, settings, mesh)
    populations = {TRAINING: subject.train, HELDOUT: subject.heldout, **subject.generated}
    measured: dict[str, Measured] = {}
    with Progress(len(populations), "audit", "series") as bar:
        for i, (name, networks) in enumerate(populations.items()):
            path = folder / f"{name}.npz"
            if not path.exists():
                result = measure(networks, leave_out_own_run=name == TRAINING)
                with files.atomic(path) as temporary:
                    np.savez(temporary, **{f.name: getattr(result, f.name) for f in dataclasses.fields(Measured)})
            measured[name] = load(path)
            bar.update(i + 1, name)
    kind = vocabulary.CLASSIFIER if subject.net.field is None else vocabulary.FIELD
    return summarise(measured, subject.controls, settings["bootstrap"], seed, kind) | {"vocabulary": kind}


class _Aligned(NamedTuple):
    """Aligned neighbours of a series: `[n, k]` distances and rows, `[n, k, units]` permutations."""

    distances: np.ndarray
    indices: np.ndarray
    permutations: np.ndarray


class _Measurer:
    """Measures series against one training population."""

    def __init__(self, subject: Subject, settings: Mapping[str, Any], mesh):
        self.subject, self.mesh, self.settings = subject, mesh, settings
        self.train = subject.train.weights
        self.runs = subject.train.records["run"]
        groups = subject.net.spec.groups
        self.units = subject.net.spec.units(0) if len(groups) == 1 else None

    def __call__(self, networks: Population, leave_out_own_run: bool) -> Measured:
        subject, weights = self.subject, networks.weights
        result = self.trained if networks is subject.train else self._evaluate(weights)
        own = {"query_groups": networks.records["run"], "reference_groups": self.runs} if leave_out_own_run else {}
        available = len(self.train) - (np.unique(self.runs, return_counts=True)[1].max() if leave_out_own_run else 0)
        reference = self.trained.errors
        iou, _ = similarity.max_error_iou(result.errors, reference, len(subject.labels), mesh=self.mesh, **own)
        count = int(min(max(self.settings["hull_neighbours"], NEIGHBOURS), available))
        raw = distances.nearest(weights, self.train, count, mesh=self.mesh, **own)
        residual = self._residual(weights, raw.indices, None)
        fields: dict[str, np.ndarray] = {
            "min_l2": raw.distances[:, 0],
            "nearest": raw.indices[:, :NEIGHBOURS],
            "second_l2": self._second(distances.nearest, weights, raw, leave_out_own_run),
            "aligned_min_l2": np.zeros(0),
            "aligned_nearest": np.zeros((0, 0), np.int64),
            "aligned_second_l2": np.zeros(0),
            "aligned_permutation": np.zeros((0, 0, 0), np.int64),
        }
        if self.units is not None:
            count = int(min(max(self.settings["hull_aligned_neighbours"], NEIGHBOURS), available))
            aligned = self._aligned(weights, self.train, count, **own)
            residual = np.minimum(residual, self._residual(weights, aligned.indices, aligned.permutations))
            fields |= {
                "aligned_min_l2": aligned.distances[:, 0],
                "aligned_nearest": aligned.indices[:, :NEIGHBOURS],
                "aligned_permutation": aligned.permutations[:, :NEIGHBOURS],
                "aligned_second_l2": self._second(self._aligned, weights, aligned, leave_out_own_run),
            }
        return Measured(
            accuracy=result.accuracy,
            loss=result.loss,
            max_error_iou=np.asarray(iou, np.float64),
            hull_residual=residual,
            **fields,
        )

    @functools.cached_property
    def trained(self) -> Evaluation:
        """The training networks', which every series needs and a finished audit does not."""
        return self._evaluate(self.train)

    def _evaluate(self, weights) -> Evaluation:
        return evaluate(self.subject.net, weights, self.subject.images, self.subject.labels, self.mesh)

    def _aligned(self, queries, reference, k=1, mesh=None, **groups) -> _Aligned:
        """`alignment.aligned_nearest` in blocks of one size, so that series of any length share one compiled
        program."""
        block = _ALIGNED_BLOCK if len(reference) <= 16 * _ALIGNED_BLOCK else 8 * _ALIGNED_BLOCK
        own = groups.pop("query_groups", None)
        parts = []
        for start in range(0, len(queries), block):
            rows = slice(start, start + block)
            if own is not None:
                groups["query_groups"] = parallel.pad_rows(np.asarray(own[rows]), block)
            padded = parallel.pad_rows(np.asarray(queries[rows]), block)
            found = alignment.aligned_nearest(padded, reference, *self.units, k=k, mesh=self.mesh, **groups)
            count = len(queries[rows])
            parts.append((found.distances[:count], found.indices[:count], found.permutations[:count]))
        return _Aligned(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _second(self, search, weights, found, leave_out_own_run) -> np.ndarray:
        """Distance to the nearest training network of another run than the nearest one's; NaN where that is not asked
        for."""
        out = np.full(len(weights), np.nan)
        if leave_out_own_run or len(np.unique(self.runs)) < 2:
            return out
        runs = self.runs[found.indices]
        other = runs != runs[:, :1]
        known = other.any(axis=1)
        out[known] = found.distances[known, other[known].argmax(axis=1)]
        rest = np.flatnonzero(~known)  # all neighbours that were found are checkpoints of one run
        if len(rest):
            again = search(
                weights[rest], self.train, 1, mesh=self.mesh, query_groups=runs[rest, 0], reference_groups=self.runs
            )
            out[rest] = again.distances[:, 0]
        return out

    def _residual(self, weights, indices, permutations) -> np.ndarray:
        out = np.empty(len(weights))
        block = max(1, _HULL_BYTES // (4 * indices.shape[1] * weights.shape[1]))
        for start in range(0, len(weights), block):
            rows = slice(start, start + block)
            neighbours = self.train[indices[rows]]
            if permutations is not None:
                neighbours = alignment.apply_permutation(neighbours, self.units[0], permutations[rows])
            out[rows] = hull.interpolation_residual(weights[rows], neighbours, memory_bytes=8 * _HULL_BYTES)[0]
        return out


def summarise(
    measured: Mapping[str, Measured],
    controls: tuple[str, ...],
    resamples: int,
    seed: int,
    kind: str = vocabulary.CLASSIFIER,
) -> dict[str, Any]:
    """Tests every series and judges it; a pure function of the measurements.

    Returns:
      `{"series": {name: ...}, "checks": {...}}`.
    """
    train, heldout = measured[TRAINING], measured[HELDOUT]
    series: dict[str, Any] = {}
    for number, (name, one) in enumerate(measured.items()):
        rng = np.random.default_rng([seed, number])
        entry = _estimates(one, resamples, rng)
        if name not in (TRAINING, HELDOUT):
            entry["tests"] = _tests(one, train, heldout, resamples, rng)
        entry["role"] = "control" if name in controls else name if name in RESERVED else "generator"
        series[name] = entry
    # The negative control: half of the held-out runs stand in for a generator's samples and are judged against the
    # other half.
    rng = np.random.default_rng([seed, 10_000])
    order = rng.permutation(len(heldout.accuracy))
    half = len(order) // 2
    stand_in, null = _rows(heldout, order[:half]), _rows(heldout, order[half:])
    series[HELDOUT_CONTROL] = {
        **_estimates(stand_in, resamples, rng),
        "tests": _tests(stand_in, train, null, resamples, rng),
        "role": "control",
    }
    judged = [n for n in series if "tests" in series[n]]
    for name in judged:
        series[name]["verdict"] = verdict.judge(series[name], series[HELDOUT], vocabulary.words(kind))
    missed = [n for n in controls if not series[n]["verdict"]["flagged"]]
    if series[HELDOUT_CONTROL]["verdict"]["flagged"]:
        missed.append(HELDOUT_CONTROL)
    return {"series": series, "checks": {"controls_passed": not missed, "failed_controls": missed}}


def _rows(measured: Measured, rows: np.ndarray) -> Measured:
    arrays = {f.name: getattr(measured, f.name) for f in dataclasses.fields(Measured)}
    return Measured(**{k: v[rows] if len(v) else v for k, v in arrays.items()})


def _estimates(one: Measured, resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    def mean(values):
        return statistics.bootstrap_mean(values, resamples, rng).to_json("mean") if len(values) else None

    return {
        "accuracy": {**mean(one.accuracy), "q05": float(np.quantile(one.accuracy, verdict.ACCURACY_QUANTILE))},
        "loss": mean(one.loss),
        "min_l2": mean(one.min_l2),
        "aligned_min_l2": mean(one.aligned_min_l2),
        "max_error_iou": mean(one.max_error_iou),
        "hull_residual": mean(one.hull_residual),
    }


def _tests(
    one: Measured, train: Measured, heldout: Measured, resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Statistical tests of one series; `raw` holds the distance tests without alignment."""

    def distance_tests(distance, second, nearest, train_distance, heldout_distance):
        return {
            "z_u": statistics.bootstrap_z_u(distance, heldout_distance, resamples, rng).to_json(),
            "auth_pct": statistics.bootstrap_auth_pct(distance, nearest, train_distance, resamples, rng).to_json(),
            "memorised_share": statistics.nn_ratio_share(distance, second).to_json(),
            "closer_than_heldout": statistics.share(distance < heldout_distance.min()).to_json(),
        }

    aligned = bool(one.aligned_min_l2.size)
    tests = distance_tests(one.distance, one.second, one.nearest_row, train.distance, heldout.distance)
    tests["distance"] = "aligned" if aligned else "raw"
    if aligned:
        tests["raw"] = distance_tests(one.min_l2, one.second_l2, one.nearest[:, 0], train.min_l2, heldout.min_l2)
    limit = np.quantile(heldout.max_error_iou, 0.95)
    tests["iou_above_heldout"] = {**statistics.share(one.max_error_iou > limit).to_json(), "limit": float(limit)}
    copies = one.distance < statistics.MEMORISED_RATIO * one.second
    mixtures = one.hull_residual < 0.5 * np.median(heldout.hull_residual)
    tests["interpolated_share"] = statistics.share(mixtures & ~copies).to_json()
    return tests
