"""The figures made of measurements: distances, novelty, similarity, mixtures, heatmap, loss curves, zoo.

Conventions are those of Zeng et al. 2025 (arXiv 2506.07998), without their accidents: histogram edges are evenly spaced
from the smallest to the largest value, so that none falls out, and every random choice is seeded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxweights import auditing
from jaxweights.auditing import Measured
from jaxweights.auditing.hidden_units import apply_permutation
from jaxweights.population import COLUMNS, HYPER, Population
from jaxweights.report import style
from jaxweights.report.style import Series
from jaxweights.tasks import Terms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 15
SHOWN_NETWORKS = 3
SHOWN_PARAMETERS = 64
_MIXTURES = ("average", "gaussian")
_MOST_RATIO = 3.0  # of residuals to that of held-out runs: larger ones are drawn here
_CLOSER = "the same, closer to the trained networks"
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
    kinds = [("min_l2", "raw")]
    if all(s.measured.aligned_min_l2.size for s in series):
        kinds.insert(0, ("aligned_min_l2", "modulo permutations"))
    return kinds


def min_distance(series: Sequence[Series]) -> Figure:
    """Histograms of the distance to the nearest training network, and below them every series on the same axis."""
    shown = [s for s in series if s.role not in (style.BASELINE, style.CONTROL)]
    kinds = _distance_kinds(series)
    figure = style.new_figure(4.9 * max(len(kinds), 1.45), 3.1 + 0.27 * len(series))
    axes = figure.subplots(2, len(kinds), squeeze=False, sharey="row", height_ratios=[2.7, 0.6 + 0.27 * len(series)])
    for (field, title), (top, bottom) in zip(kinds, axes.T, strict=True):
        edges = histogram_edges([getattr(s.measured, field) for s in shown])
        for s in shown:
            shares = percent_of_networks(getattr(s.measured, field), edges)
            top.stairs(shares, edges, fill=True, color=s.colour, alpha=0.28 if s.role != auditing.HELDOUT else 0.12)
            top.stairs(shares, edges, color=s.colour, linewidth=1.7, label=s.label)
        top.set(title=f"distance, {title}", xlabel="L2 to the nearest training network")
        top.grid(axis="y")
        _strips(bottom, series, [getattr(s.measured, field) for s in series])
        bottom.set_xlabel("L2 to the nearest training network, every series")
    axes[0, 0].set(ylabel="% of networks", ylim=(0, None))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=min(5, len(shown)))
    return figure


def _strips(axes, series: Sequence[Series], columns: Sequence[np.ndarray]) -> None:
    """One row per series: every network as a dot, the middle half as a bar, the median as a line across it."""
    rng = np.random.default_rng(0)
    for row, (s, values) in enumerate(zip(series, columns, strict=True)):
        jitter = rng.uniform(-0.3, 0.3, len(values))
        axes.scatter(values, row + jitter, s=4, color=s.colour, alpha=0.35, linewidths=0, rasterized=True)
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        axes.plot([low, high], [row, row], color=s.colour, linewidth=6, solid_capstyle="butt", alpha=0.75)
        axes.plot([middle], [row], marker="|", color="black", markersize=11, markeredgewidth=1.4)
    axes.set_yticks(range(len(series)), [s.label for s in series])
    axes.set_ylim(len(series) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def interpolation_residual(series: Sequence[Series]) -> Figure | None:
    """How far every network is from the best mixture of training networks, beside held-out runs and its own neighbour.

    The number that the paper of P-diff (arXiv 2402.13144) and its audit do not have. For copies, which have no distance
    to be a share of, the share is 0.

    Args:
      series: all of them; controls are not drawn.

    Returns:
      The figure, or None where the held-out runs are mixtures themselves.
    """
    shown = [s for s in series if s.role != style.CONTROL]
    unit = next(float(np.median(s.measured.hull_residual)) for s in series if s.role == auditing.HELDOUT)
    if not unit > 0:
        return None
    to_heldout = [s.measured.hull_residual / unit for s in shown]
    to_nearest = [
        np.divide(m.hull_residual, m.distance, out=np.zeros(len(m.distance)), where=m.distance > 0)
        for m in (s.measured for s in shown)
    ]
    figure = style.new_figure(9.8, 1.5 + 0.27 * len(shown))
    left, right = figure.subplots(1, 2, sharey=True)
    _strips(left, shown, [np.minimum(values, _MOST_RATIO) for values in to_heldout])
    if max(values.max() for values in to_heldout) > _MOST_RATIO:
        ticks = np.arange(_MOST_RATIO + 1)
        left.set_xticks(ticks, [*(f"{x:g}" for x in ticks[:-1]), f"\u2265 {_MOST_RATIO:g}"])
    left.axvline(1.0, color="#2b2b2b", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    left.set(xlabel="residual / median of held-out runs")
    _strips(right, shown, to_nearest)
    right.set(xlabel="residual / distance to the nearest training network", xlim=(-0.03, 1.03))
    return figure


def accuracy_similarity(
    series: Sequence[Series], examples: int, seed: int, terms: Terms | None = None
) -> Figure | None:
    """Accuracy against error similarity in the two sets of series of Zeng et al. 2025, on shared axes.

    Training and generated networks are beside noised copies in the first set, beside averages and Gaussians in the
    second: at most 100 networks per series drawn with the seed, the same ones in both. Accuracies are moved by up to a
    third of one test example, so that equal ones do not hide each other.

    Args:
      series: all of them; baselines are known by their kind, whatever their names.
      examples: test examples that an accuracy is a share of.
      seed: random seed that chooses the networks shown.
      terms: words of the task; those of classification by default.

    Returns:
      The figure, or None where there is none of these baselines. A set without baselines has no panel.
    """
    terms = terms or Terms()
    rng = np.random.default_rng(seed)
    rows = {s.name: np.sort(rng.permutation(len(s.measured.accuracy))[: style.MAX_POINTS]) for s in series}
    jitter = {s.name: rng.uniform(-1, 1, len(rows[s.name])) / (3 * examples) for s in series}
    common = [s for s in series if s.role in (auditing.TRAINING, style.LEARNED)]
    sets = [
        (title, [s for s in series if s.kind in kinds and s.role == style.BASELINE])
        for title, kinds in (("beside noised copies", ("noise",)), ("beside averages and Gaussians", _MIXTURES))
    ]
    sets = [(title, baselines) for title, baselines in sets if baselines]
    if not sets:
        return None
    spans = _zoom([*common, *(s for _, baselines in sets for s in baselines)])
    figure = style.new_figure(4.9 * len(sets), 4.4 + 3.1 * (len(spans) - 1))
    grid = figure.subplots(len(spans), len(sets), squeeze=False, sharex=True, sharey="row")
    handles: dict[str, Any] = {}
    for panels, span in zip(grid, spans, strict=True):
        for axes, (title, baselines) in zip(panels, sets, strict=True):
            for s in (*common, *baselines):
                chosen = rows[s.name]
                style.scatter(axes, s, s.measured.max_error_iou[chosen], s.measured.accuracy[chosen] + jitter[s.name])
            axes.set_title(title)
            if span is not None:
                axes.set(ylim=span, title=_CLOSER)
            axes.grid()
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        style.percent(panels[0].yaxis)
        panels[0].set_ylabel(terms.column)
    for axes in grid[-1]:
        axes.set_xlabel(f"maximum {terms.overlap} with a training network")
    columns = min(6, len(handles))
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=columns, markerscale=1.3, handletextpad=0.2
    )
    return figure


def accuracy_novelty(
    series: Sequence[Series], examples: int, seed: int, limit: float, terms: Terms | None = None
) -> Figure:
    """Accuracy against error similarity and against distance, at most 100 networks per series drawn with the seed.

    Accuracies are moved by up to a third of one test example, so that equal ones do not hide each other.

    Args:
      series: all of them.
      examples: test examples that an accuracy is a share of.
      seed: random seed that chooses the networks shown.
      limit: maximum error IoU that 5 % of the held-out runs exceed.
      terms: words of the task; those of classification by default.
    """
    terms = terms or Terms()
    rng = np.random.default_rng(seed)
    rows = [np.sort(rng.permutation(len(s.measured.accuracy))[: style.MAX_POINTS]) for s in series]
    heights = [
        s.measured.accuracy[r] + rng.uniform(-1, 1, len(r)) / (3 * examples) for s, r in zip(series, rows, strict=True)
    ]
    field, title = _distance_kinds(series)[0]
    panels = (
        ("max_error_iou", f"maximum {terms.overlap} with a training network"),
        (field, f"minimum L2 to the training networks, {title}"),
    )
    spans = _zoom(series)
    figure = style.new_figure(9.8, 4.4 + 3.1 * (len(spans) - 1))
    axes = figure.subplots(len(spans), 2, squeeze=False, sharey="row", sharex="col")
    for line, span in zip(axes, spans, strict=True):
        for panel, (field, _) in zip(line, panels, strict=True):
            for s, chosen, height in zip(series, rows, heights, strict=True):
                style.scatter(panel, s, getattr(s.measured, field)[chosen], height)
            panel.grid()
            if span is not None:
                panel.set(ylim=span, title=_CLOSER)
            style.percent(panel.yaxis)
        line[0].axvline(limit, color="#2b2b2b", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        line[0].set_ylabel(terms.column)
    for panel, (_, name) in zip(axes[-1], panels, strict=True):
        panel.set_xlabel(name)
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
    return figure


def _zoom(series: Sequence[Series]) -> list[tuple[float, float] | None]:
    """The accuracy ranges to draw: everything (None), and where the good networks take a small part of it, their own.

    The good ones are training and held-out networks and, where they are close enough, most of the learned generators'.
    """
    everything = np.concatenate([s.measured.accuracy for s in series])
    whole = everything.max() - everything.min()
    trained = np.concatenate([s.measured.accuracy for s in series if s.role in (auditing.TRAINING, auditing.HELDOUT)])
    worst = min([trained.min(), *(np.quantile(s.measured.accuracy, 0.05) for s in series if s.role == style.LEARNED)])
    for low in (worst, trained.min()):
        pad = max(0.12 * (trained.max() - low), 0.004)
        if trained.max() - low + 2 * pad < _ZOOM_SHARE * whole:
            return [None, (low - pad, trained.max() + pad)]
    return [None]


def nearest_training(measured: Measured, train: Population, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest training networks of a series' first `count` networks, by the distance that the tests use.

    Returns:
      Rows `[count, k]` of `train`, and their weights `[count, k, P]`; where there is an alignment, with the hidden
      units in the order of the network that they are nearest to.
    """
    if not measured.aligned_min_l2.size:
        return measured.nearest[:count], train.weights[measured.nearest[:count]]
    rows = measured.aligned_nearest[:count]
    units = train.spec.units(0)[0]
    return rows, apply_permutation(train.weights[rows], units, measured.aligned_permutation[:count])


def heatmap(subject: Series, generated: Population, train: Population, seed: int) -> Figure:
    """The first three generated networks, each over its nearest training networks, at 64 parameters.

    Args:
      subject: the generator's measurements.
      generated: its samples `[n, P]`, in the same order.
      train: training networks; where there is an alignment, their hidden units are brought into the sample's order.
      seed: random seed that chooses parameters.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    count = min(SHOWN_NETWORKS, len(generated))
    nearest, neighbours = nearest_training(subject.measured, train, count)
    rng = np.random.default_rng(seed)
    size = min(SHOWN_PARAMETERS, train.spec.num_params)
    columns = np.sort(rng.choice(train.spec.num_params, size, replace=False))
    lines = nearest.shape[1]
    heights = ([1, lines, 0.5] * count)[:-1]  # a sample, its neighbours, and a gap between groups
    figure = style.new_figure(9.8, 0.8 + 0.33 * sum(heights))
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(h_pad=0.035, hspace=0)
    grid = figure.add_gridspec(len(heights), 2, width_ratios=[1, 0.013], height_ratios=heights)
    for i in range(count):
        distances = np.linalg.norm(neighbours[i].astype(np.float64) - generated.weights[i], axis=1)
        names = [f"{style.network(train, r)}, L2 {d:.3g}" for r, d in zip(nearest[i], distances, strict=True)]
        places = grid[3 * i, 0], grid[3 * i + 1, 0], grid[3 * i : 3 * i + 2, 1]
        top, bottom, bar = (figure.add_subplot(place) for place in places)
        strips = generated.weights[i : i + 1, columns], neighbours[i][:, columns]
        low, high = min(s.min() for s in strips), max(s.max() for s in strips)
        image = _strip(top, strips[0], low, high, [f"{subject.label}, sample {i}"])
        _strip(bottom, strips[1], low, high, names)
        labels = [text.get_text() for text in top.get_yticklabels()]
        top.set_yticks(top.get_yticks(), labels, color="#d62728", fontweight="bold")
        top.spines[:].set(color="#d62728", linewidth=2.6)
        figure.colorbar(image, cax=bar).outline.set_linewidth(0.5)
    _leaf_ticks(bottom, train, columns)
    return figure


def _strip(axes, values: np.ndarray, low: float, high: float, names: Sequence[str]):
    """One coloured row of cells per network, with its name."""
    image = axes.imshow(values, cmap="viridis", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set(visible=True, color="black", linewidth=1.2)
    for line in range(1, len(names)):
        axes.axhline(line - 0.5, color="white", linewidth=1.6)
    return image


def _leaf_ticks(axes, train: Population, columns: np.ndarray) -> None:
    """Names the tensors that the shown parameters belong to, where a tensor has enough of them for its name."""
    ticks = []
    for leaf, span in train.spec.spans():
        inside = np.flatnonzero((columns >= span.start) & (columns < span.stop))
        if not inside.size:
            continue
        if inside[0] > 0:
            axes.axvline(inside[0] - 0.5, ymin=-0.12, ymax=0, color="#444444", linewidth=1, clip_on=False)
        if 1.6 * inside.size > len(leaf.name):
            ticks.append((inside.mean(), leaf.name))
    axes.set_xticks([x for x, _ in ticks], [name for _, name in ticks])
    total = train.spec.num_params
    which = (
        f"{len(columns)} of {total:,} parameters, drawn at random"
        if len(columns) < total
        else f"all {total} parameters"
    )
    axes.set_xlabel(f"{which}, in the order of the weight vector")


def loss_curves(curves: Mapping[tuple[str, str], Mapping[int, float]], series: Sequence[Series]) -> Figure | None:
    """Loss by step, raw and smoothed, one row per generator and one panel per stage; None without any curve."""
    if not curves:
        return None
    colours = {s.name: s.colour for s in series}
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
            axes.plot(steps, loss, color=colours[generator], alpha=0.35, linewidth=0.9, label="as logged")
            smoothed = smooth(loss)
            if (loss > 0).all():
                smoothed = np.exp(smooth(np.log(loss)))
                _log_scale(axes, "y", loss)
            axes.plot(steps, smoothed, color=colours[generator], linewidth=1.8, label="smoothed")
            axes.set(title=f"{style.label(generator)}: {stage}", xlabel="optimizer step")
            axes.grid()
        line[0].set_ylabel("loss")
    grid[0, 0].legend()
    return figure


def _log_scale(axes, which: str, values: np.ndarray) -> None:
    """A logarithmic axis with plain numbers, also between the powers of ten where it spans few of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    ratio = values.max() / values.min()
    axis.set_major_locator(MaxNLocator(6) if ratio < 5 else LogLocator(10, subs=(1, 3) if ratio < 300 else (1,)))
    axis.set_minor_locator(NullLocator() if ratio < 5 else LogLocator(10, subs=range(1, 10)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def smooth(values: np.ndarray, window: int = 11) -> np.ndarray:
    """Centred moving average of the same length; at both ends the line that fits the last window best."""
    from scipy.signal import savgol_filter

    width = min(window, len(values) - (len(values) + 1) % 2)
    return np.asarray(savgol_filter(values, width, 1, mode="interp")) if width >= 3 else values


def accuracy_edges(values: Sequence[np.ndarray], examples: int, bins: int = 20) -> np.ndarray:
    """Edges of at most `bins` bins for accuracies on so many examples; all bins hold equally many possible values."""
    low = round(examples * min(v.min() for v in values))
    high = round(examples * max(v.max() for v in values))
    width = -(-(high - low + 1) // bins)
    return (np.arange(low, high + 1 + width, width) - 0.5) / examples


def zoo(
    series: Sequence[Series],
    train: Population,
    examples: int,
    config: Mapping[str, Any],
    terms: Terms | None = None,
) -> Figure:
    """Accuracies of training and held-out runs, and accuracy against whatever varies between the training networks.

    Args:
      series: all of them.
      train: training networks with their hyper-parameters.
      examples: test examples that an accuracy is a share of.
      config: the experiment's config; its `zoo` tells which settings were drawn on a logarithmic scale.
      terms: words of the task; those of classification by default.
    """
    terms = terms or Terms()
    shown = [s for s in series if s.role in (auditing.TRAINING, auditing.HELDOUT)]
    more = {k: v for k, v in train.records.items() if k not in COLUMNS and not k.startswith(HYPER)}
    varied = {"step": train.records["step"], **train.hyper(), **more}
    varied = {k: v for k, v in varied.items() if len(np.unique(v)) > 1}
    across = min(3, 1 + len(varied)) if varied else 1
    down = -(-(1 + len(varied)) // across)
    figure = style.new_figure(max(6.4, 3.3 * across), 3.0 * down)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    edges = accuracy_edges([s.measured.accuracy for s in shown], examples)
    for s in shown:
        shares = percent_of_networks(s.measured.accuracy, edges)
        grid[0].stairs(shares, edges, fill=True, color=s.colour, alpha=0.28 if s.role != auditing.HELDOUT else 0.12)
        grid[0].stairs(
            shares, edges, color=s.colour, linewidth=1.7, label=f"{s.label} (n = {len(s.measured.accuracy)})"
        )
    grid[0].set(title=f"{terms.quality} of the zoo", xlabel=terms.axis, ylabel="% of networks")
    grid[0].set_ylim(0, 1.3 * grid[0].get_ylim()[1])  # room for the legend
    style.percent(grid[0].xaxis)
    grid[0].grid(axis="y")
    grid[0].legend(loc="upper left")
    colour = shown[0].colour
    for (name, values), axes in zip(varied.items(), grid[1:], strict=False):
        axes.scatter(values, train.records["accuracy"], s=9, color=colour, alpha=0.45, linewidths=0, rasterized=True)
        if _is_log(config["zoo"].get(name)):
            _log_scale(axes, "x", values)
        axes.set(title=f"against {style.label(name)}", xlabel=style.label(name), ylabel=terms.column)
        style.percent(axes.yaxis)
        axes.grid()
    for axes in grid[1 + len(varied) :]:
        axes.set_axis_off()
    return figure


def _is_log(setting: Any) -> bool:
    return isinstance(setting, Mapping) and setting.get("kind") == "log_uniform"
