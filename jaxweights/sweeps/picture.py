"""Figures of a sweep: all recipes as lines through parallel axes, and quality along every setting."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights import tasks
from jaxweights.report import style
from jaxweights.report.style import Picture
from jaxweights.sweeps.outcome import short
from jaxweights.sweeps.table import shown

_LINES = 2000  # recipes in the parallel axes; the best, and an even choice of the others
_DIVERGED = "#c0392b"
_COLUMNS = 3  # panels in a row
_SPREAD = 0.18  # of points beside a value that many recipes share
_LEAST_TICKS = 2
_IN_BIN = 8  # recipes per bin, about


class _Scale:
    """Places of the values of a setting along an axis from 0 to 1, and its ticks."""

    def __init__(self, axis: Mapping[str, Any], values: Sequence[Any]):
        self.numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        listed = axis["kind"] in ("grid", "choice")
        known = axis["values"] if listed or not self.numeric else []
        self.listed = listed
        self._known = [shown(v) for v in known]
        if listed:  # evenly, in order
            order = sorted(range(len(known)), key=lambda i: known[i]) if self.numeric else range(len(known))
            self._known = [self._known[i] for i in order]
            count = max(len(self._known) - 1, 1)
            self.ticks = [(i / count if len(self._known) > 1 else 0.5, name) for i, name in enumerate(self._known)]
            place = dict(zip(self._known, (t for t, _ in self.ticks), strict=True))
            self.places = np.array([place[shown(v)] for v in values])
            return
        low, high = axis["values"]
        found = np.array(values, float)
        logarithmic = axis["kind"] == "log_uniform"
        move = np.log if logarithmic else np.asarray
        start, end = move(low), move(high)
        self.places = (move(found) - start) / (end - start)
        self.ticks = [(float((move(t) - start) / (end - start)), shown(t)) for t in _ticks(low, high, logarithmic)]


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round numbers within an interval; its ends where there are few."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    for locator in (LogLocator(), LogLocator(subs=(1.0, 3.0))) if logarithmic else (MaxNLocator(4),):
        found = [float(f"{t:.6g}") for t in locator.tick_values(low, high) if low <= t <= high]
        if len(found) > _LEAST_TICKS:
            return found
    return [low, high]


def draw(result: Mapping[str, Any], folder: pathlib.Path) -> list[Picture]:
    """Writes `parallel.png` and `marginals.png`, and the same as `.svg`.

    Args:
      result: of `outcome.collect`.
      folder: folder of the files.
    """
    recipes, names = result["recipes"], short(result)
    scales = [_Scale(axis, [recipe["values"][axis["name"]] for recipe in recipes]) for axis in result["axes"]]
    quality = np.array([np.nan if r["accuracy"] is None else 100 * r["accuracy"]["mean"] for r in recipes])
    diverged = np.array([len(r["diverged"]) / r["runs"] for r in recipes])
    label = tasks.get(result["task"]).terms.column
    with style.drawing():
        first = style.save(_parallel(scales, names, quality, diverged, label), folder, "parallel")
        second = style.save(_marginals(scales, names, quality, diverged, label), folder, "marginals")
    left = " Red: recipes of which runs diverged." if diverged.any() else ""
    some = f" The best and an even choice of the others, {_LINES:,} of {len(recipes):,}." * (len(recipes) > _LINES)
    share = (
        " Red bars along the bottom: share of runs that diverged, from none to all at the top of the panel."
        if diverged.any()
        else ""
    )
    return [
        Picture(first, "All recipes", f"A line is a recipe, coloured by its mean over seeds.{left}{some}"),
        Picture(
            second,
            "Along every setting",
            f"A point is the mean over seeds of one recipe; the line is the median of recipes, the band their middle "
            f"half, the dashes the best.{share}",
        ),
    ]


def _parallel(scales: Sequence[_Scale], names: Sequence[str], quality: np.ndarray, diverged: np.ndarray, label: str):
    from matplotlib.collections import LineCollection

    figure = style.new_figure(max(6.0, 1.25 * (len(scales) + 1) + 1.2), 3.9)
    axes = figure.subplots()
    low, high = _limits(quality)
    last = np.nan_to_num((quality - low) / (high - low), nan=0.0).clip(0, 1)
    spread = np.random.default_rng(0).uniform(-1, 1, (len(quality), len(scales)))
    columns = [s.places + _jitter(s) * spread[:, i] for i, s in enumerate(scales)]
    places = np.column_stack([*columns, last])
    order = np.argsort(np.nan_to_num(quality, nan=-np.inf))
    if len(order) > _LINES:
        best = order[-_LINES // 2 :]
        order = np.concatenate([order[: -len(best)][:: -(-(len(order) - len(best)) // (_LINES // 2))], best])
    lines = [np.column_stack([np.arange(places.shape[1]), places[i]]) for i in order]
    whole = diverged[order] == 0
    drawn = LineCollection([line for line, w in zip(lines, whole, strict=True) if w], cmap="viridis", alpha=0.6)
    drawn.set_array(quality[order][whole])
    drawn.set_clim(low, high)
    drawn.set_linewidth(float(np.clip(12 / np.sqrt(len(lines)), 0.35, 0.9)))
    rest = [line for line, w in zip(lines, whole, strict=True) if not w]
    axes.add_collection(LineCollection(rest, colors=_DIVERGED, linewidths=0.5, alpha=0.5, zorder=1))
    axes.add_collection(drawn)
    for x, scale in enumerate(scales):
        _upright(axes, x, scale.ticks)
    _upright(axes, len(scales), [((t - low) / (high - low), f"{t:g}") for t in _ticks(low, high, False)])
    axes.set_xlim(-0.15, len(scales) + 0.45)
    axes.set_ylim(-0.06, 1.06)
    axes.set_xticks(range(len(scales) + 1), [*names, label])
    axes.tick_params(axis="x", length=0)
    axes.set_yticks([])
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    figure.colorbar(drawn, ax=axes, label=label, pad=0.01, aspect=30)
    return figure


def _upright(axes, x: float, ticks: Sequence[tuple[float, str]]) -> None:
    """A vertical axis with its ticks."""
    axes.plot([x, x], [0, 1], color="#555555", lw=0.9, zorder=3)
    for place, name in ticks:
        axes.plot([x, x + 0.03], [place, place], color="#555555", lw=0.9, zorder=3)
        box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
        axes.text(x + 0.05, place, name, fontsize=7.5, va="center", zorder=4, bbox=box)


def _jitter(scale: _Scale) -> float:
    """How far lines lie beside a value that they share."""
    return 0.12 * _SPREAD / max(len(scale.ticks) - 1, 1) if scale.listed else 0.0


def _limits(quality: np.ndarray) -> tuple[float, float]:
    """The range that quality is shown in; far outliers at the bottom are cut off."""
    found = quality[np.isfinite(quality)]
    if not len(found):
        return 0.0, 100.0
    low, high = np.quantile(found, 0.02), found.max()
    return (float(low), float(high)) if high - low > 1e-6 else (float(high) - 1.0, float(high) + 1.0)


def _marginals(scales: Sequence[_Scale], names: Sequence[str], quality: np.ndarray, diverged: np.ndarray, label: str):
    columns = min(_COLUMNS, len(scales))
    rows = -(-len(scales) // columns)
    figure = style.new_figure(1.2 + 2.9 * columns, 0.5 + 2.5 * rows)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    spread = np.random.default_rng(1).uniform(-1, 1, len(quality))
    low, high = _limits(quality)
    margin = 0.06 * (high - low)
    for number, panel in enumerate(panels.ravel()):
        if number >= len(scales):
            panel.axis("off")
            continue
        scale = scales[number]
        step = 1 / max(len(scale.ticks) - 1, 1)
        x = scale.places + (_SPREAD * step * spread if scale.listed else 0.0)
        size = float(np.clip(1500 / max(len(quality), 1), 2.5, 14))
        panel.scatter(x, quality, s=size, color="#1f77b4", alpha=0.5, lw=0, rasterized=True, zorder=2)
        _trend(panel, scale, quality, diverged, (low - margin, high + margin))
        panel.set_xticks([t for t, _ in scale.ticks], [name for _, name in scale.ticks])
        if sum(len(name) for _, name in scale.ticks) > 26:
            panel.tick_params(axis="x", rotation=35)
        panel.set_xlim(-0.5 * step if scale.listed else -0.04, 1 + (0.5 * step if scale.listed else 0.04))
        panel.set_ylim(low - margin, high + margin)
        panel.set_xlabel(names[number])
        panel.grid(axis="y")
        if number % columns == 0:
            panel.set_ylabel(label)
    return figure


def _trend(panel, scale: _Scale, quality: np.ndarray, diverged: np.ndarray, limits: tuple[float, float]) -> None:
    """Median, middle half, best, and the share of diverged runs along a setting."""
    edges = _edges(scale)
    middle = 0.5 * (edges[1:] + edges[:-1])
    bins = np.clip(np.digitize(scale.places, edges) - 1, 0, len(middle) - 1)
    found = [quality[(bins == i) & np.isfinite(quality)] for i in range(len(middle))]
    there = [i for i, values in enumerate(found) if len(values)]
    if there:
        quantiles = np.array([np.quantile(found[i], [0.25, 0.5, 0.75, 1.0]) for i in there]).T
        panel.fill_between(middle[there], quantiles[0], quantiles[2], color="#e8a200", alpha=0.25, lw=0, zorder=1)
        panel.plot(middle[there], quantiles[1], color="#b36b00", lw=1.5, marker="o", ms=3, zorder=4)
        panel.plot(middle[there], quantiles[3], color="#1a7f45", lw=1.2, ls="--", zorder=4)
    shares = [diverged[bins == i].mean() if (bins == i).any() else 0.0 for i in range(len(middle))]
    if any(shares):
        height = limits[1] - limits[0]
        width = 0.8 * np.diff(edges)
        panel.bar(middle, np.array(shares) * height, width, limits[0], color=_DIVERGED, alpha=0.25, zorder=0)


def _edges(scale: _Scale) -> np.ndarray:
    """Edges of the bins in which recipes are looked at together: around listed values, else up to a dozen."""
    if not scale.listed:
        return np.linspace(0, 1, 1 + int(np.clip(len(scale.places) // _IN_BIN, 3, 12)))
    count = len(scale.ticks)
    step = 1 / max(count - 1, 1)
    centre = np.array([t for t, _ in scale.ticks])
    return np.concatenate([centre - step / 2, centre[-1:] + step / 2])
