"""Figures of the study of autoencoders: symmetries, the published protocol, explained variance."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights import auditing
from jaxweights.auditing import published as protocol
from jaxweights.auditing import symmetry
from jaxweights.report import figures, style
from jaxweights.report.measures import Estimate, Measure
from jaxweights.report.style import Series

SPLITS = {"train": "training", "heldout": "held-out"}
PROBED = {"latents": ("latents", "#d62728"), "statistics": ("weight statistics", "#3f8fc0")}
LOWEST_R2 = -1.0
"""Where bars of R^2 end; the number beside them does not."""
_SPLIT_COLOURS = {"train": "#1f77b4", "heldout": "#2b2b2b"}
_TRAIN_ALPHA = 0.4  # of bars of networks that a probe or an autoencoder was fitted to, where the split has no colour
_SYMMETRY_COLOURS = {symmetry.ORIGINAL: "#8a8a8a", symmetry.PERMUTED: "#d62728"}
_SCALED_COLOUR = "#ff7f0e"
_SYMMETRY_TITLES = {
    "accuracy_difference": "mean |accuracy difference| (points)",
    "error_dissimilarity": "1 - mean error similarity",
}


def symmetry_bars(study: Mapping[str, Any], folder: pathlib.Path, name: str) -> pathlib.Path:
    """Differences between reconstructions of original pairs and of transformed networks, as in Zeng et al. 2025.

    Args:
      study: `{"rows": {row: {measure: estimate}}}`.
      folder: output folder.
      name: file name without suffix.
    """
    rows = study["rows"]
    figure = style.new_figure(9.4, 3.3)
    for axes, (measure, title) in zip(figure.subplots(1, 2), _SYMMETRY_TITLES.items(), strict=True):
        tops = []
        for place, (row, entry) in enumerate(rows.items()):
            found = Estimate.read(entry[measure])
            colour = _SYMMETRY_COLOURS.get(row, _SCALED_COLOUR)
            axes.bar(place, found.value, 0.62, color=colour, alpha=0.75, zorder=2)
            if found.low is not None and found.high is not None:
                below, above = found.margins
                axes.errorbar(place, found.value, [[below], [above]], color="black", capsize=4, linewidth=1.2, zorder=4)
            tops.append(max(found.value, found.high or 0.0))
        top = max(tops) or 1.0
        shown = Measure((measure,), "")
        decimals = shown.shared([Estimate.read(entry[measure]) for entry in rows.values()])
        for place, (entry, end) in enumerate(zip(rows.values(), tops, strict=True)):
            text = shown.number(Estimate.read(entry[measure]).value, decimals)
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
      published: the series in order, with their `kind`.
      arrays: `published/<series>/<measure>`, `[n]` each.
      series: the experiment's series, for their colours.
      seed: random seed that chooses the networks shown.
      folder: output folder.
      name: file name without suffix.
    """

    def values(one, measure):
        return arrays.get(f"published/{one}/{measure}", np.zeros(0))

    rng = np.random.default_rng(seed)
    found = looks(published, series)
    dotted = [s for s in published if values(s, "accuracy").size and values(s, "max_error_iou").size]
    counted = [s for s in published if values(s, "min_l2").size and published[s].get("kind") != protocol.NOISE]
    if not dotted and not counted:
        return None
    figure = style.new_figure(9.8, 4.2)
    left, right = figure.subplots(1, 2)
    for one in dotted:
        x, y = values(one, "max_error_iou"), values(one, "accuracy")
        chosen = np.sort(rng.permutation(len(x))[: style.MAX_POINTS])
        colour, marker = found[one]
        left.scatter(
            x[chosen],
            y[chosen],
            s=50 if marker == "o" else 62,
            color=colour,
            marker=marker,
            alpha=0.8,
            edgecolors="black",
            linewidths=0.1,
            label=_name(one),
            rasterized=True,
        )
    left.set(xlabel="maximum similarity", ylabel="accuracy (%)")
    left.grid()
    style.percent(left.yaxis)
    if counted:
        edges = figures.histogram_edges([values(one, "min_l2") for one in counted])
        for one in reversed(counted):
            shares = figures.percent_of_networks(values(one, "min_l2"), edges)
            right.stairs(shares, edges, fill=True, color=found[one][0], alpha=0.35)
            right.stairs(shares, edges, color=found[one][0], linewidth=1.7, label=_name(one))
        right.set(ylim=(0, None))
    right.set(xlabel="min L2 to training weights", ylabel="% of models")
    right.grid(axis="y")
    shown = dict(zip(*reversed(right.get_legend_handles_labels()), strict=True))
    shown |= dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
    order = [label for label in map(_name, published) if label in shown]
    style.legend(figure, [shown[key] for key in order], order)
    return style.save(figure, folder, name)


def _name(series: str) -> str:
    return style.short(style.label(series))


def looks(published: Mapping[str, Any], series: Sequence[Series]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every series: what it has on the other figures, else the next one of its kind."""
    known = {s.name: (s.colour, s.marker) for s in series if s.role == style.LEARNED}
    taken = set(known.values())
    fresh = (look for look in style.learned_colours() if look not in taken)
    noise = style.noise_colours()
    found = {auditing.TRAINING: ("#1f77b4", "o")}
    for one, entry in published.items():
        if one not in found:
            found[one] = known.get(one) or next(noise if entry.get("kind") == protocol.NOISE else fresh)
    return found


def r2_bars(
    reconstruction: Mapping[str, Any] | None, probes: Mapping[str, Any] | None, folder: pathlib.Path, name: str
) -> pathlib.Path | None:
    """R2 of reconstructed weights by layer, and of probes by target; None where neither was measured.

    Args:
      reconstruction: entries with `r2_by_layer`, by split.
      probes: entry with `targets`.
      folder: output folder.
      name: file name without suffix.
    """
    panels = []
    by_split = {s: entry.get("r2_by_layer", {}) for s, entry in (reconstruction or {}).items() if s in SPLITS}
    layers = list(dict.fromkeys(layer for found in by_split.values() for layer in found))
    if layers:
        bars = [
            (SPLITS[s], _SPLIT_COLOURS[s], 0.8, [found.get(layer) for layer in layers]) for s, found in by_split.items()
        ]
        panels.append(("R2 of reconstructed weights", layers, bars))
    targets = (probes or {}).get("targets", {})
    if targets:
        bars = [
            (
                f"{words}, {SPLITS[split]}",
                colour,
                _TRAIN_ALPHA if split == "train" else 1.0,
                [entry.get(kind, {}).get(split) for entry in targets.values()],
            )
            for kind, (words, colour) in PROBED.items()
            for split in SPLITS
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
        shown = [0.0 if v is None or not math.isfinite(v) else max(v, LOWEST_R2) for v in values]
        axes.barh(places, shown, 0.92 * height, color=colour, alpha=alpha, label=label, linewidth=0)
        for place, value, end in zip(places, values, shown, strict=True):
            text = "not defined" if value is None else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
            axes.text(max(end, 0) + 0.02, place, text, va="center", ha="left", fontsize=7.5)
        lowest = min([lowest, *shown])
    axes.axvline(0, color="#555555", linewidth=0.8)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(len(labels) - 0.5, -0.5), xlim=(lowest, 1.15), xlabel="R\u00b2")
    axes.set_xticks([x for x in (-1, -0.5, 0, 0.5, 1) if x >= lowest])
    axes.grid(axis="x")
    axes.legend(
        title=title.replace("R2", "R\u00b2"),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        borderaxespad=0.3,
        alignment="left",
        title_fontsize=10.5,
        handlelength=1.2,
        columnspacing=1.2,
    )
