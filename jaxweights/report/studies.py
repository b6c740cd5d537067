"""What was found out about trained generators: autoencoders here, prompted ones in `prompting`, shapes in `shapes`.

Of autoencoders: reconstruction, probes, symmetries, the published protocol, samplers. Every part of `metrics.json`
under `studies.<generator>` may be absent; what is there is shown. Sentences that draw a conclusion are chosen by the
numbers: one is above another where their 95 % intervals do not meet.
"""

from __future__ import annotations

import html
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights import auditing
from jaxweights.auditing import symmetry
from jaxweights.report import compare, figures, prompting, shapes, style, tables
from jaxweights.report.style import Picture, Section, Series
from jaxweights.report.tables import Estimate, Measure

_SPLITS = {"train": "training", "heldout": "held-out"}
_SPLIT_COLOURS = {"train": "#1f77b4", "heldout": "#2b2b2b"}
_PROBED = {"latents": ("latents", "#d62728"), "statistics": ("weight statistics", "#3f8fc0")}
_TRAIN_ALPHA = 0.4  # of bars of networks that a probe or an autoencoder was fitted to, where the split has no colour
_SAME = 0.01  # share of the difference between two networks that counts as none: predictions that rounding decides
_LOWEST_R2 = -1.0  # bars end here; the number beside them does not
_SYMMETRY_COLOURS = {symmetry.ORIGINAL: "#8a8a8a", symmetry.PERMUTED: "#d62728"}
_SCALED_COLOUR = "#ff7f0e"
_SYMMETRY_TITLES = {
    "accuracy_difference": "mean |accuracy difference| (points)",
    "error_dissimilarity": "1 - mean error similarity",
}
_LEGEND_LINE, _LEGEND_ENTRY = 120, 8  # letters across a figure, and those that a legend's marker takes the place of
_PUBLISHED = ("accuracy", "min_l2", "max_error_iou")
_NOISE = "noise"  # start of the names of noised reconstructions
FAITHFUL, INDEPENDENT = "faithful", "independent"
_MODES = {
    FAITHFUL: "as published: every latent dimension restarts its random numbers from the same seed, so all coordinates "
    "of a sample come from one training latent, moved by one shift common to all dimensions. A sample is the decoding "
    "of a single training latent.",
    INDEPENDENT: "every latent dimension has random numbers of its own, which is what a density estimate per dimension "
    "stands for. The coordinates of a sample come from different training latents.",
}


def parts(
    series: Sequence[Series], workdir: pathlib.Path, metrics: Mapping[str, Any], seed: int, folder: pathlib.Path
) -> list[Picture | Section]:
    """Draws and words the studies of all generators, in the order of the page.

    Args:
      series: of the experiment, for their colours.
      workdir: of the experiment, with `studies/<generator>.npz`.
      metrics: with `studies` where there are any.
      seed: of the experiment.
      folder: for the figures.

    Raises:
      UserError: the arrays of a study are missing.
    """
    found: list[Picture | Section] = []
    for name, study in metrics.get("studies", {}).items():
        if "references" in study:
            found += shapes.parts(study, compare.read_arrays(workdir, name), series, seed, folder)
            continue
        found += _autoencoder_parts(name, study, folder)
        if "symmetry" in study:
            path = symmetry_bars(study["symmetry"], folder, f"symmetry_{name}")
            caption = (
                "Hidden units of training networks are transformed, which leaves their functions alone; then the "
                "networks are reconstructed as they were and transformed, and the two reconstructions compared. Bars: "
                "means with 95&nbsp;% intervals; original: reconstructions of two different networks. "
                f"{symmetry_text(study['symmetry'])}"
            )
            found.append(Picture(path, f"Symmetries: {style.label(name)}", caption))
        if study.get("published", {}).get("series"):
            arrays = compare.read_arrays(workdir, name)
            found += _published_parts(name, study["published"]["series"], series, metrics, arrays, seed, folder)
        if study.get("samplers"):
            content = samplers_table(study["samplers"], metrics) + samplers_text(study["samplers"], metrics)
            found.append(Section(f"samplers-{name}", f"Samplers: {style.label(name)}", content))
        if "alignment" in study:
            colour = next((s.colour for s in series if s.name == name), "#d62728")
            found += prompting.parts(name, study, compare.read_arrays(workdir, name), colour, folder)
    return found


def _autoencoder_parts(name, study, folder) -> Iterator[Picture | Section]:
    """Tables of reconstruction and probes, and the figure of both."""
    reconstruction, probes = study.get("reconstruction"), study.get("probes")
    content = ""
    if reconstruction:
        content += reconstruction_table(reconstruction) + reconstruction_text(reconstruction)
    if probes and probes["targets"]:
        content += probes_table(probes) + probes_text(probes)
    if content:
        yield Section(f"autoencoder-{name}", f"Autoencoder: {style.label(name)}", content)
        path = r2_bars(reconstruction, probes, folder, f"autoencoder_{name}")
        if path is not None:
            caption = (
                "R&sup2; of reconstructed weights by layer, and of ridge probes. 1 is perfect, 0 is what the mean of "
                f"the training networks gives, bars end at {_LOWEST_R2:g}."
            )
            yield Picture(path, f"What the latents of {style.label(name)} hold", caption)


def _published_parts(name, published, series, metrics, arrays, seed, folder) -> Iterator[Picture | Section]:
    """The evaluation as published, as a figure and beside ours."""
    path = published_protocol(published, arrays, series, seed, folder, f"published_{name}")
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
    """An R2 as text; a dash where it is not defined."""
    return "&ndash;" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:.3g}"


def reconstruction_table(reconstruction: Mapping[str, Any]) -> str:
    """How well training and held-out networks are reconstructed."""
    measures = (
        Measure(("original_accuracy",), "accuracy of the networks (%)", 100),
        Measure(("accuracy",), "of their reconstructions (%)", 100),
        Measure(("distance",), "L2 between the two"),
    )
    present = {title: reconstruction[split] for split, title in _SPLITS.items() if split in reconstruction}
    r2 = {title: _r2(entry.get("r2")) for title, entry in present.items()}
    return compare.table(present, {"R&sup2;": r2}, measures)


def reconstruction_text(reconstruction: Mapping[str, Any]) -> str:
    """What the reconstructions say about the autoencoder; HTML."""
    seen, unseen = (reconstruction.get(split, {}).get("r2") for split in _SPLITS)
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
    columns = [(kind, split) for kind in _PROBED for split in _SPLITS]
    head = ["R&sup2; of", *(f"{_PROBED[kind][0]}, {_SPLITS[split]}" for kind, split in columns)]
    rows = [
        [html.escape(target), *(_r2(entry.get(kind, {}).get(split)) for kind, split in columns)]
        for target, entry in probes["targets"].items()
    ]
    return tables.grid(head, rows, "plain")


def probes_text(probes: Mapping[str, Any]) -> str:
    """Which targets the latents predict better than plain statistics of the weights do; HTML."""
    better, worse = [], []
    for target, entry in probes["targets"].items():
        latents, plain = (entry.get(kind, {}).get("heldout") for kind in _PROBED)
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
    """Whether the autoencoder knows each symmetry, by both measures; HTML."""
    original = {m: Estimate.of(study["rows"][symmetry.ORIGINAL][m]) for m in symmetry.MEASURES}
    if all(found.value == 0 for found in original.values()):
        return (
            "Different networks are reconstructed as one and the same function, so nothing can be said of symmetries."
        )
    sentences = []
    for row, entry in study["rows"].items():
        if row == symmetry.ORIGINAL:
            continue
        own = {m: Estimate.of(entry[m]) for m in symmetry.MEASURES}
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
    """The ways in which one autoencoder was sampled, side by side."""
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
    """A sampler's kind and what it was fitted to."""
    kind = str(sampler.get("kind") or "")
    top = sampler.get("top")
    kind = kind.upper() if kind == "kde" else kind.replace("_", " ")
    return kind if top is None or top >= 1 else f"{kind}, best {100 * top:g} %"


def samplers_text(samplers: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """What the modes are and, for samplers that differ in nothing else, what the difference means; HTML."""
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
    """The conclusion from one autoencoder sampled in the published way and with independent dimensions."""
    names = faithful, independent
    one, two = (html.escape(style.label(name)) for name in names)

    def both(measure: Measure, entries: Mapping[str, Any]) -> tuple[int, str]:
        found = [measure.find(entries.get(name, {})) for name in names]
        if None in found:
            return 0, ""
        texts = [measure.number(f.value, measure.decimals(f)) for f in found]
        return compare.order(*found), f"{texts[0]} against {texts[1]}"

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
    judged = [series.get(name, {}).get("verdict") for name in names]
    if None not in judged:
        sentences.append(_conclusion(one, two, *judged, latent))
    return " ".join(sentences)


def _conclusion(one: str, two: str, first: Mapping[str, Any], second: Mapping[str, Any], latent: int) -> str:
    """What the two verdicts together say; `latent` is the order of the distances to training latents."""
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


# -- figures ---------------------------------------------------------------------------------------------------------


def symmetry_bars(study: Mapping[str, Any], folder: pathlib.Path, name: str) -> pathlib.Path:
    """Differences between reconstructions of original pairs and of transformed networks, as in Zeng et al. 2025.

    Args:
      study: `{"rows": {row: {measure: estimate}}}`.
      folder: for the files.
      name: of the files.
    """
    rows = study["rows"]
    figure = style.new_figure(9.4, 3.3)
    for axes, (measure, title) in zip(figure.subplots(1, 2), _SYMMETRY_TITLES.items(), strict=True):
        tops = []
        for place, (row, entry) in enumerate(rows.items()):
            found = Estimate.of(entry[measure])
            colour = _SYMMETRY_COLOURS.get(row, _SCALED_COLOUR)
            axes.bar(place, found.value, 0.62, color=colour, alpha=0.75, zorder=2)
            if found.low is not None and found.high is not None:
                ends = [[max(found.value - found.low, 0)], [max(found.high - found.value, 0)]]
                axes.errorbar(place, found.value, ends, color="black", capsize=4, linewidth=1.2, zorder=4)
            tops.append(max(found.value, found.high or 0.0))
        top = max(tops) or 1.0
        for place, (entry, end) in enumerate(zip(rows.values(), tops, strict=True)):
            number = Measure((measure,), "")
            found = number.find(entry)
            text = number.number(found.value, number.decimals(found))
            axes.text(place, end + 0.02 * top, text, ha="center", va="bottom", fontsize=9, fontweight="bold")
        axes.set_xticks(range(len(rows)), [style.label(row) for row in rows])
        axes.set(title=title, ylim=(0, 1.12 * top), xlim=(-0.6, len(rows) - 0.4))
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="y")
    return style.save(figure, folder, name)


def published_protocol(
    published: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    series: Sequence[Series],
    seed: int,
    folder: pathlib.Path,
    name: str,
) -> pathlib.Path | None:
    """Accuracy against similarity, and distances, by the conventions of Zeng et al. 2025; None without any arrays.

    Args:
      published: the series in order; names that begin with "noise" are noised reconstructions.
      arrays: `published/<series>/<measure>`, `[n]` each.
      series: of the experiment, for their colours.
      seed: of the draw of the networks that are shown.
      folder: for the files.
      name: of the files.
    """

    def values(one, measure):
        return arrays.get(f"published/{one}/{measure}", np.zeros(0))

    rng = np.random.default_rng(seed)
    looks = _looks(published, series)
    dotted = [s for s in published if values(s, "accuracy").size and values(s, "max_error_iou").size]
    counted = [s for s in published if values(s, "min_l2").size and not s.startswith(_NOISE)]
    if not dotted and not counted:
        return None
    figure = style.new_figure(9.8, 4.2)
    left, right = figure.subplots(1, 2)
    for one in dotted:
        x, y = values(one, "max_error_iou"), values(one, "accuracy")
        chosen = np.sort(rng.permutation(len(x))[: style.MAX_POINTS])
        colour, marker = looks[one]
        left.scatter(
            x[chosen],
            y[chosen],
            s=50 if marker == "o" else 62,
            color=colour,
            marker=marker,
            alpha=0.8,
            edgecolors="black",
            linewidths=0.1,
            label=style.label(one),
            rasterized=True,
        )
    left.set(xlabel="maximum similarity", ylabel="accuracy (%)")
    left.grid()
    style.percent(left.yaxis)
    if counted:
        edges = figures.histogram_edges([values(one, "min_l2") for one in counted])
        for one in reversed(counted):
            shares = figures.percent_of_networks(values(one, "min_l2"), edges)
            right.stairs(shares, edges, fill=True, color=looks[one][0], alpha=0.35)
            right.stairs(shares, edges, color=looks[one][0], linewidth=1.7, label=style.label(one))
        right.set(ylim=(0, None))
    right.set(xlabel="min L2 to training weights", ylabel="% of models")
    right.grid(axis="y")
    shown = dict(zip(*reversed(right.get_legend_handles_labels()), strict=True))
    shown |= dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
    order = [style.label(one) for one in published if style.label(one) in shown]
    line = sum(len(label) + _LEGEND_ENTRY for label in order)
    columns = len(order) if line <= _LEGEND_LINE else 3
    figure.legend([shown[key] for key in order], order, loc="outside upper center", ncols=columns)
    return style.save(figure, folder, name)


def _looks(published: Mapping[str, Any], series: Sequence[Series]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every series: what it has on the other figures, else the next one of its kind."""
    known = {s.name: (s.colour, s.marker) for s in series if s.role == style.LEARNED}
    taken = set(known.values())
    fresh = (look for look in style.learned_colours() if look not in taken)
    noise = style.noise_colours()
    looks = {auditing.TRAINING: ("#1f77b4", "o")}
    for one in published:
        if one not in looks:
            looks[one] = known.get(one) or next(noise if one.startswith(_NOISE) else fresh)
    return looks


def r2_bars(
    reconstruction: Mapping[str, Any] | None, probes: Mapping[str, Any] | None, folder: pathlib.Path, name: str
) -> pathlib.Path | None:
    """R2 of reconstructed weights by layer, and of probes by target; None where neither was measured.

    Args:
      reconstruction: by split, with `r2_by_layer`.
      probes: with `targets`.
      folder: for the files.
      name: of the files.
    """
    panels = []
    by_split = {s: entry.get("r2_by_layer", {}) for s, entry in (reconstruction or {}).items() if s in _SPLITS}
    layers = list(dict.fromkeys(layer for found in by_split.values() for layer in found))
    if layers:
        bars = [
            (_SPLITS[s], _SPLIT_COLOURS[s], 0.8, [found.get(layer) for layer in layers])
            for s, found in by_split.items()
        ]
        panels.append(("R2 of reconstructed weights", layers, bars))
    targets = (probes or {}).get("targets", {})
    if targets:
        bars = [
            (
                f"{words}, {_SPLITS[split]}",
                colour,
                _TRAIN_ALPHA if split == "train" else 1.0,
                [entry.get(kind, {}).get(split) for entry in targets.values()],
            )
            for kind, (words, colour) in _PROBED.items()
            for split in _SPLITS
        ]
        panels.append(("R2 of probes", list(targets), bars))
    if not panels:
        return None
    lines = max(len(labels) * (len(bars) + 0.8) for _, labels, bars in panels)
    figure = style.new_figure(4.9 * len(panels), 1.3 + 0.19 * lines)
    for axes, (title, labels, bars) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _grouped_bars(axes, title, labels, bars)
    return style.save(figure, folder, name)


def _grouped_bars(
    axes, title: str, labels: Sequence[str], bars: Sequence[tuple[str, str, float, Sequence[float | None]]]
) -> None:
    """Horizontal bars of R2 with their numbers; each of `bars` is label, colour, opacity and one value per label."""
    height = 0.8 / len(bars)
    lowest = 0.0
    for i, (label, colour, alpha, values) in enumerate(bars):
        places = [j + (i - (len(bars) - 1) / 2) * height for j in range(len(labels))]
        shown = [0.0 if v is None or not math.isfinite(v) else max(v, _LOWEST_R2) for v in values]
        axes.barh(places, shown, 0.92 * height, color=colour, alpha=alpha, label=label, linewidth=0)
        for place, value, end in zip(places, values, shown, strict=True):
            text = "not defined" if value is None else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
            axes.text(max(end, 0) + 0.02, place, text, va="center", ha="left", fontsize=7.5)
        lowest = min([lowest, *shown])
    axes.axvline(0, color="#555555", linewidth=0.8)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(len(labels) - 0.5, -0.5), xlim=(lowest, 1.15), xlabel="$R^2$")
    axes.set_xticks([x for x in (-1, -0.5, 0, 0.5, 1) if x >= lowest])
    axes.grid(axis="x")
    axes.legend(
        title=title.replace("R2", "$R^2$"),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        borderaxespad=0.3,
        alignment="left",
        title_fontsize=10.5,
        handlelength=1.2,
        columnspacing=1.2,
    )
