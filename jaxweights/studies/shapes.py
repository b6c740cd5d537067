"""The study of neural fields: are the shapes that generated networks stand for new?

The evaluation of HyperDiffusion by Zeng et al. 2025 (arXiv 2506.07998): how far generated shapes are from training
shapes and from shapes that no network was fitted to. There, training shapes stand as they are and all others as fields
that were fitted to them and meshed, so that the error of fitting looks like novelty. Here the same is measured on the
training networks themselves, which is what noise of amplitude 0 gives, and on held-out networks, which is what fitting
new shapes gives. MMD, COV and 1-NNA compare whole sets of shapes with the unseen ones, by the Chamfer and by the
earth mover's distance.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import auditing, data, nets
from jaxweights.auditing import statistics
from jaxweights.auditing.distances import euclidean
from jaxweights.errors import UserError
from jaxweights.evaluation import meshing
from jaxweights.population import Population
from jaxweights.progress import Progress
from jaxweights.settings import Settings, setting
from jaxweights.studies import shape_scores
from jaxweights.studies.base import Estimation, Findings, Series

NOISE = "noise"
"""Kind of the generators whose series the published figure shows beside the learned ones."""
TRAINING_SHAPES = "training_shapes"
"""Series of the shapes that the training networks were fitted to: the published figures' "training"."""
CHAMFER, PUBLISHED = "chamfer", "published"
"""Chamfer distances between clouds that are normalised correctly, and as published."""
SHOWN_NETWORKS = 4


@dataclasses.dataclass(frozen=True)
class ShapesSettings(Settings):
    """Settings of the study of shapes.

    Attributes:
      networks: number of networks of every series whose surfaces are extracted.
      resolution: grid points per axis.
      level: logit of the surface; published: an occupancy of 0.8.
      points: number of points on every surface.
      emd: number of shapes of every series that enter the earth mover's distance, 0 for none.
      up: axis that points up on pictures.
    """

    SECTION: ClassVar[str] = "studies.shapes"

    networks: int = setting(64, at_least=2, at_most=100_000)
    resolution: int = setting(96, at_least=8, at_most=1024)
    level: float = 1.386
    points: int = setting(2048, at_least=16, at_most=32_768)
    emd: int = setting(32, at_least=0)
    up: Literal["x", "y", "z"] = "z"


def exists(net: nets.TaskNet, dataset: data.Dataset) -> bool:
    """Whether the networks are occupancy fields in space and the surfaces of their shapes are known."""
    is_shape = net.task.has_surfaces(net)
    both = (dataset.signals, dataset.unseen)
    return is_shape and all(signals is not None and signals.surface.shape[1] > 0 for signals in both)


class Extracted(NamedTuple):
    """The shapes of some networks of a series.

    Attributes:
      rows: `[n]`, which networks of the series.
      surfaces: n triangle meshes, some may be empty.
      solid: `[s]`, those of the n that have a surface.
      points: `[s, M, 3]` float32 on these surfaces.
    """

    rows: np.ndarray
    surfaces: Sequence[meshing.Mesh]
    solid: np.ndarray
    points: np.ndarray


def run(subject: Series, settings: ShapesSettings, estimation: Estimation) -> Findings:
    """Compares the shapes of all series with training and with unseen shapes.

    Args:
      subject: occupancy fields in space, and data with points on the surfaces of `signals`, what run i was fitted to,
        and `unseen`. Those `shown` keep the surfaces of their first networks, with those of the nearest training
        networks.
      settings: settings of the study.
      estimation: how numbers are estimated.

    Returns:
      JSON data, estimates as `{"mean" or "value", "ci95", "n"}`: `resolution`, `level`, `points`, `up` (0 to 2),
      `references` (number of `training` and `unseen` shapes), `augmented`, `shown` and `series.<name>`. There
      `networks`, `empty` (meshes without a surface), `min_l2` (weights; to other runs for training networks), and under
      `chamfer`: `to_training` and `to_unseen` (mean distance to the nearest shape; training shapes are not compared
      with themselves), `closer_than_heldout` and `z_u` (against held-out networks), `to_sibling` (to the nearest other
      shape of the series), `mmd`, `cov` and `one_nna`. Those of the published figure (training shapes, `shown` and
      noised networks) have them, but for the tests, under `published`, too, and all have the last four under `emd`.
      None, or absent, where too few shapes are left.
      And arrays: `<chamfer or published>/<series>/to_training` and `to_unseen` `[s]` float64;
      `shown/<series>/<i>/vertices` and `faces`, `shown/<series>/runs` `[k, 2]` int64 (nearest training runs by weights
      and by Chamfer distance, -1 without a surface), `shown/<series>/distances` `[k, 2]` float64, and
      `shown/training/<run>/vertices` and `faces`.

    Raises:
      UserError: training runs without a signal.
    """
    dataset, train, mesh = subject.dataset, subject.train, estimation.mesh
    resamples, shown = estimation.resamples, subject.shown
    if dataset.signals is None or dataset.unseen is None:
        raise ValueError("The study of shapes needs their surfaces; see `exists`.")
    runs = train.records["run"]
    if runs.min() < 0 or runs.max() >= len(dataset.signals):
        raise UserError(
            f"There are {len(dataset.signals)} signals, but training runs have the numbers {runs.min()} to "
            f"{runs.max()}: run i must be fitted to signal i. Use the data that the zoo was trained on."
        )
    rng = np.random.default_rng([estimation.seed, 40_000])
    populations = {auditing.TRAINING: train, auditing.HELDOUT: subject.heldout, **subject.generated}
    references = np.unique(runs)
    clouds = dataset.signals.surface[references], dataset.unseen.surface
    count = min(settings.points, *(x.shape[1] for x in clouds))
    training, unseen = (_thinned(x, count, rng) for x in clouds)
    extracted = _extract_all(subject.net, populations, settings, count, estimation)
    neighbours = {
        name: _nearest_weights(populations[name].select(one.rows), train, name == auditing.TRAINING, mesh)
        for name, one in extracted.items()
    }
    own = np.searchsorted(references, runs[extracted[auditing.TRAINING].rows])
    points = {TRAINING_SHAPES: training[own], **{name: one.points for name, one in extracted.items()}}
    metrics: dict[str, dict[str, Any]] = {TRAINING_SHAPES: {"networks": len(own), "empty": 0}}
    metrics |= {name: _counts(one, neighbours[name], resamples, rng) for name, one in extracted.items()}
    arrays, tables = {}, {}
    for kind, names in ((CHAMFER, points), (PUBLISHED, dict.fromkeys([TRAINING_SHAPES, *shown, *_noised(subject)]))):
        compared = {name: points[name] for name in names}
        tables[kind] = shape_scores.chamfer(compared, training, unseen, own, kind == PUBLISHED, mesh)
        for name, (scores, smallest) in shape_scores.scores(tables[kind], kind == CHAMFER, resamples, rng).items():
            metrics[name][kind] = scores
            arrays |= {f"{kind}/{name}/{to}": values for to, values in smallest.items()}
    if settings.emd:
        found = shape_scores.earth_mover(points, unseen, settings.emd)
        for name in points:
            parts = found.to_unseen[name], found.siblings[name], found.references
            metrics[name]["emd"] = shape_scores.set_scores(*parts, resamples, rng)
    for name in shown:
        arrays |= _kept(name, extracted[name], neighbours[name], tables[CHAMFER].to_training[name], references, train)
    arrays |= _training_surfaces(subject, arrays, settings, mesh)
    summary = {
        "resolution": settings.resolution,
        "level": float(settings.level),
        "points": count,
        "up": "xyz".index(settings.up),
        "references": {"training": len(training), "unseen": len(unseen)},
        "augmented": dict(subject.augmented),
        "shown": list(shown),
        "series": metrics,
    }
    return summary, arrays


def _counts(
    one: Extracted, neighbours: euclidean.Neighbours, resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """How many networks a series has, how many of them have no surface, and how far their weights are from training
    networks."""
    return {
        "networks": len(one.rows),
        "empty": len(one.rows) - len(one.solid),
        "min_l2": statistics.bootstrap_mean(neighbours.distances[:, 0], resamples, rng).to_json("mean"),
    }


def _noised(subject: Series) -> list[str]:
    """The noised training networks, which the published figure shows beside the generated ones."""
    return [name for name in subject.generated if subject.kinds.get(name) == NOISE]


# -- shapes ----------------------------------------------------------------------------------------------------------


def _extract_all(
    net: nets.TaskNet,
    populations: Mapping[str, Population],
    settings: ShapesSettings,
    count: int,
    estimation: Estimation,
) -> dict[str, Extracted]:
    """Surfaces of randomly chosen networks of every series, and `count` points on each."""
    key = jax.random.fold_in(jax.random.key(estimation.seed), 8)
    chosen = {}
    for name, networks in populations.items():
        order = np.random.default_rng([estimation.seed, 40_001]).permutation(len(networks))
        chosen[name] = np.sort(order[: settings.networks])
    extracted = {}
    done, mesh = 0, estimation.mesh
    with Progress(sum(map(len, chosen.values())), "surfaces", "networks") as bar:
        for number, (name, rows) in enumerate(chosen.items()):
            tick = functools.partial(lambda before, now, _: bar.update(before + now), done)
            surfaces = _extract(net, populations[name].weights[rows], settings, mesh, tick)
            points, solid = meshing.surface_points(surfaces, count, jax.random.fold_in(key, number), mesh=mesh)
            extracted[name] = Extracted(rows, surfaces, np.flatnonzero(solid), points[solid])
            done += len(rows)
    return extracted


def _extract(
    net: nets.TaskNet,
    weights: np.ndarray,
    settings: ShapesSettings,
    mesh: Mesh,
    progress: Callable[[int, int], None] | None = None,
) -> list[meshing.Mesh]:
    resolution, level = settings.resolution, settings.level
    return meshing.extract(net, weights, resolution=resolution, level=level, mesh=mesh, progress=progress)


def _thinned(clouds: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` random points `[n, count, 3]` of every cloud: Chamfer distances depend on how many there are."""
    return clouds[:, np.sort(rng.permutation(clouds.shape[1])[:count])]


def _nearest_weights(
    networks: Population, train: Population, leave_out_own_run: bool, mesh: Mesh
) -> euclidean.Neighbours:
    """The nearest training network of each, by its weights as they are."""
    runs = networks.records["run"], train.records["run"]
    groups = dict(zip(("query_groups", "reference_groups"), runs, strict=True)) if leave_out_own_run else {}
    return euclidean.nearest(networks.weights, train.weights, mesh=mesh, **groups)


def _kept(
    name: str,
    one: Extracted,
    neighbours: euclidean.Neighbours,
    to_training: np.ndarray,
    references: np.ndarray,
    train: Population,
) -> dict[str, np.ndarray]:
    """Arrays of the first surfaces of a series and of what is nearest to them; see `run`."""
    count = min(SHOWN_NETWORKS, len(one.rows))
    runs, near = np.full((count, 2), -1), np.full((count, 2), np.nan)
    runs[:, 0] = train.records["run"][neighbours.indices[:count, 0]]
    near[:, 0] = neighbours.distances[:count, 0]
    solid = one.solid[one.solid < count]
    table = to_training[: len(solid)]
    if len(solid):
        runs[solid, 1], near[solid, 1] = references[table.argmin(axis=1)], table.min(axis=1)
    arrays = {f"shown/{name}/runs": runs, f"shown/{name}/distances": near}
    for i, surface in enumerate(one.surfaces[:count]):
        arrays |= {f"shown/{name}/{i}/vertices": surface.vertices, f"shown/{name}/{i}/faces": surface.faces}
    return arrays


def _training_surfaces(
    subject: Series, arrays: Mapping[str, np.ndarray], settings: ShapesSettings, mesh: Mesh
) -> dict[str, np.ndarray]:
    """Arrays of the surfaces of all training networks that the shown ones are nearest to; see `run`."""
    train = subject.train
    near = [arrays[f"shown/{name}/runs"].ravel() for name in subject.shown]
    runs = np.unique(np.concatenate([np.zeros(0, int), *near]))
    runs = runs[runs >= 0]
    if not len(runs):
        return {}
    order = np.argsort(train.records["run"], kind="stable")
    rows = order[np.searchsorted(train.records["run"], runs, sorter=order)]
    found: dict[str, np.ndarray] = {}
    for run_id, surface in zip(runs, _extract(subject.net, train.weights[rows], settings, mesh), strict=True):
        place = f"shown/{auditing.TRAINING}/{run_id}"
        found |= {f"{place}/vertices": surface.vertices, f"{place}/faces": surface.faces}
    return found
