"""Measures series of networks against the training networks: distances, aligned ones, mixtures, evaluation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxweights import processes
from jaxweights.auditing.alignment import twins
from jaxweights.auditing.alignment.aligners import Alignment, aligner, onto
from jaxweights.auditing.alignment.coordinates import Coordinates, SeriesCoordinates
from jaxweights.auditing.distances import euclidean, hull, similarity
from jaxweights.auditing.distances.affine import AffineHull
from jaxweights.auditing.distances.function import Functional, barriers
from jaxweights.auditing.measurements import (
    HELDOUT,
    LEAKED_OUTPUTS,
    LEAKED_WEIGHTS,
    NEIGHBOURS,
    TRAINING,
    Measured,
)
from jaxweights.auditing.rows import MEMORY_BYTES
from jaxweights.auditing.subject import AuditSettings, Subject, queried
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluation, PredictingEvaluator
from jaxweights.population import Population

# Neighbours in memory at a time. Small, so that the allocator recycles the buffers: fresh pages cost more than the
# arithmetic.
_HULL_BYTES = 8 << 20


class Measurer:
    """Measures series against one training population."""

    def __init__(
        self, subject: Subject, settings: AuditSettings, mesh: Mesh, coordinates: SeriesCoordinates | None = None
    ):
        self.subject, self.mesh, self.settings = subject, mesh, settings
        self._series = SeriesCoordinates(subject.train, mesh) if coordinates is None else coordinates
        self.train = subject.train.weights
        self.runs = subject.train.records["run"]
        # What a training network is not compared with: its run, or itself where there is no other run.
        self.own = np.arange(len(self.runs)) if subject.one_run else self.runs
        self.aligner = aligner(subject.train.spec, mesh)
        self._queried = queried(subject, settings)
        self.all_queried = len(self._queried) == len(self.train)

    @functools.cached_property
    def training(self) -> Population:
        """The training networks that are measured as a series, in memory where these are not all of them."""
        return self.subject.train if self.all_queried else self.subject.train.select(self._queried)

    def __call__(self, networks: Population, name: str) -> Measured:
        """Measures a series, under the name of training networks `training`; where there are several processes, each of
        them some of its networks."""
        weights, training = networks.weights, name == TRAINING
        own: dict[str, Any] = {}
        if training:
            own = {"query_groups": self.own[self._queried], "reference_groups": self.own}
        available = len(self.train) - (np.unique(self.own, return_counts=True)[1].max() if training else 0)
        count = int(min(max(self.settings.hull_neighbours, NEIGHBOURS), available))
        raw = self._nearest(weights, self.train, count, **own)
        if self.settings.hull_neighbours:
            residual = self._residual(weights, raw.indices, None)
        else:
            excluded = self.own[self._queried][:, None] == self.own[None, :] if training else None
            residual, _ = hull.residual_of_all(weights[:], self.train[:], excluded)
        fields: dict[str, np.ndarray] = {
            "min_l2": raw.distances[:, 0],
            "nearest": raw.indices[:, :NEIGHBOURS],
            "second_l2": self._second(self._nearest, weights, raw, training),
            "same_run_l2": self._same_run(networks, name, raw),
            "other_run_l2": self._outside(self._nearest, weights, raw, networks.records["run"]),
            "aligned_min_l2": np.zeros(0),
            "aligned_nearest": np.zeros((0, 0), np.int64),
            "aligned_second_l2": np.zeros(0),
            "aligned_permutation": np.zeros((0, 0, 0), np.int64),
        }
        if self.aligner is not None:
            count = int(min(max(self.settings.hull_aligned_neighbours, NEIGHBOURS), available))
            aligned = self._aligned(weights, self.train, count, **own)
            residual = np.minimum(residual, self._residual(weights, aligned.indices, aligned))
            fields |= {
                "aligned_min_l2": aligned.distances[:, 0],
                "aligned_nearest": aligned.indices[:, :NEIGHBOURS],
                "aligned_permutation": aligned.permutations[:, :NEIGHBOURS],
                "aligned_sign": aligned.signs[:, :NEIGHBOURS],
                "aligned_second_l2": self._second(self._aligned, weights, aligned, training),
            }
        fields |= self._canonical(networks, name)
        result = self._result(networks, name)
        fields["leak"] = self._leaks(networks, result)
        fields |= self._evaluated(networks, result, name, own)
        if result is not None:
            fields |= self._functions(weights, result, training)
            fields |= self._barriers(weights, result, fields)
        if training and not self.all_queried:
            fields["training_row"] = self._queried
        return Measured(hull_residual=residual, **fields)

    def located(self, networks: Population) -> Measured:
        """Of a series only the nearest training networks, accuracy and loss, all that the front needs of baselines."""
        raw = self._nearest(networks.weights, self.train, 1)
        found = raw if self.aligner is None else self._aligned(networks.weights, self.train, 1)
        result, aligned = self._evaluate(networks.weights), self.aligner is not None
        return Measured(
            accuracy=np.zeros(0) if result is None else result.accuracy,
            loss=np.zeros(0) if result is None else result.loss,
            max_error_iou=np.zeros(0),
            min_l2=raw.distances[:, 0],
            nearest=raw.indices,
            second_l2=np.zeros(0),
            aligned_min_l2=found.distances[:, 0] if aligned else np.zeros(0),
            aligned_nearest=found.indices if aligned else np.zeros((0, 0), np.int64),
            aligned_second_l2=np.zeros(0),
            aligned_permutation=np.zeros((0, 0, 0), np.int64),
            hull_residual=np.zeros(0),
        )

    def _canonical(self, networks: Population, name: str) -> dict[str, np.ndarray]:
        """What is taken in canonical coordinates: the distances to siblings and to affine hulls."""
        training = name == TRAINING
        ours = self._series(name, self.train if training else networks.weights)
        ours = ours[self._queried] if training and not self.all_queried else ours
        groups = self.own[self._queried] if training else np.arange(len(ours))
        near = siblings([ours] if self.aligner is None else [networks.weights, ours], groups, self.mesh)
        residuals = [
            span.residual_of_points(self.own)[self._queried] if training else span.residual(points)
            for span, points in zip(self.spans, (networks.weights, ours), strict=False)
        ]
        return {"affine_residual": np.fmin.reduce(residuals), "sibling_l2": near}

    @property
    def coordinates(self) -> Coordinates:
        """The canonical coordinates that the training networks define."""
        return self._series.chart

    @functools.cached_property
    def spans(self) -> tuple[AffineHull, ...]:
        """Affine hulls of the training networks as weights and, where these differ, in canonical coordinates."""
        raw = AffineHull(self.train)
        if raw.filled or self.aligner is None:
            return (raw,)
        return raw, AffineHull(self._series(TRAINING, self.train))

    def _result(self, networks: Population, name: str) -> Evaluation | None:
        """The evaluation of a series; None where its networks are not evaluated.

        Raises:
          UserError: a training or held-out network has outputs that are not finite.
        """
        if self.subject.evaluate is None:
            return None
        known = {TRAINING: lambda: self.trained, HELDOUT: lambda: self.unseen}
        result = known[name]() if name in known else self._evaluate(networks.weights)
        if result is None:
            return None
        bad = np.flatnonzero(result.undefined)
        if name in known and bad.size:
            raise UserError(
                f"{bad.size} of {len(result.loss)} {name} networks have outputs on the test set that are not finite "
                f"(first: row {bad[0]}). Leave out networks that diverged."
            )
        if name == TRAINING and not self.all_queried:
            return Evaluation(*(x[self._queried] if len(x) else x for x in result))
        return result

    def _leaks(self, networks: Population, result: Evaluation | None) -> np.ndarray:
        """Which networks are held-out ones, see `Measured.leak`."""
        found = np.zeros(len(networks), np.int64)
        heldout, checkpoints = self.subject.heldout, self.subject.heldout_checkpoints
        if networks is heldout:
            return found
        if result is not None:
            same = twins.equal_outputs(self.subject.evaluate, networks, heldout, result, self.unseen)
            found[same] = LEAKED_OUTPUTS
        unseen = heldout if checkpoints is None else checkpoints
        found[twins.equal_weights(networks.weights, unseen.weights, self.subject.train.spec)] = LEAKED_WEIGHTS
        return found

    def _evaluated(
        self, networks: Population, result: Evaluation | None, name: str, own: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """Accuracy, loss and largest error IoU with a training network; empty where networks are not evaluated."""
        if result is None:
            return dict.fromkeys(("accuracy", "loss", "max_error_iou"), np.zeros(0))
        errors = self._probed(networks, result, name)
        examples = 8 * errors.shape[1]  # bits behind the last example are zero in all masks
        iou, _ = self._dealt(similarity.max_error_iou, errors, self.trained_errors, examples, mesh=self.mesh, **own)
        return {
            "accuracy": result.accuracy,
            "loss": result.loss,
            "max_error_iou": np.asarray(iou, np.float64),
            "wrong": np.bitwise_count(errors).sum(axis=1, dtype=np.int64),
        }

    def _probed(self, networks: Population, result: Evaluation, name: str) -> np.ndarray:
        """Error masks `[n, ceil(T / 8)]` on the probe set; undefined networks are wrong on all of it."""
        if self.probe is self.subject.evaluate:
            return result.errors
        if name == TRAINING:
            return self.trained_errors[self._queried]
        errors = processes.map_rows(self.probe, networks.weights).errors
        wrong = np.packbits(np.ones(self.probe.examples, bool))
        return np.where(result.undefined[:, None], wrong[None, :], errors)

    @functools.cached_property
    def probe(self) -> Any:
        """The evaluation on the probe set; that on the test set where there is none.

        Raises:
          UserError: a probe set of inputs that cannot be changed.
        """
        evaluate, wanted = self.subject.evaluate, self.settings.probe
        if isinstance(evaluate, PredictingEvaluator):
            return evaluate.probing(wanted)
        if wanted.size and evaluate is not None:
            wanted.refuse("size", "the test set of these networks is not known, so set it to 0")
        return evaluate

    @functools.cached_property
    def trained_errors(self) -> np.ndarray:
        """The training networks' error masks on the probe set."""
        if self.probe is self.subject.evaluate:
            return self.trained.errors
        return processes.map_rows(self.probe, self.train).errors

    @functools.cached_property
    def functional(self) -> Functional | None:
        """The comparison of predictions; None where these cannot be asked for."""
        if not isinstance(self.probe, PredictingEvaluator):
            return None
        return Functional(self.probe, self.train, self.own, self.mesh, self._queried)

    def _functions(self, weights: Any, result: Evaluation, training: bool) -> dict[str, np.ndarray]:
        if self.functional is None:
            return {}
        return self.functional.measure(weights, result, training, functools.partial(self._second, training=training))

    def _barriers(self, weights: Any, result: Evaluation, fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Loss barriers to the nearest training networks, of some networks drawn at random."""
        evaluate, known = self.subject.evaluate, np.flatnonzero(~result.undefined)
        if not (self.settings.barriers and len(known) and len(result.loss)):
            return {}
        if not isinstance(evaluate, PredictingEvaluator):
            return {}
        rows = np.sort(np.random.default_rng(0).permutation(known)[: self.settings.barriers])
        ours, nearest = weights[rows], fields["nearest"][rows, 0]
        ends = {"barrier": (nearest, self.train[nearest])}
        if self.aligner is not None:
            nearest = fields["aligned_nearest"][rows, :1]
            permutations, signs = fields["aligned_permutation"][rows, :1], fields["aligned_sign"]
            signs = signs[rows, :1] if len(signs) else signs
            theirs = onto(self.subject.train.spec, self.train[nearest], permutations, signs, ours)
            ends["aligned_barrier"] = nearest[:, 0], theirs[:, 0]
        found = {}
        for name, (nearest, theirs) in ends.items():
            found[name] = np.full(len(weights), np.nan)
            losses = result.loss[rows], self.trained.loss[nearest]
            found[name][rows] = barriers(evaluate.losses, ours, theirs, *losses)
        return found

    @functools.cached_property
    def trained(self) -> Evaluation:
        """The training networks', which every series needs and a finished audit does not."""
        return self._known(self.train)

    @functools.cached_property
    def unseen(self) -> Evaluation:
        """The held-out networks', likewise."""
        return self._known(self.subject.heldout.weights)

    def _known(self, weights) -> Evaluation:
        found = self._evaluate(weights)
        assert found is not None
        return found

    def _evaluate(self, weights) -> Evaluation | None:
        return None if self.subject.evaluate is None else processes.map_rows(self.subject.evaluate, weights)

    def _nearest(self, queries, reference, k: int, query_groups=None, **other: Any) -> euclidean.Neighbours:
        return self._dealt(euclidean.nearest, queries, reference, k, query_groups, mesh=self.mesh, **other)

    def _aligned(self, queries, reference, k: int, query_groups=None, **other: Any) -> Alignment:
        assert self.aligner is not None
        return self._dealt(self.aligner.nearest, queries, reference, k, query_groups, mesh=self.mesh, **other)

    @staticmethod
    def _dealt(search, queries, reference, argument, query_groups=None, **other: Any) -> Any:
        """A search for every query, dealt out over the processes."""

        def searched(queries, query_groups):
            own = {} if query_groups is None else {"query_groups": query_groups}
            return search(queries, reference, argument, **own, **other)

        return processes.map_rows(searched, queries, query_groups)

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
                out[rest] = search(weights[rest], self.train, 1, **groups).distances[:, 0]
        return out

    def _same_run(self, networks: Population, name: str, raw: euclidean.Neighbours) -> np.ndarray:
        """Distance to the nearest other checkpoint of its own run; NaN where there is none."""
        out = np.full(len(networks), np.nan)
        runs, reference = networks.records["run"], self.subject.train
        ours = self._queried if name == TRAINING else np.arange(len(networks))
        theirs = np.arange(len(reference))
        if name == HELDOUT:
            if self.subject.heldout_checkpoints is None:
                return out
            reference = self.subject.heldout_checkpoints
            ours, theirs = networks.records["step"], reference.records["step"]
        else:
            known = self.runs[raw.indices[:, 0]] == runs
            out[known] = raw.distances[known, 0]
        left_out = name in (TRAINING, HELDOUT)  # samples are no checkpoints of a run
        for run in np.unique(runs[np.isnan(out) & (runs >= 0)]):
            rows = np.flatnonzero((runs == run) & np.isnan(out))
            others = np.flatnonzero(reference.records["run"] == run)
            if len(others) > left_out:
                pairs = np.repeat(rows, len(others)), np.tile(others, len(rows))
                found = euclidean.squared_differences(networks.weights, reference.weights, *pairs, MEMORY_BYTES)
                found[left_out & (ours[pairs[0]] == theirs[pairs[1]])] = np.nan
                out[rows] = np.sqrt(np.fmin.reduce(found.reshape(len(rows), -1), axis=1))
        return out

    def _residual(self, weights, indices: np.ndarray, aligned: Alignment | None) -> np.ndarray:
        """Distance of every network to the hull of training networks `[n, k]`, where wanted brought onto it first."""
        return processes.map_rows(self._own_residual, weights, indices, aligned)

    def _own_residual(self, weights, indices: np.ndarray, aligned: Alignment | None) -> np.ndarray:
        out = np.empty(len(weights))
        block = max(1, _HULL_BYTES // (4 * indices.shape[1] * weights.shape[1]))
        for start in range(0, len(weights), block):
            rows = slice(start, start + block)
            ours, neighbours = weights[rows], self.train[indices[rows]]
            if aligned is not None and self.aligner is not None:
                ours, neighbours = self.aligner.brought(ours, neighbours, aligned[rows])
            out[rows] = hull.interpolation_residual(ours, neighbours, memory_bytes=8 * _HULL_BYTES)[0]
        return out


def siblings(spaces: Sequence[Any], groups: np.ndarray, mesh: Mesh) -> np.ndarray:
    """Distance of every network to the nearest other one of its series, in the space where it is smallest.

    Networks that hardly differ may be matched differently with the reference of canonical coordinates, from which both
    are far, and then lie far apart there, but not as they are stored.

    Args:
      spaces: the series `[n, D]` in several coordinates.
      groups: `[n]` integers; networks of one group are not compared.
      mesh: devices.

    Returns:
      `[n]` float64; NaN where all networks are of one group.
    """
    if len(np.unique(groups)) < 2:
        return np.full(len(groups), np.nan)
    found = [euclidean.nearest(points, points, 1, groups, groups, mesh=mesh).distances[:, 0] for points in spaces]
    return np.minimum.reduce(found)
