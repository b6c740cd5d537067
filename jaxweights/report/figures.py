"""The figures made of measurements alone: distances, novelty, heatmap, loss curves, zoo.

Conventions are those of Zeng et al. 2025 (arXiv 2506.07998), without their accidents: histogram edges are evenly spaced
from the smallest to the largest value, so that none falls out, and every random choice is seeded.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights.audit import audit
from jaxweights.audit.alignment import apply_permutation
from jaxweights.population import Population
from jaxweights.report import style
from jaxweights.report.style import Series

BINS = 15
SHOWN_NETWORKS = 3
SHOWN_PARAMETERS = 64
_ZOOM_SHARE = 0.4  # a second, closer look where the trained networks take less than this share of an axis


def histogram_edges(values: Sequence[np.ndarray], bins: int = BINS) -> np.ndarray:
    """`[bins + 1]` evenly spaced edges over the joint range of all values; widened where they are all equal."""
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    if not high > low:
        pad = max(abs(low), 1.0) * 1e-3
        low, high = low - pad, high + pad
    return np.linspace(low, high, bins + 1)


def percent_of_networks(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """`[bins]` histogram that sums to 100."""
    return np.histogram(values, edges)[0] * (100.0 / len(values))


def _distance_kinds(series: Sequence[Series]) -> list[tuple[str, str]]:
    """Field and title of every distance that was measured, the one that the tests use first."""
    kinds = [("min_l2", "raw distance")]
    if all(s.measured.aligned_min_l2.size for s in series):
        kinds.insert(0, ("aligned_min_l2", "distance modulo permutations"))
    return kinds


def min_distance(series: Sequence[Series], folder: pathlib.Path) -> pathlib.Path:
    """Histograms of the distance to the nearest training network, and below them every series on the same axis."""
    shown = [s for s in series if s.role not in (style.BASELINE, style.CONTROL)]
    kinds = _distance_kinds(series)
    figure = style.new_figure(4.9 * max(len(kinds), 1.45), 3.1 + 0.27 * len(series))
    axes = figure.subplots(2, len(kinds), squeeze=False, sharey="row", height_ratios=[2.7, 0.6 + 0.27 * len(series)])
    for (field, title), (top, bottom) in zip(kinds, axes.T, strict=True):
        edges = histogram_edges([getattr(s.measured, field) for s in shown])
        for s in shown:
            shares = percent_of_networks(getattr(s.measured, field), edges)
            top.stairs(shares, edges, fill=True, color=s.colour, alpha=0.28 if s.role != audit.HELDOUT else 0.12)
            top.stairs(shares, edges, color=s.colour, linewidth=1.7, label=s.label)
        top.set(title=title, xlabel="distance to the nearest training network (L2)")
        top.set_ylim(bottom=0)
        top.grid(axis="y")
        _strips(bottom, series, field)
    axes[0, 0].set_ylabel("% of networks")
    axes[0, -1].legend(loc="best")
    return style.save(figure, folder, "min_distance")


def _strips(axes, series: Sequence[Series], field: str) -> None:
    """One row per series: every network as a dot, the middle half as a bar, the median as a white line."""
    rng = np.random.default_rng(0)
    for row, s in enumerate(series):
        values = getattr(s.measured, field)
        jitter = rng.uniform(-0.3, 0.3, len(values))
        axes.scatter(values, row + jitter, s=4, color=s.colour, alpha=0.35, linewidths=0, rasterized=True)
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        axes.plot([low, high], [row, row], color=s.colour, linewidth=6, solid_capstyle="butt", alpha=0.75)
        axes.plot([middle], [row], marker="|", color="white", markersize=7, markeredgewidth=1.6)
    axes.set_yticks(range(len(series)), [s.label for s in series])
    axes.set_ylim(len(series) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("the same for every series (bar: middle half, line: median)")


def accuracy_novelty(series: Sequence[Series], folder: pathlib.Path, seed: int, limit: float) -> pathlib.Path:
    """Accuracy against error similarity and against distance, at most 100 networks per series drawn with the seed.

    Args:
      series: all of them.
      folder: for the files.
      seed: of the draw.
      limit: maximum error IoU that 5 % of the held-out runs exceed.
    """
    rng = np.random.default_rng(seed)
    rows = [np.sort(rng.permutation(len(s.measured.accuracy))[: style.MAX_POINTS]) for s in series]
    field, title = _distance_kinds(series)[0]
    panels = (("max_error_iou", "maximum error IoU with a training network"), (field, f"minimum L2, {title}"))
    spans = _zoom(series)
    figure = style.new_figure(9.8, 4.4 + 3.1 * (len(spans) - 1))
    axes = figure.subplots(len(spans), 2, squeeze=False, sharey="row", sharex="col")
    for line, span in zip(axes, spans, strict=True):
        for panel, (field, name) in zip(line, panels, strict=True):
            for s, chosen in zip(series, rows, strict=True):
                _scatter(panel, s, getattr(s.measured, field)[chosen], s.measured.accuracy[chosen])
            panel.grid()
            if span is not None:
                panel.set_ylim(*span)
            style.whole_percent(panel.yaxis)
            if panel in axes[-1]:
                panel.set_xlabel(name)
        line[0].axvline(limit, color="#2b2b2b", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        line[0].set_ylabel("accuracy (%)" if span is None or len(spans) == 1 else "accuracy (%), closer")
    axes[0, 0].annotate(
        "95 % of held-out",
        (limit, 0.02),
        (-3, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        rotation=90,
        ha="right",
        fontsize=7.5,
        color="#555555",
    )
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=min(6, len(series)), markerscale=1.3, handletextpad=0.2)
    return style.save(figure, folder, "accuracy_novelty")


def _scatter(axes, s: Series, x: np.ndarray, y: np.ndarray) -> None:
    lines = s.marker in "x+12"
    edge = {"linewidths": 1.0} if lines else {"edgecolors": "black", "linewidths": 0.2}
    size = {"*": 70, "P": 42, "p": 42, "X": 42, "h": 42}.get(s.marker, 32)
    order = {audit.TRAINING: 2, audit.HELDOUT: 3, style.BASELINE: 2.5, style.CONTROL: 3.5, style.LEARNED: 4}[s.role]
    axes.scatter(
        x, y, s=size, color=s.colour, marker=s.marker, alpha=0.7, zorder=order, label=s.label, rasterized=True, **edge
    )


def _zoom(series: Sequence[Series]) -> list[tuple[float, float] | None]:
    """The accuracy ranges to draw: everything, and the trained networks' own where it is a small part of that."""
    trained = np.concatenate([s.measured.accuracy for s in series if s.role in (audit.TRAINING, audit.HELDOUT)])
    everything = np.concatenate([s.measured.accuracy for s in series])
    low, high = trained.min(), trained.max()
    pad = max(0.15 * (high - low), 0.004)
    whole = everything.max() - everything.min()
    return [None] if high - low + 2 * pad > _ZOOM_SHARE * whole else [None, (low - pad, high + pad)]


def heatmap(
    subject: Series, generated: Population, train: Population, seed: int, folder: pathlib.Path, name: str = "heatmap"
) -> pathlib.Path:
    """The first three generated networks, each over its nearest training networks, at 64 parameters.

    Args:
      subject: the generator's measurements.
      generated: its samples `[n, P]`, in the same order.
      train: training networks; where there is an alignment, their hidden units are brought into the sample's order.
      seed: of the draw of parameters.
      folder: for the files.
      name: of the files.
    """
    one = subject.measured
    count = min(SHOWN_NETWORKS, len(generated))
    aligned = one.aligned_min_l2.size > 0
    nearest = (one.aligned_nearest if aligned else one.nearest)[:count]
    neighbours = train.weights[nearest]
    if aligned:
        neighbours = apply_permutation(neighbours, train.spec.units(0)[0], one.aligned_permutation[:count])
    rng = np.random.default_rng(seed)
    size = min(SHOWN_PARAMETERS, train.spec.num_params)
    columns = np.sort(rng.choice(train.spec.num_params, size, replace=False))
    lines = nearest.shape[1]
    figure = style.new_figure(9.8, 0.7 + count * (0.5 + 0.3 * (1 + lines)))
    grid = figure.subfigures(count, 1, squeeze=False)[:, 0]
    for i, part in enumerate(grid):
        distances = np.linalg.norm(neighbours[i].astype(np.float64) - generated.weights[i], axis=1)
        names = [f"run {train.records['run'][r]}, L2 {d:.3g}" for r, d in zip(nearest[i], distances, strict=True)]
        strips = (generated.weights[i : i + 1, columns], neighbours[i][:, columns])
        axes = _heat_panel(part, strips, (f"{subject.label}, sample {i}", names))
    _leaf_ticks(axes, train, columns)
    return style.save(figure, folder, name)


def _heat_panel(part, strips, names):
    """A sample's strip with a red border over its neighbours' strips; returns the lower axes."""
    low, high = min(s.min() for s in strips), max(s.max() for s in strips)
    top, bottom = part.subplots(2, 1, height_ratios=[1, strips[1].shape[0]])
    for axes, strip in ((top, strips[0]), (bottom, strips[1])):
        image = axes.imshow(strip, cmap="viridis", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(True)
    top.set_yticks([0], [names[0]], color="#d62728", fontweight="bold")
    top.spines[:].set(color="#d62728", linewidth=2.6)
    bottom.set_yticks(range(len(names[1])), names[1])
    bottom.spines[:].set(color="black", linewidth=1.2)
    for line in range(1, len(names[1])):
        bottom.axhline(line - 0.5, color="white", linewidth=1.6)
    bar = part.colorbar(image, ax=[top, bottom], fraction=0.03, pad=0.01, aspect=14)
    bar.ax.tick_params(length=2)
    bar.outline.set_linewidth(0.5)
    return bottom


def _leaf_ticks(axes, train: Population, columns: np.ndarray) -> None:
    """Names the tensors that the shown parameters belong to, where a tensor has enough of them for its name."""
    wide = []
    for leaf, span in train.spec.spans():
        inside = np.flatnonzero((columns >= span.start) & (columns < span.stop))
        if len(inside):
            axes.plot([inside[0] - 0.42, inside[-1] + 0.42], [1 - 0.03] * 2, alpha=0)
            wide.append((inside[0], inside[-1], leaf.name))
    axes.set_xlim(-0.5, len(columns) - 0.5)
    named = [(0.5 * (a + b), n) for a, b, n in wide if (b - a + 1) * 1.6 > len(n)]
    axes.set_xticks([x for x, _ in named], [n for _, n in named])
    for a, _, _ in wide[1:]:
        axes.axvline(a - 0.5, ymin=-0.12, ymax=0, color="#444444", linewidth=1, clip_on=False)
    shown = f"{len(columns)} of {train.spec.num_params:,} parameters, drawn at random, in the order of the weight vector"
    axes.set_xlabel(shown)


def loss_curves(curves: Mapping[tuple[str, str], Mapping[int, float]], folder: pathlib.Path) -> pathlib.Path | None:
    """Loss by step, raw and smoothed, one row per generator and one panel per stage; None without any curve."""
    if not curves:
        return None
    by_generator: dict[str, list[tuple[str, Mapping[int, float]]]] = {}
    for (generator, stage), curve in curves.items():
        by_generator.setdefault(generator, []).append((stage, curve))
    width = max(len(stages) for stages in by_generator.values())
    figure = style.new_figure(max(4.9 * width, 6.0), 2.9 * len(by_generator))
    grid = figure.subplots(len(by_generator), width, squeeze=False)
    for (generator, stages), line in zip(by_generator.items(), grid, strict=True):
        for axes in line[len(stages) :]:
            axes.set_axis_off()
        for (stage, curve), axes in zip(stages, line, strict=False):
            steps, loss = np.array(list(curve)), np.array(list(curve.values()))
            axes.plot(steps, loss, color="#d62728", alpha=0.35, linewidth=0.9, label="mean of an interval")
            axes.plot(steps, smooth(loss), color="#8f1414", linewidth=1.7, label="smoothed")
            if (loss > 0).all():
                axes.set_yscale("log")
                _plain_log_ticks(axes.yaxis, loss)
            axes.set(title=f"{style.label(generator)}: {stage}", xlabel="optimizer step")
            axes.grid()
        line[0].set_ylabel("loss")
    grid[0, 0].legend()
    return style.save(figure, folder, "loss_curves")


def _plain_log_ticks(axis, values: np.ndarray) -> None:
    """Plain numbers on a logarithmic axis, with ticks between the powers of ten where it spans few of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    few = values.max() / values.min() < 30
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 3, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def smooth(values: np.ndarray, window: int = 11) -> np.ndarray:
    """Centred moving average of the same length; windows shrink at the ends."""
    half = min(window, len(values)) // 2
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    at = np.arange(len(values))
    first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (total[last] - total[first]) / (last - first)


def zoo(series: Sequence[Series], train: Population, config: Mapping[str, Any], folder: pathlib.Path) -> pathlib.Path:
    """Accuracies of training and held-out runs, and accuracy against whatever varies between the training networks."""
    shown = [s for s in series if s.role in (audit.TRAINING, audit.HELDOUT)]
    varied = {k: v for k, v in {"step": train.records["step"], **train.hyper()}.items() if len(np.unique(v)) > 1}
    across = min(3, 1 + len(varied)) if varied else 1
    down = -(-(1 + len(varied)) // across)
    figure = style.new_figure(max(6.4, 3.3 * across), 3.0 * down)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    edges = histogram_edges([s.measured.accuracy for s in shown], 20)
    for s in shown:
        shares = percent_of_networks(s.measured.accuracy, edges)
        grid[0].stairs(shares, edges, fill=True, color=s.colour, alpha=0.28 if s.role != audit.HELDOUT else 0.12)
        grid[0].stairs(shares, edges, color=s.colour, linewidth=1.7, label=f"{s.label} (n = {len(s.measured.accuracy)})")
    grid[0].set(title="accuracy of the zoo", xlabel="test accuracy (%)", ylabel="% of networks")
    style.whole_percent(grid[0].xaxis)
    grid[0].grid(axis="y")
    grid[0].legend(loc="upper left")
    colour = shown[0].colour
    for (name, values), axes in zip(varied.items(), grid[1:], strict=False):
        axes.scatter(values, train.records["accuracy"], s=9, color=colour, alpha=0.45, linewidths=0, rasterized=True)
        if _is_log(config["zoo"].get(name)):
            axes.set_xscale("log")
        axes.set(title=f"against {style.label(name)}", xlabel=style.label(name), ylabel="accuracy (%)")
        style.whole_percent(axes.yaxis)
        axes.grid()
    for axes in grid[1 + len(varied) :]:
        axes.set_axis_off()
    return style.save(figure, folder, "zoo")


def _is_log(setting: Any) -> bool:
    return isinstance(setting, Mapping) and setting.get("kind") == "log_uniform"
