"""The figure of a study: quality, distance and Z_U of every cell with 95 % intervals."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from jaxweights import auditing, tasks
from jaxweights.factors import table
from jaxweights.report import style
from jaxweights.report.measures import Measure

_BAND = "#eeeeee"
_ROW = 0.27  # inches
_COLOURS = ("#2b2b2b", "#1f77b4", "#d62728", "#009e73", "#cc79a7", "#b8860b", "#493d8c", "#6b6b6b")


def draw(study: Mapping[str, Any], folder: pathlib.Path) -> pathlib.Path:
    """Writes `study.png` and `study.svg`, and returns the path of the first.

    One line per level: its value with the interval, small below it every training where there are several, and as
    hollow marks the training (square) and the held-out networks (circle) that it is compared with. The band is what the
    trainings of the default span.
    """
    shown = [line for line in table.lines(study) if line.cell.factor and line.entries]
    distance = table.ALIGNED if any(line.find(table.ALIGNED) for line in shown) else table.RAW
    terms, spans = tasks.get(study["task"]).terms, table.seeds_range(study)
    factors = list(dict.fromkeys(line.cell.factor for line in shown))
    with style.drawing():
        figure = style.new_figure(9.0, 1.2 + _ROW * max(len(shown), 3))
        panels = figure.subplots(1, 3, sharey=True)
        for axes, measure in zip(panels, (table.ACCURACY, distance, table.Z_U), strict=True):
            if measure in spans:
                low, high = (measure.scale * e.value for e in spans[measure])
                axes.axvspan(low, high, color=_BAND, zorder=0, lw=0)
            for place, line in enumerate(shown):
                _references(axes, measure, study["references"][str(line.cell.size)], place)
                _points(axes, measure, line, place, _COLOURS[factors.index(line.cell.factor) % len(_COLOURS)])
            axes.set_xlabel(measure.head(terms))
            axes.grid(axis="x")
        panels[2].axvline(0.0, color="#888888", lw=0.8, zorder=1)
        panels[0].set_yticks(range(len(shown)), [line.cell.label for line in shown])
        panels[0].set_ylim(len(shown) - 0.5, -0.5)
        for place in range(1, len(shown)):
            if shown[place].cell.factor != shown[place - 1].cell.factor:
                for axes in panels:
                    axes.axhline(place - 0.5, color="#dddddd", lw=0.6, zorder=0)
        _legend(figure, bool(spans))
        return style.save(figure, folder, "study")


def _points(axes, measure: Measure, line: table.Line, place: int, colour: str) -> None:
    """The line's estimate, and every training where there are several."""
    found = line.find(measure)
    if found is None:
        return
    margins = [[measure.scale * margin] for margin in found.margins]
    axes.errorbar(measure.scale * found.value, place, xerr=margins, fmt="o", ms=4.5, color=colour, capsize=2, zorder=3)
    every = [measure.scale * e.value for e in map(measure.find, line.entries) if e is not None]
    if len(every) > 1:
        axes.plot(every, [place + 0.28] * len(every), ".", ms=3, color=colour, zorder=3)


_MARKS = {auditing.TRAINING: ("s", "#1f77b4", "training networks"), auditing.HELDOUT: ("o", "#2b2b2b", "held-out runs")}


def _references(axes, measure: Measure, reference: Mapping[str, Any], place: int) -> None:
    for name, (marker, colour, _) in _MARKS.items():
        found = measure.find(reference[name])
        if found is not None:
            axes.plot(measure.scale * found.value, place, marker, ms=4.5, mfc="none", mec=colour, mew=0.8, zorder=2)


def _legend(figure, seeds: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], marker="o", ms=4.5, ls="", color=_COLOURS[0])]
    names = ["generated networks, 95 % interval"]
    for marker, colour, name in _MARKS.values():
        handles.append(Line2D([], [], marker=marker, ms=4.5, ls="", mfc="none", mec=colour))
        names.append(name)
    if seeds:
        handles.append(Patch(color=_BAND))
        names.append("trainings of the default")
    style.legend(figure, handles, names)
