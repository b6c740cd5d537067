"""The figures made of measurements: distances, novelty, similarity, mixtures.

Conventions are those of Zeng et al. 2025 (arXiv 2506.07998), without their accidents: histogram edges are evenly spaced
from the smallest to the largest value, so that none falls out, and every random choice is seeded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxweights import auditing
from jaxweights.auditing import front
from jaxweights.report import style
from jaxweights.report.style import Series
from jaxweights.tasks import Terms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 15
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
        kinds.insert(0, ("aligned_min_l2", "modulo symmetries"))
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
    style.legend(figure, *axes[0, 0].get_legend_handles_labels())
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
    entries = list(handles.values()), list(handles)
    style.legend(figure, *entries, below=True, markerscale=1.3, handletextpad=0.2)
    return figure


def accuracy_novelty(
    series: Sequence[Series],
    examples: int,
    seed: int,
    limit: float,
    terms: Terms | None = None,
    baselines: Mapping[str, Any] | None = None,
) -> Figure:
    """Accuracy against error similarity and against distance, at most 100 networks per series drawn with the seed.

    Accuracies are moved by up to a third of one test example, so that equal ones do not hide each other.

    Args:
      series: all of them.
      examples: test examples that an accuracy is a share of.
      seed: random seed that chooses the networks shown.
      limit: maximum error IoU that 5 % of the held-out runs exceed.
      terms: words of the task; those of classification by default.
      baselines: what baselines reach, `baselines` of `metrics.json`, for their front.
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
        if baselines is not None:
            _front(line[1], series, baselines)
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
    handles, labels = (list(found) for found in axes[0, 1].get_legend_handles_labels())
    style.legend(figure, handles, labels, below=True, markerscale=1.3, handletextpad=0.4)
    return figure


def _front(axes, series: Sequence[Series], baselines: Mapping[str, Any]) -> None:
    """What baselines reach at every distance, and the means of the learned generators, each with its distance to it.

    The novelty of a network is its distance in units of tau, at most 1, so that means lie left of tau.
    """
    tau = baselines["tau_run"]
    points = np.array([(p["novelty"], p["accuracy"]) for p in baselines["points"].values()])

    def reached(novelty: np.ndarray) -> np.ndarray:
        return front.front(np.broadcast_to(points[:, None, :], (len(points), len(novelty), 2)), novelty)

    grid = np.linspace(0.0, points[:, 0].max(), 200)
    axes.plot(grid * tau, reached(grid), color="#2b2b2b", linewidth=1.5, zorder=5, label="front of the baselines")
    for s in (s for s in series if s.role == style.LEARNED):
        mean = front.Points.of(s.measured, tau)
        x, y = float(mean.novelty.mean()), float(mean.accuracy.mean())
        axes.plot([x * tau] * 2, [y, reached(np.array([x]))[0]], color=s.colour, linewidth=1.3, zorder=5)
        axes.scatter(x * tau, y, s=260, color=s.colour, marker=s.marker, edgecolors="white", linewidths=1.6, zorder=6)


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
