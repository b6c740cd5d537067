"""The audit in words for a paper, with its sources: what was compared, by which measures, with which intervals."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jaxweights
from jaxweights import auditing
from jaxweights.auditing import THRESHOLDS
from jaxweights.report import citations, export, measures, style, tables
from jaxweights.spec import WeightSpec

_CITE = re.compile(r" ?\[@([\w,]+)\]")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the text is about.

    Attributes:
      metrics: result of the audit.
      spec: what a network's weights mean.
      bootstrap: resamples of every interval.
      seed: random seed.
    """

    metrics: Mapping[str, Any]
    spec: WeightSpec
    bootstrap: int
    seed: int

    def has(self, *path: str) -> bool:
        """Whether any series has an estimate there."""
        found = measures.Measure(path, "")
        return any(found.find(entry) for entry in self.metrics["series"].values())


def text(facts: Facts) -> str:
    """The methods as paragraphs of plain text, sources in brackets by author and year."""
    return _CITE.sub(lambda match: f" ({_names(match[1])})", _marked(facts))


def latex(facts: Facts) -> str:
    """The methods as LaTeX, with `\\citep` of the keys of `bibtex`."""
    parts = _CITE.split(_marked(facts))  # texts and keys in turn
    out = [export.escape(part) if i % 2 == 0 else rf"~\citep{{{part}}}" for i, part in enumerate(parts)]
    return "".join(out).replace("Z\\_U", "$Z_U$").replace("C\\_T", "$C_T$") + "\n"


def page(facts: Facts) -> str:
    """The methods as HTML paragraphs, sources as links."""
    paragraphs = [_CITE.split(part) for part in _marked(facts).split("\n\n")]
    return "".join(
        "<p>" + "".join(html.escape(p) if i % 2 == 0 else f" ({_links(p)})" for i, p in enumerate(parts)) + "</p>"
        for parts in paragraphs
    )


def bibtex(facts: Facts) -> str:
    """BibTeX of everything that the text cites."""
    return citations.bibtex(key for match in _CITE.findall(_marked(facts)) for key in match.split(","))


def _names(keys: str) -> str:
    return "; ".join(citations.REFERENCES[key].short for key in keys.split(","))


def _links(keys: str) -> str:
    return "; ".join(citations.REFERENCES[key].link for key in keys.split(","))


def _marked(facts: Facts) -> str:
    """The text with sources as [@key,key]; paragraphs are separated by empty lines."""
    return "\n\n".join(" ".join(part(facts)) for part in (_data, _tests, _population, _verdict))


def _data(facts: Facts) -> Iterator[str]:
    entries, training = facts.metrics["series"], facts.metrics.get("training", {})
    roles = style.roles(facts.metrics)
    names = [n for n, role in roles.items() if role == style.LEARNED]
    drawn = ", ".join(f"{measures.count(entries[n]):,} networks of {style.label(n)}" for n in names) or "baselines"
    compared, heldout = measures.count(entries[auditing.TRAINING]), measures.count(entries[auditing.HELDOUT])
    train = measures.training_networks(facts.metrics)
    runs = f" ({training['runs']:,} runs)" if training.get("runs", train) != train else ""
    yield (
        f"We audited {drawn} with jaxweights {jaxweights.__version__} [@jaxweights]. Networks have "
        f"{facts.spec.num_params:,} parameters. They were compared with {train:,} training networks{runs} and with "
        f"{heldout:,} networks of held-out runs, which no generator has seen and which are the null: what independent "
        "training gives."
    )
    if facts.has("aligned_min_l2"):
        yield (
            "Distances are Euclidean, modulo the symmetries of hidden units, "
            + (
                "by the best assignment of units."
                if len(facts.spec.groups) == 1
                else "by weight matching [@ainsworth2023], which gives an upper bound."
            )
        )
        if any(group.scaling == "positive" for group in facts.spec.groups):
            yield "Units that may be rescaled were balanced first [@stock2019]."
    else:
        yield "Distances are Euclidean distances between weight vectors as they are."
    some = f"A random {compared:,} of the training" if compared < train else "Training"
    yield (
        f"{some} networks were compared with those of other runs."
        if training.get("leaves_out", "its run") == "its run"
        else "Training networks are checkpoints of a single run and were compared with one another."
    )
    if training.get("duplicates"):
        yield f"{training['duplicates']:,} duplicates among the training networks were left out."


def _tests(facts: Facts) -> Iterator[str]:
    terms = tables.terms_of(facts.metrics)
    yield (
        "The distance to the nearest training network was compared with that of held-out networks by the probability "
        "that a sample lies farther [@mann1947] and by Z_U [@meehan2020]; AuthPct is that of the literature "
        f"[@alaa2022]. A network counts as a copy if that distance is below {THRESHOLDS.memorised_ratio:.2g} of the "
        "distance to the next run [@yoon2023,gu2023], and as a mixture if the best convex combination of nearby "
        f"training networks is closer to it than {THRESHOLDS.mixture_factor:.2g} times the held-out networks' median."
    )
    if facts.has("tests", "affine_share"):
        yield "Likewise with the affine hull of all training networks."
    if facts.has("max_error_iou"):
        yield (
            f"Similarity of behaviour is the largest {terms.overlap} with a training network [@zeng2025]: "
            f"{terms.overlap_meaning}."
        )
    if facts.has("function", "function_l2"):
        yield (
            "Outputs were compared on a probe set: root mean square and largest difference to the nearest training "
            "network, disagreement of decisions with it and within the series, and what ensembles of 16 gain "
            "[@fort2019]."
        )
    if facts.has("function", "barrier"):
        yield (
            "Loss barriers are those on the straight line to the nearest training network [@frankle2020], before and "
            "after alignment [@ainsworth2023]."
        )


_BATTERY = (
    ("c_t", "C_T [@meehan2020]"),
    ("calibrated_distance_share", "calibrated distances, with the held-out networks' quantile [@carlini2023]"),
    ("precision", "precision and recall [@kynkaanniemi2019]"),
    ("density", "density and coverage [@naeem2020]"),
    ("fld_gap", "FLD and its generalization gap [@jiralerspong2023]"),
    ("mmd", "the maximum mean discrepancy with a permutation test [@gretton2012]"),
    ("c2st", "classifier and nearest-neighbour two-sample tests [@lopezpaz2017]"),
    ("c2st_invariant", "a classifier of norms, moments and spectra"),
    ("vendi", "the Vendi score [@friedman2023]"),
    ("twonn", "intrinsic dimensions by TwoNN [@facco2017] and maximum likelihood [@levina2004]"),
)


def _population(facts: Facts) -> Iterator[str]:
    found = [words for name, words in _BATTERY if facts.has("battery", name)]
    if found:
        yield (
            f"As populations, in coordinates modulo the same symmetries, series were compared by {', '.join(found)}; "
            "each beside the value of held-out networks at the same number."
        )
    yield (
        f"Intervals are 95 %: bootstrap over networks with {facts.bootstrap:,} resamples [@efron1979], Clopper-Pearson "
        f"for shares [@clopper1934]; random seed {facts.seed}."
    )


def _verdict(facts: Facts) -> Iterator[str]:
    metrics, checks = facts.metrics, facts.metrics["checks"]
    roles = style.roles(metrics)
    positive = [n for n, role in roles.items() if role == style.CONTROL and n != auditing.HELDOUT_CONTROL]
    controls = [style.label(n) for n in positive]
    if controls:
        state = "All were judged so." if checks["controls_passed"] else "Not all were: " + _failed(checks)
        yield (
            f"Controls were {', '.join(controls)}, which have to be flagged, and one half of the held-out networks "
            f"judged against the other, which has not. {state}"
        )
    baselines = [style.label(n) for n, role in roles.items() if role == style.BASELINE]
    soups = " [@wortsman2022]" if any("average" in b or "soup" in b for b in baselines) else ""
    if baselines:
        yield f"Baselines were {', '.join(baselines)}{soups}."
    for name, role in roles.items():
        judged = metrics["series"][name].get("verdict")
        if role == style.LEARNED and judged:
            beside = (judged.get("beats_baselines") or {}).get("text", "")
            yield f"Verdict on {style.label(name)}: {judged['label']}. {judged['text']} {beside}".rstrip()


def _failed(checks: Mapping[str, Any]) -> str:
    return ", ".join(style.label(name) for name in checks["failed_controls"]) + "."
