"""The audit: every series against the training networks, with held-out runs as the null and copies as the positive
controls.

Nothing here knows which generator made a series.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxweights import files, nets, parallel
from jaxweights.auditing import alignment, distances, hull, similarity, statistics, verdict, vocabulary
from jaxweights.errors import UserError
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
_MOST_MIXED = 512  # networks in mixtures of all of them; a query's systems of equations grow with the cube
_EXPLAINED = 1e-6  # of the distance to the nearest network; mixtures that come closer than this explain a network


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is audited.

    Attributes:
      net: task network.
      images: `[T, H, W, C]` float32, standardised test images; see `evaluate` for what takes their place.
      labels: `[T]` their classes.
      train: training networks that the generators saw. Rows of one run are its checkpoints.
      heldout: one checkpoint of every run that no generator saw, the last or one `at_training_steps`.
      generated: samples by series name, in the order of the report; `run` is that of the parent, or -1.
      controls: names in `generated` that are positive controls.
      lineages: all checkpoints of the held-out runs, if they are at hand.
      evaluate: of networks on these images, if somebody remembers some of them; else `evaluate.evaluate`.
    """

    net: nets.TaskNet
    images: np.ndarray
    labels: np.ndarray
    train: Population
    heldout: Population
    generated: Mapping[str, Population]
    controls: tuple[str, ...]
    lineages: Population | None = None
    evaluate: Callable[[Any], Evaluation] | None = None

    @property
    def one_run(self) -> bool:
        """Whether all training networks are checkpoints of a single run."""
        return len(np.unique(self.train.records["run"])) == 1


def _unmeasured() -> Any:
    return dataclasses.field(default_factory=lambda: np.zeros(0))


@dataclasses.dataclass(frozen=True)
class Measured:
    """Per-network measurements of one series of n networks; distances are Euclidean, to the training networks.

    Training networks are compared with those of other runs; where there is a single training run, with all others of
    it, most of which are near duplicates by construction.

    Attributes:
      accuracy: `[n]` fraction; loss: `[n]` nats.
      max_error_iou: `[n]` largest IoU of the sets of misclassified examples.
      min_l2: `[n]` distance to the nearest training network.
      nearest: `[n, 3]` rows of the training population, nearest first.
      second_l2: `[n]` distance to the nearest training network of another run than the nearest one's; NaN where there
        is none, and for training networks.
      aligned_min_l2, aligned_nearest, aligned_second_l2: the same modulo permutations of the hidden units; empty where
        the network has no exact alignment (more than one hidden layer).
      aligned_permutation: `[n, 3, units]`, what brings the nearest networks' units onto the sample's.
      hull_residual: `[n]` distance to the best convex combination of nearest (or of all) training networks, raw or
        aligned, the smaller.
      same_run_l2: `[n]` distance to the nearest other checkpoint of its own run, in training or, for held-out networks,
        among the held-out runs' checkpoints; NaN where there is none, as for samples without parents.
      other_run_l2: `[n]` distance to the nearest training network of any run but its own; NaN where there is none.
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
    same_run_l2: np.ndarray = _unmeasured()
    other_run_l2: np.ndarray = _unmeasured()

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
        return Measured(**{f.name: archive[f.name] for f in dataclasses.fields(Measured) if f.name in archive.files})


def at_training_steps(
    records: Mapping[str, np.ndarray], train_steps: np.ndarray, rng: np.random.Generator | int = 0
) -> np.ndarray:
    """Chooses one checkpoint per run, at steps that are distributed as those of the training networks.

    Where training networks are checkpoints of all steps, last checkpoints are no fair null: runs part with every step,
    so that samples which were as new as another run would still lie closer to the training networks than they do.

    Args:
      records: `run` and `step` of all checkpoints of the held-out runs, `[N]` each.
      train_steps: `[T]` steps of the training networks; every run draws one of them.
      rng: generator or seed.

    Returns:
      `[runs]` rows, in the order of the runs; of each run the checkpoint whose step is nearest to the one drawn.
    """
    rng = np.random.default_rng(rng)
    runs, place = np.unique(records["run"], return_inverse=True)
    wanted = rng.choice(np.asarray(train_steps), len(runs))
    order = np.lexsort((np.abs(records["step"] - wanted[place]), place))
    return order[np.searchsorted(place[order], np.arange(len(runs)))]


def run(
    subject: Subject, settings: Mapping[str, Any], seed: int, mesh: jax.sharding.Mesh, folder: pathlib.Path
) -> dict[str, Any]:
    """Measures every series and tests it.

    Args:
      subject: what to audit.
      settings: `bootstrap` (resamples), `hull_neighbours` (0 for all training networks), `hull_aligned_neighbours`.
      seed: of the bootstrap and of the split of the held-out runs.
      mesh: devices.
      folder: where the measurements of each series are kept; series that are there already are not measured again.

    Returns:
      JSON data: `series.<name>`, `checks` and `lineage` (what training networks were compared with), see the README.

    Raises:
      UserError: if the training networks are too few to be compared with one another, or too many to be mixed.
    """
    _check(subject, settings)
    files.make_dir(folder)
    measure = _Measurer(subject, settings, mesh)
    populations = {TRAINING: subject.train, HELDOUT: subject.heldout, **subject.generated}
    measured: dict[str, Measured] = {}
    with Progress(len(populations), "audit", "series") as bar:
        for i, (name, networks) in enumerate(populations.items()):
            path = folder / f"{name}.npz"
            if not path.exists():
                result = measure(networks, name)
                with files.atomic(path) as temporary:
                    np.savez(temporary, **{f.name: getattr(result, f.name) for f in dataclasses.fields(Measured)})
            measured[name] = load(path)
            bar.update(i + 1, name)
    kind = vocabulary.CLASSIFIER if subject.net.field is None else vocabulary.FIELD
    metrics = summarise(measured, subject.controls, settings["bootstrap"], seed, kind, subject.one_run)
    metrics["lineage"] = {
        "training_networks": len(subject.train),
        "training_runs": len(np.unique(subject.train.records["run"])),
        "training_leaves_out": "itself" if subject.one_run else "its run",
    }
    return metrics | {"vocabulary": kind}


def _check(subject: Subject, settings: Mapping[str, Any]) -> None:
    count = len(subject.train)
    if count < 2:
        raise UserError(
            "The audit compares training networks with one another, but there is only one. Train more runs "
            "(zoo.num_runs) or keep more checkpoints of the run (zoo.snapshots)."
        )
    if settings["hull_neighbours"] == 0 and count > _MOST_MIXED:
        raise UserError(
            f"audit.hull_neighbours = 0 mixes all training networks, which is meant for up to {_MOST_MIXED}, but there "
            f"are {count:,}. Set it to the number of nearest ones to mix, e.g. 32."
        )


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
        # What a training network is not compared with: its run, or itself where there is no other run.
        self.own = np.arange(len(self.runs)) if subject.one_run else self.runs
        groups = subject.net.spec.groups
        self.units = subject.net.spec.units(0) if len(groups) == 1 else None

    def __call__(self, networks: Population, name: str) -> Measured:
        subject, weights, training = self.subject, networks.weights, name == TRAINING
        result = self.trained if networks is subject.train else self._evaluate(weights)
        own = {"query_groups": self.own, "reference_groups": self.own} if training else {}
        available = len(self.train) - (np.unique(self.own, return_counts=True)[1].max() if training else 0)
        reference = self.trained.errors
        iou, _ = similarity.max_error_iou(result.errors, reference, len(subject.labels), mesh=self.mesh, **own)
        count = int(min(max(self.settings["hull_neighbours"], NEIGHBOURS), available))
        raw = distances.nearest(weights, self.train, count, mesh=self.mesh, **own)
        if self.settings["hull_neighbours"]:
            residual = self._residual(weights, raw.indices, None)
        else:
            excluded = self.own[:, None] == self.own[None, :] if training else None
            residual, _ = hull.residual_of_all(weights[:], self.train[:], excluded)
        fields: dict[str, np.ndarray] = {
            "min_l2": raw.distances[:, 0],
            "nearest": raw.indices[:, :NEIGHBOURS],
            "second_l2": self._second(distances.nearest, weights, raw, training),
            "same_run_l2": self._same_run(networks, name, raw),
            "other_run_l2": self._outside(distances.nearest, weights, raw, networks.records["run"]),
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
                "aligned_second_l2": self._second(self._aligned, weights, aligned, training),
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
        if self.subject.evaluate is not None:
            return self.subject.evaluate(weights)
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

    def _second(self, search, weights, found, training: bool) -> np.ndarray:
        """Distance to the nearest training network of another run than the nearest one's; NaN for training networks."""
        if training:
            return np.full(len(weights), np.nan)
        return self._outside(search, weights, found, self.runs[found.indices[:, 0]])

    def _outside(self, search, weights, found, runs: np.ndarray) -> np.ndarray:
        """Distance to the nearest training network of another run than `runs` `[n]`; NaN where there is none."""
        out = np.full(len(weights), np.nan)
        other = self.runs[found.indices] != runs[:, None]
        known = other.any(axis=1)
        out[known] = found.distances[known, other[known].argmax(axis=1)]
        if not self.subject.one_run:
            rest = np.flatnonzero(~known)  # all neighbours that were found are checkpoints of that run
            if len(rest):
                groups = {"query_groups": runs[rest], "reference_groups": self.runs}
                out[rest] = search(weights[rest], self.train, 1, mesh=self.mesh, **groups).distances[:, 0]
        return out

    def _same_run(self, networks: Population, name: str, raw: distances.Neighbours) -> np.ndarray:
        """Distance to the nearest other checkpoint of its own run; NaN where there is none."""
        out = np.full(len(networks), np.nan)
        runs, reference = networks.records["run"], self.subject.train
        ours, theirs = np.arange(len(networks)), np.arange(len(reference))
        if name == HELDOUT:
            if self.subject.lineages is None:
                return out
            reference = self.subject.lineages
            ours, theirs = networks.records["step"], reference.records["step"]
        else:
            known = self.runs[raw.indices[:, 0]] == runs
            out[known] = raw.distances[known, 0]
        left_out = name in (TRAINING, HELDOUT)  # samples are nobody's checkpoint
        for run in np.unique(runs[np.isnan(out) & (runs >= 0)]):
            rows = np.flatnonzero((runs == run) & np.isnan(out))
            others = np.flatnonzero(reference.records["run"] == run)
            if len(others) > left_out:
                pairs = np.repeat(rows, len(others)), np.tile(others, len(rows))
                found = distances.squared_differences(
                    networks.weights, reference.weights, *pairs, distances.MEMORY_BYTES
                )
                found[left_out & (ours[pairs[0]] == theirs[pairs[1]])] = np.nan
                out[rows] = np.sqrt(np.fmin.reduce(found.reshape(len(rows), -1), axis=1))
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
    one_run: bool = False,
) -> dict[str, Any]:
    """Tests every series and judges it; a pure function of the measurements.

    Args:
      measured: by series name, with "training" and "heldout".
      controls: names of the positive controls.
      resamples: of the bootstrap.
      seed: of the bootstrap and of the split of the held-out runs.
      kind: of task network, for the words of the verdicts.
      one_run: whether all training networks are checkpoints of one run. Then no sample has a next run to be compared
        with, and copies are those that lie within a third of the steps between checkpoints.

    Returns:
      `{"series": {name: ...}, "checks": {...}}`.
    """
    train, heldout = measured[TRAINING], measured[HELDOUT]
    series: dict[str, Any] = {}
    for number, (name, one) in enumerate(measured.items()):
        rng = np.random.default_rng([seed, number])
        entry = _estimates(one, resamples, rng)
        if name not in (TRAINING, HELDOUT):
            entry["tests"] = _tests(one, train, heldout, resamples, rng, one_run)
        entry |= _neighbourhood(one, heldout, resamples, rng)
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
        "tests": _tests(stand_in, train, null, resamples, rng, one_run),
        **_neighbourhood(stand_in, null, resamples, rng),
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


def _neighbourhood(one: Measured, heldout: Measured, resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """Distances by run, and what mixtures explain; None where there is nothing to measure or to compare with."""

    def mean(values):
        known = values[~np.isnan(values)]
        return statistics.bootstrap_mean(known, resamples, rng).to_json("mean") if len(known) else None

    lineage = {"same_run_l2": mean(one.same_run_l2), "other_run_l2": mean(one.other_run_l2)}
    residual, null = one.hull_residual, heldout.hull_residual
    ratio = np.divide(residual, one.distance, out=np.zeros(len(residual)), where=one.distance > 0)
    compared = statistics.bootstrap_median_ratio(residual, null, resamples, rng) if _unexplained(heldout) else None
    relative = {"to_nearest": mean(ratio), "to_heldout": compared.to_json() if compared else None}
    return {"lineage": lineage, "hull_residual_relative": relative}


def _unexplained(heldout: Measured) -> bool:
    """Whether held-out runs lie outside of the training networks' hull: one that fills the space explains anything."""
    return bool(np.median(heldout.hull_residual) > _EXPLAINED * np.median(heldout.distance))


def _tests(
    one: Measured, train: Measured, heldout: Measured, resamples: int, rng: np.random.Generator, one_run: bool
) -> dict[str, Any]:
    """Statistical tests of one series; `raw` holds the distance tests without alignment."""

    def distance_tests(distance, second, nearest, train_distance, heldout_distance):
        return {
            "z_u": statistics.bootstrap_z_u(distance, heldout_distance, resamples, rng).to_json(),
            "auth_pct": statistics.bootstrap_auth_pct(distance, nearest, train_distance, resamples, rng).to_json(),
            "memorised_share": None if one_run else statistics.nn_ratio_share(distance, second).to_json(),
            "closer_than_heldout": statistics.share(distance < heldout_distance.min()).to_json(),
        }

    aligned = bool(one.aligned_min_l2.size)
    tests = distance_tests(one.distance, one.second, one.nearest_row, train.distance, heldout.distance)
    tests["distance"] = "aligned" if aligned else "raw"
    if aligned:
        tests["raw"] = distance_tests(one.min_l2, one.second_l2, one.nearest[:, 0], train.min_l2, heldout.min_l2)
    limit = np.quantile(heldout.max_error_iou, 0.95)
    tests["iou_above_heldout"] = {**statistics.share(one.max_error_iou > limit).to_json(), "limit": float(limit)}
    # Without another run, the next network is the next checkpoint of the run itself.
    second = train.distance[one.nearest_row] if one_run else one.second
    copies = (one.distance == 0) | (one.distance < statistics.MEMORISED_RATIO * second)
    tests["copied_share"] = statistics.share(copies).to_json() if one_run else None
    mixtures = (one.hull_residual < 0.5 * np.median(heldout.hull_residual)) & _unexplained(heldout)
    if one_run:
        # Whatever stays near the run is near the hull of its checkpoints; mixing them has to explain more than being
        # near one of them does.
        mixtures &= one.hull_residual < 0.5 * one.distance
    tests["interpolated_share"] = statistics.share(mixtures & ~copies).to_json()
    return tests
