"""Shapes of neural fields on the page: pictures, distances, scores of sets, augmentation.

Sentences that draw a conclusion are chosen by the numbers: one is above another where their 95 % intervals do not
overlap.
"""

from __future__ import annotations

import html
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights import auditing
from jaxweights.report import compare, style
from jaxweights.report import shape_figures as figures
from jaxweights.report.measures import Estimate, Measure
from jaxweights.report.shape_figures import label
from jaxweights.report.style import Picture, Section, Series
from jaxweights.studies import shapes

_MEASURES = (
    Measure((shapes.CHAMFER, "to_training"), "CD to training"),
    Measure((shapes.CHAMFER, "to_unseen"), "CD to unseen"),
    Measure((shapes.CHAMFER, "closer_than_heldout"), "closer to training than any held-out (%)", 100, 1),
    Measure((shapes.CHAMFER, "z_u"), "Z_U", 1, 1),
    Measure((shapes.CHAMFER, "to_sibling"), "CD to siblings"),
    Measure((shapes.CHAMFER, "mmd"), "MMD-CD"),
    Measure((shapes.CHAMFER, "cov"), "COV-CD (%)", 100),
    Measure((shapes.CHAMFER, "one_nna"), "1-NNA-CD (%)", 100),
    Measure(("emd", "mmd"), "MMD-EMD"),
    Measure(("emd", "cov"), "COV-EMD (%)", 100),
    Measure(("emd", "one_nna"), "1-NNA-EMD (%)", 100),
    Measure((shapes.PUBLISHED, "to_training"), "published: CD to training"),
    Measure((shapes.PUBLISHED, "mmd"), "published: MMD-CD"),
    Measure(("min_l2",), "min L2"),
)
_MEANINGS = {
    "CD": "Chamfer distance: mean squared distance of one shape&rsquo;s points to the nearest of the other&rsquo;s, "
    "plus the same in the other direction. Shapes are centred and scaled to unit standard deviation; as published the "
    "scale depends on where a shape lies.",
    "EMD": "Earth mover&rsquo;s distance: mean distance of points under the best one-to-one match.",
    "siblings": "Other shapes of the same series; a series that collapses comes close to them.",
    "Z_U, closer to training than any held-out": "Distances to training shapes against those of held-out networks: Z_U "
    "far below 0 is closer than fitting new shapes gives.",
    "MMD": "Mean distance of an unseen shape to the nearest of the series.",
    "COV": "Share of the unseen shapes that are the nearest one to some shape of the series.",
    "1-NNA": "How often a shape&rsquo;s nearest neighbour is of its own set, series or unseen: 50&nbsp;% where both "
    "have the same distribution, 100&nbsp;% where nothing is alike.",
}


def parts(
    study: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    series: Sequence[Series],
    seed: int,
    folder: pathlib.Path,
) -> Iterator[Picture | Section]:
    """Figures and sections of the study.

    Args:
      study: entries of `metrics.json` that `studies.shapes.run` returned.
      arrays: arrays that it returned.
      series: the experiment's series, for their colours.
      seed: random seed that chooses the networks in the scatter.
      folder: output folder of the figures.
    """
    how = f"meshed at the logit {study['level']:.3g} on {study['resolution']}&sup3; grid points"
    for name in study["shown"]:
        path = figures.gallery(name, study, arrays, folder, f"shapes_{name}")
        caption = (
            f"Above: the first networks of {html.escape(label(name))}, {how}. Below each the training network with the "
            "nearest weights, and the training network of the shape with the smallest Chamfer distance (CD)."
        )
        yield Picture(path, f"Shapes: {label(name)} over the nearest training shapes", caption)
        if name == study["shown"][0]:  # one series alone, to keep the page small
            content = "<p>Drag to turn, or use the arrow keys. Simplified meshes.</p>" + figures.turnable(
                name, study, arrays
            )
            yield Section("shapes-turn", f"Shapes to turn: {label(name)}", content)
    counts = study["references"]
    path = figures.scatter(study, arrays, series, seed, folder, "shape_novelty")
    caption = (
        f"Chamfer distance to the nearest of {counts['training']:,} training shapes and of {counts['unseen']:,} that "
        f"nobody was fitted to, {study['points']:,} points each; at most {style.MAX_POINTS} shapes per series. Left: "
        "as published, where training shapes stand as they are and all others as meshes of fields, whose error of "
        "fitting then looks like novelty. Right: with the fields of the training networks themselves (noise 0) and of "
        f"held-out networks, which is how far new shapes lie. {novelty_text(study)}"
    )
    yield Picture(path, "Distance to training and to unseen shapes", caption)
    path = figures.scores(study, series, folder, "shape_scores")
    caption = (
        "Every series compared, as a set, with as many unseen shapes, by the Chamfer distance (CD, filled) and "
        "the earth mover&rsquo;s distance (EMD, hollow; fewer shapes and points). Fields that were fitted to new "
        "shapes (held-out) say what can be reached: they, too, differ from shapes as they are."
    )
    yield Picture(path, "Sets of shapes", caption)
    meanings = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in _MEANINGS.items())
    content = f"{table(study)}{empty_text(study)}<dl>{meanings}</dl>"
    yield Section("shapes-table", "Shapes in numbers", content)
    if len(set(study["augmented"].values())) > 1:
        path = figures.augmentation(study, series, folder, "permutation_augmentation")
        caption = (
            "Generators that differ in nothing but the number of permuted copies of every training network, itself "
            f"included, that they are trained on. Copies stand for the same shape. {augmentation_text(study)}"
        )
        yield Picture(path, "Permutation augmentation", caption)


def table(study: Mapping[str, Any]) -> str:
    """All measures of all series."""
    rows = {label(name): entry for name, entry in study["series"].items()}
    empty = {label(name): str(entry["empty"]) for name, entry in study["series"].items() if entry["empty"]}
    cells = {"no surface": {name: empty.get(name, "") for name in rows}}
    return compare.table(rows, cells, _MEASURES)


def empty_text(study: Mapping[str, Any]) -> str:
    """Numbers of networks without a surface; HTML."""
    found = [
        f"{entry['empty']} of {entry['networks']} ({html.escape(label(name))})"
        for name, entry in study["series"].items()
        if entry["empty"]
    ]
    if not found:
        return "<p>Every network that was meshed has a surface.</p>"
    return f"<p>Networks whose mesh has no surface, which enter no other number: {', '.join(found)}.</p>"


def novelty_text(study: Mapping[str, Any]) -> str:
    """Distances of the shown series to training shapes, compared with those of held-out networks and noise 0; HTML."""

    def distance(name: str, key: str) -> Estimate | None:
        return Estimate.of(study["series"].get(name, {}).get(shapes.CHAMFER, {}).get(key))

    fitted, fresh = distance(auditing.TRAINING, "to_training"), distance(auditing.HELDOUT, "to_training")
    sentences = []
    if fitted is not None:
        sentences.append(
            "Fitting, meshing and drawing points alone take training networks "
            f"{fitted.value:.3g} from the nearest training shape."
        )
    for name in study["shown"]:
        found, far = distance(name, "to_training"), distance(name, "to_unseen")
        words = html.escape(label(name))
        if found is None:
            sentences.append(f"No network of {words} has a surface.")
            continue
        if fitted is not None and compare.order(found, fitted) <= 0:
            sentences.append(
                f"Shapes of {words} are not clearly farther from training shapes than that ({found.value:.3g}): "
                "nothing of their distance need be novelty."
            )
        elif fresh is not None:
            relation = {
                -1: "closer to training shapes than",
                0: "about as far from training shapes as",
                1: "farther from training shapes than",
            }[compare.order(found, fresh)]
            sentences.append(
                f"Shapes of {words} lie {relation} those of held-out networks ({found.value:.3g} against "
                f"{fresh.value:.3g})."
            )
        if fresh is not None and far is not None:
            order = compare.order(far, distance(auditing.HELDOUT, "to_unseen"))
            relation = {-1: "closer than", 0: "as close as", 1: "less close than"}[order]
            sentences.append(f"To unseen shapes they are {relation} held-out networks (mean {far.value:.3g}).")
    return " ".join(sentences)


def augmentation_text(study: Mapping[str, Any]) -> str:
    """Comparison of the most with the fewest permuted copies; HTML."""
    order = sorted(study["augmented"], key=study["augmented"].__getitem__)
    few, many = order[0], order[-1]
    factors = study["augmented"][few], study["augmented"][many]
    sentences = []
    words = {-1: "closer to", 0: "neither closer to nor farther from", 1: "farther from"}
    for (path, _), what in zip(figures.AUGMENTED, ("unseen shapes", "training weights", "each other"), strict=True):
        fewest, most = (Measure(path, "").find(study["series"][name]) for name in (few, many))
        if fewest is None or most is None:
            continue
        sentences.append(
            f"With &times;{factors[1]} networks lie {words[compare.order(most, fewest)]} {what} than with "
            f"&times;{factors[0]} ({most.value:.3g} against {fewest.value:.3g})."
        )
    empty = study["series"][many]["empty"]
    if empty:
        sentences.append(f"{empty} of {study['series'][many]['networks']} shapes of &times;{factors[1]} are empty.")
    return " ".join(sentences)
