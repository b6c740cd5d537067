"""Pictures of what an audit measured: distances, novelty, mixtures, and the weights themselves.

They need arrays alone: neither a config nor a data set nor the task network.
"""

from __future__ import annotations

import dataclasses
import html
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights import auditing
from jaxweights.population import Population
from jaxweights.report import figures, heatmap, strip, style, tables, weights
from jaxweights.report.style import Picture, Series


@dataclasses.dataclass(frozen=True)
class Audited:
    """What was audited and measured.

    Attributes:
      metrics: numbers of the audit.
      series: measurements of every series, from `style.arrange`.
      train: training networks, in the order that the measurements refer to.
      heldout: one checkpoint of every held-out run, if they are at hand.
      heldout_checkpoints: all checkpoints of the held-out runs, likewise.
      samples: generated networks by series name.
      examples: examples that an accuracy is a share of.
      seed: random seed of the audit, and of which networks and parameters are drawn.
      bootstrap: resamples of every interval.
    """

    metrics: Mapping[str, Any]
    series: Sequence[Series]
    train: Population
    heldout: Population | None
    heldout_checkpoints: Population | None
    samples: Mapping[str, Population]
    examples: int
    seed: int
    bootstrap: int

    @property
    def evaluated(self) -> bool:
        """Whether the networks were evaluated, or audited by their weights alone."""
        return self.metrics["series"][auditing.TRAINING]["accuracy"] is not None

    @property
    def error_limit(self) -> float:
        """Error IoU that 5 % of the held-out runs exceed, the same for all series."""
        tested = (entry["tests"] for entry in self.metrics["series"].values() if entry.get("tests"))
        return next(tests["iou_above_heldout"]["limit"] for tests in tested if tests["iou_above_heldout"])

    @property
    def with_accuracy(self) -> list[Series]:
        """The series that were evaluated."""
        return [s for s in self.series if len(s.measured.accuracy)]

    @property
    def explained(self) -> bool:
        """Whether the held-out runs lie outside of the training networks' hull, so that mixtures explain something."""
        relative = self.metrics["series"][auditing.HELDOUT].get("hull_residual_relative", {"to_heldout": ()})
        return relative["to_heldout"] is not None


def of_measurements(audited: Audited, folder: pathlib.Path) -> Iterator[Picture]:
    """Distances, novelty and mixtures of every series, written to the folder."""
    series = audited.series
    yield from _calibration(audited, folder)
    yield Picture(
        style.save(figures.min_distance(series), folder, "min_distance"),
        "Distance to the nearest training network",
        "Training networks are compared with the other training networks. A generator whose histogram lies left "
        "of the held-out one stays closer to what it has seen than new training runs come. Below, every series "
        "on one axis: dots are networks, the bar is their middle half, the line their median.",
    )
    if audited.evaluated:
        yield from _of_accuracies(audited, folder)
    figure = figures.interpolation_residual(series) if audited.explained else None
    if figure is not None:
        yield Picture(
            style.save(figure, folder, "interpolation_residual"),
            "Interpolation residual",
            "Distance to the best mixture of training networks: left in units of the held-out runs&rsquo; median "
            "(dashed), right as a share of the distance to the nearest training network. Near 0 in both a network is "
            "nothing but a mixture of what was seen; near 0 on the left alone it is a copy with small changes.",
        )


def _calibration(audited: Audited, folder: pathlib.Path) -> Iterator[Picture]:
    """Where every series falls between copies and held-out runs, test by test."""
    terms = tables.terms_of(audited.metrics)
    figure = strip.draw(audited.metrics, audited.series, terms)
    if figure is not None:
        _, blind = strip.lines(audited.metrics)
        heads = ", ".join(html.escape(test.measure.head(terms)) for test in blind)
        silent = f" Not drawn, for they do not tell these two apart here: {heads}." if heads else ""
        yield Picture(
            style.save(figure, folder, "calibration"),
            "Between copies and new runs, test by test",
            "On every line copies of training networks lie at the red line (for mixtures: the baseline that is named), "
            "held-out runs at the black one; grey is the held-out runs&rsquo; 95&nbsp;% interval. Generators are above "
            f"the line with their intervals, baselines and controls are below.{silent}",
        )


def _of_accuracies(audited: Audited, folder: pathlib.Path) -> Iterator[Picture]:
    """Accuracy against similarity and distance."""
    series, examples, seed = audited.with_accuracy, audited.examples, audited.seed
    terms = tables.terms_of(audited.metrics)
    found = audited.metrics.get("baselines")
    figure = figures.accuracy_novelty(series, examples, seed, audited.error_limit, terms, found)
    yield Picture(
        style.save(figure, folder, "accuracy_novelty"),
        f"{terms.quality.capitalize()} against novelty",
        f"At most {style.MAX_POINTS} networks per series, spread by a third of one {terms.example}. "
        f"Left: {terms.likeness}; right of the dashed line lies what only 5 % of held-out runs "
        f"reach. Right: distance of weights. {terms.good.capitalize()} and novel is up and left in the first column, "
        "up and right in the second. The line there is what baselines reach, alone or mixed; large markers are means.",
    )
    figure = figures.accuracy_similarity(series, examples, seed, terms)
    if figure is not None:
        others = "other runs" if len(np.unique(audited.train.records["run"])) > 1 else "the same run, itself left out"
        yield Picture(
            style.save(figure, folder, "accuracy_similarity"),
            f"{terms.quality.capitalize()} against similarity, as published",
            f"Generated networks that lie where noised copies or mixtures do have nothing that these lack; at most "
            f"{style.MAX_POINTS} networks per series, training networks beside those of {others}.",
        )


def of_samples(audited: Audited, folder: pathlib.Path) -> Iterator[Picture]:
    """Every learned generator's first networks (or one other series' where there is none) over their nearest training
    networks, parameter by parameter."""
    for subject, suffix in subjects(audited.series):
        figure = heatmap.draw(subject, audited.samples[subject.name], audited.train, audited.seed)
        order = ", their hidden units in the sample's order" if subject.measured.aligned_min_l2.size else ""
        yield Picture(
            style.save(figure, folder, f"heatmap{suffix}"),
            f"Weights: {subject.label} over the nearest training networks",
            f"Red border: a generated network. Below it its nearest training networks, nearest first{order}. Rows "
            "that look alike are copies up to small changes.",
        )


def subjects(series: Sequence[Series]) -> list[tuple[Series, str]]:
    """The series that pictures of networks show, with the end of the names of their files."""
    subjects = enumerate(style.subjects(series))
    return [(s, f"_{re.sub('[^0-9A-Za-z_.-]', '-', s.name)}" if number else "") for number, s in subjects]


def places(audited: Audited) -> list[np.ndarray] | None:
    """What takes longest of `of_weights`, and can be done while other figures are drawn: where t-SNE puts networks."""
    found = weights.clouds(audited.series, audited.train, audited.heldout, audited.samples)
    return weights.places(found, audited.seed)


def of_weights(
    audited: Audited, folder: pathlib.Path, placed: Callable[[], list[np.ndarray] | None] | None = None
) -> Iterator[Picture]:
    """Values of parameters, t-SNE, and the paths of runs that were kept step by step; `placed` is what returns the
    result of `places`."""
    train, seed = audited.train, audited.seed
    found = weights.clouds(audited.series, train, audited.heldout, audited.samples)
    figure = weights.value_distributions(found, train, seed)
    if figure is not None:
        yield Picture(
            style.save(figure, folder, "value_distributions"),
            "Values of single parameters",
            "A generator whose densities are narrower than those of the training networks, or in their middle, has not "
            "learned how parameters vary.",
        )
    at = places(audited) if placed is None else placed()
    figure = None if at is None else weights.tsne(found, seed, at)
    if figure is not None:
        yield Picture(
            style.save(figure, folder, "tsne"),
            "t-SNE of the weights",
            f"Networks of a series that mix with training networks lie among them in weight space; at most "
            f"{style.MAX_POINTS} networks per series, distances between clusters mean little.",
        )
    trained = weights.paths(train, weights.PATHS)
    if trained:
        checkpoints = audited.heldout_checkpoints
        unseen = weights.paths(checkpoints, weights.UNSEEN_PATHS) if checkpoints is not None else []
        middle = weights.distance_to_mean(found, trained, seed)
        own = middle.pop(auditing.TRAINING)
        others = ", ".join(f"{style.label(name)} {value:.3g}" for name, value in middle.items())
        yield Picture(
            style.save(weights.trajectory(found, trained, unseen, seed), folder, "trajectory"),
            "The path of training",
            f"Where samples gather around the mean of the path they are averages of its checkpoints; median distance "
            f"to it: training checkpoints {own:.3g}, {html.escape(others)}.",
        )
