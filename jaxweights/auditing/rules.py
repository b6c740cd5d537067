"""The rules that tests are judged by, in their order; the first that applies decides.

Two principles:

* Novelty has to be shown. A generator that no rule catches is *as novel as new runs* only if the interval of the
  probability that a sample lies farther from the training networks than a held-out run lies above a stated bound; else
  it is *undecided*, with the number of networks that would decide.
* A sample is compared with what held-out runs do, not with constants: shares of copies and mixtures must exceed the
  held-out runs' own, and distances from mixtures are in units of theirs.

Where the training networks are checkpoints of a single run, held-out runs are still the null, which is fair if they are
at the steps of training networks (`audit.at_training_steps`). There is no next run then: a copy is a sample that is
less than a third as far from its nearest checkpoint as that one is from the rest of the run, and AuthPct, which is
near 100 % for anything else, takes no part.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxweights.settings import Settings, setting
from jaxweights.tasks import Terms

UNDEFINED, COPIES, INTERPOLATES, VARIATIONS = "undefined", "copies", "interpolates", "variations"
AFFINE, COLLAPSED, DEGRADES, UNDECIDED = "affine mixture", "collapsed", "degrades", "undecided"
NOVEL = "as novel as new runs"
LABELS = (COPIES, INTERPOLATES, COLLAPSED, AFFINE, VARIATIONS, DEGRADES, UNDEFINED, UNDECIDED, NOVEL)
"""All labels."""
FLAGGED = (COPIES, INTERPOLATES, AFFINE, VARIATIONS)
"""Labels of networks that are made of training networks."""


@dataclasses.dataclass(frozen=True)
class Thresholds(Settings):
    """Where the rules draw their lines; `docs/calibration.md` shows what comes of them.

    Attributes:
      undefined: share of samples without finite outputs above which a generator's networks are undefined.
      z_u: Z_U below which the samples lie closer to the training networks than held-out runs do; -3 is the one-sided
        0.1 % of the normal distribution that Z_U follows for samples as far away as held-out runs (Meehan et al. 2020).
      share: share of copies or of mixtures above which a generator copies or interpolates.
      most: share of samples above which a rule on most of them applies: the same errors, siblings, affine mixtures.
      error_quantile: quantile of the held-out runs' error IoU above which a sample has a training network's errors.
      saturated: the same quantile from which errors tell nothing apart.
      accuracy_quantile: quantile of the held-out runs' accuracies that a generator's mean has to reach.
      memorised_ratio: distance to the nearest training network over that to the next run below which a sample is a copy
        (Yoon et al. 2023; Gu et al. 2023).
      collapsed_ratio: distance to the next sample over the median of that between held-out runs below which a sample is
        one of a few networks; averages of many runs of a common start are at a fifth, such runs themselves at a third.
      mixture_factor: distance from the mixtures, in medians of the held-out runs' own, below which a sample is one.
      near_ratio: median distance to the training networks, in medians of the held-out runs' own, below which networks
        are near one another because they are near training networks, and not collapsed.
      single_ratio: the same as `variation_ratio` for networks that are near single training networks.
      variation_ratio: median distance to the training networks, in medians of the held-out runs' own, below which
        networks are closer than new runs; other recipes give weights of other norms, and smaller ones lie closer to
        everything.
      explained: share of the distance to the nearest network; mixtures that come closer than this explain a network.
      novelty: probability that a sample lies farther from training than a held-out run, of which the interval of novel
        samples lies above; one half is what new runs have.
    """

    undefined: float = setting(0.5, at_least=0, below=1)
    z_u: float = setting(-3.0, at_most=0)
    share: float = setting(0.01, at_least=0, below=1)
    most: float = setting(0.5, at_least=0, below=1)
    error_quantile: float = setting(0.95, at_least=0, at_most=1)
    saturated: float = setting(0.99, above=0, at_most=1)
    accuracy_quantile: float = setting(0.05, at_least=0, at_most=1)
    memorised_ratio: float = setting(1.0 / 3.0, above=0, at_most=1)
    collapsed_ratio: float = setting(0.125, above=0, at_most=1)
    mixture_factor: float = setting(1.0 / 3.0, above=0, at_most=1)
    near_ratio: float = setting(0.5, above=0, at_most=1)
    single_ratio: float = setting(0.8, above=0, at_most=1)
    variation_ratio: float = setting(0.9, above=0, at_most=1)
    explained: float = setting(1e-6, above=0)
    novelty: float = setting(0.4, above=0, below=0.5)


THRESHOLDS = Thresholds()


class Finding(NamedTuple):
    """What a rule found.

    Attributes:
      label: one of `LABELS`.
      text: sentences that say why.
      needed: samples, and held-out runs, that would decide; None where more would not.
    """

    label: str
    text: str
    needed: int | None = None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the rules look at.

    Attributes:
      series: entry of a series in `metrics.json`, with estimates and tests.
      heldout: entry of the held-out runs.
      terms: words of the task.
      thresholds: where the rules draw their lines.
    """

    series: Mapping[str, Any]
    heldout: Mapping[str, Any]
    terms: Terms
    thresholds: Thresholds

    @property
    def tests(self) -> Mapping[str, Any]:
        """The tests of the series."""
        return self.series["tests"]

    @property
    def one_run(self) -> bool:
        """Whether the generator saw a single run."""
        return self.tests["memorised_share"] is None

    @property
    def training(self) -> str:
        """What the generator saw, in words."""
        return "the training run" if self.one_run else "training networks"

    @property
    def evaluated(self) -> bool:
        """Whether it is known how well the networks work."""
        return self.series["accuracy"] is not None

    @property
    def works(self) -> bool:
        """Whether the networks work about as well as held-out ones."""
        return self.evaluated and self.series["accuracy"]["mean"] >= self.heldout["accuracy"]["q05"]

    def spaces(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The tests in every space that distances were measured in, with words for these: weights, in whatever order
        hidden units are, weights as they are, and outputs."""
        named = [("", self.tests), (" as they are stored", self.tests.get("raw")), ("", self.tests.get("function"))]
        return [(words, tests) for words, tests in named if tests is not None]

    def exceeds(self, test: Mapping[str, Any] | None, limit: float | None = None) -> bool:
        """Whether the lower limit of a share lies above a limit, by default the test's own; never without a test."""
        return test is not None and test["ci95"][0] > (test["limit"] if limit is None else limit)


def _undefined(e: Evidence) -> Finding | None:
    """Most samples (lower limit of the 95 % interval above one half) have outputs that are not finite. Fewer are left
    out of the other rules, except for the accuracy."""
    undefined = e.series.get("undefined", {"count": 0})
    if e.tests is None or (undefined["count"] and undefined["share"]["ci95"][0] > e.thresholds.undefined):
        text = f"{undefined['count']} of its {e.series['n']} networks have outputs that are not finite."
        return Finding(UNDEFINED, text)
    return None


def _leaks(e: Evidence) -> Finding | None:
    """More samples are held-out networks (lower limit above 1 %): copies of what the generator must not have seen."""
    leaks = e.series.get("leaks", {"count": 0})
    if not leaks["count"] or not e.exceeds(leaks["share"], e.thresholds.share):
        return None
    return Finding(COPIES, "Its networks are held-out networks.")


def _copies(e: Evidence) -> Finding | None:
    """More samples are copies (lower limit above 1 % and above the share of held-out runs), and no fewer than are
    mixtures, some of which are near an end: their nearest training network, by weights or by outputs, is less than a
    third as far as the next run."""
    found = [t["copied_share"] if e.one_run else t["memorised_share"] for _, t in e.spaces()]
    caught = [share for share in found if e.exceeds(share)]
    most = max((share["value"] for share in caught), default=0.0)
    convex, affine = e.tests["interpolated_share"], e.tests.get("affine_share")
    mixed = max(share["value"] if share else 0.0 for share in (convex, affine))
    if not caught or (e.exceeds(convex) and mixed > most):
        return None
    by_outputs = not e.exceeds(found[0]) and found[-1] in caught and e.tests.get("function") is not None
    return Finding(
        COPIES,
        f"{100 * most:.0f} % of its networks are {'checkpoints of ' * e.one_run}{e.training} up to small "
        f"changes{' by their outputs' * by_outputs}{_mixed(e)}.",
    )


def _mixed(e: Evidence) -> str:
    share = e.tests["interpolated_share"]["value"]
    of = "its checkpoints" if e.one_run else "training networks"
    return f", {100 * share:.0f} % are mixtures of {of}" if share else ""


def _by_share(e: Evidence, test: str, label: str, words: str, limit: float | None = None) -> Finding | None:
    """A label where a share of the samples exceeds a limit, by default the test's own."""
    share = e.tests.get(test)
    if share is None or not e.exceeds(share, limit):
        return None
    return Finding(label, f"{100 * share['value']:.0f} % of its networks are {words}.")


def _interpolates(e: Evidence) -> Finding | None:
    """More samples are mixtures (lower limit above 1 % and above the share of held-out runs): less than a third as far
    from a convex combination of training networks as held-out runs are, also relative to the nearest network."""
    of = "checkpoints of the training run" if e.one_run else "training networks"
    return _by_share(e, "interpolated_share", INTERPOLATES, f"mixtures of {of}")


def _collapsed(e: Evidence) -> Finding | None:
    """Most samples are less than an eighth as far from another sample as held-out runs are from one another, and not
    half as near to training networks as these: what stays near checkpoints of one run is near one another, too."""
    ratio = e.tests["distance_ratio"]
    if ratio is not None and ratio["ci95"][1] < e.thresholds.near_ratio:
        return None
    words = "other ones of its own up to small changes: it makes few different networks"
    return _by_share(e, "collapsed_share", COLLAPSED, words, e.thresholds.most)


def _affine(e: Evidence) -> Finding | None:
    """Most samples are less than a third as far from the affine hull of all training networks as held-out runs, also
    relative to the nearest network: directions between training networks explain them."""
    words = (
        f"weighted sums of {e.training}: a linear model of the weights, of as many numbers as there are training "
        "networks, makes them, and does not make newly trained ones"
    )
    return _by_share(e, "affine_share", AFFINE, words, e.thresholds.most)


def _closer(e: Evidence) -> Finding | None:
    """The samples lie closer to training networks than held-out runs do, though nothing explains them one by one: Z_U
    below -3 with an interval below 0, and a median distance below nine tenths of the held-out runs' (its upper limit),
    by weights in whatever order hidden units are, by weights as they are stored, or by outputs; and they are close to
    single training networks (Z_U of the ratio to the next run likewise, and a median distance below eight tenths).
    Weights as they are stored and outputs count for networks that work.

    Networks that are close to all training networks alike, as averages are, are closer by their weights if they work;
    small weights of networks that do not are close to everything, and to the smallest training networks most of all.
    """
    for number, (words, tests) in enumerate(e.spaces()):
        z, apart, ratio = tests["z_u"], tests["z_ratio"], tests["distance_ratio"]
        distance = math.inf if ratio is None else ratio["ci95"][1]
        if distance >= e.thresholds.variation_ratio or z["value"] >= e.thresholds.z_u or z["ci95"][1] >= 0:
            continue
        what = "outputs" if tests is e.tests.get("function") else "weights"
        closer = f"Its networks' {what}{words} are closer to {e.training} than those of newly {e.terms.trained} ones"
        if e.one_run:
            return Finding(VARIATIONS, f"{closer}: variations of its checkpoints.")
        works = e.works or not e.evaluated
        single = apart is not None and apart["value"] < e.thresholds.z_u and apart["ci95"][1] < 0
        if single and (number == 0 or works) and distance < e.thresholds.single_ratio:
            return Finding(VARIATIONS, f"{closer}: variations of these.")
        if number == 0 and works:
            which = ": variations of these" if single else ", though to none in particular: averages, or near the mean"
            return Finding(VARIATIONS, f"{closer}{which}.")
    return None


def _same_errors(e: Evidence) -> Finding | None:
    """Most samples make the errors of a training network more closely than 95 % of held-out runs do, and work as well.
    This sees through symmetries that the distance does not know. It says nothing where held-out runs make the same
    errors, nor of networks that are wrong nearly everywhere."""
    test = e.tests["iou_above_heldout"]
    if test is None or test.get("saturated", False) or not e.works or not e.exceeds(test, e.thresholds.most):
        return None
    return Finding(VARIATIONS, f"Its {e.terms.repeats} {e.training}, more so than {e.terms.unlike}.")


def _degrades(e: Evidence) -> Finding | None:
    """The mean accuracy misses the 5th percentile of held-out runs; distance is no merit then."""
    if not e.evaluated or e.works:
        return None
    return Finding(DEGRADES, "Its networks fall short of newly trained ones, and are near no training network.")


def _novelty(e: Evidence) -> Finding | None:
    """Nothing was found; novelty is shown where the interval of the probability to lie farther from the training
    networks than a held-out run lies above its bound."""
    found, bound = e.tests["novelty"], e.thresholds.novelty
    low, high = found["ci95"]
    whom = f"from {e.training} as newly {e.terms.trained} ones are"
    farther = f"a sample is farther than a new run in {100 * found['value']:.0f} % of pairs"
    interval = f"95 % interval {100 * low:.0f} to {100 * high:.0f} %, of new runs 50 %"
    if low < bound:
        needed = _needed(found, bound)
        if high < 0.5:
            text = (
                f"Its networks are a little closer to {e.training} than newly {e.terms.trained} ones, as networks of "
                f"smaller weights are, and nothing shows that they are copies or mixtures: {farther} ({interval})."
            )
            return Finding(UNDECIDED, text)
        more = "" if needed is None else f" About {needed:,} samples and as many held-out runs would decide."
        return Finding(
            UNDECIDED,
            f"Nothing shows that its networks are copies or mixtures, and nothing that they are as far {whom}: "
            f"{farther} ({interval}), and {100 * bound:.0f} % is not excluded.{more}",
            needed,
        )
    measure = "farther" if low > 0.5 else "as far"
    than = whom.replace(" as newly", " than newly") if low > 0.5 else whom
    known = "" if e.evaluated else "As novel as new runs by their weights; whether they work was not evaluated. "
    works = f", and {e.terms.as_good}" * e.evaluated
    return Finding(NOVEL, f"{known}Its networks are {measure} {than}{works}: {farther} ({interval}).")


def _needed(found: Mapping[str, Any], bound: float) -> int | None:
    """Samples at which the interval of a probability would no longer hold the bound, or one half, if its width shrinks
    with their root; None for a probability between the two."""
    value, (low, high) = found["value"], found["ci95"]
    if value > bound:
        ratio = (value - low) / (value - bound)
    elif high > value:
        ratio = (high - value) / (0.5 - value)
    else:
        return None
    both = 2 / (1 / found["n"] + 1 / found["heldout"])
    return math.ceil(round(both * max(ratio, 1.0) ** 2, 6))


RULES: Mapping[str, Callable[[Evidence], Finding | None]] = {
    "undefined": _undefined,
    "leaks": _leaks,
    "copies": _copies,
    "mixtures": _interpolates,
    "collapsed": _collapsed,
    "affine": _affine,
    "closer": _closer,
    "errors": _same_errors,
    "accuracy": _degrades,
    "novelty": _novelty,
}
"""The rules in their order."""
