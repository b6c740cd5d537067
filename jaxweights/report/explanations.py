"""Meaning of the measures, with their sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxweights.auditing import THRESHOLDS
from jaxweights.report import measures, tables
from jaxweights.report.citations import REFERENCES

_ALWAYS: tuple[str, ...] = ()

# Name, meaning, and where a series has it (nowhere for what is always explained); {names in braces} are papers by their
# key, thresholds and the task's terms.
_ENTRIES = (
    (
        "verdict",
        "The first rule that applies. <b>Copies</b>, <b>interpolates</b>: more than {share:g}&nbsp;% of the networks, "
        "and more than of held-out runs, are copies or convex mixtures of training networks. <b>Collapsed</b>: most "
        "are near another one of their own. <b>Affine mixture</b>: most lie in the affine hull of training networks. "
        "<b>Variations</b>: they are closer to training networks than held-out runs, or {act_like} training networks "
        "more closely. <b>Degrades</b>: the mean {measure} misses the {quantile:g}th percentile of held-out runs. "
        "<b>As novel as new runs</b>: the interval of the share of pairs in which a sample is farther than a held-out "
        "run lies above {novelty:g}&nbsp;%. <b>Undecided</b>: it does not, or a control failed on which the verdict "
        "rests. <b>Undefined</b>: most networks have outputs that are not finite.",
        _ALWAYS,
    ),
    (
        "beats the baselines",
        "Whether the mean {measure} lies above what baselines, training networks and noise reach at the same novelty, "
        "alone or mixed. The second answer cannot replace the first, nor the first the second: a simple model of the "
        "weights may be as novel as new runs.",
        ("performance", "excess"),
    ),
    (
        "novelty, novel and performing",
        "Mean distance to the nearest training network in units of &tau;, at most 1; &tau; is the median distance "
        "between training networks of different runs. Share of networks that are farther than &tau; and as good as all "
        "but the worst 5&nbsp;% of held-out runs; about half of these are. As published, &tau; is the distance to any "
        "other checkpoint, which nearly all unrelated networks exceed.",
        ("performance", "novelty"),
    ),
    (
        "min L2",
        "Euclidean distance from a network's weights to the nearest training network ({zeng2025}). For training "
        "networks, to the nearest one of another run; where all are checkpoints of one run, to the nearest other one, "
        "which is a few steps away and so near that everything looks new beside it. Small compared with held-out runs: "
        "the network stays near what the generator has seen.",
        _ALWAYS,
    ),
    (
        "aligned min L2",
        "The same modulo the symmetries of hidden units: exact for one group of units, an upper bound by weight "
        "matching ({ainsworth2023}) for several; units that may be rescaled are balanced first ({stock2019}). "
        "Reordering units changes the weights but not the function, so a reordered copy is still a copy.",
        ("aligned_min_l2",),
    ),
    (
        "farther than new runs, Z_U",
        "Share of pairs of a sample and a held-out network in which the sample is farther from the training networks; "
        "50&nbsp;% for new runs. Z_U ({meehan2020}) is the same as a Mann&ndash;Whitney statistic ({mann1947}): 0 for "
        "new runs, below {z_u:g} too close. Of distance ratios: whether samples are close to single training networks.",
        _ALWAYS,
    ),
    (
        "copies",
        "Share of networks whose nearest training network is less than a third as far as the next one of another run "
        "({yoon2023}; {gu2023}): copies up to small changes. Where the generators saw a single run, networks that are "
        "less than a third as far from their nearest checkpoint as that one is from the rest of the run.",
        _ALWAYS,
    ),
    (
        "mixtures, affine mixtures",
        "Share of networks that are less than a third as far from the best convex combination of nearby training "
        "networks, or from the affine hull of all, as the median held-out network, and also relative to the nearest "
        "training network. An interpolation is no invention, however far it is from each single network.",
        _ALWAYS,
    ),
    (
        "max {overlap}",
        "{overlap_sentence} (intersection over union), with the most similar training network ({zeng2025}). 1 means "
        "{alike}. Held-out runs show what independent training reaches; where they reach 1, it tells nothing.",
        ("max_error_iou",),
    ),
    (
        "outputs: min L2, largest difference",
        "Root mean square of the differences between a network's outputs on the probe set and those of the training "
        "network where it is smallest, and the largest difference to that one. A copy has 0, under whatever symmetry.",
        ("function", "function_l2"),
    ),
    (
        "disagreement, ensemble gain",
        "Share of the probe set that two networks decide differently: a network and the nearest training network, and "
        "two of a series. What averaging the outputs of 16 networks gains over their mean {measure} ({fort2019}). Both "
        "are small for a generator that makes few different functions.",
        ("function", "disagreement"),
    ),
    (
        "barrier, aligned barrier",
        "Largest excess of the loss on the straight line to the nearest training network over the line between the "
        "losses at its ends ({frankle2020}), before and after alignment ({ainsworth2023}).",
        ("function", "barrier"),
    ),
    (
        "C_T",
        "Z_U within k-means cells of the training networks, weighted by the held-out networks in each ({meehan2020}); "
        "below 0: copying in parts of weight space.",
        ("battery", "c_t"),
    ),
    (
        "calibrated distance, neighbour ratio",
        "Share of networks whose distance to the nearest training network, relative to the mean of the next ones "
        "({carlini2023}) or to the next run, is below what 5&nbsp;% of held-out networks have: 5&nbsp;% is what chance "
        "gives.",
        ("battery", "calibrated_distance_share"),
    ),
    (
        "precision, recall, density, coverage",
        "Networks within the balls that reach from training networks to their fifth neighbours, and the reverse "
        "({kynkaanniemi2019}; {naeem2020}). Copies have 1 throughout.",
        ("battery", "precision"),
    ),
    (
        "FLD, generalization gap",
        "Likelihood of held-out networks under Gaussians around the samples, and how much less likely held-out than "
        "training networks are ({jiralerspong2023}); far below 0: the samples sit on training networks.",
        ("battery", "fld_gap"),
    ),
    (
        "MMD&sup2;, C2ST, 1-NNA",
        "Maximum mean discrepancy to training networks with a permutation test ({gretton2012}), and the accuracy with "
        "which a classifier or the nearest neighbour tells samples from training networks ({lopezpaz2017}): 50&nbsp;% "
        "if they cannot be told apart, less for copies.",
        ("battery", "mmd"),
    ),
    (
        "Vendi",
        "Effective number of different networks ({friedman2023}); 1 for a generator that makes one.",
        ("battery", "vendi"),
    ),
    (
        "dimension",
        "Intrinsic dimension by ratios of nearest-neighbour distances ({facco2017}) and by maximum likelihood "
        "({levina2004}), at equal numbers of networks.",
        ("battery", "twonn"),
    ),
    ("{measure}, loss", "{explanation}", ("accuracy",)),
    (
        "AuthPct",
        "Share of networks that are farther from their nearest training network than that one is from its own nearest "
        "({alaa2022}). Held-out runs lie near the value of the held-out half; copies at 0. Of a single run it says "
        "little: anything is farther from a checkpoint than a few training steps.",
        _ALWAYS,
    ),
    (
        "distance to mixtures, over nearest, over held-out's",
        "Distance to the best convex combination of the nearest, or of all, training networks "
        "(<code>audit.hull_neighbours</code>, 0 for all); relative to the distance to the nearest one, 0 if mixtures "
        "explain a network entirely; and its median relative to that of held-out runs, 1 if they explain no more than "
        "of newly trained ones. The last is missing where mixtures reach held-out runs too.",
        _ALWAYS,
    ),
    (
        "collapsed",
        "Share of networks that are less than an eighth as far from another one of their series as held-out networks "
        "are from one another.",
        ("tests", "collapsed_share"),
    ),
    (
        "min L2, own run and other runs",
        "The raw distance to the nearest other checkpoint of a network's own run, which is evidence of nothing but the "
        "spacing of checkpoints, and to the nearest training network of any other run. Samples made from one training "
        "network count to its run, other samples to none; the own run of held-out networks is their own, unseen one.",
        ("by_run", "other_run_l2"),
    ),
    (
        "closer than any held-out, {overlap} above held-out",
        "Share of networks that are closer to the training networks than every held-out run; and whose max {overlap} "
        "exceeds what 95&nbsp;% of held-out runs reach: 5&nbsp;% is what chance gives.",
        _ALWAYS,
    ),
    (
        "95 % interval",
        "Bootstrap over networks for means and statistics ({efron1979}), the exact interval of a binomial share for "
        "shares ({clopper1934}). n is the number of networks.",
        _ALWAYS,
    ),
)


def explanations(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and meaning of every measure that an audit has, with its source; HTML."""
    terms = tables.terms_of(metrics)
    words = {
        **{key: reference.link for key, reference in REFERENCES.items()},
        **dataclasses.asdict(terms),
        "overlap_sentence": terms.overlap_meaning[:1].upper() + terms.overlap_meaning[1:],
        "share": 100 * THRESHOLDS.share,
        "quantile": 100 * THRESHOLDS.accuracy_quantile,
        "novelty": 100 * THRESHOLDS.novelty,
        "z_u": THRESHOLDS.z_u,
    }
    entries = metrics["series"].values()

    def measured(path: tuple[str, ...]) -> bool:
        found = measures.Measure(path, "")
        return not path or any(found.find(entry) for entry in entries)

    return [(name.format(**words), text.format(**words)) for name, text, path in _ENTRIES if measured(path)]
