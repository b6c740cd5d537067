"""The figures of objects and captions."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights.report import style
from jaxweights.report.style import Picture

_COLOURS = ("#1f77b4", "#d62728", "#009e73", "#e69f00", "#cc79a7", "#56b4e9")
_BARS = 12  # phrases of a bar chart
_COEFFICIENTS = 10
_CLOUD = (4.2, 3.2)  # inches of a cloud


def draw(result: Mapping[str, Any], folder: pathlib.Path) -> list[Picture]:
    """Writes the figures of the sections that there are, and returns them in order."""
    with style.drawing():
        found = _of_objects(result["objects"], folder) if "objects" in result else []
        found += _of_language(result["language"], folder) if "language" in result else []
        if "questions" in result:
            figure = _answers(result["questions"])
            found.append(
                Picture(
                    style.save(figure, folder, "questions"),
                    "Yes/no questions",
                    "Share of images of which a model says yes, with 95&nbsp;% intervals.",
                )
            )
    return found


def _of_objects(one: Mapping[str, Any], folder: pathlib.Path) -> list[Picture]:
    least = f"Objects in fewer than {one['shares']['least']} images are left out."
    found = [
        Picture(
            style.save(_shares(one), folder, "shares"),
            "Objects that betray a collection",
            f"Share of an object's images that comes from each collection; the largest ones. {least}",
        ),
        Picture(
            style.save(_coefficients(one["named"]["coefficients"]), folder, "coefficients"),
            "Coefficients of the regression on objects",
            "Per standard deviation of presence, the largest magnitudes, with 95&nbsp;% intervals.",
        ),
        Picture(
            style.save(_boxes(one["unique"]), folder, "unique"),
            "Different objects per image",
            "Quartiles; whiskers reach the furthest image within 1.5 interquartile ranges.",
        ),
    ]
    if (one.get("correlation") or {}).get("objects"):
        found.append(
            Picture(
                style.save(_correlation(one["correlation"]["objects"]), folder, "correlation"),
                "Objects and the reference model",
                "Every point is an object: the largest share that one collection has of its images, and the accuracy "
                "of the reference model on these, with 95&nbsp;% intervals.",
            )
        )
    return found


def _of_language(one: Mapping[str, Any], folder: pathlib.Path) -> list[Picture]:
    return [
        Picture(
            style.save(_bars(one["phrases"]), folder, "phrases"),
            "Frequent phrases",
            "Share of captions with a phrase, with 95&nbsp;% intervals.",
        ),
        Picture(
            style.save(_clouds(one["phrases"]), folder, "clouds"),
            "Clouds of phrases",
            "The most frequent phrases of every collection; area grows with their number.",
        ),
    ]


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]


def _shares(found: Mapping[str, Any]):
    top, objects = found["shares"]["top"], found["shares"]["objects"]
    figure = style.new_figure(2.9 * len(top), 0.9 + 0.27 * max(map(len, top.values())))
    panels = figure.subplots(1, len(top), squeeze=False)[0]
    for axes, (title, names) in zip(panels, top.items(), strict=True):
        left = np.zeros(len(names))
        for k, collection in enumerate(top):
            width = np.array([100 * objects[name]["shares"][collection]["value"] for name in names])
            axes.barh(np.arange(len(names)), width, left=left, color=_colour(k), label=style.short(collection))
            left += width
        axes.set_yticks(range(len(names)), [style.short(name) for name in names])
        axes.set(title=style.short(title), xlabel="images in %", xlim=(0, 100))
        axes.invert_yaxis()
    style.legend(figure, *panels[0].get_legend_handles_labels())
    return figure


def _points(panels: Sequence[Any], found: Mapping[str, list[tuple[str, Mapping[str, Any]]]], scale: float) -> None:
    """One panel per collection: values with their intervals by name."""
    for k, (axes, (title, entries)) in enumerate(zip(panels, found.items(), strict=True)):
        middle = scale * np.array([one["value"] for _, one in entries])
        low, high = (scale * np.array([one["ci95"][end] for _, one in entries]) for end in (0, 1))
        places = np.arange(len(entries))
        axes.barh(places, middle, xerr=[middle - low, high - middle], color=_colour(k), ecolor="#2b2b2b", alpha=0.8)
        axes.set_yticks(places, [style.short(name) for name, _ in entries])
        axes.set_title(style.short(title))
        axes.grid(axis="x")
        axes.invert_yaxis()


def _coefficients(found: Mapping[str, Any]):
    figure = style.new_figure(3.0 * len(found), 3.4)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    _points(panels, {k: [(one["feature"], one) for one in v[:_COEFFICIENTS]] for k, v in found.items()}, 1.0)
    panels[0].set_xlabel("coefficient")
    return figure


def _bars(found: Mapping[str, Any]):
    figure = style.new_figure(3.2 * len(found), 3.8)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    _points(panels, {k: [(one["phrase"], one["captions"]) for one in v[:_BARS]] for k, v in found.items()}, 100.0)
    panels[0].set_xlabel("captions in %")
    return figure


def _boxes(found: Mapping[str, Any]):
    figure = style.new_figure(1.6 + 1.3 * len(found), 3.2)
    axes = figure.subplots()
    boxes = [
        {"label": style.short(name), "med": one["median"], "q1": one["q1"], "q3": one["q3"], "fliers": []}
        | {"whislo": one["low"], "whishi": one["high"], "mean": one["mean"]}
        for name, one in found.items()
    ]
    axes.bxp(boxes, showmeans=True, medianprops={"color": _COLOURS[1]})
    axes.set_ylabel("different objects per image")
    axes.grid(axis="y")
    return figure


def _correlation(found: Mapping[str, Any]):
    figure = style.new_figure(4.4, 3.4)
    axes = figure.subplots()
    x, y = (
        100 * np.array(v) for v in zip(*((o["majority"], o["accuracy"]["value"]) for o in found.values()), strict=True)
    )
    low, high = 100 * np.array([one["accuracy"]["ci95"] for one in found.values()]).T
    axes.errorbar(x, y, [y - low, high - y], fmt="o", color=_colour(0), ecolor="#b8b8b8", markersize=4, elinewidth=0.8)
    axes.set(xlabel="largest share of a collection in %", ylabel="accuracy of the reference model in %")
    axes.grid(axis="both")
    return figure


def _answers(found: Mapping[str, Any]):
    figure = style.new_figure(1.6 + 1.1 * len(found), 3.2)
    axes = figure.subplots()
    names = list(next(iter(found.values())))
    for k, name in enumerate(names):
        places = np.array([i for i, one in enumerate(found.values()) if one[name]["n"]])
        told = [one[name] for one in found.values() if one[name]["n"]]
        value = 100 * np.array([one["value"] for one in told])
        low, high = 100 * np.array([one["ci95"] for one in told]).reshape(-1, 2).T
        at = places + (k + 0.5 - len(names) / 2) * 0.8 / len(names)
        bars = axes.bar(
            at, value, 0.8 / len(names), yerr=[value - low, high - value], color=_colour(k), ecolor="#2b2b2b"
        )
        bars.set_label(style.short(name))
    axes.set_xticks(range(len(found)), [style.short(question) for question in found])
    axes.set(ylabel="yes in %", ylim=(0, 100))
    axes.grid(axis="y")
    style.legend(figure, *axes.get_legend_handles_labels())
    return figure


def _clouds(found: Mapping[str, Any]):
    width, height = _CLOUD
    figure = style.new_figure(width * len(found), height)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for k, (axes, (title, entries)) in enumerate(zip(panels, found.items(), strict=True)):
        axes.set(title=style.short(title), xlim=(0, 1), ylim=(0, 1))
        axes.axis("off")
        _cloud(axes, entries, _colour(k))
    return figure


def _cloud(axes, entries: Sequence[Mapping[str, Any]], colour: str) -> None:
    """Lines of phrases, the most frequent first, as many as the panel holds."""
    if not entries:
        return
    width, height = (72 * inches * 0.94 for inches in _CLOUD)  # points
    x, y, line = 0.0, 0.0, 0.0
    for place, one in enumerate(entries):
        size = max(5.0, 20 * (one["count"] / entries[0]["count"]) ** 0.5)
        long = 0.58 * size * len(one["phrase"]) + 0.6 * size  # of DejaVu Sans, on average
        if x + long > width and x > 0:
            x, y, line = 0.0, y + line, 0.0
        line = max(line, 1.25 * size)
        if y + line > 0.9 * height:
            break
        axes.text(
            x / width, 1 - y / height, one["phrase"], fontsize=size, va="top", color=colour, alpha=1 - 0.4 * (place % 2)
        )
        x += long
