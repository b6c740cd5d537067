"""The study of what gives generated networks away: after which transformations of weights a classifier tells them from
networks of held-out runs.

Following Zeng, Yin and Liu 2024 (arXiv 2412.01876), who ask this of data sets of images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from jaxweights.auditing.distances import euclidean
from jaxweights.auditing.statistics import bootstrap_median_ratio
from jaxweights.bias import classifiers
from jaxweights.bias import weights as bias_weights
from jaxweights.bias.weights import generated
from jaxweights.population import Population
from jaxweights.progress import Progress
from jaxweights.settings import Settings, setting
from jaxweights.studies.base import Estimation, Findings, Series

_BATCH = 32


@dataclasses.dataclass(frozen=True)
class GiveawaySettings(Settings):
    """Settings of the study of what gives generated networks away.

    Attributes:
      repeats: trainings of every classifier, with a fresh subset; 0 for no such study.
      transformations: what is kept of networks, see `bias.weights.TRANSFORMATIONS`; those that do not fit the networks
        are left out.
      classifier: tells real from generated networks. mlp: a perceptron; linear: a logistic regression.
      steps: optimizer steps of a classifier, about.
      networks: networks of every series, at most.
    """

    SECTION: ClassVar[str] = "studies.giveaway"

    repeats: int = setting(0, at_least=0, at_most=1000)
    transformations: tuple[str, ...] = setting(
        ("statistics", "singular_values", "sorted", "norms", "sign", "products", "outputs", "canonical", "raw"),
        one_of=lambda: bias_weights.TRANSFORMATIONS,
        length=(1, None),
    )
    classifier: Literal["mlp", "linear"] = "mlp"
    steps: int = setting(300, at_least=1)
    networks: int = setting(512, at_least=8)


def asked(settings: GiveawaySettings) -> bool:
    """Whether there is to be such a study."""
    return settings.repeats > 0


def run(subject: Series, settings: GiveawaySettings, estimation: Estimation) -> Findings:
    """Tells the samples of every series from held-out networks under every transformation.

    Args:
      subject: all series.
      settings: settings of the study.
      estimation: how numbers are estimated.

    Returns:
      JSON data: `chance`, `control`, `left_out` (also series with weights that are not finite, or too few networks),
      `keeps` (what transformations keep, in words) and `series.<name>` with `transformations`, `given_away_by`, see
      `generated.compare`, and `nearest_ratio`, the median distance to the nearest training network over that of
      held-out ones. No arrays.

    Raises:
      UserError: see `generated.compare`.
    """
    of = bias_weights.Architecture(subject.net.spec, subject.net)
    return tell_apart(subject.train, subject.heldout, subject.generated, of, settings, estimation), {}


def tell_apart(
    train: Population,
    heldout: Population,
    series: Mapping[str, Population],
    of: bias_weights.Architecture,
    settings: GiveawaySettings,
    estimation: Estimation,
) -> dict[str, Any]:
    """What `run` finds, of networks that need not be of an experiment.

    Args:
      train: networks that the generators have seen.
      heldout: one network of every run that they have not.
      series: generated networks by name.
      of: what the networks are; without a task network there are no outputs to compare.
      settings: how.
      estimation: how numbers are estimated.
    """
    real = heldout.weights[: settings.networks]
    samples = {name: _samples(networks, settings.networks) for name, networks in series.items()}
    left_out = {name: why for name, part in samples.items() if (why := _unfit(part))}
    kept = {name: part for name, part in samples.items() if name not in left_out}
    kinds = {name: bias_weights.make(name, "studies.giveaway.transformations") for name in settings.transformations}
    fewest = min([len(real), *(len(part.weights) for part in kept.values())])
    epochs = max(1, round(settings.steps * _BATCH / (2 * (1 - generated.ASKED) * fewest)))
    classifier = classifiers.build({"kind": settings.classifier, "batch_size": _BATCH, "epochs": epochs})
    comparison = generated.Comparison(kinds, classifier, settings.repeats, estimation.seed, estimation.mesh)
    with Progress(len(kinds), "what gives samples away", "transformations") as bar:
        found: dict[str, Any] = generated.compare(real, kept, of, comparison, lambda done, _: bar.update(done))
    null = _distances(real, train, estimation)
    found["left_out"] |= left_out
    for name, entry in found["series"].items():
        own = _distances(kept[name].weights, train, estimation)
        ratio = bootstrap_median_ratio(own, null, estimation.resamples, estimation.seed)
        entry["nearest_ratio"] = ratio.to_json()
    keeps = {name: kind.KEEPS for name, kind in kinds.items() if name not in found["left_out"]}
    return {"chance": 0.5, **found, "keeps": keeps}


def _unfit(samples: generated.Samples) -> str:
    """Why a series cannot be compared; empty where it can."""
    if not np.isfinite(samples.weights).all():
        return "some of its weights are not finite"
    if len(samples.weights) < generated.LEAST:
        return f"it has {len(samples.weights)} networks, and {generated.LEAST} are needed"
    return ""


def _samples(networks: Population, most: int) -> generated.Samples:
    """The first samples of a series; those of one parent are a group, and others are their own."""
    parents = np.asarray(networks.records["parent"])[:most]
    alone = len(networks) + int(parents.max(initial=0)) + np.arange(len(parents))
    return generated.Samples(np.asarray(networks.weights[:most]), np.where(parents >= 0, parents, alone))


def _distances(weights: np.ndarray, train: Population, estimation: Estimation) -> np.ndarray:
    """Distances `[n]` to the nearest training network."""
    return euclidean.nearest(weights, train.weights, k=1, mesh=estimation.mesh).distances[:, 0]
