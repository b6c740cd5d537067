"""From tests to a plain-language verdict: does a generator remember, interpolate, invent, or fail?

Held-out runs are the null. A sample is a *copy* when its distance to the nearest training network is less than a third
of that to the next run (the nearest-neighbour ratio of Yoon et al. 2023 and Gu et al. 2023), and a *mixture* when it is
no copy but lies within half of the held-out runs' distance from a convex combination of training networks. The rules,
in order:

0. Most samples (lower limit of the 95 % interval above one half) have outputs that are not finite: the generator's
   networks are *undefined*. Fewer are left out of what follows, except for the accuracy.
1. More than one sample in a hundred is a copy or a mixture (lower limit of either 95 % interval): the generator
   *remembers* where copies are the more frequent, else it *interpolates*.
2. The samples lie closer to the training networks than held-out runs do (Z_U below -3, its interval below 0), though
   nothing explains them one by one: it *remembers*, with variations.
3. Most samples (lower limit above one half) make the errors of a training network more closely than 95 % of held-out
   runs do: it *remembers* functions. This sees through symmetries that the distance does not know.
4. The mean accuracy misses the 5th percentile of held-out runs: it *degrades*, and distance is no merit.
5. Otherwise it *invents*.

Where the networks were not evaluated, rules 3 and 4 are left out and a generator that none of the others catches is
*novel*: it is not known whether its networks work.

Where the training networks are checkpoints of a single run, held-out runs are still the null of 2 to 5, which then
tell whether samples stay with that run; it is a fair null if held-out networks are at the steps of training networks
(`audit.at_training_steps`). There is no next run for 1: a copy is a sample that is less than a third as far from its
nearest checkpoint as the latter is from the rest of the run, and the best mixture of a mixture must also be less than
half as far as that checkpoint. What compares with the spacing of the checkpoints is evidence in one direction only: to
be closer is to be a copy, but the run's own next checkpoint is a step away too, and no novelty. So AuthPct, which is
near 100 % then, takes no part here.

A control that fails takes away what a verdict rests on, which is then *undecided* (`GUARDS`): where copies pass, no
generator is known to be without them; where held-out runs are flagged by a rule, that rule says nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxweights.auditing.measurements import HELDOUT_CONTROL
from jaxweights.settings import Settings, setting
from jaxweights.tasks import Terms


@dataclasses.dataclass(frozen=True)
class Thresholds(Settings):
    """Where the rules draw their lines.

    Attributes:
      undefined: share of samples without finite outputs above which a generator's networks are undefined.
      z_u: Z_U below which the samples lie closer to the training networks than held-out runs do; -3 is the one-sided
        0.1 % of the normal distribution that Z_U follows for samples as far away as held-out runs (Meehan et al. 2020).
      share: share of copies or of mixtures above which a generator remembers or interpolates.
      same_errors: share of samples with the errors of a training network above which it remembers functions.
      error_quantile: quantile of the held-out runs' error IoU above which a sample has these errors.
      accuracy_quantile: quantile of the held-out runs' accuracies that a generator's mean has to reach.
      memorised_ratio: distance to the nearest training network over that to the next run below which a sample is a copy
        (Yoon et al. 2023; Gu et al. 2023).
      mixture_factor: distance from the mixtures, in medians of the held-out runs' own, below which a sample is one.
      explained: share of the distance to the nearest network; mixtures that come closer than this explain a network.
    """

    undefined: float = setting(0.5, at_least=0, below=1)
    z_u: float = setting(-3.0, at_most=0)
    share: float = setting(0.01, at_least=0, below=1)
    same_errors: float = setting(0.5, at_least=0, below=1)
    error_quantile: float = setting(0.95, at_least=0, at_most=1)
    accuracy_quantile: float = setting(0.05, at_least=0, at_most=1)
    memorised_ratio: float = setting(1.0 / 3.0, above=0, at_most=1)
    mixture_factor: float = setting(0.5, above=0, at_most=1)
    explained: float = setting(1e-6, above=0)


THRESHOLDS = Thresholds()
FLAGGED = ("remembers", "interpolates")
UNDEFINED, UNDECIDED = "undefined", "undecided"

GUARDS: Mapping[str, tuple[int, ...]] = {
    "copy": (4, 5),
    "noised_copy": (4, 5),
    "permuted_copy": (4, 5),
    HELDOUT_CONTROL: (1, 2, 3),
}
"""Which rules a control guards. Verdicts by rules 4 and 5 say that nothing was found, so they rest on all controls that
have to be found. Those by rules 1 to 3 rest on the held-out half not being flagged by the same rule. Other positive
controls guard what copies do."""


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
      `{"label", "flagged", "text", "rule"}`; `flagged` is whether the label is "remembers" or "interpolates", `rule`
      the number of the rule.
    """
    terms, tests = terms or Terms(), series["tests"]
    undefined = series.get("undefined", {"count": 0})
    if tests is None or (undefined["count"] and undefined["share"]["ci95"][0] > thresholds.undefined):
        text = f"{undefined['count']} of its {series['n']} networks have outputs that are not finite."
        return {"label": UNDEFINED, "flagged": False, "text": text + _leaked(series), "rule": 0}
    one_run = tests["memorised_share"] is None
    z, mixtures = tests["z_u"], tests["interpolated_share"]
    copies = tests["copied_share"] if one_run else tests["memorised_share"]
    training = "the training run" if one_run else "training networks"
    evaluated = series["accuracy"] is not None
    works = evaluated and series["accuracy"]["mean"] >= heldout["accuracy"]["q05"]
    same_errors = evaluated and tests["iou_above_heldout"]["ci95"][0] > thresholds.same_errors
    if max(copies["ci95"][0], mixtures["ci95"][0]) > thresholds.share:
        rule = 1
        label = "remembers" if copies["value"] >= mixtures["value"] else "interpolates"
        text = (
            f"{100 * copies['value']:.0f} % of its networks are {'checkpoints of ' * one_run}{training} up to small "
            f"changes, {100 * mixtures['value']:.0f} % are mixtures of "
            f"{'its checkpoints' if one_run else training}."
        )
    elif z["value"] < thresholds.z_u and z["ci95"][1] < 0:
        rule = 2
        label = "remembers"
        text = (
            "Its networks lie closer to the training run than newly trained ones do: variations of its checkpoints."
            if one_run
            else "Its networks lie closer to the training networks than newly trained ones do: variations of these."
        )
    elif same_errors:
        rule = 3
        label = "remembers"
        text = f"Its {terms.repeats} {training}, more so than {terms.unlike}."
    elif not evaluated:
        rule = 5
        label = "novel"
        text = (
            f"Its networks are as far from the training {'run' if one_run else 'networks'} as newly trained ones are; "
            "whether they work was not evaluated."
        )
    elif not works:
        rule = 4
        label = "degrades"
        text = "Its networks are neither copies nor mixtures, but fall short of trained ones: distance is no merit."
    else:
        rule = 5
        label = "invents"
        text = (
            f"Its networks are as far from the training {'run' if one_run else 'networks'} as newly {terms.trained} "
            f"ones are, and {terms.as_good}."
        )
    if label in FLAGGED and evaluated and not works:
        text += " They do not work as well as newly trained ones."
    evidence = (
        f"Z_U is {z['value']:.1f} (95 % interval {z['ci95'][0]:.1f} to {z['ci95'][1]:.1f}) on {tests['distance']} "
        f"distances"
        f"{_accuracies(series, heldout, terms) if evaluated else '.'}"
        f"{' It has seen a single run.' * one_run}"
    )
    if undefined["count"]:
        evidence += f" {undefined['count']} of its networks have outputs that are not finite; they are left out."
    evidence += _leaked(series)
    return {"label": label, "flagged": label in FLAGGED, "text": f"{text} {evidence}", "rule": rule}


def _leaked(series: Mapping[str, Any]) -> str:
    """What there is to say of networks that are held-out ones."""
    leaks = series.get("leaks", {"count": 0})
    if not leaks["count"]:
        return ""
    return (
        f" LEAK: {leaks['count']} of its {series['n']} networks are held-out networks, which it must not have seen; "
        "the null is none."
    )


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
        "without_controls": found["label"],
        "failed_controls": list(failed),
    }


def _accuracies(series: Mapping[str, Any], heldout: Mapping[str, Any], terms: Terms) -> str:
    accuracy, null = series["accuracy"]["mean"], heldout["accuracy"]["mean"]
    return f"; {terms.measure} {100 * accuracy:.1f} % against {100 * null:.1f} % of held-out runs."
