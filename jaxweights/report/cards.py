"""The top of the page: a card for every generator that says what it is, at a glance, and then why."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from jaxweights import auditing
from jaxweights.report import style, tables
from jaxweights.report.measures import MAIN, Estimate, Measure, count

_NOVELTY = Measure(("tests", "novelty"), "", 100, 0)
_ANSWERS = {
    "yes": "Beats the baselines: <b>yes</b>",
    "no": "Beats the baselines: <b>no</b>",
    "undecided": "Beats the baselines: <b>undecided</b>",
    "not evaluated": "Beats the baselines: <b>not evaluated</b>",
}


def of(metrics: Mapping[str, Any], roles: Mapping[str, str]) -> str:
    """Cards of the learned generators, and the verdicts on baselines, folded."""
    entries = metrics["series"]
    learned = [name for name, role in roles.items() if role == style.LEARNED]
    shown = "".join(_card(name, entries, metrics) for name in learned)
    if not learned:
        shown = (
            "<article><p>There is no learned generator in this experiment, only baselines and controls.</p></article>"
        )
    rest = "".join(_short(name, entries[name]) for name, role in roles.items() if role == style.BASELINE)
    baselines = tables.folded("verdicts on the baselines", f'<div class="cards">{rest}</div>') if rest else ""
    return f'<section id="verdicts"><div class="cards main">{shown}</div>{baselines}</section>'


def _short(name: str, entry: Mapping[str, Any]) -> str:
    head = f"{html.escape(style.label(name))} {tables.badge(tables.label_of(entry))}"
    return f"<article><h3>{head}</h3><p>{html.escape(entry['verdict']['text'])}</p></article>"


def _card(name: str, entries: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """A generator: verdict, whether it beats the baselines, a scale, key numbers, and the reasons."""
    entry = entries[name]
    judged = entry["verdict"]
    who = f"<h3>{html.escape(style.label(name))} <small>{count(entry):,} networks</small></h3>"
    label = html.escape(judged["label"][:1].upper() + judged["label"][1:])
    answer = tables.answer_of(entry)
    second = f'<p class="second beats-{tables.css_class(answer)}">{_ANSWERS[answer]}</p>' if answer else ""
    why = html.escape(judged["text"])
    beside = html.escape((judged.get("beats_baselines") or {}).get("text", ""))
    return (
        f'<article class="{tables.css_class(judged["label"])}">{who}<p class="answer">{label}</p>{second}'
        f"{_scale(entry)}{_keys(entry, entries[auditing.HELDOUT], metrics)}<p>{why}</p><p>{beside}</p></article>"
    )


def _scale(entry: Mapping[str, Any]) -> str:
    """Where the generator lies between copies and new runs: how often its sample is the farther of a pair."""
    found = _NOVELTY.find(entry)
    if found is None:
        return ""
    low, high = (100 * (found.value if x is None else x) for x in (found.low, found.high))
    text = f"a sample is farther from training than a held-out run in {_NOVELTY.text(found)} % of pairs"
    return (
        f'<div class="scale" role="img" aria-label="{text}" title="{text}">'
        f'<i style="left:{low:.1f}%;width:{max(high - low, 0.4):.1f}%"></i><u></u>'
        f'<b style="left:{100 * found.value:.1f}%"></b></div>'
        '<div class="ends"><span>copies</span><span>as far as new runs</span><span>farther</span></div>'
    )


def _keys(entry: Mapping[str, Any], heldout: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The numbers to look at first, each beside that of held-out runs."""
    terms, shown = tables.terms_of(metrics), []
    distance = next(m for m in MAIN if m.path == ("aligned_min_l2",))
    if distance.find(entry) is None:
        distance = next(m for m in MAIN if m.path == ("min_l2",))
    for measure, title in ((MAIN[0], terms.column), (distance, "distance to training"), (MAIN[-1], terms.overlap)):
        ours, theirs = measure.find(entry), measure.find(heldout)
        if ours is not None and theirs is not None:
            shown.append(_key(measure, title, ours, theirs))
    return f'<div class="keys">{"".join(shown)}</div>'


def _key(measure: Measure, title: str, ours: Estimate, theirs: Estimate) -> str:
    decimals = min(measure.shared([ours, theirs]), 2)
    value, null = (measure.number(e.value, decimals) for e in (ours, theirs))
    return f"<div>{html.escape(title)}<b>{value}</b>new runs {null}</div>"
