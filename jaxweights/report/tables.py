"""The numbers of `metrics.json` as tables: HTML for the page, plain text for the terminal."""

from __future__ import annotations

import dataclasses
import html
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxweights import auditing, provenance, tasks
from jaxweights.auditing import THRESHOLDS
from jaxweights.report import style
from jaxweights.tasks import Terms

TEXT_WIDTH = 110
_MOST_DECIMALS = 5  # more of them are written with an exponent


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number per series.

    Attributes:
      path: keys from the series' entry in `metrics.json`.
      title: column head, in which {names in braces} are the task's terms.
      scale: factor for display, 100 for shares.
      digits: decimals; None for as many as the interval justifies.
    """

    path: tuple[str, ...]
    title: str
    scale: float = 1.0
    digits: int | None = None

    def head(self, terms: Terms) -> str:
        """The title in the words of a task."""
        return self.title.format(**dataclasses.asdict(terms))

    def decimals(self, found: Estimate) -> int:
        """Decimals of an estimate and its interval: down to the first digit of half the interval's width.

        Without an interval, or with one of no width, three significant digits of the value.
        """
        if self.digits is not None:
            return self.digits
        size = self.scale * found.half_width or abs(self.scale * found.value) / 100
        return max(-math.floor(math.log10(size)), 0) if size else 0

    def number(self, value: float, decimals: int) -> str:
        """A value as it is displayed."""
        shown = self.scale * value
        if decimals > _MOST_DECIMALS:
            return f"{shown:.2g}"
        text = f"{shown:.{decimals}f}"
        return text.lstrip("-") if float(text) == 0 else text

    def find(self, entry: Mapping[str, Any]) -> Estimate | None:
        """The measure's estimate in a series' entry, or None where it was not measured."""
        node: Any = entry
        for key in self.path:
            node = node.get(key) if isinstance(node, Mapping) else None
        return Estimate.of(node)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval (None where there is none) and the n that it was computed from."""

    value: float
    low: float | None
    high: float | None
    n: int | None

    @property
    def half_width(self) -> float:
        """Half of the interval's width; 0 without one."""
        return 0.0 if self.low is None or self.high is None else 0.5 * (self.high - self.low)

    @classmethod
    def of(cls, node: Any) -> Estimate | None:
        """Reads `{"mean" or "value", "ci95", "n"}`; None for anything else."""
        if not isinstance(node, Mapping) or node.get("mean", node.get("value")) is None:
            return None
        low, high = node.get("ci95") or (None, None)
        return cls(node.get("mean", node.get("value")), low, high, node.get("n"))


MAIN = (
    Measure(("accuracy",), "{column}", 100),
    Measure(("min_l2",), "min L2"),
    Measure(("aligned_min_l2",), "aligned min L2"),
    Measure(("max_error_iou",), "max {overlap}"),
    Measure(("tests", "z_u"), "Z_U", 1, 1),
    Measure(("tests", "auth_pct"), "AuthPct (%)", 1, 1),
    Measure(("tests", "memorised_share"), "memorised (%)", 100, 1),
    Measure(("tests", "copied_share"), "copied (%)", 100, 1),
    Measure(("tests", "interpolated_share"), "interpolated (%)", 100, 1),
)
MORE = (
    Measure(("loss",), "loss"),
    Measure(("hull_residual",), "distance to mixtures"),
    Measure(("hull_residual_relative", "to_nearest"), "mixtures over nearest"),
    Measure(("hull_residual_relative", "to_heldout"), "mixtures over held-out's"),
    Measure(("lineage", "same_run_l2"), "min L2, own run"),
    Measure(("lineage", "other_run_l2"), "min L2, other runs"),
    Measure(("tests", "closer_than_heldout"), "closer than any held-out (%)", 100, 1),
    Measure(("tests", "iou_above_heldout"), "{overlap} above held-out (%)", 100, 1),
)
RAW = (
    Measure(("tests", "raw", "z_u"), "Z_U", 1, 1),
    Measure(("tests", "raw", "auth_pct"), "AuthPct (%)", 1, 1),
    Measure(("tests", "raw", "memorised_share"), "memorised (%)", 100, 1),
    Measure(("tests", "raw", "closer_than_heldout"), "closer than any held-out (%)", 100, 1),
)

# Head, measure, and whether with its interval, for the plain-text table.
_TEXT = (
    ("{quality} %", MAIN[0], True),
    ("min L2", MAIN[1], True),
    ("aligned L2", MAIN[2], True),
    ("{overlap}", dataclasses.replace(MAIN[3], digits=2), True),
    ("Z_U", MAIN[4], True),
    ("Auth %", dataclasses.replace(MAIN[5], digits=0), True),
    ("mem. %", dataclasses.replace(MAIN[6], digits=0), False),
    ("copy %", dataclasses.replace(MAIN[7], digits=0), False),
    ("mix %", dataclasses.replace(MAIN[8], digits=0), False),
)


def terms_of(metrics: Mapping[str, Any]) -> Terms:
    """The words of the task that an audit's metrics name."""
    return tasks.get(metrics.get("task", tasks.DEFAULT)).terms


def label_of(entry: Mapping[str, Any]) -> str:
    """The verdict on a series, or nothing for those that are not judged."""
    return entry.get("verdict", {}).get("label", "")


# -- plain text ------------------------------------------------------------------------------------------------------


def summary(metrics: Mapping[str, Any]) -> str:
    """The main results as a table of at most 110 columns, in ASCII.

    Args:
      metrics: what `Experiment.audit` returned.

    Returns:
      Lines without a final line break: one row per series (half the width of the 95 % interval after "+-"), the state
      of the controls, and the verdict on every generator.
    """
    entries, words = metrics["series"], dataclasses.asdict(terms_of(metrics))
    rows = [["series", "n", *(head.format(**words) for head, _, _ in _TEXT), "verdict"]]
    for name, entry in entries.items():
        cells = [_short(measure, interval, entry) for _, measure, interval in _TEXT]
        rows.append([style.label(name), str(entry["min_l2"]["n"]), *cells, label_of(entry)])
    used = [i for i in range(len(rows[0])) if any(row[i] not in ("", "-") for row in rows[1:])]
    rows = [[row[i] for i in used] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(used))]
    widths[0] = max(6, min(widths[0], TEXT_WIDTH - sum(widths[1:]) - len(widths) + 1))
    lines = [line for row in rows for line in _lines(row, widths)]
    lines.insert(1, "-" * (sum(widths) + len(widths) - 1))
    lines += ["", _wrap(controls_text(metrics["checks"]))]
    lines += [
        _wrap(f"{style.label(name)} {entry['verdict']['label'].upper()}: {entry['verdict']['text']}")
        for name, entry in entries.items()
        if entry["role"] in ("generator", "baseline")
    ]
    return "\n".join(lines)


def _short(measure: Measure, interval: bool, entry: Mapping[str, Any]) -> str:
    found = measure.find(entry)
    if found is None:
        return "-"
    decimals = measure.decimals(found)
    half = f"+-{measure.number(found.half_width, decimals)}" if interval and found.low is not None else ""
    return measure.number(found.value, decimals) + half


def _lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """A row of the table; a name that is too long for its column has a line of its own."""
    long = len(row[0]) > widths[0]
    cells = ["" if long else row[0], *row[1:]]
    justified = [
        c.rjust(w) if 0 < i < len(widths) - 1 else c.ljust(w)
        for i, (c, w) in enumerate(zip(cells, widths, strict=True))
    ]
    return ([row[0][:TEXT_WIDTH]] if long else []) + [" ".join(justified).rstrip()]


def _wrap(text: str) -> str:
    return textwrap.fill(text, TEXT_WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def controls_text(checks: Mapping[str, Any]) -> str:
    """Whether the audit can be believed, in a sentence."""
    if checks["controls_passed"]:
        return (
            "Controls pass: copies of training networks are flagged, also with noise and with their hidden units, if "
            "they have any, in another order; held-out runs judged against other held-out runs are not."
        )
    failed = [
        "held-out runs are flagged as copies" if n == auditing.HELDOUT_CONTROL else f"{style.label(n)} is not flagged"
        for n in checks["failed_controls"]
    ]
    return f"CONTROLS FAIL, do not rely on the verdicts: {'; '.join(failed)}."


# -- HTML ------------------------------------------------------------------------------------------------------------


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """An HTML table of ready-made cells in a box that scrolls sideways; the first column stays."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "\n".join(
        "<tr>" + f'<th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    content = f"<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="scroll"><table class="{kind}">\n{content}</table></div>'


def badge(text: str) -> str:
    """A verdict's label as a coloured badge."""
    return f'<span class="badge {html.escape(text)}">{html.escape(text)}</span>' if text else ""


def cell(measure: Measure, entry: Mapping[str, Any], n: int | None) -> str:
    """A number over its interval, and its n where that is not the row's."""
    found = measure.find(entry)
    if found is None:
        return '<span class="none">&ndash;</span>'
    small = [] if found.n == n else [f"n&nbsp;=&nbsp;{found.n:,}"]
    decimals = measure.decimals(found)
    if found.low is not None and found.high is not None:
        small.insert(0, f"[{measure.number(found.low, decimals)}, {measure.number(found.high, decimals)}]")
    return f"<b>{measure.number(found.value, decimals)}</b><small>{'<br>'.join(small)}</small>"


def series_table(
    metrics: Mapping[str, Any], roles: Mapping[str, str], measures: Sequence[Measure], judged: bool
) -> str:
    """Series against measures; columns and rows without any number are left out.

    Args:
      metrics: of the audit.
      roles: of every series.
      measures: columns.
      judged: whether there is a column of verdicts.
    """
    entries, terms = metrics["series"], terms_of(metrics)
    measures = [m for m in measures if any(m.find(e) for e in entries.values())]
    rows = []
    for name, entry in entries.items():
        if not any(m.find(entry) for m in measures):
            continue
        n = entry["min_l2"]["n"]
        first = (
            f'{html.escape(style.label(name))}<small class="role">{role_text(roles[name])}, n&nbsp;=&nbsp;{n:,}</small>'
        )
        verdict_cell = [badge(label_of(entry))] if judged else []
        rows.append([first, *verdict_cell, *(cell(m, entry, n) for m in measures)])
    return grid(["series", *(["verdict"] if judged else []), *(m.head(terms) for m in measures)], rows, "numbers")


def role_text(role: str) -> str:
    """What a series is for."""
    return {
        auditing.TRAINING: "seen",
        auditing.HELDOUT: "unseen, the null",
        style.LEARNED: "generator",
        style.BASELINE: "baseline",
        style.CONTROL: "control",
    }[role]


def numbers_in(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Estimate]]:
    """Every number under a node of `metrics.json` with its dotted path; an estimate counts as one number."""
    found = Estimate.of(node)
    if found is not None:
        yield ".".join(path), found
        node = {k: v for k, v in node.items() if k not in ("mean", "value", "ci95", "n")}
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from numbers_in(value, (*path, str(key)))
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield ".".join(path), Estimate(node, None, None, None)


def every_number(metrics: Mapping[str, Any]) -> str:
    """All numbers under `series` and `studies` at six digits, in one long table."""

    def plain(value):
        return "" if value is None else f"{value:.6g}"

    rows = [
        [html.escape(path), plain(e.value), plain(e.low), plain(e.high), "" if e.n is None else str(e.n)]
        for part in ("series", "studies")
        for path, e in numbers_in(metrics.get(part), (part,))
    ]
    return grid(["path in metrics.json", "value", "95 % from", "to", "n"], rows, "plain")


def facts(items: Mapping[str, Any]) -> str:
    """A two-column table of a nested mapping, by dotted keys."""
    rows = []
    for key, value in provenance.flat_config(items).items():
        if isinstance(value, list):
            value = ", ".join(map(str, value)) or "none"
        elif isinstance(value, int) and not isinstance(value, bool):
            value = f"{value:,}"
        rows.append([html.escape(key), html.escape(str(value))])
    return grid(["", ""], rows, "facts")


def timing(seconds: Mapping[str, float]) -> str:
    """Seconds per stage and in all."""
    rows = [[html.escape(k), f"{v:.1f}"] for k, v in seconds.items()]
    return grid(["stage", "seconds"], [*rows, ["all", f"{sum(seconds.values()):.1f}"]], "plain")


def explanations(aligned: bool, terms: Terms) -> list[tuple[str, str]]:
    """Name and meaning of every measure, with its source; HTML."""
    meehan = _paper("Meehan et al. 2020", "2004.05675")
    zeng = _paper("Zeng et al. 2025", "2506.07998")
    which = "modulo permutations of hidden units" if aligned else "between raw weight vectors"
    entries = [
        (
            "verdict",
            f"<b>Remembers</b> or <b>interpolates</b>: more than {100 * THRESHOLDS.share:g}&nbsp;% of the networks "
            "are copies or mixtures of training networks, whichever are more frequent; also remembers: they lie "
            "closer to the training networks than held-out runs, though nothing explains them one by one, "
            f"or most {terms.act_like} training networks more closely than 95&nbsp;% of held-out runs. "
            f"<b>Degrades</b>: neither, but its mean {terms.measure} misses the "
            f"{100 * THRESHOLDS.accuracy_quantile:g}th "
            "percentile of "
            "held-out runs. <b>Invents</b>: otherwise.",
        ),
        (
            "min L2",
            f"Euclidean distance from a network's weights to the nearest training network ({zeng}). For training "
            "networks, to the nearest one of another run; where all are checkpoints of one run, to the nearest other "
            "one, which is a few steps away and so near that everything looks new beside it. Small compared with "
            "held-out runs: the network stays near what the generator has seen.",
        ),
        (
            f"max {terms.overlap}",
            f"{_sentence(terms.overlap_meaning)} (intersection over union), with the most similar training network "
            f"({zeng}). 1 means {terms.alike}. Held-out runs show what independent training reaches. Training networks "
            "leave out their own run, or only themselves where there is no other; then they come near 1, for "
            f"neighbouring checkpoints have {terms.alike}.",
        ),
        (
            "Z_U",
            f"Mann&ndash;Whitney statistic of the distances {which}, of generated against held-out networks "
            f"({meehan}). 0: as far from the training networks as held-out runs; below {THRESHOLDS.z_u:g}: too "
            "close, data-copying; above 0: farther away, for instance because the networks are worse.",
        ),
        (
            "AuthPct",
            "Share of networks that are farther from their nearest training network than that one is from its own "
            f"nearest ({_paper('Alaa et al. 2022', '2102.08921')}). Held-out runs lie near the value of the held-out "
            "half; copies at 0. Where the training networks are checkpoints of one run, it asks whether a network is "
            "farther from a checkpoint than a few training steps: no then means a copy, but yes means nothing.",
        ),
        (
            "memorised",
            "Share of networks whose nearest training network is less than a third as far as the next one of another "
            f"run (Yoon et al. 2023; {_paper('Gu et al. 2023', '2310.02664')}): copies up to small changes. Not "
            "defined where the generators saw a single run.",
        ),
        (
            "copied",
            "Instead of it for a single training run: share of networks that are less than a third as far from their "
            "nearest checkpoint as that one is from the rest of the run. Copies within a third of a step; none of "
            "them proves nothing.",
        ),
        (
            "interpolated",
            "Share of networks that are no copies, but that a weighted mixture of training networks explains: the "
            "distance to the best mixture is below half of the median of held-out runs and, for a single training "
            "run, also below half of the distance to the nearest checkpoint. An interpolation is no invention, however "
            "far it is from each single network.",
        ),
        (
            f"{terms.measure}, loss",
            terms.explanation,
        ),
        (
            "distance to mixtures",
            "Distance to the best convex combination of the nearest, or of all, training networks (the config's "
            "<code>audit.hull_neighbours</code>, 0 for all).",
        ),
        (
            "mixtures over nearest, over held-out's",
            "The distance to mixtures relative to the distance to the nearest training network, mean over networks: 0 "
            "if mixtures explain a network entirely, 1 if they explain nothing that the nearest one does not; and its "
            "median relative to that of held-out runs: near 1 if mixtures explain no more of these networks than of "
            "newly trained ones. The second is missing where mixtures reach held-out runs too.",
        ),
        (
            "min L2, own run and other runs",
            "The raw distance to the nearest other checkpoint of a network's own run, which is no evidence of "
            "anything but of the spacing of checkpoints, and to the nearest training network of any other run. "
            "Samples made from one training network count to its run, other samples to none; the own run of held-out "
            "networks is their own, unseen one.",
        ),
        (
            "closer than any held-out",
            "Share of networks that are closer to the training networks than every held-out run.",
        ),
        (
            f"{terms.overlap} above held-out",
            f"Share of networks whose max {terms.overlap} exceeds what 95 % of held-out runs reach; 5 % is what "
            "chance gives.",
        ),
        (
            "95 % interval",
            "Bootstrap over networks for means, Z_U and AuthPct; for other shares the interval of a binomial share. "
            "n is the number of networks.",
        ),
    ]
    if aligned:
        entries.insert(
            2,
            (
                "aligned min L2",
                "The same after the best reordering of hidden units (exact assignment, as for G.pt in the same "
                "paper): reordering changes the weights but not the function, so a reordered copy is still a copy.",
            ),
        )
    return entries


def _sentence(text: str) -> str:
    """The text with a capital letter."""
    return text[:1].upper() + text[1:]


def _paper(name: str, arxiv: str) -> str:
    return f'<a href="https://arxiv.org/abs/{arxiv}">{name}</a>'
