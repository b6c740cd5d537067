"""From tests to a plain-language verdict: copies, mixtures, variations, or networks as novel as newly trained ones.

The rules are in `rules`. A control that fails takes away what a verdict rests on, which is then *undecided* (`GUARDS`):
where copies pass, no generator is known to be without them; where held-out runs are flagged by a rule, that rule says
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxweights.auditing.measurements import HELDOUT_CONTROL
from jaxweights.auditing.rules import (
    COLLAPSED,
    FLAGGED,
    LABELS,
    RULES,
    THRESHOLDS,
    UNDECIDED,
    UNDEFINED,
    Evidence,
    Thresholds,
)
from jaxweights.tasks import Terms

__all__ = [
    "FLAGGED",
    "GUARDS",
    "LABELS",
    "THRESHOLDS",
    "Thresholds",
    "applying",
    "judge",
    "missed",
    "rests_on",
    "undecided",
]

_OF_COPIES, _OF_HELDOUT = ("accuracy", "novelty"), ("copies", "mixtures", "collapsed", "affine", "closer", "errors")
GUARDS: Mapping[str, tuple[str, ...]] = {
    "copy": _OF_COPIES,
    "noised_copy": _OF_COPIES,
    "permuted_copy": _OF_COPIES,
    "rescaled_copy": _OF_COPIES,
    "sign_flipped_copy": _OF_COPIES,
    HELDOUT_CONTROL: _OF_HELDOUT,
}
"""Which rules a control guards. Verdicts by "accuracy" and "novelty" say that nothing was found, so they rest on all
controls that have to be found. Those by the rules before them rest on the held-out half not being flagged by the same
rule. Other positive controls guard what copies do."""


def judge(
    series: Mapping[str, Any],
    heldout: Mapping[str, Any],
    terms: Terms | None = None,
    thresholds: Thresholds = THRESHOLDS,
) -> dict[str, Any]:
    """Judges one series.

    Args:
      series: its entry in `metrics.json`, with estimates and tests.
      heldout: the entry of the held-out runs.
      terms: words of the task; those of classification by default.
      thresholds: where the rules draw their lines.

    Returns:
      `{"label", "flagged", "text", "rule", "needed"}`; `flagged` is whether the label is one of `FLAGGED`, `rule` the
      name of the rule, `needed` see `Finding`.
    """
    evidence = Evidence(series, heldout, terms or Terms(), thresholds)
    for rule, apply in RULES.items():
        found = apply(evidence)
        if found is not None:
            text = found.text + _numbers(evidence, found.label) + _leaked(series)
            return {
                "label": found.label,
                "flagged": found.label in FLAGGED,
                "text": text,
                "rule": rule,
                "needed": found.needed,
            }
    raise AssertionError("the last rule always applies")


def applying(
    series: Mapping[str, Any],
    heldout: Mapping[str, Any],
    terms: Terms | None = None,
    thresholds: Thresholds = THRESHOLDS,
) -> list[str]:
    """Names of all rules that apply to a series, each as if it were asked first; arguments of `judge`.

    The last rule, on novelty, always applies, and where networks are undefined no other one is asked.
    """
    evidence = Evidence(series, heldout, terms or Terms(), thresholds)
    if evidence.tests is None:
        return ["undefined"]
    return [rule for rule, apply in RULES.items() if apply(evidence) is not None]


def _numbers(e: Evidence, label: str) -> str:
    """The evidence in numbers, as sentences after the verdict's own."""
    if label == UNDEFINED:
        return ""
    z, text = e.tests["z_u"], ""
    if label in (*FLAGGED, COLLAPSED) and e.evaluated and not e.works:
        text += " They do not work as well as newly trained ones."
    text += (
        f" Z_U is {z['value']:.1f} (95 % interval {z['ci95'][0]:.1f} to {z['ci95'][1]:.1f}) on {e.tests['distance']} "
    )
    text += "distances"
    if e.evaluated:
        accuracy, null = e.series["accuracy"]["mean"], e.heldout["accuracy"]["mean"]
        text += f"; {e.terms.measure} {100 * accuracy:.1f} % against {100 * null:.1f} % of held-out runs"
    text += "."
    if e.one_run:
        text += " It has seen a single run."
    undefined = e.series.get("undefined", {"count": 0})["count"]
    if undefined:
        text += f" {undefined} of its networks have outputs that are not finite; they are left out."
    return text


def _leaked(series: Mapping[str, Any]) -> str:
    """What there is to say of networks that are held-out ones."""
    leaks = series.get("leaks", {"count": 0})
    if not leaks["count"]:
        return ""
    return (
        f" LEAK: {leaks['count']} of its {series['n']} networks are held-out networks, which it must not have seen; "
        "the null is none."
    )


def missed(control: str, found: Mapping[str, Any]) -> bool:
    """Whether a control was not judged as it should be: copies are flagged, held-out runs neither flagged nor called
    collapsed."""
    if control == HELDOUT_CONTROL:
        return found["rule"] in GUARDS[HELDOUT_CONTROL]
    return not found["flagged"]


def rests_on(found: Mapping[str, Any], control: str, of_control: Mapping[str, Any]) -> bool:
    """Whether a verdict rests on a control that failed.

    Args:
      found: the verdict.
      control: name of the control.
      of_control: its own verdict.
    """
    rules = GUARDS.get(control, GUARDS["copy"])
    return found["rule"] in rules and (control != HELDOUT_CONTROL or found["rule"] == of_control["rule"])


def undecided(found: Mapping[str, Any], failed: Sequence[str]) -> dict[str, Any]:
    """A verdict that rests on controls that failed; `without_controls` is the label that it would have had."""
    names = ", ".join(name.replace("_", " ") for name in failed)
    text = f"Undecided, for the control {names} failed, on which {found['label']!r} rests. {found['text']}"
    return {
        **found,
        "label": UNDECIDED,
        "flagged": False,
        "text": text,
        "needed": None,
        "without_controls": found["label"],
        "failed_controls": list(failed),
    }
