"""The study of generated networks in feature space: are they new combinations, averages, or copies?

Following Zhao et al. 2018 (arXiv 1811.03259), who ask this of images with designed features; here the features are
those of a zoo as it is, in bins at the quantiles of its training networks. `launch.probe` plants networks by design.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from jaxweights.auditing.distances import euclidean
from jaxweights.auditing.statistics import bootstrap, bootstrap_median_ratio, share
from jaxweights.bias.weights import Architecture
from jaxweights.bias.weights.features import of_weights
from jaxweights.population import Population
from jaxweights.probing.features import Feature, cells
from jaxweights.probing.probes.histograms import distance
from jaxweights.settings import Settings, setting
from jaxweights.studies.base import Estimation, Findings, Series

FEATURES = {"norm": "norm", "rank": "stable rank", "sparsity": "sparsity", "signs": "sign balance"}
"""Features, and what of every matrix they are the mean of, see `bias.weights.features.Features`."""
COPIES, AVERAGES, PLACED = 0.2, 0.5, 0.1
"""Limits of the answers: distance to the nearest training network over that of held-out ones, below which series are
copies; spread of most features over that of training networks, below which they are averages; total variation of single
features beyond that of held-out networks, above which they are off."""

_FULL = 4  # times as many networks as the emptiest bin has would fall into it if all were as full


@dataclasses.dataclass(frozen=True)
class ProbingSettings(Settings):
    """Settings of the study of generated networks in feature space.

    Attributes:
      bins: of every feature, at quantiles of the training networks; 0 for no such study.
      networks: networks of every series, at most.
    """

    SECTION: ClassVar[str] = "studies.probing"

    bins: int = setting(0, at_least=0, at_most=100)
    networks: int = setting(2048, at_least=2)


def asked(settings: ProbingSettings) -> bool:
    """Whether there is to be such a study."""
    return settings.bins > 0


def run(subject: Series, settings: ProbingSettings, estimation: Estimation) -> Findings:
    """Places the networks of every series among the features of training networks.

    Args:
      subject: all series.
      settings: settings of the study.
      estimation: how numbers are estimated.

    Returns:
      JSON data: `features` (name and limits of the bins), `cells` that training networks lie in, of how many; `heldout`
      and `series.<name>`, each with `new` (share of networks in other cells), `variation.<feature>` (total variation to
      training networks), `spread.<feature>` (standard deviation over theirs), `nearest_ratio` (median distance to the
      nearest training network over that of held-out ones) and `answer`; `left_out`, with the reason. No arrays.
    """
    of, size = Architecture(subject.net.spec, subject.net), settings.networks
    populations = {"": subject.train, "heldout": subject.heldout, **subject.generated}
    weights = {name: np.asarray(one.weights[:size]) for name, one in populations.items()}
    left = {name: "some of its weights are not finite" for name, w in weights.items() if not np.isfinite(w).all()}
    values = {name: _values(w, of, estimation) for name, w in weights.items() if name not in left}
    features, dropped = _features(values[""], settings.bins)
    columns = [list(FEATURES).index(f.name) for f in features]
    values = {name: v[:, columns] for name, v in values.items()}
    trained = np.unique(cells(features, values[""])) if features else np.zeros(0, np.int64)
    null = _nearest(weights["heldout"], subject.train, estimation)
    found = {
        name: _series(features, trained, values[""], values[name], estimation)
        | {"nearest_ratio": _ratio(_nearest(weights[name], subject.train, estimation), null, estimation)}
        for name in values
        if name
    }
    heldout = found.pop("heldout")
    series = {name: {**one, "answer": answer(one, heldout)} for name, one in found.items()}
    return {
        "features": {f.name: [float(x) for x in f.edges[1:-1]] for f in features},
        "cells": len(trained),
        "of": int(settings.bins ** len(features)),
        "heldout": heldout,
        "series": series,
        "left_out": {**left, **dropped},
    }, {}


def answer(one: Mapping[str, Any], heldout: Mapping[str, Any]) -> str:
    """What a series is, in words: copies, averages, features that are off, new combinations, or those of the zoo."""
    narrow = [x["value"] < AVERAGES for x in one["spread"].values()]
    off = [name for name, x in one["variation"].items() if x["ci95"][0] > heldout["variation"][name]["value"] + PLACED]
    if one["nearest_ratio"]["ci95"][1] < COPIES:
        return "copies of training networks"
    if narrow and sum(narrow) > len(narrow) / 2:
        return "averages: most features spread less than half as much as those of training networks"
    if off:
        return f"other networks: {', '.join(off)} as no training network has it, or seldom"
    if one["new"]["ci95"][0] > heldout["new"]["ci95"][1]:
        return "new combinations of features that training networks have"
    return "combinations that training networks have as well"


def _values(weights: np.ndarray, of: Architecture, estimation: Estimation) -> np.ndarray:
    """Features `[n, F]` float64 of networks."""
    named = of_weights(weights, of, estimation.mesh)
    kinds = [name.partition(" of ")[0] for name in named.names]
    matrices = {leaf.name for leaf in of.spec.leaves if len(leaf.axes) > 1}
    own = [name.partition(" of ")[2] in matrices for name in named.names]
    return np.stack(
        [
            named.values[:, [k == kind and is_own for k, is_own in zip(kinds, own, strict=True)]].mean(axis=1)
            for kind in FEATURES.values()
        ],
        axis=1,
    )


def _features(values: np.ndarray, bins: int) -> tuple[list[Feature], dict[str, str]]:
    """Features with bins at quantiles, and those that hardly differ between training networks, with the reason."""
    found, left = [], {}
    for i, name in enumerate(FEATURES):
        inner = np.quantile(values[:, i], np.linspace(0, 1, bins + 1)[1:-1])
        middle = np.quantile(values[:, i], (np.arange(bins) + 0.5) / bins)
        feature = Feature(name, tuple(map(float, middle)), (-np.inf, *map(float, inner), np.inf))
        counts = np.bincount(feature.bin(values[:, i]), minlength=bins)
        if counts.min() * _FULL * bins < len(values):
            left[name] = "too few training networks differ in it"
            continue
        found.append(feature)
    return found, left


def _series(
    features: list[Feature], trained: np.ndarray, train: np.ndarray, own: np.ndarray, estimation: Estimation
) -> dict[str, Any]:
    """Numbers of one series."""
    found: dict[str, Any] = {"variation": {}, "spread": {}}
    for i, feature in enumerate(features):
        hot = [np.eye(feature.bins)[feature.bin(x[:, i])] for x in (own, train)]
        value = float(distance(*(h.mean(axis=0) for h in hot)))
        ends = bootstrap(
            lambda a, b, hot=hot: distance(a @ hot[0] / len(hot[0]), b @ hot[1] / len(hot[1])),
            [len(own), len(train)],
            estimation.resamples,
            estimation.seed,
        )
        found["variation"][feature.name] = {"value": value, "ci95": list(ends), "n": len(own)}
        found["spread"][feature.name] = _spread(own[:, i], train[:, i], estimation)
    new = ~np.isin(cells(features, own), trained) if features else np.zeros(len(own), bool)
    return {"new": share(new).to_json(), **found}


def _spread(own: np.ndarray, train: np.ndarray, estimation: Estimation) -> dict[str, Any]:
    """Standard deviation over that of training networks."""
    powers = [np.stack([x - train.mean(), (x - train.mean()) ** 2], axis=1) for x in (own, train)]

    def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        means = [c @ p / len(p) for c, p in zip((a, b), powers, strict=True)]
        variances = [np.maximum(m[:, 1] - m[:, 0] ** 2, 0) for m in means]
        return np.sqrt(variances[0] / np.maximum(variances[1], 1e-12 * powers[1][:, 1].mean()))

    ends = bootstrap(ratio, [len(own), len(train)], estimation.resamples, estimation.seed)
    return {"value": float(own.std() / train.std()), "ci95": list(ends), "n": len(own)}


def _nearest(weights: np.ndarray, train: Population, estimation: Estimation) -> np.ndarray:
    """Distances `[n]` to the nearest training network."""
    return euclidean.nearest(weights, train.weights, k=1, mesh=estimation.mesh).distances[:, 0]


def _ratio(own: np.ndarray, null: np.ndarray, estimation: Estimation) -> dict[str, Any]:
    return bootstrap_median_ratio(own, null, estimation.resamples, estimation.seed).to_json()
