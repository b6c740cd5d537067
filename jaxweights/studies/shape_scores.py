"""Distances between the shapes of several series, and the scores of a series as a set of shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxweights.auditing import HELDOUT, shapes, statistics
from jaxweights.progress import Progress


class Tables(NamedTuple):
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


def chamfer(
    points: Mapping[str, np.ndarray],
    training: np.ndarray,
    unseen: np.ndarray,
    own: np.ndarray,
    faithful: bool,
    mesh: Mesh,
) -> Tables:
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
    return Tables(
        {name: x[:, : len(training)] for name, x in rows.items()},
        {name: x[:, len(training) :] for name, x in rows.items()},
        {name: _within(lambda x: shapes.chamfer(x, None, mesh), x) for name, x in normal.items()},
        _within(lambda x: shapes.chamfer(x, None, mesh), known),
    )


def scores(
    tables: Tables, tested: bool, resamples: int, rng: np.random.Generator
) -> dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Scores of every series, tested against held-out networks or not, and its `to_training` and `to_unseen`."""
    null = _smallest(tables.to_training[HELDOUT]) if tested else None
    found = {}
    for name in tables.to_training:
        near, far = _smallest(tables.to_training[name]), _smallest(tables.to_unseen[name])
        is_tested = tested and name != HELDOUT
        scores = {
            "to_training": mean(near, resamples, rng),
            "to_unseen": mean(far, resamples, rng),
            **(_against_heldout(near, null, resamples, rng) if is_tested else {}),
            **set_scores(tables.to_unseen[name], tables.siblings[name], tables.references, resamples, rng),
        }
        found[name] = scores, {"to_training": near, "to_unseen": far}
    return found


def earth_mover(points: Mapping[str, np.ndarray], unseen: np.ndarray, most: int) -> Tables:
    """Earth mover's distances of the first shapes of every series; they keep `shapes.emd`'s number of points."""
    known = shapes.normalise(unseen[:most])
    cross, siblings = {}, {}
    with Progress(len(points), "earth mover's distances", "series") as bar:
        for number, (name, clouds) in enumerate(points.items()):
            normal = shapes.normalise(clouds[:most]) if len(clouds) else clouds
            cross[name] = shapes.emd(normal, known) if len(clouds) else np.zeros((0, len(known)))
            siblings[name] = _within(shapes.emd, normal)
            bar.update(number + 1, name)
    return Tables({}, cross, siblings, _within(shapes.emd, known))


def _within(measure: Callable[[np.ndarray], Any], clouds: np.ndarray) -> np.ndarray:
    """Distances `[n, n]` float64 between n clouds; there may be none."""
    return np.asarray(measure(clouds), np.float64) if len(clouds) else np.zeros((0, 0))


def _smallest(table: np.ndarray) -> np.ndarray:
    """The smallest of every row."""
    return table.min(axis=1) if table.size else np.zeros(0)


def mean(values: np.ndarray, resamples: int, rng: np.random.Generator) -> dict[str, Any] | None:
    """The mean with its interval; None of nothing, and where a shape has no other one to be compared with."""
    values = values[np.isfinite(values)]
    return statistics.bootstrap_mean(values, resamples, rng).to_json("mean") if len(values) else None


def _against_heldout(
    distance: np.ndarray, heldout: np.ndarray | None, resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Whether shapes are closer to training shapes than those of held-out networks."""
    distance = distance[np.isfinite(distance)]
    if not len(distance) or heldout is None or not len(heldout):
        return {}
    return {
        "closer_than_heldout": statistics.share(distance < heldout.min()).to_json(),
        "z_u": statistics.bootstrap_z_u(distance, heldout, resamples, rng).to_json(),
    }


def set_scores(
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
        "mmd": mean(cross.min(axis=0), resamples, rng),
        "cov": statistics.share_interval(round(count * float(scores["cov"])), count).to_json(),
        "one_nna": statistics.share_interval(round(2 * count * float(scores["one_nna"])), 2 * count).to_json(),
        "to_sibling": mean(apart.min(axis=1), resamples, rng),
    }
