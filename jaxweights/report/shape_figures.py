"""Figures of the shapes of neural fields: pictures, distances, scores of sets, augmentation."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights import auditing
from jaxweights.report import rendering, style, viewer
from jaxweights.report.measures import Measure
from jaxweights.report.style import Series
from jaxweights.studies import shapes

_LABELS = {
    shapes.TRAINING_SHAPES: "training shapes",
    auditing.TRAINING: "training networks (noise 0)",
    auditing.HELDOUT: "held-out networks",
}
_SHAPES_LOOK = ("#6aaed6", "s")  # of the training shapes themselves
_AZIMUTH, _ELEVATION = -40.0, 26.0  # degrees; shows the fronts of seats and the wings of planes
_PIXELS = 300  # of one picture of a shape
_PANEL = 2.3  # inches
_TURNABLE = 3  # networks
_KINDS = ("generated", "nearest by weights", "nearest by shape")
_PANELS = (
    ("mmd", "MMD (small: unseen shapes are met)", None),
    ("cov", "COV (large: many are met)", None),
    ("one_nna", "1-NNA (50 %: the same distribution)", 0.5),
)
AUGMENTED = (
    ((shapes.CHAMFER, "mmd"), "MMD-CD to unseen shapes"),
    (("min_l2",), "min L2 to training weights"),
    ((shapes.CHAMFER, "to_sibling"), "CD to the nearest sibling"),
)


def label(name: str) -> str:
    """A series' name in words."""
    return _LABELS.get(name) or style.label(name)


def _short(name: str) -> str:
    return style.short(label(name))


def gallery(
    name: str, study: Mapping[str, Any], arrays: Mapping[str, np.ndarray], folder: pathlib.Path, file: str
) -> pathlib.Path:
    """Networks' shapes above those of the nearest training networks by weights and by Chamfer distance.

    Args:
      name: name of the series.
      study: entry with `up`, the upward axis.
      arrays: `shown/...`, see `studies.shapes.run`.
      folder: output folder.
      file: file name without suffix.
    """
    rotation = rendering.view(_AZIMUTH, _ELEVATION, study["up"])
    rows, distance = _surfaces(name, arrays), arrays[f"shown/{name}/distances"]
    distances = [style.alike(column) for column in distance.T]
    runs, pictures = arrays[f"shown/{name}/runs"], {}
    paper, ink = np.ones(3), np.asarray([int(rendering.COLOUR[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    figure = style.new_figure(_PANEL * len(distance) + 0.9, 3 * (_PANEL + 0.15))
    grid = figure.subplots(3, len(distance), squeeze=False)
    for j, line in enumerate(grid):
        for i, axes in enumerate(line):
            surface = rows[j][i]
            axes.set(xticks=(), yticks=())
            axes.spines[:].set_visible(False)
            if surface is None:
                axes.text(0.5, 0.5, "no surface", ha="center", va="center", color="#777777")
                axes.set_box_aspect(1)
            else:
                if id(surface) not in pictures:
                    light, cover = np.moveaxis(rendering.render(*surface, rotation, _PIXELS), 2, 0)[:, :, :, None]
                    pictures[id(surface)] = (1 - cover) * paper[None, None, :] + cover * light * ink[None, None, :]
                axes.imshow(pictures[id(surface)], interpolation="antialiased")
            if j and surface is not None:
                measure = f"L2 {distances[0][i]}" if j == 1 else f"CD {distances[1][i]}"
                axes.set_title(f"run {runs[i, j - 1]}, {measure}", fontsize=8.8)
        line[0].set_ylabel(_KINDS[j], fontsize=9.5)
    for axes in grid[0]:
        axes.spines[:].set(visible=True, color="#d62728", linewidth=1.6)
    return style.save(figure, folder, file)


def turnable(name: str, study: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """The first of these surfaces as interactive HTML."""
    rows = [row[:_TURNABLE] for row in _surfaces(name, arrays)]
    heads = [f"network {i + 1}" for i in range(len(rows[0]))]
    return viewer.table(heads, _KINDS, rows, _AZIMUTH, _ELEVATION, study["up"])


def _surfaces(name: str, arrays: Mapping[str, np.ndarray]) -> list[list[tuple[np.ndarray, np.ndarray] | None]]:
    """Vertices and faces of the surfaces shown, in three rows; one object per training run, None without a surface."""

    def read(place: str) -> tuple[np.ndarray, np.ndarray] | None:
        faces = arrays.get(f"{place}/faces")
        return None if faces is None or not len(faces) else (arrays[f"{place}/vertices"], faces)

    runs = arrays[f"shown/{name}/runs"]
    known = {run: read(f"shown/{auditing.TRAINING}/{run}") for run in np.unique(runs)}
    return [
        [read(f"shown/{name}/{i}") for i in range(len(runs))],
        *([known[run] for run in column] for column in runs.T),
    ]


def scatter(
    study: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    series: Sequence[Series],
    seed: int,
    folder: pathlib.Path,
    name: str,
) -> pathlib.Path:
    """Distance to training against distance to unseen shapes, as published and with the controls.

    Args:
      study: entry with `series` and `shown`.
      arrays: `<kind>/<series>/to_training` and `to_unseen`, `[s]` each.
      series: the experiment's series, for their colours.
      seed: random seed that chooses the shapes shown.
      folder: output folder.
      name: file name without suffix.
    """
    rng = np.random.default_rng(seed)
    looks = _looks(study, series)
    figure = style.new_figure(9.8, 4.9)
    handles = {}
    panels = ((shapes.PUBLISHED, "as published"), (shapes.CHAMFER, "with controls"))
    for axes, (kind, title) in zip(figure.subplots(1, 2), panels, strict=True):
        for one in (name for name, entry in study["series"].items() if kind in entry):
            x, y = (arrays[f"{kind}/{one}/{where}"] for where in ("to_training", "to_unseen"))
            chosen = np.sort(rng.permutation(len(x))[: style.MAX_POINTS])
            chosen = chosen[np.isfinite(x[chosen])]
            colour, marker = looks[one]
            edge = {"linewidths": 1.0} if marker in "x+12" else {"edgecolors": "black", "linewidths": 0.2}
            handles[_short(one)] = axes.scatter(
                x[chosen],
                y[chosen],
                s=62 if marker == "*" else 30,
                color=colour,
                marker=marker,
                alpha=0.75,
                zorder=4 if one in study["shown"] else 3 if one == auditing.HELDOUT else 2,
                rasterized=True,
                **edge,
            )
        axes.set(title=title, xlabel="CD to the nearest training shape")
        axes.grid()
        if kind == shapes.CHAMFER:
            _log_scale(axes, "x")
            _log_scale(axes, "y")
        else:
            axes.set(xlim=(0, None), ylim=(0, None), ylabel="CD to the nearest unseen shape")
    order = [_short(n) for n in study["series"]]
    style.legend(figure, [handles[k] for k in order], order, below=True, handletextpad=0.2)
    return style.save(figure, folder, name)


def scores(study: Mapping[str, Any], series: Sequence[Series], folder: pathlib.Path, name: str) -> pathlib.Path:
    """MMD, COV and 1-NNA of every series with their intervals.

    Args:
      study: entry with `series`.
      series: the experiment's series, for their colours.
      folder: output folder.
      name: file name without suffix.
    """
    looks, names = _looks(study, series), list(study["series"])
    figure = style.new_figure(11.0, 1.3 + 0.27 * len(names))
    kinds = ((shapes.CHAMFER, -0.14, True), ("emd", 0.14, False))
    for axes, (key, title, at_best) in zip(figure.subplots(1, 3, sharey=True), _PANELS, strict=True):
        for place, one in enumerate(names):
            for kind, shift, filled in kinds:
                found = Measure((kind, key), "").find(study["series"][one])
                if found is None:
                    continue
                colour, (below, above) = looks[one][0], found.margins
                axes.errorbar(
                    found.value,
                    place + shift,
                    xerr=[[below], [above]],
                    color=colour,
                    marker="o",
                    markersize=5,
                    markerfacecolor=colour if filled else "white",
                    elinewidth=1.3,
                )
        axes.set_title(title, fontsize=9.5)
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        if at_best is not None:
            axes.axvline(at_best, color="#555555", linewidth=0.9, linestyle=(0, (4, 3)))
        if key == "mmd":
            _log_scale(axes, "x")
        else:
            style.percent(axes.xaxis)
            axes.set(xlim=(-0.03, 1.03), xlabel="%")
    figure.axes[0].set_yticks(range(len(names)), [_short(n) for n in names])
    figure.axes[0].set(ylim=(len(names) - 0.5, -0.5), xlabel="squared distance (CD), distance (EMD)")
    return style.save(figure, folder, name)


def augmentation(study: Mapping[str, Any], series: Sequence[Series], folder: pathlib.Path, name: str) -> pathlib.Path:
    """MMD, distance to training weights and distance between siblings by the number of permuted copies.

    Args:
      study: entry with `series` and `augmented`.
      series: the experiment's series, for their colours.
      folder: output folder.
      name: file name without suffix.
    """
    names = sorted(study["augmented"], key=study["augmented"].__getitem__)
    factors = [study["augmented"][one] for one in names]
    looks = _looks(study, series)
    figure = style.new_figure(10.6, 3.3)
    for axes, (path, title) in zip(figure.subplots(1, 3), AUGMENTED, strict=True):
        found = [Measure(path, "").find(study["series"][one]) for one in names]
        known = [(k, e) for k, e in zip(factors, found, strict=True) if e is not None]
        values = np.array([(k, e.value, *e.margins) for k, e in known])
        if len(values):
            x, y, below, above = values.T
            axes.errorbar(x, y, yerr=[below, above], color=looks[names[0]][0], marker="o", linewidth=1.6, capsize=3)
        for one, words in ((auditing.TRAINING, "training networks"), (auditing.HELDOUT, "held-out networks")):
            level = Measure(path, "").find(study["series"][one])
            if level is not None:
                axes.axhline(level.value, color=looks[one][0], linewidth=1.1, linestyle=(0, (4, 3)), label=words)
        axes.set(title=title, xlabel="permuted copies per training network", xscale="log", ylim=(0, None))
        axes.set_xticks(factors, [f"×{k}" for k in factors])
        axes.set_xticks([], minor=True)
        axes.grid(axis="y")
    style.legend(figure, *figure.axes[0].get_legend_handles_labels(), below=True)
    return style.save(figure, folder, name)


def _log_scale(axes, which: str) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _looks(study: Mapping[str, Any], series: Sequence[Series]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every series: those of the other figures, else the next ones of its kind."""
    known = {shapes.TRAINING_SHAPES: _SHAPES_LOOK} | {s.name: (s.colour, s.marker) for s in series}
    taken = set(known.values())
    fresh = (look for look in style.learned_colours() if look not in taken)
    return {name: known.get(name) or next(fresh) for name in study["series"]}
