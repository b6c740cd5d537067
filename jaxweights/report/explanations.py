"""Meaning of the measures, with their sources."""

from __future__ import annotations

import dataclasses

from jaxweights.auditing import THRESHOLDS
from jaxweights.tasks import Terms


def _paper(name: str, arxiv: str) -> str:
    return f'<a href="https://arxiv.org/abs/{arxiv}">{name}</a>'


_PAPERS = {
    "alaa": _paper("Alaa et al. 2022", "2102.08921"),
    "gu": _paper("Gu et al. 2023", "2310.02664"),
    "meehan": _paper("Meehan et al. 2020", "2004.05675"),
    "zeng": _paper("Zeng et al. 2025", "2506.07998"),
}
_ALIGNED = "aligned min L2"

# Names and meanings, in which {names in braces} are papers, thresholds and the task's terms.
_ENTRIES = (
    (
        "verdict",
        "<b>Remembers</b> or <b>interpolates</b>: more than {share:g}&nbsp;% of the networks are copies or mixtures of "
        "training networks, whichever are more frequent; also remembers: they lie closer to the training networks than "
        "held-out runs, though nothing explains them one by one, or most {act_like} training networks more closely "
        "than 95&nbsp;% of held-out runs. <b>Degrades</b>: neither, but its mean {measure} misses the {quantile:g}th "
        "percentile of held-out runs. <b>Invents</b>: otherwise. <b>Undecided</b>: a control failed on which the "
        "verdict rests. <b>Undefined</b>: most networks have outputs that are not finite.",
    ),
    (
        "min L2",
        "Euclidean distance from a network's weights to the nearest training network ({zeng}). For training "
        "networks, to the nearest one of another run; where all are checkpoints of one run, to the nearest other "
        "one, which is a few steps away and so near that everything looks new beside it. Small compared with "
        "held-out runs: the network stays near what the generator has seen.",
    ),
    (
        _ALIGNED,
        "The same after the best reordering of hidden units: exact assignment for one group of units, as for G.pt in "
        "the same paper; an upper bound for several, of balanced networks and with signs. Reordering changes the "
        "weights but not the function, so a reordered copy is still a copy.",
    ),
    (
        "max {overlap}",
        "{overlap_sentence} (intersection over union), with the most similar training network ({zeng}). 1 means "
        "{alike}. Held-out runs show what independent training reaches. Training networks leave out their own run, or "
        "only themselves where there is no other; then they come near 1, for neighbouring checkpoints have {alike}.",
    ),
    (
        "Z_U",
        "Mann&ndash;Whitney statistic of the distances {which}, of generated against held-out networks ({meehan}). 0: "
        "as far from the training networks as held-out runs; below {z_u:g}: too close, data-copying; above 0: farther "
        "away, for instance because the networks are worse.",
    ),
    (
        "AuthPct",
        "Share of networks that are farther from their nearest training network than that one is from its own "
        "nearest ({alaa}). Held-out runs lie near the value of the held-out half; copies at 0. Where the training "
        "networks are checkpoints of one run, it asks whether a network is farther from a checkpoint than a few "
        "training steps: no then means a copy, but yes means nothing.",
    ),
    (
        "memorised",
        "Share of networks whose nearest training network is less than a third as far as the next one of another "
        "run (Yoon et al. 2023; {gu}): copies up to small changes. Not defined where the generators saw a single run.",
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
    ("{measure}, loss", "{explanation}"),
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
        "{overlap} above held-out",
        "Share of networks whose max {overlap} exceeds what 95 % of held-out runs reach; 5 % is what chance gives.",
    ),
    (
        "95 % interval",
        "Bootstrap over networks for means, Z_U and AuthPct; for other shares the interval of a binomial share. "
        "n is the number of networks.",
    ),
)


def explanations(aligned: bool, terms: Terms) -> list[tuple[str, str]]:
    """Name and meaning of every measure, with its source; HTML.

    Args:
      aligned: whether distances modulo permutations were measured.
      terms: words of the task.
    """
    words = {
        **_PAPERS,
        **dataclasses.asdict(terms),
        "overlap_sentence": terms.overlap_meaning[:1].upper() + terms.overlap_meaning[1:],
        "which": "modulo permutations of hidden units" if aligned else "between raw weight vectors",
        "share": 100 * THRESHOLDS.share,
        "quantile": 100 * THRESHOLDS.accuracy_quantile,
        "z_u": THRESHOLDS.z_u,
    }
    shown = [entry for entry in _ENTRIES if aligned or entry[0] != _ALIGNED]
    return [(name.format(**words), text.format(**words)) for name, text in shown]
