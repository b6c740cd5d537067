"""The numbers of `metrics.json` as HTML tables."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxweights import auditing, provenance, tasks
from jaxweights.report import style
from jaxweights.report.measures import Estimate, Measure, count
from jaxweights.tasks import Terms

_LISTED = 20  # rows of duplicates


def terms_of(metrics: Mapping[str, Any]) -> Terms:
    """The words of the task that an audit's metrics name."""
    return tasks.get(metrics.get("task", tasks.DEFAULT)).terms


def label_of(entry: Mapping[str, Any]) -> str:
    """The verdict on a series, or nothing for those that are not judged."""
    return entry.get("verdict", {}).get("label", "")


def answer_of(entry: Mapping[str, Any]) -> str:
    """Whether a series beats the baselines, "yes", "no", "undecided" or "not evaluated"; nothing where nobody asks."""
    return (entry.get("verdict", {}).get("beats_baselines") or {}).get("answer", "")


def controls_text(checks: Mapping[str, Any]) -> str:
    """Whether the audit can be believed, in a sentence."""
    if checks["controls_passed"]:
        return (
            "Controls pass: copies of training networks are flagged, also with noise and with hidden units in another "
            "order, or rescaled, where that leaves the function as it is; held-out runs judged against other held-out "
            "runs are not."
        )
    failed = [
        "held-out runs are flagged as copies" if n == auditing.HELDOUT_CONTROL else f"{style.label(n)} is not flagged"
        for n in checks["failed_controls"]
    ]
    return (
        f"CONTROLS FAIL, do not rely on the verdicts: {'; '.join(failed)}. Verdicts that rest on these controls are "
        "undecided."
    )


def notes(metrics: Mapping[str, Any]) -> list[str]:
    """What else to know before verdicts are read: duplicates, undefined networks, networks that are held-out ones."""
    found, training = [], metrics.get("training", {})
    if training.get("duplicates"):
        rows = ", ".join(map(str, training["duplicate_rows"][:_LISTED]))
        more = ", ..." if training["duplicates"] > _LISTED else ""
        found.append(
            f"DUPLICATES: {training['duplicates']:,} training networks are others of the training set (rows "
            f"{rows}{more}); the audit leaves them out."
        )
    for name, entry in metrics["series"].items():
        of = f"of {count(entry):,} networks of {style.label(name)}"
        leaks = entry.get("leaks", {"count": 0})
        if leaks["count"]:
            how = " (by their outputs)" if leaks["outputs"] == leaks["count"] else ""
            found.append(f"LEAK: {leaks['count']:,} {of} are held-out ones{how}.")
        undefined = entry.get("undefined", {"count": 0})["count"]
        if undefined:
            found.append(f"UNDEFINED: {undefined:,} {of} have outputs that are not finite.")
    return found


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """An HTML table of ready-made cells in a box that scrolls sideways; the first column stays."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "\n".join(
        "<tr>" + f'<th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    content = f"<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="scroll"><table class="{kind}">\n{content}</table></div>'


def plain(rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of plain text, the first row its head; nothing where there are no rows."""
    escaped = [[html.escape(cell) for cell in row] for row in rows]
    return grid(escaped[0], escaped[1:]) if escaped else ""


def folded(summary: str, content: str) -> str:
    """HTML that is shown on a click."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def badge(text: str) -> str:
    """A verdict's label as a coloured badge."""
    return f'<span class="badge {css_class(text)}">{html.escape(text)}</span>' if text else ""


def css_class(label: str) -> str:
    """The class of a verdict's label in the style sheet."""
    return html.escape(label.replace(" ", "-"))


def answer(text: str) -> str:
    """Whether a series beats the baselines, as a badge."""
    return f'<span class="badge beats-{css_class(text)}">{html.escape(text)}</span>' if text else ""


def cells(measure: Measure, entries: Sequence[Mapping[str, Any]], counts: Sequence[int | None]) -> list[str]:
    """A column of numbers with equally many decimals over their intervals, each with its n where that is not the row's.

    Args:
      measure: the column.
      entries: the series' entries, one per row.
      counts: n of every row.
    """
    found = [measure.find(entry) for entry in entries]
    decimals = measure.shared([e for e in found if e is not None])
    besides = [measure.besides(entry, decimals) for entry in entries]
    return [_cell(measure, e, decimals, n, b) for e, n, b in zip(found, counts, besides, strict=True)]


def _cell(measure: Measure, found: Estimate | None, decimals: int, n: int | None, besides: Sequence[str]) -> str:
    if found is None:
        return '<span class="none">&ndash;</span>'
    small = [*besides, *([] if found.n == n or found.n is None else [f"n&nbsp;=&nbsp;{found.n:,}"])]
    if found.low is not None and found.high is not None:
        small.insert(0, f"[{measure.number(found.low, decimals)}, {measure.number(found.high, decimals)}]")
    return f"<b>{measure.number(found.value, decimals)}</b><small>{'<br>'.join(small)}</small>"


def series_table(
    metrics: Mapping[str, Any], roles: Mapping[str, str], measures: Sequence[Measure], judged: bool
) -> str:
    """Series against measures; columns and rows without any number are left out.

    Args:
      metrics: result of the audit.
      roles: role of every series.
      measures: columns.
      judged: whether there is a column of verdicts.
    """
    terms = terms_of(metrics)
    entries = {name: entry for name, entry in metrics["series"].items() if any(m.find(entry) for m in measures)}
    measures = [m for m in measures if any(m.find(e) for e in entries.values())]
    counts = [count(entry) for entry in entries.values()]
    columns = [cells(m, list(entries.values()), counts) for m in measures]
    rows = []
    for name, n, *numbers in zip(entries, counts, *columns, strict=True):
        first = (
            f'{html.escape(style.label(name))}<small class="role">{role_text(roles[name])}, n&nbsp;=&nbsp;{n:,}</small>'
        )
        entry = entries[name]
        verdict_cell = [badge(label_of(entry)) + "<br>" + _beaten(entry)] if judged else []
        rows.append([first, *verdict_cell, *numbers])
    return grid(["series", *(["verdict"] if judged else []), *(m.head(terms) for m in measures)], rows, "numbers")


def _beaten(entry: Mapping[str, Any]) -> str:
    """What the main table says of the baselines below a verdict."""
    said = {"yes": "beats the baselines", "no": "does not beat the baselines"}.get(answer_of(entry), "")
    return f"<small>{said}</small>" if said and entry["role"] == "generator" else ""


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
