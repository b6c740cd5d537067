"""What is asked of generators of neural fields: are the shapes that their networks stand for new?

The evaluation of HyperDiffusion by Zeng et al. 2025 (arXiv 2506.07998): how far generated shapes are from training
shapes and from shapes that nobody was fitted to. There, training shapes stand as they are and all others as fields that
were fitted to them and meshed, so that the error of fitting looks like novelty. Here the same is measured on the
training networks themselves, which is what noise of amplitude 0 gives, and on held-out networks, which is what fitting
new shapes gives. MMD, COV and 1-NNA compare whole sets of shapes with the unseen ones, by the Chamfer and by the
earth mover's distance.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import auditing, data, nets
from jaxweights.auditing import distances, shapes, statistics
from jaxweights.errors import UserError
from jaxweights.evaluation import meshing
from jaxweights.population import Population
from jaxweights.progress import Progress

TRAINING_SHAPES = "training_shapes"
"""Series of the shapes that the training networks were fitted to: the published figures' "training"."""
CHAMFER, PUBLISHED = "chamfer", "published"
"""Chamfer distances between clouds that are normalised correctly, and as published."""
AXES = ("x", "y", "z")
SHOWN_NETWORKS = 4
_LEAST = {"shape_networks": 2, "shape_resolution": 8, "shape_points": 16, "shape_emd": 0}


def exist_for(net: nets.TaskNet, dataset: data.Dataset) -> bool:
    """Whether the networks are occupancy fields in space and the surfaces of their shapes are known."""
    is_shape = net.task.has_surfaces(net)
    both = (dataset.signals, dataset.unseen)
    return is_shape and all(signals is not None and signals.surface.shape[1] > 0 for signals in both)


def check(settings: Mapping[str, Any]) -> None:
    """Refuses impossible settings.

    Args:
      settings: `config.studies`.

    Raises:
      UserError: a number that is too small, or an unknown axis.
    """
    for name, least in _LEAST.items():
        if settings[name] < least:
            raise UserError(f"studies.{name} is {settings[name]}; set it to at least {least}.")
    if settings["shape_up"] not in AXES:
        raise UserError(f"studies.shape_up is {settings['shape_up']!r}; set it to one of {', '.join(AXES)}.")


class Bodies(NamedTuple):
    """The shapes of some networks of a series.

    Attributes:
      rows: `[n]`, which networks of the series.
      meshes: n, some may be empty.
      solid: `[s]`, those of the n that have a surface.
      points: `[s, M, 3]` float32 on these surfaces.
    """

    rows: np.ndarray
    meshes: Sequence[meshing.Mesh]
    solid: np.ndarray
    points: np.ndarray


def run(
    net: nets.TaskNet,
    dataset: data.Dataset,
    series: Mapping[str, Population],
    train: Population,
    heldout: Population,
    settings: Mapping[str, Any],
    resamples: int,
    seed: int,
    mesh: Mesh,
    *,
    shown: Sequence[str] = (),
    augmented: Mapping[str, int] | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Compares the shapes of all series with training and with unseen shapes.

    Args:
      net: an occupancy field in space.
      dataset: `signals`, what run i was fitted to, and `unseen`, both with points on their surfaces.
      series: generated networks and baselines.
      train: training networks, last checkpoints; `run` says which signal is theirs.
      heldout: networks that were fitted to signals that no generator saw.
      settings: `config.studies`: at most `shape_networks` of every series are meshed on a grid of `shape_resolution`^3
        points at the logit `shape_level` and compared by `shape_points` surface points; at most `shape_emd` enter the
        earth mover's distance (0: none); `shape_up` is the axis that points up on pictures.
      resamples: of every interval.
      seed: of every random choice.
      mesh: devices.
      shown: series whose first meshes are kept, with those of the nearest training networks.
      augmented: number of permuted copies that series' generators were trained on, for the study of augmentation.

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
      UserError: impossible settings, or training runs without a signal.
    """
    check(settings)
    runs = train.records["run"]
    if runs.min() < 0 or runs.max() >= len(dataset.signals):
        raise UserError(
            f"There are {len(dataset.signals)} signals, but training runs have the numbers {runs.min()} to "
            f"{runs.max()}: run i must be fitted to signal i. Use the data that the zoo was trained on."
        )
    rng = np.random.default_rng([seed, 40_000])
    populations = {auditing.TRAINING: train, auditing.HELDOUT: heldout, **series}
    references = np.unique(runs)
    clouds = dataset.signals.surface[references], dataset.unseen.surface
    count = min(settings["shape_points"], *(x.shape[1] for x in clouds))
    training, unseen = (_thinned(x, count, rng) for x in clouds)
    bodies = _embody(net, populations, settings, count, seed, mesh)
    neighbours = {
        name: _nearest_weights(populations[name].select(body.rows), train, name == auditing.TRAINING, mesh)
        for name, body in bodies.items()
    }
    own = np.searchsorted(references, runs[bodies[auditing.TRAINING].rows])
    points = {TRAINING_SHAPES: training[own], **{name: body.points for name, body in bodies.items()}}
    metrics = {TRAINING_SHAPES: {"networks": len(own), "empty": 0}}
    metrics |= {name: _counts(body, neighbours[name], resamples, rng) for name, body in bodies.items()}
    arrays, tables = {}, {}
    for kind, names in ((CHAMFER, points), (PUBLISHED, dict.fromkeys([TRAINING_SHAPES, *shown, *_noised(series)]))):
        compared = {name: points[name] for name in names}
        tables[kind] = _chamfer(compared, training, unseen, own, kind == PUBLISHED, mesh)
        for name, (scores, smallest) in _scores(tables[kind], kind == CHAMFER, resamples, rng).items():
            metrics[name][kind] = scores
            arrays |= {f"{kind}/{name}/{to}": values for to, values in smallest.items()}
    if settings["shape_emd"]:
        found = _earth_mover(points, unseen, settings["shape_emd"])
        for name in points:
            scores = _set_scores(found.to_unseen[name], found.siblings[name], found.references, resamples, rng)
            metrics[name]["emd"] = scores
    arrays |= _kept(net, shown, bodies, neighbours, tables[CHAMFER].to_training, references, train, settings, mesh)
    summary = {
        "resolution": settings["shape_resolution"],
        "level": float(settings["shape_level"]),
        "points": count,
        "up": AXES.index(settings["shape_up"]),
        "references": {"training": len(training), "unseen": len(unseen)},
        "augmented": dict(augmented or {}),
        "shown": list(shown),
        "series": metrics,
    }
    return summary, arrays


def _counts(body: Bodies, neighbours: distances.Neighbours, resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """How many networks a series has, how many of them have no surface, and how far their weights are from training
    networks."""
    return {
        "networks": len(body.rows),
        "empty": len(body.rows) - len(body.solid),
        "min_l2": statistics.bootstrap_mean(neighbours.distances[:, 0], resamples, rng).to_json("mean"),
    }


def _noised(series: Mapping[str, Population]) -> list[str]:
    """The noised training networks, which the published figure shows beside the generated ones."""
    return [name for name in series if name.startswith("noise")]


# -- shapes ----------------------------------------------------------------------------------------------------------


def _embody(
    net: nets.TaskNet,
    populations: Mapping[str, Population],
    settings: Mapping[str, Any],
    count: int,
    seed: int,
    mesh: Mesh,
) -> dict[str, Bodies]:
    """Meshes of randomly chosen networks of every series, and `count` points on each."""
    key = jax.random.fold_in(jax.random.key(seed), 8)
    chosen = {}
    for name, networks in populations.items():
        order = np.random.default_rng([seed, 40_001]).permutation(len(networks))
        chosen[name] = np.sort(order[: settings["shape_networks"]])
    bodies = {}
    done = 0
    with Progress(sum(map(len, chosen.values())), "meshes", "networks") as bar:
        for number, (name, rows) in enumerate(chosen.items()):
            tick = functools.partial(lambda before, now, _: bar.update(before + now), done)
            meshes = _extract(net, populations[name].weights[rows], settings, mesh, tick)
            points, solid = meshing.surface_points(meshes, count, jax.random.fold_in(key, number), mesh=mesh)
            bodies[name] = Bodies(rows, meshes, np.flatnonzero(solid), points[solid])
            done += len(rows)
    return bodies


def _extract(net, weights, settings, mesh, progress: Callable[[int, int], None] | None = None) -> list[meshing.Mesh]:
    resolution, level = settings["shape_resolution"], settings["shape_level"]
    return meshing.extract(net, weights, resolution=resolution, level=level, mesh=mesh, progress=progress)


def _thinned(clouds: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` random points `[n, count, 3]` of every cloud: Chamfer distances depend on how many there are."""
    return clouds[:, np.sort(rng.permutation(clouds.shape[1])[:count])]


def _nearest_weights(
    networks: Population, train: Population, leave_out_own_run: bool, mesh: Mesh
) -> distances.Neighbours:
    """The nearest training network of each, by its weights as they are."""
    runs = networks.records["run"], train.records["run"]
    groups = dict(zip(("query_groups", "reference_groups"), runs, strict=True)) if leave_out_own_run else {}
    return distances.nearest(networks.weights, train.weights, mesh=mesh, **groups)


def _kept(
    net: nets.TaskNet,
    shown: Sequence[str],
    bodies: Mapping[str, Bodies],
    neighbours: Mapping[str, distances.Neighbours],
    to_training: Mapping[str, np.ndarray],
    references: np.ndarray,
    train: Population,
    settings: Mapping[str, Any],
    mesh: Mesh,
) -> dict[str, np.ndarray]:
    """Arrays of the first meshes of some series, and of the nearest training networks; see `run`."""
    arrays: dict[str, np.ndarray] = {}
    for name in shown:
        body, nearest = bodies[name], neighbours[name]
        count = min(SHOWN_NETWORKS, len(body.rows))
        found = np.full((count, 2), -1), np.full((count, 2), np.nan)
        found[0][:, 0] = train.records["run"][nearest.indices[:count, 0]]
        found[1][:, 0] = nearest.distances[:count, 0]
        solid = body.solid[body.solid < count]
        table = to_training[name][: len(solid)]
        if len(solid):
            found[0][solid, 1], found[1][solid, 1] = references[table.argmin(axis=1)], table.min(axis=1)
        arrays |= {f"shown/{name}/runs": found[0], f"shown/{name}/distances": found[1]}
        for i, one in enumerate(body.meshes[:count]):
            arrays |= {f"shown/{name}/{i}/vertices": one.vertices, f"shown/{name}/{i}/faces": one.faces}
    runs = np.unique(np.concatenate([np.zeros(0, int), *(arrays[f"shown/{name}/runs"].ravel() for name in shown)]))
    runs = runs[runs >= 0]
    if len(runs):
        order = np.argsort(train.records["run"], kind="stable")
        rows = order[np.searchsorted(train.records["run"], runs, sorter=order)]
        for run_id, one in zip(runs, _extract(net, train.weights[rows], settings, mesh), strict=True):
            place = f"shown/{auditing.TRAINING}/{run_id}"
            arrays |= {f"{place}/vertices": one.vertices, f"{place}/faces": one.faces}
    return arrays


# -- distances and scores --------------------------------------------------------------------------------------------


class _Tables(NamedTuple):
    """Distances between shapes, by series of s shapes.

    Attributes:
      to_training: `[s, T]`, infinite between a shape and itself.
      to_unseen: `[s, U]`.
      siblings: `[s, s]` within the series.
      references: between the unseen shapes, as many as a series may have.
    """

    to_training: dict[str, np.ndarray]
    to_unseen: dict[str, np.ndarray]
    siblings: dict[str, np.ndarray]
    references: np.ndarray


def _chamfer(
    points: Mapping[str, np.ndarray],
    training: np.ndarray,
    unseen: np.ndarray,
    own: np.ndarray,
    faithful: bool,
    mesh: Mesh,
) -> _Tables:
    """Chamfer distances between clouds of every series and the references; `own` rows of `training` are the training
    shapes of `points`."""
    ends = np.cumsum([len(x) for x in points.values()])[:-1]
    stacked = shapes.normalise(np.concatenate(list(points.values())), faithful=faithful)
    references = shapes.normalise(np.concatenate([training, unseen]), faithful=faithful)
    with Progress(len(stacked) * len(references), "Chamfer distances", "pairs") as bar:
        table = shapes.chamfer(stacked, references, mesh, progress=bar.callback).astype(np.float64)
    table[np.arange(len(own)), own] = np.inf  # training shapes come first
    rows = dict(zip(points, np.split(table, ends), strict=True))
    normal = dict(zip(points, np.split(stacked, ends), strict=True))
    most = max(len(x) for x in normal.values())
    known = references[len(training) :][:most]
    return _Tables(
        {name: x[:, : len(training)] for name, x in rows.items()},
        {name: x[:, len(training) :] for name, x in rows.items()},
        {name: _within(lambda x: shapes.chamfer(x, None, mesh), x) for name, x in normal.items()},
        _within(lambda x: shapes.chamfer(x, None, mesh), known),
    )


def _scores(
    tables: _Tables, tested: bool, resamples: int, rng: np.random.Generator
) -> dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Scores of every series, tested against held-out networks or not, and its `to_training` and `to_unseen`."""
    null = _smallest(tables.to_training[auditing.HELDOUT]) if tested else None
    found = {}
    for name in tables.to_training:
        near, far = _smallest(tables.to_training[name]), _smallest(tables.to_unseen[name])
        is_tested = tested and name != auditing.HELDOUT
        scores = {
            "to_training": _mean(near, resamples, rng),
            "to_unseen": _mean(far, resamples, rng),
            **(_against_heldout(near, null, resamples, rng) if is_tested else {}),
            **_set_scores(tables.to_unseen[name], tables.siblings[name], tables.references, resamples, rng),
        }
        found[name] = scores, {"to_training": near, "to_unseen": far}
    return found


def _earth_mover(points: Mapping[str, np.ndarray], unseen: np.ndarray, most: int) -> _Tables:
    """Earth mover's distances of the first shapes of every series; they keep `shapes.emd`'s number of points."""
    known = shapes.normalise(unseen[:most])
    cross, siblings = {}, {}
    with Progress(len(points), "earth mover's distances", "series") as bar:
        for number, (name, clouds) in enumerate(points.items()):
            normal = shapes.normalise(clouds[:most]) if len(clouds) else clouds
            cross[name] = shapes.emd(normal, known) if len(clouds) else np.zeros((0, len(known)))
            siblings[name] = _within(shapes.emd, normal)
            bar.update(number + 1, name)
    return _Tables({}, cross, siblings, _within(shapes.emd, known))


def _within(measure: Callable[[np.ndarray], Any], clouds: np.ndarray) -> np.ndarray:
    """Distances `[n, n]` float64 between n clouds; there may be none."""
    return np.asarray(measure(clouds), np.float64) if len(clouds) else np.zeros((0, 0))


def _smallest(table: np.ndarray) -> np.ndarray:
    """The smallest of every row."""
    return table.min(axis=1) if table.size else np.zeros(0)


def _mean(values: np.ndarray, resamples: int, rng: np.random.Generator) -> dict[str, Any] | None:
    """The mean with its interval; None of nothing, and where a shape has no other one to be compared with."""
    values = values[np.isfinite(values)]
    return statistics.bootstrap_mean(values, resamples, rng).to_json("mean") if len(values) else None


def _against_heldout(
    distance: np.ndarray, heldout: np.ndarray, resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Whether shapes are closer to training shapes than those of held-out networks."""
    distance = distance[np.isfinite(distance)]
    if not len(distance) or not len(heldout):
        return {}
    return {
        "closer_than_heldout": statistics.share(distance < heldout.min()).to_json(),
        "z_u": statistics.bootstrap_z_u(distance, heldout, resamples, rng).to_json(),
    }


def _set_scores(
    to_unseen: np.ndarray, siblings: np.ndarray, references: np.ndarray, resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """MMD, COV and 1-NNA of as many shapes as unseen ones, and the distance to the nearest shape of the same series.

    Intervals of MMD are over unseen shapes; those of COV and 1-NNA take covered shapes and correct neighbours for
    independent, which they are not quite.
    """
    count = min(to_unseen.shape + references.shape)
    if count < 2:
        return {}
    own, cross = siblings[:count, :count], to_unseen[:count, :count]
    scores = shapes.set_metrics(cross, own, references[:count, :count])
    apart = np.where(np.eye(len(siblings), dtype=bool), np.inf, siblings)
    return {
        "mmd": _mean(cross.min(axis=0), resamples, rng),
        "cov": statistics.share_interval(round(count * float(scores["cov"])), count).to_json(),
        "one_nna": statistics.share_interval(round(2 * count * float(scores["one_nna"])), 2 * count).to_json(),
        "to_sibling": _mean(apart.min(axis=1), resamples, rng),
    }
