"""The calibration strip: where every series falls between copies and new runs, test by test.

Every test has a line of its own, on which 0 is the value of copies of training networks (or of what the test is there
to find) and 1 that of held-out runs, so that tests of all units can be read side by side. A test whose values for these
two do not differ by more than their intervals tells nothing apart in this audit and is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxweights import auditing
from jaxweights.report import style
from jaxweights.report.measures import BATTERY, FUNCTION, MAIN, MORE, Estimate, Measure
from jaxweights.report.style import Series
from jaxweights.tasks import Terms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COPIES, _LINEAR = ("copy",), ("pca_gaussian",)
_MIXED = ("interpolation", "average", "aligned_interpolation", "soup")
_LEAST, _MOST = -0.25, 1.75  # positions beyond are drawn as arrows at the ends
_ROW, _HEAD = 0.36, 0.34  # inches of a test, at least, and of the name of a group
_LANE, _MARGIN = 0.09, 0.18  # inches of a generator in a test, and of baselines and of the gap to the next test
_VALUES, _LETTER = 86, 4.2  # points from the names of the tests to the lines, at least, and of a letter of values


@dataclasses.dataclass(frozen=True)
class Test:
    """A line of the strip.

    Attributes:
      group: heading that it is below.
      measure: where its value is.
      found: names (or else kinds) of series that it is there to find; the one farthest from new runs is at 0.
    """

    group: str
    measure: Measure
    found: tuple[str, ...] = _COPIES


def _tests() -> tuple[Test, ...]:
    """All lines, in their order."""
    by_path = {m.path: m for m in (*MAIN, *MORE, *FUNCTION, *BATTERY)}

    def lines(group: str, *paths: tuple[str, ...], found: tuple[str, ...] = _COPIES) -> list[Test]:
        return [Test(group, by_path[path], found) for path in paths]

    distances = [("tests", name) for name in ("novelty", "z_u", "auth_pct", "memorised_share", "copied_share")]
    shares = [("battery", name) for name in ("c_t", "calibrated_distance_share", "nn_ratio_share")]
    outputs = [("tests", "function", "novelty"), ("tests", "function", "memorised_share")]
    outputs += [("function", name) for name in ("function_max", "nearest_disagreement")]
    population = [("battery", name) for name in ("density", "coverage", "mmd", "c2st", "one_nna")]
    within = [("battery", "vendi"), ("function", "disagreement"), ("function", "ensemble_gain")]
    return (
        *lines("distance to training networks", *distances, *shares),
        *lines("mixtures of training networks", ("tests", "interpolated_share"), found=_MIXED),
        *lines("mixtures of training networks", ("hull_residual_relative", "to_heldout"), found=_MIXED),
        *lines("mixtures of training networks", ("tests", "affine_share"), found=_LINEAR),
        *lines("what networks compute", *outputs, ("max_error_iou",), ("tests", "iou_above_heldout")),
        *lines("the series as a population", *population),
        *lines("diversity", *within, found=_MIXED),
    )


TESTS = _tests()


@dataclasses.dataclass(frozen=True)
class Line:
    """A test that tells apart what it is there to find.

    Attributes:
      test: the test.
      anchor: what is at 0.
      low, high: the values at 0 and at 1.
      band: the interval of held-out runs in these units.
    """

    test: Test
    anchor: str
    low: float
    high: float
    band: tuple[float, float]

    def place(self, value: float) -> float:
        """A value in units of the line."""
        return (value - self.low) / (self.high - self.low)


def lines(metrics: Mapping[str, Any]) -> tuple[list[Line], list[Test]]:
    """The lines of an audit, and the tests that tell nothing apart in it; those that were not made are in neither."""
    entries = metrics["series"]
    found, blind = [], []
    for test in TESTS:
        null = of_heldout(test.measure, entries)
        anchor = None if null is None else _anchor(test, entries, null.value)
        if null is None or anchor is None:
            continue
        name, low = anchor
        if abs(null.value - low.value) <= null.half_width + low.half_width:
            blind.append(test)
            continue
        line = Line(test, name, low.value, null.value, (0.0, 0.0))
        ends = [line.place(x) for x in (null.low, null.high) if x is not None] or [1.0]
        found.append(dataclasses.replace(line, band=(min(ends), max(ends))))
    return found, blind


def of_heldout(measure: Measure, entries: Mapping[str, Any]) -> Estimate | None:
    """The held-out runs' own value: as a series, or of one half of them judged against the other."""
    own = (entries.get(name) for name in (auditing.HELDOUT, auditing.HELDOUT_CONTROL))
    return next((e for e in (measure.find(entry) for entry in own if entry) if e is not None), None)


def _anchor(test: Test, entries: Mapping[str, Any], null: float) -> tuple[str, Estimate] | None:
    """The series that the test is there to find and that it sets apart most, with its value."""
    others = {name: entry for name, entry in entries.items() if entry["role"] != "generator"}
    named = [name for name in others if name in test.found]
    chosen = named or [name for name, entry in others.items() if entry.get("kind") in test.found]
    known = [(name, found) for name in chosen if (found := test.measure.find(others[name])) is not None]
    return max(known, key=lambda one: abs(one[1].value - null), default=None)


def draw(metrics: Mapping[str, Any], series: Sequence[Series], terms: Terms | None = None) -> Figure | None:
    """The strip of an audit.

    Args:
      metrics: result of the audit.
      series: its series, for their colours and markers.
      terms: words of the task; those of classification by default.

    Returns:
      The figure, or None where no test tells copies from held-out runs, for instance without controls.
    """
    terms = terms or Terms()
    shown, _ = lines(metrics)
    if not shown:
        return None
    groups = list(dict.fromkeys(line.test.group for line in shown))
    row = max(_ROW, _LANE * sum(s.role == style.LEARNED for s in series) + _MARGIN)
    height = row * len(shown) + _HEAD * len(groups)
    figure = style.new_figure(9.8, height + 1.5)
    axes = figure.subplots()
    place, ticks, labels = 0.0, [], []
    for group in groups:
        place += _HEAD
        ticks.append(place - 0.1)
        labels.append(group)
        for line in (x for x in shown if x.test.group == group):
            place += row
            _line(axes, line, place - row / 2, metrics["series"], series)
            ticks.append(place - row / 2)
            labels.append(line.test.measure.head(terms))
    axes.axvline(0, color="#b3261e", linewidth=1.1, zorder=1)
    axes.axvline(1, color="#2b2b2b", linewidth=1.1, zorder=1)
    axes.set_yticks(ticks, labels)
    for label in (x for x in axes.get_yticklabels() if x.get_text() in groups):
        label.set(fontweight="bold", color="#555555")
    axes.set_xticks([0, 1], ["copies,\nor what is named at the left", "new runs\n(held out)"])
    axes.set(xlim=(_LEAST - 0.03, _MOST + 0.03), ylim=(place + 0.08, 0))
    axes.tick_params(axis="both", length=0)
    longest = max(len(_at_ends(line, metrics["series"])[0]) for line in shown)
    axes.tick_params(axis="y", pad=max(_VALUES, _LETTER * longest))
    axes.spines[["left", "bottom"]].set_visible(False)
    drawn = [s for s in series if s.role not in (auditing.TRAINING, auditing.HELDOUT)]
    _legend(figure, axes, drawn)
    return figure


def _line(axes, line: Line, y: float, entries: Mapping[str, Any], series: Sequence[Series]) -> None:
    """Draws a test: the held-out runs' interval, generators above, baselines and controls below."""
    measure = line.test.measure
    axes.plot([_LEAST, _MOST], [y, y], color="#e3e3e3", linewidth=0.7, zorder=0)
    low, high = (_within(x) for x in line.band)
    axes.fill_between([low, high], y - 0.13, y + 0.13, color="#2b2b2b", alpha=0.13, linewidth=0, zorder=0)
    for x, text, side in zip((_LEAST - 0.05, _MOST + 0.05), _at_ends(line, entries), ("right", "left"), strict=True):
        axes.text(x, y, text, ha=side, va="center", fontsize=7.5, color="#777777")
    decimals = _decimals(measure, entries)
    learned = [s for s in series if s.role == style.LEARNED]
    for s in series:
        found = measure.find(entries[s.name]) if s.role not in (auditing.TRAINING, auditing.HELDOUT) else None
        if found is None or s.name == line.anchor:
            continue
        if s.role == style.LEARNED:
            lane = y - 0.02 - _LANE * (learned.index(s) - (len(learned) - 1) / 2)
            _generator(axes, line, found, lane, s)
            if len(learned) == 1:
                text, x = measure.number(found.value, decimals), _within(line.place(found.value))
                side, gap = ("right", -0.028) if x > _MOST - 0.2 else ("left", 0.028)
                axes.text(x + gap, lane - 0.04, text, fontsize=8, color=s.colour, va="bottom", ha=side, weight="bold")
        else:
            _mark(axes, line.place(found.value), y + 0.07, s, 0.42)


def _decimals(measure: Measure, entries: Mapping[str, Any]) -> int:
    return measure.shared([e for e in (measure.find(entry) for entry in entries.values()) if e is not None])


def _at_ends(line: Line, entries: Mapping[str, Any]) -> tuple[str, str]:
    """The values at 0 and at 1 in words."""
    copies, null = (line.test.measure.number(x, _decimals(line.test.measure, entries)) for x in (line.low, line.high))
    of = "" if line.anchor in _COPIES else f"{style.short(style.label(line.anchor))} "
    return of + copies, f"new runs {null}"


def _within(x: float) -> float:
    return min(max(x, _LEAST), _MOST)


def _generator(axes, line: Line, found: Estimate, y: float, s: Series) -> None:
    ends = [line.place(x) for x in (found.low, found.high) if x is not None]
    if ends:
        ends = [_within(x) for x in ends]
        axes.plot(ends, [y, y], color=s.colour, linewidth=2.4, solid_capstyle="butt", alpha=0.6, zorder=4)
    _mark(axes, line.place(found.value), y, s, 1.1)


def _mark(axes, x: float, y: float, s: Series, scale: float) -> None:
    """A series' marker; beyond the ends an arrow."""
    if x < _LEAST or x > _MOST:
        marker = "<" if x < _LEAST else ">"
        s, x = dataclasses.replace(s, marker=marker), _within(x)
    style.scatter(axes, s, [x], [y], scale)


def _legend(figure, axes, drawn: Sequence[Series]) -> None:
    """A legend with every series once, with its own marker."""
    handles = []
    for s in drawn:
        before = len(axes.collections)
        style.scatter(axes, s, [], [])
        handles += axes.collections[before:]
    style.legend(figure, handles, [s.label for s in drawn], below=True, handletextpad=0.2)
