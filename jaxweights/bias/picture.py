"""The figures of a comparison."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights.bias import published, table
from jaxweights.bias.transformations.identity import Identity
from jaxweights.report import style
from jaxweights.report.style import Picture

_OWN, _CONTROL, _PUBLISHED = "#1f77b4", "#8a8a8a", "#d62728"
_FEW = 2  # points that make a curve
_COLUMNS = 6  # confusion matrices in a row
_PANEL, _LOOKED = 0.72, 0.85  # inches of an example
_ATTENTION_CAPTION = (
    "Grad-CAM (Selvaraju et al. 2017) of the classifier of original images, first repeat: bright where its last map of "
    "features speaks for the collection that it names. Of each collection the first images that it has right, and the "
    "first that it has wrong with the collection that it takes them for."
)


def draw(
    result: Mapping[str, Any],
    examples: Mapping[tuple[str, str], np.ndarray],
    attention: Mapping[str, Mapping[str, np.ndarray]],
    folder: pathlib.Path,
) -> list[Picture]:
    """Writes the figures.

    Args:
      result: content of `metrics.json`.
      examples: `[K, s, H, W, C]` uint8 by set and transformation.
      attention: by set, of which those that are told apart are drawn: `images` `[m, H, W, C]`, Grad-CAM `maps`
        `[m, H, W]`, and what they are and are taken for, `truth` and `predicted` `[m]`.
      folder: folder of the files.

    Returns:
      The pictures, in order.
    """
    found = []
    with style.drawing():
        sets = {result["main"]: result, **result["sets"]}
        path = style.save(_accuracies(sets, result["main"]), folder, "accuracy")
        found.append(Picture(path, "Accuracy per transformation", _accuracy_caption(sets, result)))
        own = {name: one for (of, name), one in examples.items() if of == result["main"]}
        if own:
            path = style.save(_examples(own, list(result["collections"])), folder, "examples")
            found.append(Picture(path, "Examples before and after", "The same images under every transformation."))
        curves = (
            ("patches", "Size of the patches", _patches(result), "side of the patches in pixels", True),
            ("frequencies", "Threshold of the filters", _filters(result), "threshold in coefficients", False),
        )
        for name, title, lines, label, with_published in curves:
            if lines:
                figure = _curves(lines, result["chance"], label, published.PATCHES if with_published else {})
                found.append(Picture(style.save(figure, folder, name), title, _curve_caption(with_published)))
        for of, seen in attention.items():
            if not _told(sets[of]):
                continue
            path = style.save(_attention(seen, list(sets[of]["collections"])), folder, f"attention_{of}")
            title = "Where the classifier looks" + f": {style.label(of)}" * (len(sets) > 1)
            found.append(Picture(path, title, _ATTENTION_CAPTION))
        rows = "Rows are true collections, columns what the classifier says; shares of a row in percent."
        path = style.save(_confusions(result), folder, "confusion")
        found.append(Picture(path, "Confusion matrices", rows))
    return found


def _accuracy_caption(sets: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    known = (
        f"; red diamonds: published with the same settings on other collections ({html.escape(published.SOURCE)}), "
        "where chance is 33.3&nbsp;%; none beside patches and filters of other sizes"
        if result["kind"] == "images"
        else ""
    )
    several = f" Panels: {html.escape(', '.join(sets))}." if len(sets) > 1 else ""
    return (
        f"Points: accuracy with its 95&nbsp;% Wilson interval over {result['sizes']['repeats']} repeats; grey: the "
        f"control, one collection cut into pseudo-collections at random; dashed: chance{known}.{several}"
    )


def _curve_caption(with_published: bool) -> str:
    return (
        "Dashed: chance."
        + " Red: published on 224 pixels, sides 2 to 8 read off the figure; a side is another share of an image here."
        * with_published
    )


def _accuracies(sets: Mapping[str, Any], main: str):
    names = list(sets[main]["transformations"])
    figure = style.new_figure(2.2 + 3.6 * len(sets), 1.0 + 0.3 * len(names))
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    places = np.arange(len(names))
    for axes, (title, found) in zip(panels, sets.items(), strict=True):
        for of, colour, shift in (("control", _CONTROL, 0.16), ("accuracy", _OWN, -0.08)):
            values = np.array([[one[of]["value"], *one[of]["ci95"]] for one in found["transformations"].values()])
            middle, low, high = 100 * values.T
            axes.errorbar(
                middle,
                places + shift,
                xerr=[middle - low, high - middle],
                fmt="o",
                color=colour,
                ms=4,
                lw=1.3,
                label=of,
            )
        if title == main:
            known = table.published_rows(found).values()
            there = [(row.accuracy, place) for row, place in zip(known, places, strict=True) if row is not None]
            if there:
                axes.plot(*zip(*there, strict=True), "D", color=_PUBLISHED, mfc="none", ms=5, label="published")
        axes.axvline(100 * found["chance"], color="#2b2b2b", lw=0.9, ls=(0, (4, 3)), zorder=0)
        axes.set(title=style.label(title), xlabel="accuracy in %", xlim=(0, 102))
        axes.grid(axis="x")
    panels[0].set_yticks(places, [style.short(style.label(name)) for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.6)
    style.legend(figure, *panels[0].get_legend_handles_labels())
    return figure


def _examples(examples: Mapping[str, np.ndarray], collections: Sequence[str]):
    count, each = next(iter(examples.values())).shape[:2]
    figure = style.new_figure(1.9 + _PANEL * count * each, 0.35 + _PANEL * len(examples))
    grid = figure.subplots(len(examples), count * each, squeeze=False)
    for row, (name, images) in zip(grid, examples.items(), strict=True):
        for place, axes in enumerate(row):
            image = images[place // each, place % each]
            axes.imshow(_visible(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(style.short(style.label(name)), rotation=0, ha="right", va="center", fontsize=8)
    for i, name in enumerate(collections):
        grid[0, i * each].set_title(style.short(style.label(name)), fontsize=8, loc="left")
    return figure


def _told(found: Mapping[str, Any]) -> bool:
    """Whether original images are told apart, so that there is something to look at."""
    values = (x for x in found["transformations"].values() if x["settings"]["kind"] == Identity.KIND)
    return any(one["accuracy"]["ci95"][0] > found["chance"] for one in values)


def _attention(seen: Mapping[str, np.ndarray], names: Sequence[str]):
    """Images above, Grad-CAM below, a pair of rows per collection: right ones at the left, wrong ones at the right."""
    truth, predicted, labels = seen["truth"], seen["predicted"], [style.short(style.label(str(n))) for n in names]
    classes = sorted({int(k) for k in truth})
    sides = [[np.flatnonzero((truth == k) & ((predicted == k) == right)) for right in (True, False)] for k in classes]
    right, wrong = (max(len(side[i]) for side in sides) for i in (0, 1))
    figure = style.new_figure(1.6 + _LOOKED * (right + wrong), 0.3 + (2 * _LOOKED + 0.35) * len(sides))
    grid = figure.subplots(2 * len(sides), right + wrong, squeeze=False)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for row, (k, side) in enumerate(zip(classes, sides, strict=True)):
        grid[2 * row, 0].set_ylabel(labels[k], rotation=0, ha="right", va="center", fontsize=8)
        for first, chosen in zip((0, right), side, strict=True):
            for column, i in enumerate(chosen, first):
                above, below = grid[2 * row : 2 * row + 2, column]
                for axes in (above, below):
                    axes.imshow(_visible(seen["images"][i]), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                below.imshow(seen["maps"][i], cmap="inferno", vmin=0, vmax=1, alpha=0.6, interpolation="nearest")
                above.set_title(f"taken for\n{labels[predicted[i]]}" if first else "right", fontsize=7)
    return figure


def _visible(image: np.ndarray) -> np.ndarray:
    """Three channels or one: the mean of any other number."""
    if image.shape[-1] == 3:
        return image
    return image[..., 0] if image.shape[-1] == 1 else image.mean(axis=-1)


def _patches(result: Mapping[str, Any]) -> dict[str, dict[float, Mapping[str, Any]]]:
    """Accuracies by side of the patches, random and fixed."""
    out: dict[str, dict[float, Mapping[str, Any]]] = {"random": {}, "fixed": {}}
    for one in result["transformations"].values():
        if one["settings"]["kind"] in ("patch_shuffle", "pixel_shuffle"):
            chosen = "fixed" if one["settings"]["fixed"] else "random"
            out[chosen][one["settings"]["patch"]] = one["accuracy"]
    return {k: dict(sorted(v.items())) for k, v in out.items() if len(v) >= _FEW}


def _filters(result: Mapping[str, Any]) -> dict[str, dict[float, Mapping[str, Any]]]:
    """Accuracies by threshold, of every kind of filter."""
    out: dict[str, dict[float, Mapping[str, Any]]] = {}
    for one in result["transformations"].values():
        chosen = one["settings"]
        if chosen["kind"] in ("low_pass", "high_pass"):
            name = style.label(chosen["kind"]) + ", Butterworth" * chosen["butterworth"]
            out.setdefault(name, {})[chosen["threshold"]] = one["accuracy"]
    return {k: dict(sorted(v.items())) for k, v in sorted(out.items()) if len(v) >= _FEW}


def _curves(lines: Mapping[str, Mapping[float, Any]], chance: float, label: str, known: Mapping[str, Any]):
    figure = style.new_figure(6.2, 3.3)
    axes = figure.subplots()
    marks = ("o", "s", "^", "v")
    for i, (name, points) in enumerate(lines.items()):
        middle = 100 * np.array([one["value"] for one in points.values()])
        low, high = (100 * np.array([one["ci95"][end] for one in points.values()]) for end in (0, 1))
        ends = [middle - low, high - middle]
        axes.errorbar(list(points), middle, yerr=ends, marker=marks[i % 4], ls="-", ms=4, label=name)
    for i, (name, points) in enumerate(known.items()):
        style_of = ("-", "--")[i % 2]
        axes.plot(list(points), list(points.values()), style_of, color=_PUBLISHED, lw=1, label=f"published, {name}")
    axes.axhline(100 * chance, color="#2b2b2b", lw=0.9, ls=(0, (4, 3)), zorder=0)
    axes.set_xscale("log", base=2)
    ticks = sorted({x for points in (*lines.values(), *known.values()) for x in points})
    axes.set_xticks(ticks, [f"{x:.3g}" for x in ticks])
    axes.minorticks_off()
    axes.set(xlabel=label, ylabel="accuracy in %", ylim=(0, 102))
    axes.grid(axis="y")
    style.legend(figure, *axes.get_legend_handles_labels())
    return figure


def _confusions(result: Mapping[str, Any]):
    names, found = list(result["collections"]), result["transformations"]
    columns = min(_COLUMNS, len(found))
    rows = -(-len(found) // columns)
    figure = style.new_figure(0.9 + 1.7 * columns, 0.4 + 1.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel()[len(found) :]:
        axes.axis("off")
    for axes, (title, one) in zip(grid.ravel(), found.items(), strict=False):
        counts = np.array(one["confusion"], float)
        shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for i, j in np.ndindex(*shares.shape):
            colour = "white" if shares[i, j] > 60 else "#222222"
            axes.text(j, i, f"{shares[i, j]:.0f}", ha="center", va="center", fontsize=7.5, color=colour)
        axes.set_title(style.short(style.label(title)), fontsize=8)
        ticks = range(len(names))
        shown = [style.short(style.label(name), 12) for name in names]
        axes.set_xticks(ticks, shown, fontsize=6.5, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, shown, fontsize=6.5)
        axes.tick_params(length=0)
    return figure
