"""What was found out about the shapes of neural fields: pictures, distances, scores of sets, augmentation.

Sentences that draw a conclusion are chosen by the numbers: one is above another where their 95 % intervals do not meet.
"""

from __future__ import annotations

import html
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights import auditing
from jaxweights.report import compare, rendering, style, viewer
from jaxweights.report.style import Picture, Section, Series
from jaxweights.report.tables import Estimate, Measure
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
_PANELS = (
    ("mmd", "MMD (small: unseen shapes are met)", None),
    ("cov", "COV (large: many are met)", None),
    ("one_nna", "1-NNA (50 %: the same distribution)", 0.5),
)
_AUGMENTED = (
    ((shapes.CHAMFER, "mmd"), "MMD-CD to unseen shapes"),
    (("min_l2",), "min L2 to training weights"),
    ((shapes.CHAMFER, "to_sibling"), "CD to the nearest sibling"),
)


def label(name: str) -> str:
    """A series' name in words."""
    return _LABELS.get(name) or style.label(name)


def parts(
    study: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    series: Sequence[Series],
    seed: int,
    folder: pathlib.Path,
) -> Iterator[Picture | Section]:
    """Draws and words the study.

    Args:
      study: what `studies.shapes.run` returned.
      arrays: the same.
      series: of the experiment, for their colours.
      seed: of the draw of the networks in the scatter.
      folder: for the figures.
    """
    how = f"meshed at the logit {study['level']:.3g} on {study['resolution']}&sup3; grid points"
    for name in study["shown"]:
        path = gallery(name, study, arrays, folder, f"shapes_{name}")
        caption = (
            f"Above: the first networks of {html.escape(label(name))}, {how}. Below each the training network with the "
            "nearest weights, and the training network of the shape with the smallest Chamfer distance (CD)."
        )
        yield Picture(path, f"Shapes: {label(name)} over the nearest training shapes", caption)
        if name == study["shown"][0]:  # one series alone, to keep the page small
            content = "<p>Drag to turn, or use the arrow keys. Simplified meshes.</p>" + turnable(name, study, arrays)
            yield Section("shapes-turn", f"Shapes to turn: {label(name)}", content)
    counts = study["references"]
    path = scatter(study, arrays, series, seed, folder, "shape_novelty")
    caption = (
        f"Chamfer distance to the nearest of {counts['training']:,} training shapes and of {counts['unseen']:,} that "
        f"nobody was fitted to, {study['points']:,} points each; at most {style.MAX_POINTS} shapes per series. Left: "
        "as published, where training shapes stand as they are and all others as meshes of fields, whose error of "
        "fitting then looks like novelty. Right: with the fields of the training networks themselves (noise 0) and of "
        f"held-out networks, which is how far new shapes lie. {novelty_text(study)}"
    )
    yield Picture(path, "Distance to training and to unseen shapes", caption)
    path = scores(study, series, folder, "shape_scores")
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
        path = augmentation(study, series, folder, "permutation_augmentation")
        caption = (
            "Generators that differ in nothing but the number of permuted copies of every training network, itself "
            f"included, that they are trained on. Copies stand for the same shape. {augmentation_text(study)}"
        )
        yield Picture(path, "Permutation augmentation", caption)


# -- table and sentences ---------------------------------------------------------------------------------------------


def table(study: Mapping[str, Any]) -> str:
    """All series against all measures."""
    rows = {label(name): entry for name, entry in study["series"].items()}
    empty = {label(name): str(entry["empty"]) for name, entry in study["series"].items() if entry["empty"]}
    cells = {"no surface": {name: empty.get(name, "") for name in rows}}
    return compare.table(rows, cells, _MEASURES)


def empty_text(study: Mapping[str, Any]) -> str:
    """How many meshes have no surface; HTML."""
    found = [
        f"{entry['empty']} of {entry['networks']} ({html.escape(label(name))})"
        for name, entry in study["series"].items()
        if entry["empty"]
    ]
    if not found:
        return "<p>Every network that was meshed has a surface.</p>"
    return f"<p>Networks whose mesh has no surface, which enter no other number: {', '.join(found)}.</p>"


def novelty_text(study: Mapping[str, Any]) -> str:
    """Whether shown series stay near training shapes, beside held-out networks and noise 0; HTML."""

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
        if fresh is not None:
            order = compare.order(far, distance(auditing.HELDOUT, "to_unseen"))
            relation = {-1: "closer than", 0: "as close as", 1: "less close than"}[order]
            sentences.append(f"To unseen shapes they are {relation} held-out networks (mean {far.value:.3g}).")
    return " ".join(sentences)


def augmentation_text(study: Mapping[str, Any]) -> str:
    """What the most permuted copies change against the fewest; HTML."""
    order = sorted(study["augmented"], key=study["augmented"].__getitem__)
    few, many = order[0], order[-1]
    factors = study["augmented"][few], study["augmented"][many]
    sentences = []
    words = {-1: "closer to", 0: "neither closer to nor farther from", 1: "farther from"}
    for (path, _), what in zip(_AUGMENTED, ("unseen shapes", "training weights", "each other"), strict=True):
        found = [Measure(path, "").find(study["series"][name]) for name in (few, many)]
        if None in found:
            continue
        sentences.append(
            f"With &times;{factors[1]} networks lie {words[compare.order(found[1], found[0])]} {what} than with "
            f"&times;{factors[0]} ({found[1].value:.3g} against {found[0].value:.3g})."
        )
    empty = study["series"][many]["empty"]
    if empty:
        sentences.append(f"{empty} of {study['series'][many]['networks']} shapes of &times;{factors[1]} are empty.")
    return " ".join(sentences)


# -- figures ---------------------------------------------------------------------------------------------------------


def gallery(
    name: str, study: Mapping[str, Any], arrays: Mapping[str, np.ndarray], folder: pathlib.Path, file: str
) -> pathlib.Path:
    """Networks' shapes above those of the nearest training networks by weights and by Chamfer distance.

    Args:
      name: of the series.
      study: with `up`.
      arrays: `shown/...`, see `studies.shapes.run`.
      folder: for the files.
      file: name of the files.
    """
    rotation = rendering.view(_AZIMUTH, _ELEVATION, study["up"])
    rows, distance = _meshes(name, arrays), arrays[f"shown/{name}/distances"]
    runs, pictures = arrays[f"shown/{name}/runs"], {}
    paper, ink = np.ones(3), np.asarray([int(rendering.COLOUR[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    figure = style.new_figure(_PANEL * len(distance) + 0.9, 3 * (_PANEL + 0.15))
    grid = figure.subplots(3, len(distance), squeeze=False)
    for j, line in enumerate(grid):
        for i, axes in enumerate(line):
            mesh = rows[j][i]
            axes.set(xticks=(), yticks=())
            axes.spines[:].set_visible(False)
            if mesh is None:
                axes.text(0.5, 0.5, "no surface", ha="center", va="center", color="#777777")
                axes.set_box_aspect(1)
            else:
                if id(mesh) not in pictures:
                    light, cover = np.moveaxis(rendering.render(*mesh, rotation, _PIXELS), 2, 0)[:, :, :, None]
                    pictures[id(mesh)] = (1 - cover) * paper[None, None, :] + cover * light * ink[None, None, :]
                axes.imshow(pictures[id(mesh)], interpolation="antialiased")
            if j and mesh is not None:
                measure = f"L2 {distance[i, 0]:.3g}" if j == 1 else f"CD {distance[i, 1]:.3g}"
                axes.set_title(f"run {runs[i, j - 1]}, {measure}", fontsize=8.8)
        line[0].set_ylabel(_KINDS[j], fontsize=9.5)
    for axes in grid[0]:
        axes.spines[:].set(visible=True, color="#d62728", linewidth=1.6)
    return style.save(figure, folder, file)


def turnable(name: str, study: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """The same meshes, of fewer networks, as HTML that turns."""
    rows = [row[:_TURNABLE] for row in _meshes(name, arrays)]
    heads = [f"network {i + 1}" for i in range(len(rows[0]))]
    return viewer.table(heads, _KINDS, rows, _AZIMUTH, _ELEVATION, study["up"])


def _meshes(name: str, arrays: Mapping[str, np.ndarray]) -> list[list[tuple[np.ndarray, np.ndarray] | None]]:
    """Vertices and faces of what is shown, in three rows; one object per training run, None without a surface."""

    def read(place: str) -> tuple[np.ndarray, np.ndarray] | None:
        faces = arrays.get(f"{place}/faces", ())
        return (arrays[f"{place}/vertices"], faces) if len(faces) else None

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
      study: with `series` and `shown`.
      arrays: `<kind>/<series>/to_training` and `to_unseen`, `[s]` each.
      series: of the experiment, for their colours.
      seed: of the draw of those that are shown.
      folder: for the files.
      name: of the files.
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
            handles[label(one)] = axes.scatter(
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
    order = [label(n) for n in study["series"]]
    columns = min(5, len(order))
    figure.legend([handles[k] for k in order], order, loc="outside lower center", ncols=columns, handletextpad=0.2)
    return style.save(figure, folder, name)


def scores(study: Mapping[str, Any], series: Sequence[Series], folder: pathlib.Path, name: str) -> pathlib.Path:
    """MMD, COV and 1-NNA of every series with their intervals.

    Args:
      study: with `series`.
      series: of the experiment, for their colours.
      folder: for the files.
      name: of the files.
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
                colour = looks[one][0]
                axes.errorbar(
                    found.value,
                    place + shift,
                    xerr=[[max(found.value - found.low, 0)], [max(found.high - found.value, 0)]],
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
    figure.axes[0].set_yticks(range(len(names)), [label(n) for n in names])
    figure.axes[0].set(ylim=(len(names) - 0.5, -0.5), xlabel="squared distance (CD), distance (EMD)")
    return style.save(figure, folder, name)


def augmentation(study: Mapping[str, Any], series: Sequence[Series], folder: pathlib.Path, name: str) -> pathlib.Path:
    """MMD, distance to training weights and distance between siblings by the number of permuted copies.

    Args:
      study: with `series` and `augmented`.
      series: of the experiment, for their colours.
      folder: for the files.
      name: of the files.
    """
    names = sorted(study["augmented"], key=study["augmented"].__getitem__)
    factors = [study["augmented"][one] for one in names]
    looks = _looks(study, series)
    figure = style.new_figure(10.6, 3.3)
    for axes, (path, title) in zip(figure.subplots(1, 3), _AUGMENTED, strict=True):
        found = [Measure(path, "").find(study["series"][one]) for one in names]
        known = [(k, e) for k, e in zip(factors, found, strict=True) if e is not None]
        values = np.array([(k, e.value, max(e.value - e.low, 0), max(e.high - e.value, 0)) for k, e in known])
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
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
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
    """Colour and marker of every series: what it has on the other figures, else the next one of its kind."""
    known = {shapes.TRAINING_SHAPES: _SHAPES_LOOK} | {s.name: (s.colour, s.marker) for s in series}
    taken = set(known.values())
    fresh = (look for look in style.learned_colours() if look not in taken)
    return {name: known.get(name) or next(fresh) for name in study["series"]}
