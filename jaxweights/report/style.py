"""Common parts of all figures: series, their colours and markers, drawing and saving.

Figures are made through matplotlib's object-oriented API inside `drawing()`, independent of pyplot and of the user's
own style, and are saved without dates and with a fixed salt, so that the same input gives the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights import auditing, files
from jaxweights.auditing import Measured
from jaxweights.errors import UserError
from jaxweights.population import Population
from jaxweights.report import measures

LEARNED, BASELINE, CONTROL = "learned", "baseline", "control"  # roles besides auditing.TRAINING and auditing.HELDOUT
DPI = 160  # twice the pixels that a page column of 700 shows
PIXELS_PER_INCH = 110  # of a figure on the page, whose column is as wide as the widest figure
LEAST_PIXELS = 576  # of a wider figure on a narrow screen, where it scrolls
_PHONE_PIXELS = 324  # of a figure that a screen of 390 pixels shows at once
_LETTERS = 32  # of a series' name on figures
MAX_POINTS = 100  # points per series in a scatter, as in Zeng et al. 2025
_MAX_SUBJECTS = 3  # generators, or ways of sampling from one, with figures of their own

# Training blue, generator red and the two noise amplitudes as in the figures of Zeng et al. 2025; the others from the
# colour-blind-safe palette of Okabe and Ito. Every series has a marker of its own as well.
_FIXED = {
    auditing.TRAINING: ("#1f77b4", "o"),
    auditing.HELDOUT: ("#2b2b2b", "o"),
    "noise_low": ("#493d8c", "v"),
    "noise_high": ("#ff7f0e", "^"),
    "average": ("#009e73", "s"),
    "gaussian": ("#56b4e9", "D"),
    "pca_gaussian": ("#b8860b", "P"),
    "interpolation": ("#cc79a7", "p"),
}
_LEARNED = (("#d62728", "*"), ("#a0158c", "X"), ("#ff5fa2", "h"), ("#7a1f1f", "d"), ("#e8a200", ">"), ("#0b7a75", "<"))
_BASELINES = (
    ("#8c564b", "<"),
    ("#7a7a00", ">"),
    ("#17a2b8", "8"),
    ("#b35c8e", "H"),
    ("#c49a6c", "d"),
    ("#5b6f95", "P"),
)
_CONTROLS = (("#6b6b6b", "x"), ("#6b6b6b", "+"), ("#6b6b6b", "1"), ("#6b6b6b", "2"))

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "axes.labelcolor": "#222222",
    "text.color": "#222222",
    "text.parse_math": False,  # names of series are no formulas
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.direction": "in",
    "ytick.direction": "in",
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "jaxweights",
    "svg.fonttype": "path",
}


@dataclasses.dataclass(frozen=True)
class Series:
    """One series of networks, ready to be drawn.

    Attributes:
      name: its key in `metrics.json`.
      label: its name on figures.
      role: "training", "heldout", "learned", "baseline" or "control".
      colour, marker: colour and marker on all figures.
      measured: its per-network measurements.
      kind: generator's kind, a key of `generators.GENERATORS`; empty for other series.
    """

    name: str
    label: str
    role: str
    colour: str
    marker: str
    measured: Measured
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure on the page.

    Attributes:
      path: its PNG file.
      title: heading.
      caption: description; HTML.
    """

    path: pathlib.Path
    title: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page without a figure.

    Attributes:
      identity: its anchor, unique on the page.
      title: heading.
      content: HTML.
    """

    identity: str
    title: str
    content: str


_POINT = {"generator": str, "stage": str, "step": int, "loss": (int, float)}  # keys and types in `metrics.jsonl`
_LABELS = {
    auditing.HELDOUT: "held-out",
    auditing.HELDOUT_CONTROL: "held-out half",
    "fit_iou": "IoU of the fit",
    "fit_psnr": "PSNR of the fit (dB)",
    "fit_loss": "loss of the fit",
}


def label(name: str) -> str:
    """The name of a series or a column in words."""
    return _LABELS.get(name, name.replace("_", " "))


def short(text: str, letters: int = _LETTERS) -> str:
    """At most as many letters as figures have room for, without the middle of longer texts."""
    return text if len(text) <= letters else f"{text[: letters // 2]}\u2026{text[1 - letters // 2 :]}"


def network(train: Population, row: int) -> str:
    """A training network in words: its run, and its step where the training networks have several steps."""
    run, step = train.records["run"][row], train.records["step"]
    return f"run {run}, step {step[row]}" if step.min() < step.max() else f"run {run}"


def roles(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The role of every series of `metrics.json`, in its order; what is neither control nor baseline is "learned".

    Networks from a file count as learned, since a generator made them elsewhere.
    """
    return {
        name: LEARNED if entry["role"] == "generator" else entry["role"] for name, entry in metrics["series"].items()
    }


def collect(workdir: pathlib.Path, metrics: Mapping[str, Any]) -> list[Series]:
    """Reads the measurements of every series: training, held-out, learned generators, baselines, controls.

    Args:
      workdir: folder with `audit/<name>.npz`.
      metrics: result of the audit.

    Raises:
      UserError: a series has no measurements, or they are damaged.
    """
    measured = {}
    for name in metrics["series"]:
        if name == auditing.HELDOUT_CONTROL:  # half of the held-out runs, which are there already
            continue
        measured[name] = auditing.load(workdir / "audit" / f"{name}.npz", measures.count(metrics["series"][name]))
    return arrange(metrics, measured)


def arrange(metrics: Mapping[str, Any], measured: Mapping[str, Measured]) -> list[Series]:
    """Gives every series its place, colour and marker: training, held-out, learned generators, baselines, controls.

    Args:
      metrics: what the audit returned.
      measured: measurements by series.
    """
    order = (auditing.TRAINING, auditing.HELDOUT, LEARNED, BASELINE, CONTROL)
    found = sorted(roles(metrics).items(), key=lambda item: order.index(item[1]))
    styles = {LEARNED: _looks(_LEARNED), BASELINE: _looks(_BASELINES), CONTROL: _looks(_CONTROLS)}
    series = []
    for name, role in found:
        if name in measured:
            colour, marker = _FIXED[name] if name in _FIXED else next(styles[role])
            kind = metrics["series"][name].get("kind", "")
            series.append(Series(name, short(label(name)), role, colour, marker, measured[name], kind))
    return series


def subjects(series: Sequence[Series]) -> list[Series]:
    """The first learned generators, or if there are none, the first baseline or control."""
    learned = [s for s in series if s.role == LEARNED][:_MAX_SUBJECTS]
    return learned or [s for s in series if s.role in (BASELINE, CONTROL)][:1]


def learned_colours() -> Iterator[tuple[str, str]]:
    """Colours and markers for networks of learned generators, endlessly; the first is the red of Zeng et al. 2025."""
    return _looks(_LEARNED)


def noise_colours() -> Iterator[tuple[str, str]]:
    """Colours and markers for noised networks in the order of their amplitude, endlessly."""
    return _looks((_FIXED["noise_low"], _FIXED["noise_high"], *_BASELINES))


def _looks(pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Colours and markers: the pairs, then the same colours with other markers, endlessly; none returns before all
    colours had all markers."""
    for number in itertools.count():
        turn, place = divmod(number, len(pairs))
        yield pairs[place][0], pairs[(place + turn) % len(pairs)][1]


def read_curves(path: pathlib.Path) -> dict[tuple[str, str], dict[int, float]]:
    """Loss by step of every (generator, stage) in `metrics.jsonl`, in order of appearance; a step's last row wins.

    Raises:
      UserError: a line is no point of a loss curve.
    """
    curves: dict[tuple[str, str], dict[int, float]] = {}
    if not path.exists():
        return curves
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:  # a killed run may leave one torn line; training that resumes writes its points again
            continue
        if not isinstance(row, dict) or not all(isinstance(row.get(k), kind) for k, kind in _POINT.items()):
            raise UserError(
                f"Line {number} of {path} is no point of a loss curve, which has {', '.join(_POINT)}: {line[:60]}. "
                "Remove the line and run again."
            )
        curves.setdefault((row["generator"], row["stage"]), {})[row["step"]] = row["loss"]
    return {key: dict(sorted(curve.items())) for key, curve in curves.items()}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """The style of all figures, independent of the user's matplotlib settings, which are restored afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def new_figure(width: float, height: float):
    """An empty figure of that size in inches, with automatic layout, drawn by Agg. Notebooks show it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _figure_class()(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@functools.cache
def _figure_class():
    """A figure that notebooks show although no interactive backend knows it; matplotlib is slow to import."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            with drawing():
                self.savefig(buffer, format="png", dpi=DPI)
            return buffer.getvalue()

    return NotebookFigure


def save(figure, folder: pathlib.Path, name: str) -> pathlib.Path:
    """Writes `<name>.png` and `<name>.svg`, each either whole or absent, and returns the path of the PNG."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # "none" would leave an empty one, for which every format draws twice
    for axes in figure.axes:
        # The layout's solver differs from call to call in the last bits, and an SVG file shows all of them.
        axes.set_position(np.round(axes.get_position(original=True).bounds, 6))
    for suffix, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        with files.atomic(folder / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, format=suffix, dpi=DPI, metadata=metadata)
    return folder / f"{name}.png"


def legend(figure, handles: Sequence[Any], labels: Sequence[str], *, below: bool = False, **options: Any) -> None:
    """A legend at the left above or below all panels, in as many columns as a phone shows without scrolling.

    Args:
      figure: matplotlib figure.
      handles, labels: its entries.
      below: whether it is below the panels.
      **options: further arguments of `Figure.legend`.
    """
    inches = figure.get_figwidth()
    room = figure.bbox.width * min(1.0, _PHONE_PIXELS / min(LEAST_PIXELS, PIXELS_PER_INCH * inches))
    place = "outside lower left" if below else "outside upper left"
    for rows in range(1, len(labels) + 1):
        columns = -(-len(labels) // rows)
        drawn = figure.legend(handles, labels, loc=place, ncols=columns, **options)
        if columns == 1 or drawn.get_window_extent(figure.canvas.get_renderer()).width <= room:
            break
        drawn.remove()


def alike(values: np.ndarray) -> list[str]:
    """Values as text with equally many decimals: three digits of the largest one."""
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    decimals = int(np.clip(2 - np.floor(np.log10(largest)), 0, 6)) if largest > 0 else 0
    return [f"{value:.{decimals}f}" for value in values]


def scatter(axes, s: Series, x: Any, y: Any, scale: float = 1.0, order: float | None = None) -> None:
    """Draws the networks of a series as n points, with its marker, colour and legend label.

    Args:
      axes: matplotlib axes.
      s: the series.
      x, y: `[n]` coordinates.
      scale: factor of the markers' areas.
      order: what is drawn later lies above; by default that of the role.
    """
    lines = s.marker in "x+12"
    edge = {"linewidths": 1.0} if lines else {"edgecolors": "black", "linewidths": 0.2}
    size = {"*": 70, "P": 42, "p": 42, "X": 42, "h": 42}.get(s.marker, 32)
    usual = {auditing.TRAINING: 2, auditing.HELDOUT: 3, BASELINE: 2.5, CONTROL: 3.5, LEARNED: 4}[s.role]
    axes.scatter(
        x,
        y,
        s=scale * size,
        color=s.colour,
        marker=s.marker,
        alpha=0.7,
        zorder=usual if order is None else order,
        label=s.label,
        rasterized=True,
        **edge,
    )


def percent(axis) -> None:
    """Shows the ticks of an axis of fractions as percentages, all with equally many decimals."""
    axis.set_major_formatter(_percent_formatter()())


@functools.cache
def _percent_formatter():
    from matplotlib.ticker import ScalarFormatter

    class Percent(ScalarFormatter):
        def __init__(self):
            super().__init__(useOffset=False)
            self.set_scientific(False)

        def set_locs(self, locs):
            super().set_locs([100 * x for x in locs])

        def __call__(self, x, pos=None):
            return super().__call__(100 * x, pos)

    return Percent
