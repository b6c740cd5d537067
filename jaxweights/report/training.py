"""How generators and networks were trained: loss curves, and the zoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxweights import auditing
from jaxweights.population import COLUMNS, HYPER, Population
from jaxweights.report import style
from jaxweights.report.figures import percent_of_networks
from jaxweights.report.style import Series
from jaxweights.tasks import Terms

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    style.legend(figure, *grid[0, 0].get_legend_handles_labels())
    return figure


def _log_scale(axes, which: str, values: np.ndarray) -> None:
    """A logarithmic axis with plain numbers, also between the powers of ten where it spans few of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator, ScalarFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    ratio = values.max() / values.min()
    axis.set_major_locator(MaxNLocator(6) if ratio < 5 else LogLocator(10, subs=(1, 3) if ratio < 300 else (1,)))
    axis.set_minor_locator(NullLocator() if ratio < 5 else LogLocator(10, subs=range(1, 10)))
    # Both without a common factor; ticks between powers of ten with equally many decimals.
    plain = ScalarFormatter(useOffset=False)
    plain.set_scientific(False)
    axis.set_major_formatter(plain if ratio < 5 else FuncFormatter(lambda x, _: f"{x:g}"))
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
