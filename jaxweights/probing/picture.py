"""The figures of a study."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxweights.probing import published
from jaxweights.probing.settings import NULL
from jaxweights.report import style
from jaxweights.report.style import Picture

_TRAINED, _NULL, _OWN, _PUBLISHED = "#8a8a8a", "#2b2b2b", "#1f77b4", "#d62728"
_COLOURS = ("#1f77b4", "#009e73", "#a0158c", "#e8a200", "#0b7a75", "#8c564b", "#ff7f0e", "#56b4e9")
_LINES, _MARKERS = ("-", "-.", ":"), "os^"  # of models beyond as many as there are colours
_COLUMNS = 6  # panels in a row, at most
_DESIGNS = 4  # training sets of which pictures are shown
_PANEL = 0.6  # inches of a picture
_WIDEST = 12  # pictures in a row, unless one training set has more


def draw(
    result: Mapping[str, Any], seen: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], folder: pathlib.Path
) -> list[Picture]:
    """Writes the figures.

    Args:
      result: content of `metrics.json`.
      seen: training and generated pictures by model and design; empty where there is nothing to see.
      folder: folder of the files.

    Returns:
      The pictures, in order.
    """
    found = []
    with style.drawing():
        for probe, by_model in result["probes"].items():
            first = next(iter(by_model.values()))
            if "values" in first:
                found += _of_impulse(probe, by_model, result["settings"]["data"]["kind"], folder)
            elif "mixtures" in first and "edges" in first:
                path = style.save(_additivity(by_model), folder, f"{probe}_mixtures")
                found.append(Picture(path, f"{style.label(probe)}: mixtures and their parts", _ADDITIVITY))
            elif "mixtures" in first:
                path = style.save(_prototypes(by_model), folder, f"{probe}_centre")
                found.append(Picture(path, f"{style.label(probe)}: mass half way between two values", _PROTOTYPE))
            elif "numbers" in first:
                path = style.save(_curves(by_model, result["settings"]["data"]["kind"]), folder, f"{probe}_curve")
                title = f"{style.label(probe)}: from memorising to combining"
                found.append(Picture(path, title, _CURVE + _beside(result)))
        if seen:
            path = style.save(_examples(seen), folder, "examples")
            found.append(Picture(path, "Training images and samples", _EXAMPLES))
    return found


_IMPULSE = (
    "Blue: what came out after training on one value (dotted line); grey: training examples; dashed: fresh examples of "
    "the same design, all measured by the same estimator. An estimator's errors show in grey and dashed as well."
)
_CV = (
    "Coefficient of variation of the generated feature over its mean, with bootstrap intervals; a level line is "
    "Weber's law. Dashed: fresh training examples, whose spread is the data's own and the estimator's."
)
_ADDITIVITY = (
    "Blue: output after training on all values of a mixture; black: mean of the outputs of trainings on one of them; "
    "grey: training examples. TV: total variation between blue and black, and in brackets what that is of as many "
    "samples of black."
)
_PROTOTYPE = (
    "Share of samples in the middle half between the outermost values: after training on both, as the mean of "
    "trainings on one of them, and of fresh training examples, with bootstrap intervals. Pale: the values lie closer "
    "than the spread of a single one, so that the test has no power."
)
_CURVE = (
    "Means over lists and trainings with Student's intervals. Mass: share of samples in training cells. IoU: training "
    "cells and the equally many most frequent generated cells; dotted: what an independent draw has. Purity: share of "
    "training cells among the most frequent cells that hold 90 % of them; missing where no training reached that. "
    "Present: cells above 0.2 / N; dotted: N. Dashed: fresh training examples in the place of samples."
)
_EXAMPLES = "Above training images, below samples of the first training; of the first training sets of every probe."


def _beside(result: Mapping[str, Any]) -> str:
    if result["settings"]["data"]["kind"] != "pies":
        return ""
    return f" Red: published IoU on pies in {published.PIES_CELLS} cells ({html.escape(published.SOURCE)})."


def _of_impulse(probe: str, by_model: Mapping[str, Any], data: str, folder: pathlib.Path) -> list[Picture]:
    tallies = published.TALLIES.get(data, ()) if next(iter(by_model.values()))["feature"] == "count" else ()
    note = f" Red: published ({html.escape(published.SOURCE)})." * bool(tallies)
    path = style.save(_responses(by_model, tallies), folder, f"{probe}_response")
    found = [Picture(path, f"{style.label(probe)}: what comes out of one value", _IMPULSE + note)]
    if any(len(one["values"]) > 1 for one in by_model.values()):
        path = style.save(_coefficients(by_model, tallies), folder, f"{probe}_cv")
        found.append(Picture(path, f"{style.label(probe)}: spread over the mean", _CV + note))
    return found


def _panels(rows: int, columns: int, width: float = 1.7, height: float = 1.5):
    figure = style.new_figure(0.6 + width * columns, 0.5 + height * rows)
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=True)


def _steps(axes, edges: list[float], shares: list[float], **options: Any) -> None:
    """A histogram; what lies outside of the bins is left out here and stands in the table."""
    axes.stairs(shares[: len(edges) - 1], edges, **options)


def _models(by_model: Mapping[str, Any]) -> dict[str, Any]:
    """The models without the null."""
    return {name: one for name, one in by_model.items() if name != NULL}


def _responses(by_model: Mapping[str, Any], tallies: tuple[published.Tally, ...]):
    models = _models(by_model)
    values = list(next(iter(models.values()))["values"])
    step = -(-len(values) // _COLUMNS)
    values = values[::step]
    figure, grid = _panels(len(models), len(values))
    for row, (model, found) in zip(grid, models.items(), strict=True):
        for axes, value in zip(row, values, strict=True):
            one = found["values"][value]
            _steps(axes, found["edges"], one["train"]["histogram"], color=_TRAINED, fill=True, alpha=0.35)
            _steps(axes, found["edges"], one["heldout"]["histogram"], color=_NULL, ls="--", lw=0.9)
            _steps(axes, found["edges"], one["generated"]["histogram"], color=_OWN, lw=1.4)
            axes.axvline(one["trained"], color=_NULL, lw=0.7, ls=":")
            for tally in tallies:
                if tally.trained == one["trained"]:
                    shares = np.array(tally.shares) / sum(tally.shares)
                    axes.plot(tally.counts, shares, "D", color=_PUBLISHED, mfc="none", ms=4)
            axes.set_yticks([])
        row[0].set_ylabel(style.short(style.label(model), 16))
    for axes, value in zip(grid[0], values, strict=True):
        axes.set_title(f"trained on {value}", fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel(next(iter(models.values()))["feature"])
    return figure


def _coefficients(by_model: Mapping[str, Any], tallies: tuple[published.Tally, ...]):
    figure = style.new_figure(6.0, 3.2)
    axes = figure.subplots()
    for i, (model, found) in enumerate(by_model.items()):
        made = [one["generated"] for one in found["values"].values() if one["generated"]["cv"]["value"] is not None]
        _points(axes, [m["mean"]["value"] for m in made], [m["cv"] for m in made], model, _look(i, model))
    if tallies:
        axes.plot(
            [t.mean for t in tallies],
            [t.cv for t in tallies],
            "D:",
            color=_PUBLISHED,
            mfc="none",
            ms=5,
            label=("published"),
        )
    axes.set(xlabel=f"mean {next(iter(by_model.values()))['feature']}", ylabel="coefficient of variation")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    style.legend(figure, *axes.get_legend_handles_labels())
    return figure


def _look(number: int, model: str) -> dict[str, Any]:
    """Colour, line and marker of a model, which differ from those of all others."""
    if model == NULL:
        return {"color": _NULL, "ls": "--", "marker": "o"}
    turn = number // len(_COLOURS)
    return {"color": _COLOURS[number % len(_COLOURS)], "ls": _LINES[turn % 3], "marker": _MARKERS[turn % 3]}


def _points(axes, x: list[float], found: list[Mapping[str, Any]], label: str, look: Mapping[str, Any]) -> None:
    """Numbers with their intervals; those without an interval as points."""
    kept = [(a, one) for a, one in zip(x, found, strict=True) if one["value"] is not None]
    if not kept:
        return
    places, middle = [a for a, _ in kept], np.array([one["value"] for _, one in kept])
    ends = [one["ci95"] if one["ci95"][0] is not None else [one["value"]] * 2 for _, one in kept]
    low, high = np.array(ends, float).T
    reach = [np.maximum(middle - low, 0), np.maximum(high - middle, 0)]
    axes.errorbar(places, middle, yerr=reach, ms=3.5, lw=1.2, label=label, **look)


def _additivity(by_model: Mapping[str, Any]):
    models = _models(by_model)
    names = list(next(iter(models.values()))["mixtures"])[:_COLUMNS]
    figure, grid = _panels(len(models), len(names), 2.1, 1.7)
    for number, (row, (model, found)) in enumerate(zip(grid, models.items(), strict=True)):
        for axes, name in zip(row, names, strict=True):
            one = found["mixtures"][name]
            _steps(axes, found["edges"], one["trained"], color=_TRAINED, fill=True, alpha=0.35)
            _steps(axes, found["edges"], one["additive"], color=_NULL, lw=1.2)
            _steps(axes, found["edges"], one["mixed"], color=_OWN, lw=1.4)
            power = "" if one["power"] else ", no power"
            text = f"TV {one['distance']['value']:.2f} ({one['null']['value']:.2f}){power}"
            axes.set_title(text if number else f"{name}: {text}", fontsize=7.5)
            axes.set_yticks([])
        row[0].set_ylabel(style.short(style.label(model), 16))
    for axes in grid[-1]:
        axes.set_xlabel(next(iter(models.values()))["feature"])
    return figure


def _prototypes(by_model: Mapping[str, Any]):
    models = _models(by_model)
    names = list(next(iter(models.values()))["mixtures"])
    figure = style.new_figure(1.5 + 1.1 * len(names) * len(models), 3.0)
    grid = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
    series = (("mass", _OWN, "trained on both"), ("additive", "#e8a200", "additive"), ("heldout", _TRAINED, "data"))
    for axes, (model, found) in zip(grid, models.items(), strict=True):
        for shift, (part, colour, label) in enumerate(series):
            for place, name in enumerate(names):
                one = found["mixtures"][name]
                value, (low, high) = one[part]["value"], one[part]["ci95"]
                reach = [[max(value - low, 0)], [max(high - value, 0)]]
                shade = 1.0 if one["power"] else 0.35
                label = None if place else label  # noqa: PLW2901
                axes.bar(place + 0.27 * (shift - 1), value, 0.25, color=colour, alpha=shade, yerr=reach, label=label)
        axes.set_xticks(range(len(names)), names)
        axes.set_title(style.short(style.label(model)), fontsize=9)
    grid[0].set_ylabel("share at the centre")
    style.legend(figure, *grid[0].get_legend_handles_labels())
    return figure


def _curves(by_model: Mapping[str, Any], data: str):
    figure = style.new_figure(8.6, 5.2)
    grid = figure.subplots(2, 2, sharex=True)
    parts = (("mass", "mass on training cells"), ("iou", "IoU"), ("purity", "purity"), ("present", "cells present"))
    numbers = next(iter(by_model.values()))["numbers"]
    n = [int(x) for x in numbers]
    for axes, (part, title) in zip(grid.ravel(), parts, strict=True):
        for i, (model, found) in enumerate(by_model.items()):
            known = [one[part] for one in found["numbers"].values()]
            _points(axes, [float(x) for x in n], known, model, _look(i, model))
        axes.set(ylabel=title, xscale="log")
        axes.grid(axis="y")
    grid[0, 1].plot(n, [one["chance"] for one in numbers.values()], ":", color=_NULL, lw=1)
    grid[1, 1].plot(n, n, ":", color=_NULL, lw=1)
    if data == "pies":
        known = published.PIES_IOU
        grid[0, 1].plot(list(known), list(known.values()), "D:", color=_PUBLISHED, mfc="none", ms=4, label="published")
    for axes in grid.ravel()[:3]:
        axes.set_ylim(0, 1.05)
    for axes in grid[1]:
        axes.set_xticks(n, [str(x) for x in n], fontsize=7)
        axes.minorticks_off()
        axes.set_xlabel("N, combinations trained on")
    style.legend(figure, *grid[0, 1].get_legend_handles_labels())
    return figure


def _examples(seen: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]):
    first = next(iter(seen.values()))
    designs, kinds = _spread_out(list(first)), ["training", *seen]
    count = len(first[designs[0]]["generated"])
    beside = min(len(designs), max(1, _WIDEST // count))
    under = -(-len(designs) // beside)
    figure = style.new_figure(1.2 + _PANEL * count * beside, (0.4 + _PANEL * len(kinds)) * under)
    blocks = np.atleast_2d(figure.subfigures(under, beside, squeeze=False))
    for place, (block, name) in enumerate(zip(blocks.ravel(), designs, strict=False)):
        grid = block.subplots(len(kinds), count, squeeze=False)
        block.suptitle(style.short(style.label(name)), fontsize=8)
        rows = [first[name]["trained"], *(by_design[name]["generated"] for by_design in seen.values())]
        for row, images, kind in zip(grid, rows, kinds, strict=True):
            for axes, image in zip(row, images, strict=True):
                axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            if place % beside == 0:
                text = style.short(style.label(kind), 14)
                row[0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def _spread_out(designs: list[str]) -> list[str]:
    """Some training sets, of all probes."""
    step = max(1, len(designs) // _DESIGNS)
    return designs[::step][:_DESIGNS]
