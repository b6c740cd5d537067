"""Studies of generators that improve a given network towards a metric that they are prompted with.

Whether they reach what they are asked for (prompt alignment), what prompting them again and again makes of a network
(recursive prompting), and how their networks change with the noise that these are made from (latent walk). The first
two are the measures of G.pt (Peebles et al. 2022, arXiv 2209.12892, sections 3 and 4), the third is the latent walk of
its published code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import parallel, population
from jaxweights.auditing import statistics
from jaxweights.auditing.distances import similarity
from jaxweights.evaluation import evaluate
from jaxweights.generators import Prompted
from jaxweights.population import Population
from jaxweights.progress import Progress
from jaxweights.settings import Settings, setting
from jaxweights.studies.base import Estimation, Findings, Rowwise, Subject

MAXIMISED = frozenset({"accuracy", "return"})
"""Metrics of which more is better; of all others, less is."""
HELDOUT, TRAIN, FRESH = "heldout", "train", "initialisations"
"""Where starts come from: the first checkpoints of held-out and of training runs, and new random initialisations."""
_EPSILON = 1e-8  # in the published denominator of R^2

Measure = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Weights `[n, P]` to their metric `[n]` and packed masks of misclassified examples `[n, ceil(T / 8)]`."""


@dataclasses.dataclass(frozen=True)
class PromptingSettings(Settings):
    """Settings of the study of prompting.

    Attributes:
      networks: number of starts from held-out runs, and as many from training runs.
      prompts: number of metrics asked for per start, from the best one to its own.
      best_prompt: the best one, or None for that of the training networks.
      rounds: rounds of recursive prompting.
      walks: number of paths through the noise that networks are made from.
      walk_points: number of networks per path.
    """

    SECTION: ClassVar[str] = "studies.prompting"

    networks: int = setting(16, at_least=1, at_most=100_000)
    prompts: int = setting(20, at_least=2, at_most=10_000)
    best_prompt: float | None = None
    rounds: int = setting(5, at_least=1, at_most=1000)
    walks: int = setting(4, at_least=1, at_most=100_000)
    walk_points: int = setting(9, at_least=2, at_most=10_000)


def run(subject: Subject, settings: PromptingSettings, estimation: Estimation) -> Findings:
    """Runs all studies of one trained generator.

    Args:
      subject: a `Prompted` generator, and all checkpoints of its runs.
      settings: settings of the study.
      estimation: how numbers are estimated.

    Returns:
      JSON data, estimates as `{"mean", "ci95", "n"}`: `metric`, `maximised`, `prompt`, `best` (first prompt of every
      sweep); `alignment.<group>` with `r2` and `correlation` (None where there was nothing to ask for),
      `absolute_error` (mean distance of achieved from asked), `start` (metric of the starts) and `at_best` (achieved by
      the first prompt);
      `recursion.rounds.<number>` and `recursion.training` (`first` and `last` checkpoints of the held-out runs);
      `walk`, means over the paths. And arrays: `alignment/<group>/<field of Sweep>`, `recursion/rounds`,
      `recursion/training` and `recursion/steps` (see `recursion` and `trajectories`), `walk/<field of Walk>`.

    Raises:
      UserError: networks without the metric, or generated ones whose metric is not finite.
    """
    generator, resamples, seed, mesh = subject.generator, estimation.resamples, estimation.seed, estimation.mesh
    key = jax.random.fold_in(jax.random.key(seed), 6)
    rng = np.random.default_rng([seed, 30_000])
    images, labels = subject.test_images, subject.dataset.test_labels

    def measure(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = evaluate(subject.net, weights, images, labels, mesh)
        networks = Population.create(weights, subject.net.spec, accuracy=found.accuracy, loss=found.loss)
        return generator.metric(networks, "the networks that were asked for"), found.errors

    state = jax.device_put(subject.state, parallel.replicated(mesh))
    improve = PromptedSampler(generator, state, mesh)
    starts = _starts(subject, generator, settings.networks, jax.random.fold_in(key, 0), measure, mesh)
    (conditioning, prompt), best = generator.asked, settings.best_prompt
    maximised = conditioning in MAXIMISED
    if best is None:
        known = generator.metric(subject.train, "the training rows")
        best = float(known.max() if maximised else known.min())
    keys = [jax.random.fold_in(key, purpose) for purpose in (1, 2, 3)]
    with Progress(3, f"studies of {generator.name}", "studies") as bar:
        swept = sweep(improve, measure, starts, best, settings.prompts, keys[0])
        bar.update(1, "prompt alignment")
        curve = recursion(improve, measure, starts[HELDOUT], prompt, settings.rounds, keys[1])
        bar.update(2, "recursive prompting")
        # As published: where every step adds noise, hardly anything is left of the noise at the beginning.
        deterministic = PromptedSampler(generator.deterministic(), state, mesh)
        few = Starts(*(x[: settings.walks] for x in starts[HELDOUT]))
        walked = walk(deterministic, measure, few, prompt, settings.walk_points, len(labels), keys[2])
        bar.update(3, "latent walk")
    steps, trained = trajectories(subject.heldout.records, generator.metric(subject.heldout, "the held-out rows"))

    def mean(values):
        return statistics.bootstrap_mean(values, resamples, rng).to_json("mean")

    metrics = {
        "metric": conditioning,
        "maximised": maximised,
        "prompt": float(prompt),
        "best": float(best),
        "alignment": {group: _alignment(*found, starts[group].metric, mean) for group, found in swept.items()},
        "recursion": {
            "rounds": {str(i): mean(values) for i, values in enumerate(curve.T)},
            "training": {"first": mean(trained[:, 0]), "last": mean(_last(trained))},
        },
        "walk": {"points": settings.walk_points, **_summary(walked)},
    }
    arrays = {f"alignment/{group}/{name}": x for group, found in swept.items() for name, x in found._asdict().items()}
    arrays |= {"recursion/rounds": curve, "recursion/training": trained, "recursion/steps": steps}
    arrays |= {f"walk/{name}": x for name, x in walked._asdict().items()}
    return metrics, arrays


class Starts(NamedTuple):
    """Networks to be improved: `weights` `[n, P]` and their `metric` `[n]`, float32."""

    weights: np.ndarray
    metric: np.ndarray


class PromptedSampler:
    """`Prompted.improve` on arrays that stay on the host, sharded over a mesh; see `Rowwise`."""

    def __init__(self, generator: Prompted, state: Mapping[str, Any], mesh: Mesh):
        self._rows = Rowwise(lambda state, rows: generator.improve(state, **rows), state, mesh)

    def __call__(
        self, starts: Starts, asked: np.ndarray | float, key: jax.Array, initial: np.ndarray | None = None
    ) -> np.ndarray:
        """One network `[n, P]` for every start, asked for one metric or for `[n]`."""
        count = len(starts.metric)
        rows = {**starts._asdict(), "keys": jax.random.split(key, count)}
        rows["asked"] = np.broadcast_to(np.asarray(asked, np.float32), (count,))
        return self._rows(rows if initial is None else {**rows, "initial": initial})


def _starts(
    subject: Subject, generator: Prompted, count: int, key: jax.Array, measure: Measure, mesh: Mesh
) -> dict[str, Starts]:
    """Up to `count` first checkpoints of the first runs of both splits; where these are trained ones, as many new
    initialisations."""
    found, trained = {}, False
    for group, networks in ((TRAIN, subject.train), (HELDOUT, subject.heldout)):
        records = networks.records
        order = np.lexsort((records["step"], records["run"]))
        rows = order[np.unique(records["run"][order], return_index=True)[1]][:count]
        first = networks.select(rows)
        found[group] = Starts(np.asarray(first.weights), generator.metric(first, "the networks to start from"))
        trained |= bool((first.records["step"] != 0).any())
    if trained:
        scale = first.records.get(population.HYPER + "init_scale", np.ones(len(first)))
        rows = jax.random.split(key, len(first)), scale.astype(np.float32)
        draw = parallel.map_rows(lambda _, rows: jax.vmap(lambda key, s: s * subject.net.init(key))(*rows), mesh)
        weights = np.asarray(draw((), rows))
        found[FRESH] = Starts(weights, measure(weights)[0])
    return found


class Sweep(NamedTuple):
    """The metrics that n networks were asked for and those of the outcomes, `[n, S]` each, float64."""

    asked: np.ndarray
    achieved: np.ndarray


def sweep(
    improve: PromptedSampler, measure: Measure, starts: Mapping[str, Starts], best: float, prompts: int, key: jax.Array
) -> dict[str, Sweep]:
    """Asks for metrics evenly spaced from the best one to each start's own, all starts and prompts at once.

    Args:
      improve: sampler of the generator.
      measure: weights `[n, P]` to their metric `[n]`, and more.
      starts: networks to start from, by group, `[n]` each.
      best: first prompt of every start.
      prompts: number of prompts S per start.
      key: PRNG key of the samples.

    Returns:
      What was asked for and what came out, by group.
    """
    asked = {g: np.linspace(np.full(len(s.metric), best), s.metric, prompts, axis=1) for g, s in starts.items()}
    repeated = [Starts(*(np.repeat(x, prompts, axis=0) for x in s)) for s in starts.values()]
    together = Starts(*(np.concatenate(x) for x in zip(*repeated, strict=True)))
    weights = improve(together, np.concatenate([a.ravel() for a in asked.values()]), key)
    ends = np.cumsum([a.size for a in asked.values()])[:-1]
    achieved = np.split(measure(weights)[0].astype(np.float64), ends)
    return {g: Sweep(a, found.reshape(a.shape)) for (g, a), found in zip(asked.items(), achieved, strict=True)}


def r_squared(asked: np.ndarray, achieved: np.ndarray) -> np.ndarray:
    """R^2 `[n]` of every network over its prompts, from `[n, S]` each; the mean is the published prompt alignment.

    1 where every prompt is met. 0 is what a network gets that comes out, whatever it is asked for, as the mean of its
    prompts; there is no lower bound.
    """
    spread = np.square(asked - asked.mean(axis=1, keepdims=True)).sum(axis=1)
    return 1.0 - np.square(asked - achieved).sum(axis=1) / (spread + _EPSILON)


def correlation(asked: np.ndarray, achieved: np.ndarray) -> np.ndarray:
    """Pearson's correlation `[n]` of outcomes with prompts, of every network over its prompts, from `[n, S]` each.

    1 where outcomes rise and fall with the prompts, even if they miss them, which R^2 does not tell from outcomes that
    have nothing to do with them. 0 where all outcomes are the same.
    """
    asked, achieved = (x - x.mean(axis=1, keepdims=True) for x in (asked, achieved))
    lengths = np.linalg.norm(asked, axis=1) * np.linalg.norm(achieved, axis=1)
    return (asked * achieved).sum(axis=1) / np.maximum(lengths, _EPSILON)


def _alignment(asked, achieved, start, mean) -> dict[str, Any]:
    """Estimates of one group; networks that are as good as the best prompt have nothing to be asked for."""
    spread = np.ptp(asked, axis=1) > 0
    return {
        "r2": mean(r_squared(asked[spread], achieved[spread])) if spread.any() else None,
        "correlation": mean(correlation(asked[spread], achieved[spread])) if spread.any() else None,
        "absolute_error": mean(np.abs(achieved - asked).mean(axis=1)),
        "start": mean(start),
        "at_best": mean(achieved[:, 0]),
    }


def recursion(
    improve: PromptedSampler, measure: Measure, starts: Starts, prompt: float, rounds: int, key: jax.Array
) -> np.ndarray:
    """Improves networks again and again; every round starts from the outcome of the last and its measured metric.

    Returns:
      The metric `[n, rounds + 1]`, float64, the starts' own first.
    """
    curve = [starts.metric]
    for number in range(rounds):
        weights = improve(starts, prompt, jax.random.fold_in(key, number))
        starts = Starts(weights, measure(weights)[0])
        curve.append(starts.metric)
    return np.stack(curve, axis=1).astype(np.float64)


def trajectories(records: Mapping[str, np.ndarray], metric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The metric along training.

    Args:
      records: with run and step, of all checkpoints.
      metric: `[N]`, theirs.

    Returns:
      Mean step `[K]` of the k-th checkpoints, and their metric `[runs, K]`, NaN where a run has fewer; float64.
    """
    order = np.lexsort((records["step"], records["run"]))
    _, first, row, counts = np.unique(records["run"][order], return_index=True, return_inverse=True, return_counts=True)
    place = row, np.arange(len(order)) - first[row]
    found = np.full((2, len(counts), counts.max()), np.nan)
    found[(0, *place)], found[(1, *place)] = records["step"][order], metric[order]
    return np.nanmean(found[0], axis=0), found[1]


def _last(trained: np.ndarray) -> np.ndarray:
    """The last number of every row `[runs]` of `[runs, K]`."""
    return trained[np.arange(len(trained)), np.isfinite(trained).sum(axis=1) - 1]


class Walk(NamedTuple):
    """What is found along W paths of K points, float64.

    Attributes:
      metric: `[W, K]` of the networks.
      start: `[W]` metric of the network that all points of a path start from.
      from_start: `[W, K]` distance of the networks from that one.
      step: `[W, K - 1]` distance between neighbours.
      ends: `[W]` distance between the first and the last.
      overlap: `[W, K, K]` IoU of the sets of misclassified examples.
    """

    metric: np.ndarray
    start: np.ndarray
    from_start: np.ndarray
    step: np.ndarray
    ends: np.ndarray
    overlap: np.ndarray


def walk(
    improve: PromptedSampler,
    measure: Measure,
    starts: Starts,
    prompt: float,
    points: int,
    num_examples: int,
    key: jax.Array,
) -> Walk:
    """Improves every start from noises along an arc between two; nothing else changes, so the sampler must be
    deterministic.

    Args:
      improve: deterministic sampler of the generator.
      measure: weights `[n, P]` to their metric `[n]` and error masks `[n, ceil(T / 8)]`.
      starts: W networks to start from, one per path.
      prompt: metric that all are asked for.
      points: number of points of every path, K.
      num_examples: number of test examples, T.
      key: PRNG key of the noises.
    """
    count, width = starts.weights.shape
    noise_key, sample_key = jax.random.split(key)
    ends = np.asarray(jax.random.normal(noise_key, (2, count, width)))
    noise = slerp(ends[0], ends[1], np.linspace(0.0, 1.0, points))
    repeated = Starts(*(np.repeat(x, points, axis=0) for x in starts))
    weights = improve(repeated, prompt, sample_key, noise.reshape(-1, width))
    metric, errors = measure(weights)
    path = weights.reshape(count, points, width).astype(np.float64)
    masks = errors.reshape(count, points, -1)
    return Walk(
        metric=metric.reshape(count, points).astype(np.float64),
        start=starts.metric.astype(np.float64),
        from_start=np.linalg.norm(path - starts.weights[:, None, :], axis=2),
        step=np.linalg.norm(np.diff(path, axis=1), axis=2),
        ends=np.linalg.norm(path[:, -1] - path[:, 0], axis=1),
        overlap=np.stack([similarity.error_iou(m, m, num_examples) for m in masks]),
    )


def slerp(first: np.ndarray, last: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Points on the arc between vectors (Shoemake 1985), which keeps the length of Gaussian noise.

    Args:
      first: `[n, D]`.
      last: `[n, D]`, neither equal nor opposite.
      share: `[K]` of the angle, 0 at the first and 1 at the last.

    Returns:
      `[n, K, D]` float32.
    """
    first, last = (np.asarray(x, np.float64) for x in (first, last))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(last, axis=1)
    angle = np.arccos((first * last).sum(axis=1) / lengths)[:, None]
    near, far = np.sin((1.0 - share) * angle), np.sin(share * angle)
    arc = near[:, :, None] * first[:, None, :] + far[:, :, None] * last[:, None, :]
    return (arc / np.sin(angle)[:, :, None]).astype(np.float32)


def _summary(walked: Walk) -> dict[str, Any]:
    """Means over the paths, JSON data."""
    numbers = {
        "lowest": walked.metric.min(axis=1),
        "highest": walked.metric.max(axis=1),
        "from_start": walked.from_start.mean(axis=1),
        "step": walked.step.mean(axis=1),
        "largest_step": walked.step.max(axis=1),
        "ends": walked.ends,
        "neighbours_iou": np.diagonal(walked.overlap, offset=1, axis1=1, axis2=2).mean(axis=1),
        "ends_iou": walked.overlap[:, 0, -1],
    }
    return {name: {"mean": float(x.mean()), "n": len(x)} for name, x in numbers.items()}
