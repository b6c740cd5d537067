"""Functional novelty: networks compared by what they compute, which sees a copy through any symmetry.

Distances between predictions, disagreement of decisions within a series and with the nearest training network, what
ensembles gain, and loss barriers on the way to the nearest training network (Ainsworth et al. 2023,
arXiv 2209.04836).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from scipy.spatial.distance import cdist

from jaxweights.auditing import statistics
from jaxweights.auditing.distances import euclidean
from jaxweights.auditing.distances.euclidean import Neighbours
from jaxweights.auditing.measurements import Measured
from jaxweights.evaluation import Evaluation, PredictingEvaluator

COMPARED = 128
"""Most inputs on which predictions are compared as vectors."""
DECIDED = 1024
"""Most inputs on which decisions and ensembles are compared."""
ENSEMBLE = 16
"""Members of an ensemble."""

MEASURES = (
    "function_l2",
    "function_max",
    "disagreement",
    "nearest_disagreement",
    "ensemble_gain",
    "barrier",
    "aligned_barrier",
    "wrong",
)
"""What `describe` tells of a series, see `Measured`; `wrong` are the errors that the error IoU rests on."""

_VALUES = 1 << 17  # most predicted numbers per network
_VECTOR_BYTES = 256 << 20  # of all training networks' predictions that are compared as vectors
_DECISIONS = 1 << 28  # of all training networks
_BLOCK = 256  # networks whose predictions are in memory at a time, and most members of all ensembles of a series
_FEW = 1 << 26  # differences up to which a search on the host takes less time than compiling one
_COLUMNS = 64  # inputs whose decisions are counted at a time
_STEPS = 6  # parts of the line between two networks
_NORMAL = 1.96  # deviations within which 95 % of a normal distribution lie
_LINE_BYTES = 256 << 20


class Predicted(NamedTuple):
    """What n networks predict.

    Attributes:
      vectors: `[n, S * K]` float32, predictions for the first inputs, NaN for undefined networks.
      decisions: `[n, D]`, whole numbers; None for a task without decisions.
      gains: `[n]`, see `Measured.ensemble_gain`.
    """

    vectors: np.ndarray
    decisions: np.ndarray | None
    gains: np.ndarray


class Functional:
    """Compares the predictions of series with those of the training networks.

    Args:
      evaluate: gives predictions.
      train: `[T, P]` weights of the training networks.
      own: `[T]`, what a training network is not compared with.
      mesh: devices.
      queried: rows of the training networks that are measured as a series; None for all.
    """

    def __init__(
        self,
        evaluate: PredictingEvaluator,
        train: Any,
        own: np.ndarray,
        mesh: Mesh,
        queried: np.ndarray | None = None,
    ):
        self._evaluate, self._train, self._own, self._mesh = evaluate, train, own, mesh
        self._queried = np.arange(len(own)) if queried is None else queried

    def predicted(self, weights: Any, defined: np.ndarray) -> Predicted | None:
        """What the `defined` `[n]` ones of networks `[n, P]` predict; None where predictions cannot be asked for."""
        rows = np.flatnonzero(defined)
        first = np.sort(np.random.default_rng(0).permutation(rows)[:_BLOCK])  # the members of ensembles
        rest = np.setdiff1d(rows, first)
        blocks = [first, *(rest[i : i + _BLOCK] for i in range(0, len(rest), _BLOCK))]
        gains, kept = np.full(len(weights), np.nan), None
        for number, block in enumerate(blocks):
            found = self._evaluate.predictions(weights[block], self._inputs)
            if found is None:
                return None
            vectors, decisions = self._vectors(found), self._evaluate.decisions(found)
            kept = _unpredicted(len(weights), vectors, decisions, gains) if kept is None else kept
            kept.vectors[block] = vectors
            if kept.decisions is not None:
                kept.decisions[block] = decisions
            if number == 0:
                self._gain(found, block, gains)
        return kept

    @functools.cached_property
    def trained(self) -> Predicted | None:
        """What the training networks predict."""
        return self.predicted(self._train, np.ones(len(self._train), bool))

    def measure(
        self, weights: Any, result: Evaluation, training: bool, second: Callable[..., np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The fields of `Measured` on predictions; empty ones where these cannot be asked for.

        Args:
          weights: `[n, P]`.
          result: their evaluation.
          training: whether they are those of the training networks that are `queried`.
          second: distances `[m]` to the next run, of a search, m networks as it takes them, and what it found.
        """
        known, theirs = np.flatnonzero(~result.undefined), self.trained
        every = training and len(weights) == len(self._train)
        ours = theirs if every or not len(known) else self.predicted(weights, ~result.undefined)
        if ours is None or theirs is None:
            return {}
        known = known[np.isfinite(ours.vectors[known]).all(axis=1)]
        found: dict[str, np.ndarray] = {}
        if len(known):
            own = self._own[self._queried][known] if training else np.arange(len(known))
            groups: dict[str, Any] = {"query_groups": own, "reference_groups": self._own} if training else {}
            queries = ours.vectors[known]
            neighbours = self._search(queries, None, min(2, self._admissible(training)), **groups)
            row, scale = neighbours.indices[:, 0], 1 / math.sqrt(queries.shape[1])
            found = {
                "function_nearest": row,
                "function_l2": scale * neighbours.distances[:, 0],
                "function_second": scale * second(self._search, queries, neighbours),
                "function_max": np.abs(queries - theirs.vectors[row]).max(axis=1),
                "ensemble_gain": ours.gains[known],
            }
            if ours.decisions is not None and theirs.decisions is not None:
                decisions = ours.decisions[known]
                found["disagreement"] = disagreement(decisions, own)
                found["nearest_disagreement"] = (decisions != theirs.decisions[row]).mean(axis=1)
        return {name: _placed(values, known, len(weights)) for name, values in found.items()}

    @functools.cached_property
    def _inputs(self) -> np.ndarray:
        """Inputs on which decisions are compared, in random order; predictions are on the first of these."""
        outputs = np.asarray(self._evaluate.predictions(self._train[:1], np.arange(1)))
        count = max(1, min(DECIDED, _VALUES // outputs.size, _DECISIONS // len(self._train)))
        return np.random.default_rng(0).permutation(self._evaluate.examples)[:count]

    def _vectors(self, predictions: np.ndarray) -> np.ndarray:
        outputs = predictions.shape[2]
        compared = max(16, min(COMPARED, _VECTOR_BYTES // (4 * outputs * len(self._train))))
        return predictions[:, :compared].reshape(len(predictions), -1)

    def _gain(self, predictions: np.ndarray, rows: np.ndarray, gains: np.ndarray) -> None:
        """Writes the gains of ensembles drawn without replacement, each to that of its first member."""
        order = np.random.default_rng(1).permutation(len(rows))
        for start in range(0, len(order) - ENSEMBLE + 1, ENSEMBLE):
            members = order[start : start + ENSEMBLE]
            alone = self._evaluate.quality(predictions[members], self._inputs)
            together = self._evaluate.quality(predictions[members].mean(axis=0), self._inputs)
            if alone is not None and together is not None:
                gains[rows[members[0]]] = together - alone.mean()

    def _admissible(self, training: bool) -> int:
        """Training networks that any network may be compared with."""
        return len(self._own) - (int(np.unique(self._own, return_counts=True)[1].max()) if training else 0)

    def _search(self, queries: np.ndarray, _: Any, k: int, mesh: Mesh | None = None, **groups: Any) -> Neighbours:
        """The nearest training networks of predictions `[m, S * K]`; see `euclidean.nearest`."""
        assert self.trained is not None
        reference = self.trained.vectors
        if queries.size * len(reference) > _FEW:
            return euclidean.nearest(queries, reference, k, mesh=mesh or self._mesh, **groups)
        every = cdist(queries.astype(np.float64), reference.astype(np.float64))
        if groups:
            every[groups["query_groups"][:, None] == groups["reference_groups"][None, :]] = np.inf
        indices = np.argsort(every, axis=1, kind="stable")[:, :k]
        return Neighbours(np.take_along_axis(every, indices, axis=1), indices, 0)


def _unpredicted(count: int, vectors: np.ndarray, decisions: np.ndarray | None, gains: np.ndarray) -> Predicted:
    """Room for what `count` networks predict, of the widths of some networks' predictions."""
    return Predicted(
        np.full((count, vectors.shape[1]), np.nan, np.float32),
        None if decisions is None else np.zeros((count, decisions.shape[1]), np.uint16),
        gains,
    )


def _placed(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Values of some of `count` networks; of the others NaN, or -1 where they are rows."""
    out = np.full(count, -1 if values.dtype.kind == "i" else np.nan, values.dtype)
    out[rows] = values
    return out


def disagreement(decisions: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """How often networks of other groups decide otherwise than each network, over all pairs and inputs.

    Args:
      decisions: `[n, D]` whole numbers from 0.
      groups: `[n]` integers; networks of one group are not compared.

    Returns:
      `[n]` shares; NaN where there is no other group.
    """
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    own = np.full(len(decisions), decisions.shape[1])  # everything agrees with itself
    members = np.split(np.argsort(place, kind="stable"), np.cumsum(sizes)[:-1])
    for rows in members:
        if len(rows) > 1:
            own[rows] = _agreements(decisions[rows])
    pairs = (len(decisions) - sizes[place]) * decisions.shape[1]
    agreeing = np.divide(_agreements(decisions) - own, pairs, out=np.full(len(own), np.nan), where=pairs > 0)
    return 1.0 - agreeing


def _agreements(decisions: np.ndarray) -> np.ndarray:
    """On how many inputs networks `[n, D]` decide as another one of them or itself does, summed over all: `[n]`."""
    found, kinds = np.zeros(len(decisions), np.int64), int(decisions.max()) + 1
    for start in range(0, decisions.shape[1], _COLUMNS):
        part = decisions[:, start : start + _COLUMNS].astype(np.int64)
        part += kinds * np.arange(part.shape[1])[None, :]
        found += np.bincount(part.ravel(), minlength=kinds * part.shape[1])[part].sum(axis=1)
    return found


def barriers(
    losses: Callable[[np.ndarray], np.ndarray],
    first: np.ndarray,
    second: np.ndarray,
    first_loss: np.ndarray,
    second_loss: np.ndarray,
) -> np.ndarray:
    """The loss barrier on the straight line between two networks: the largest excess of the loss over the linear
    interpolation of its ends, at the ends and five points between them.

    Batch normalisation keeps interpolated running statistics.

    Args:
      losses: losses `[m]` of weights `[m, P]`.
      first, second: `[n, P]` ends of n lines.
      first_loss, second_loss: `[n]` their losses.

    Returns:
      `[n]`, at least 0; NaN where a loss is not finite.
    """
    share = np.arange(1, _STEPS) / _STEPS
    block = max(1, _LINE_BYTES // (8 * len(share) * first.shape[1]))
    excess = []
    for start in range(0, len(first), block):
        a, b = (x[start : start + block, None, :].astype(np.float32) for x in (first, second))
        points = a + share[None, :, None].astype(np.float32) * (b - a)
        excess.append(losses(points.reshape(-1, points.shape[-1])).reshape(len(a), -1))
    line = (1 - share)[None, :] * first_loss[:, None] + share[None, :] * second_loss[:, None]
    highest = (np.concatenate(excess) - line).max(axis=1)
    return np.where(np.isfinite(highest), np.maximum(highest, 0.0), np.nan)


def describe(one: Measured, resamples: int, rng: np.random.Generator | int = 0) -> dict[str, Any] | None:
    """Means of what was measured of a series' functions, as JSON data; None where nothing was.

    Args:
      one: measurements of a series.
      resamples: bootstrap resamples of the intervals.
      rng: random generator or seed of the bootstrap.

    Returns:
      By name `{"mean", "ci95", "n"}`, None for what was not measured. Intervals are percentile intervals of the
      bootstrap over networks, of `ensemble_gain` over ensembles, and of `disagreement`, a mean over pairs, those of
      the jackknife over networks.
    """
    rng = np.random.default_rng(rng)
    found: dict[str, Any] = {}
    for name in MEASURES:
        values = np.asarray(getattr(one, name), np.float64)
        values = values[np.isfinite(values)]
        found[name] = statistics.bootstrap_mean(values, resamples, rng).to_json("mean") if len(values) else None
    found["disagreement"] = _pairwise(one.disagreement)
    return found if any(value is not None for value in found.values()) else None


def _pairwise(values: np.ndarray) -> dict[str, Any] | None:
    """The mean over pairs of n networks from the means `[n]` over the pairs of each; None for less than three.

    Without network i the mean of the others differs by 2 (values[i] - mean) / (n - 2), from which the jackknife's
    variance follows.
    """
    values = values[np.isfinite(values)]
    count = len(values)
    if count < 3:
        return None
    mean = float(values.mean())
    variance = (count - 1) / count * np.square(2 * (values - mean) / (count - 2)).sum()
    margin = _NORMAL * math.sqrt(variance)
    return statistics.Estimate(mean, max(0.0, mean - margin), min(1.0, mean + margin), count).to_json("mean")
