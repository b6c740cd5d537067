"""Sections about an autoencoder: reconstruction, probes, symmetries, the published protocol, samplers.

Every part of its entry under `studies` may be absent. Sentences that draw a conclusion are chosen by the numbers: one
is above another where their 95 % intervals do not overlap.
"""

from __future__ import annotations

import html
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights.auditing import symmetry
from jaxweights.report import autoencoder_figures as drawings
from jaxweights.report import compare, style, tables
from jaxweights.report.measures import Estimate, Measure
from jaxweights.report.style import Picture, Section, Series

_SAME = 0.01  # share of the difference between two networks that counts as rounding
_PUBLISHED = ("accuracy", "min_l2", "max_error_iou")
FAITHFUL, INDEPENDENT = "faithful", "independent"
_MODES = {
    FAITHFUL: "as published: every latent dimension restarts its random numbers from the same seed, so all coordinates "
    "of a sample come from one training latent, moved by one shift common to all dimensions. A sample is the decoding "
    "of a single training latent.",
    INDEPENDENT: "every latent dimension has random numbers of its own, which is what a density estimate per dimension "
    "stands for. The coordinates of a sample come from different training latents.",
}


def parts(
    name: str,
    study: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    series: Sequence[Series],
    metrics: Mapping[str, Any],
    seed: int,
    folder: pathlib.Path,
) -> Iterator[Picture | Section]:
    """Figures and sections of the study of one generator.

    Args:
      name: name of the generator.
      study: JSON data of the study.
      arrays: its arrays.
      series: series of the experiment, for their colours.
      metrics: `metrics.json`.
      seed: random seed of the choice of the networks that are shown.
      folder: output folder of the figures.
    """
    yield from _fitted_parts(name, study, folder)
    if "symmetry" in study:
        path = drawings.symmetry_bars(study["symmetry"], folder, f"symmetry_{name}")
        caption = (
            "Hidden units of training networks are transformed, which leaves their functions alone; then the "
            "networks are reconstructed as they were and transformed, and the two reconstructions compared. Bars: "
            "means with 95&nbsp;% intervals; original: reconstructions of two different networks. "
            f"{symmetry_text(study['symmetry'])}"
        )
        yield Picture(path, f"Symmetries: {style.label(name)}", caption)
    if study.get("published", {}).get("series"):
        yield from _published_parts(name, study["published"]["series"], series, metrics, arrays, seed, folder)
    if study.get("samplers"):
        content = samplers_table(study["samplers"], metrics) + samplers_text(study["samplers"], metrics)
        yield Section(f"samplers-{name}", f"Samplers: {style.label(name)}", content)


def _fitted_parts(name, study, folder) -> Iterator[Picture | Section]:
    """Tables of reconstruction and probes, and the figure of both."""
    reconstruction, probes = study.get("reconstruction"), study.get("probes")
    content = ""
    if reconstruction:
        content += reconstruction_table(reconstruction) + reconstruction_text(reconstruction)
    if probes and probes["targets"]:
        content += probes_table(probes) + probes_text(probes)
    if content:
        yield Section(f"autoencoder-{name}", f"Autoencoder: {style.label(name)}", content)
        path = drawings.r2_bars(reconstruction, probes, folder, f"autoencoder_{name}")
        if path is not None:
            caption = (
                "R&sup2; of reconstructed weights by layer, and of ridge probes. 1 is perfect, 0 is what the mean of "
                f"the training networks gives, bars end at {drawings.LOWEST_R2:g}."
            )
            yield Picture(path, f"What the latents of {style.label(name)} hold", caption)


def _published_parts(name, published, series, metrics, arrays, seed, folder) -> Iterator[Picture | Section]:
    """The evaluation as published, as a figure and beside ours."""
    path = drawings.published_protocol(published, arrays, series, seed, folder, f"published_{name}")
    if path is not None:
        caption = (
            "The evaluation of Zeng et al. 2025 as published: training networks are represented by their "
            f"reconstructions, and so are the noised ones. Left: at most {style.MAX_POINTS} networks per series. "
            "Right: raw distance to the nearest training network&rsquo;s reconstruction."
        )
        yield Picture(path, f"Published protocol: {style.label(name)}", caption)
    note = (
        "<p>Published: training networks stand as their reconstructions, and nothing says how far a network that was "
        "trained anew would be. Corrected, as everywhere else on this page: training networks are as they were "
        "trained and are compared with those of other runs, and Z_U and the verdict have held-out runs as the "
        "null.</p>"
    )
    title = f"Published and corrected protocol: {style.label(name)}"
    yield Section(f"protocols-{name}", title, note + protocols_table(published, metrics))


# -- tables and sentences --------------------------------------------------------------------------------------------


def _r2(value: float | None) -> str:
    """R2 as text; a dash where it is not defined."""
    return "&ndash;" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:.3g}"


def reconstruction_table(reconstruction: Mapping[str, Any]) -> str:
    """Reconstruction of training and held-out networks."""
    measures = (
        Measure(("original_accuracy",), "accuracy of the networks (%)", 100),
        Measure(("accuracy",), "of their reconstructions (%)", 100),
        Measure(("distance",), "L2 between the two"),
    )
    present = {title: reconstruction[split] for split, title in drawings.SPLITS.items() if split in reconstruction}
    r2 = {title: _r2(entry.get("r2")) for title, entry in present.items()}
    return compare.table(present, {"R&sup2;": r2}, measures)


def reconstruction_text(reconstruction: Mapping[str, Any]) -> str:
    """Conclusion about training against held-out networks; HTML."""
    seen, unseen = (reconstruction.get(split, {}).get("r2") for split in drawings.SPLITS)
    if seen is None or unseen is None:
        return ""
    if unseen <= 0:
        text = (
            "Held-out networks are reconstructed no better than by the mean training network: what the autoencoder "
            "knows is its training networks."
        )
    elif unseen < seen:
        text = (
            f"The autoencoder reconstructs {100 * seen:.0f}&nbsp;% of the variance of training networks and "
            f"{100 * unseen:.0f}&nbsp;% of that of held-out ones; the difference is what it has only for networks that "
            "it was fitted to."
        )
    else:
        text = "Held-out networks are reconstructed as well as training networks."
    return f"<p>{text}</p>"


def probes_table(probes: Mapping[str, Any]) -> str:
    """R2 of linear probes, by target."""
    columns = [(kind, split) for kind in drawings.PROBED for split in drawings.SPLITS]
    head = ["R&sup2; of", *(f"{drawings.PROBED[kind][0]}, {drawings.SPLITS[split]}" for kind, split in columns)]
    rows = [
        [html.escape(target), *(_r2(entry.get(kind, {}).get(split)) for kind, split in columns)]
        for target, entry in probes["targets"].items()
    ]
    return tables.grid(head, rows, "plain")


def probes_text(probes: Mapping[str, Any]) -> str:
    """Targets that latents predict better than statistics of the weights; HTML."""
    better, worse = [], []
    for target, entry in probes["targets"].items():
        latents, plain = (entry.get(kind, {}).get("heldout") for kind in drawings.PROBED)
        if latents is not None and plain is not None:
            (better if latents > plain else worse).append(html.escape(target))
    sentences = [
        f"Ridge probes are fitted to {probes['n_train']:,} training networks and tested on {probes['n_heldout']:,} "
        "held-out ones; statistics of the weights (no learning) are what latents have to beat."
    ]
    if better:
        sentences.append(f"On held-out networks latents predict better: {', '.join(better)}.")
    if worse:
        sentences.append(f"On held-out networks latents predict no better than weight statistics: {', '.join(worse)}.")
    return f"<p>{' '.join(sentences)}</p>"


def symmetry_text(study: Mapping[str, Any]) -> str:
    """Whether the autoencoder is invariant under each symmetry, by both measures; HTML."""
    original = {m: Estimate.read(study["rows"][symmetry.ORIGINAL][m]) for m in symmetry.MEASURES}
    if all(found.value == 0 for found in original.values()):
        return (
            "Different networks are reconstructed as one and the same function, so nothing can be said of symmetries."
        )
    sentences = []
    for row, entry in study["rows"].items():
        if row == symmetry.ORIGINAL:
            continue
        own = {m: Estimate.read(entry[m]) for m in symmetry.MEASURES}
        orders = [compare.order(own[m], original[m]) for m in symmetry.MEASURES]
        if all(own[m].value <= _SAME * original[m].value for m in symmetry.MEASURES):
            verdict = "are reconstructed as the same function: the autoencoder knows this symmetry"
        elif orders == [-1, -1]:
            verdict = "are reconstructed as other functions, though not as different as those of two networks"
        elif -1 in orders:
            verdict = "are reconstructed as other functions, by one measure as different as those of two networks"
        else:
            verdict = (
                "are reconstructed as functions as different as those of two networks: the autoencoder does not know "
                "this symmetry"
            )
        points, unlike = (own[m].value for m in symmetry.MEASURES)
        sentences.append(f"{style.label(row).capitalize()} networks {verdict} ({points:.1f} points, {unlike:.2f}).")
    change = max(study.get("function_change", {}).values(), default=None)
    if change == 0:
        sentences.append("The transformed networks themselves have exactly the accuracies of the networks.")
    elif change is not None:
        sentences.append(f"The transformed networks&rsquo; own accuracies differ by at most {change:.2g} points.")
    return " ".join(sentences)


def protocols_table(published: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The published measures beside ours."""
    rows = {
        style.label(name): {"published": entry, "corrected": metrics["series"].get(name, {})}
        for name, entry in published.items()
    }
    titles = ("accuracy (%)", "min L2", "max error IoU")
    measures = [
        Measure(("published", key), f"published: {title}", 100 if key == "accuracy" else 1)
        for key, title in zip(_PUBLISHED, titles, strict=True)
    ]
    measures += [
        Measure(("corrected", "accuracy"), "corrected: accuracy (%)", 100),
        Measure(("corrected", "min_l2"), "corrected: min L2"),
        Measure(("corrected", "max_error_iou"), "corrected: max error IoU"),
        Measure(("corrected", "tests", "z_u"), "corrected: Z_U", 1, 1),
    ]
    verdicts = {name: tables.badge(tables.label_of(entry["corrected"])) for name, entry in rows.items()}
    return compare.table(rows, {"corrected: verdict": verdicts}, measures)


def samplers_table(samplers: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The samplers of one autoencoder, side by side."""
    rows = {
        style.label(name): {"sampler": entry, "series": metrics["series"].get(name, {})}
        for name, entry in samplers.items()
    }
    measures = (
        Measure(("series", "accuracy"), "accuracy (%)", 100),
        Measure(("series", "min_l2"), "min L2"),
        Measure(("sampler", "nearest_latent"), "distance to the nearest training latent"),
        Measure(("sampler", "own_parent_share"), "nearest to its own parent (%)", 100, 1),
    )
    texts = {
        "sampler": {name: html.escape(_sampler_kind(entry["sampler"])) for name, entry in rows.items()},
        "mode": {name: html.escape(str(entry["sampler"].get("mode") or "")) for name, entry in rows.items()},
        "verdict": {name: tables.badge(tables.label_of(entry["series"])) for name, entry in rows.items()},
    }
    return compare.table(rows, texts, measures)


def _sampler_kind(sampler: Mapping[str, Any]) -> str:
    """A sampler's kind and the share of training networks it was fitted to."""
    kind = str(sampler.get("kind") or "")
    top = sampler.get("top")
    kind = kind.upper() if kind == "kde" else kind.replace("_", " ")
    return kind if top is None or top >= 1 else f"{kind}, best {100 * top:g} %"


def samplers_text(samplers: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Explanation of the modes, and conclusions for samplers that differ in the mode alone; HTML."""
    modes = [m for m in _MODES if any(entry.get("mode") == m for entry in samplers.values())]
    items = "".join(f"<dt>{mode}</dt><dd>{html.escape(_MODES[mode])}</dd>" for mode in modes)
    pairs = [
        (a, b)
        for a, first in samplers.items()
        for b, second in samplers.items()
        if (first.get("mode"), second.get("mode")) == (FAITHFUL, INDEPENDENT)
        and all(first.get(key) == second.get(key) for key in ("kind", "top"))
    ]
    compared = "".join(f"<p>{_compare_modes(a, b, samplers, metrics['series'])}</p>" for a, b in pairs)
    return (f"<dl>{items}</dl>" if items else "") + compared


def _compare_modes(
    faithful: str, independent: str, samplers: Mapping[str, Any], series: Mapping[str, Mapping[str, Any]]
) -> str:
    """Conclusion from one autoencoder sampled as published and with independent dimensions."""
    names = faithful, independent
    one, two = (html.escape(style.label(name)) for name in names)

    def both(measure: Measure, entries: Mapping[str, Any]) -> tuple[int, str]:
        first, second = (measure.find(entries.get(name, {})) for name in names)
        if first is None or second is None:
            return 0, ""
        return compare.order(first, second), f"{measure.text(first)} against {measure.text(second)}"

    def choose(order: int, below: str, equal: str, above: str) -> str:
        return {-1: below, 0: equal, 1: above}[order]

    sentences = []
    latent, numbers = both(Measure(("nearest_latent",), ""), samplers)
    if numbers:
        relation = choose(
            latent,
            "closer to training latents than",
            "about as far from training latents as",
            "farther from training latents than",
        )
        sentences.append(f"The latents of {one} lie {relation} those of {two} ({numbers}).")
    accuracy, numbers = both(Measure(("accuracy",), "", 100), series)
    distance, lengths = both(Measure(("min_l2",), ""), series)
    if numbers and lengths:
        works = choose(accuracy, "less accurate", "about as accurate", "more accurate")
        lies = choose(distance, "closer to", "about as far from", "farther from")
        sentences.append(
            f"Its networks are {works} ({numbers}&nbsp;%) and lie {lies} training networks (min L2 {lengths})."
        )
    first, second = (series.get(name, {}).get("verdict") for name in names)
    if first is not None and second is not None:
        sentences.append(_conclusion(one, two, first, second, latent))
    return " ".join(sentences)


def _conclusion(one: str, two: str, first: Mapping[str, Any], second: Mapping[str, Any], latent: int) -> str:
    """Conclusion from two verdicts; `latent` is the order of the distances to training latents."""
    flags = first["flagged"], second["flagged"]
    labels = f"{one} {html.escape(first['label'])}, {two} {html.escape(second['label'])}"
    if flags == (True, False) and latent < 0:
        text = (
            "The closeness to training networks is the sampler&rsquo;s doing: its samples are decodings of single "
            "training latents, and with independent dimensions the same autoencoder is not flagged."
        )
    elif flags == (True, False):
        text = (
            "Only the published sampler is flagged, though its latents are no closer to training latents: the shared "
            "seed alone does not explain it."
        )
    elif flags == (True, True):
        text = (
            "Both are flagged: the closeness to training networks is not the doing of the published sampler alone, it "
            "remains with independent dimensions."
        )
    elif flags == (False, True):
        text = "Only independent dimensions are flagged: the published sampler&rsquo;s shared seed is not the reason."
    else:
        text = "Neither is flagged: decoding single training latents did not bring the networks close to training ones."
    return f"Verdicts: {labels}. {text}"
