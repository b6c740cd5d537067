"""What named objects say about their collections: shares, a regression, the majority rule, counts per image."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from jaxweights.auditing.statistics import CONFIDENCE, Estimate
from jaxweights.bias import ranking, regression
from jaxweights.bias.objects.presence import Presence
from jaxweights.bias.protocol import Split, wilson
from jaxweights.bias.ranking import Table
from jaxweights.bias.regression import Predict
from jaxweights.bias.subject import Sizes
from jaxweights.errors import UserError

TOP = 8
"""Objects of a collection that are shown, as published."""
WHISKER = 1.5
"""Whiskers of box plots reach the furthest value within so many interquartile ranges of the box (Tukey 1977)."""


def shares(presence: Presence, least: int) -> dict[str, Any]:
    """The share of an object's images that comes from each collection.

    Args:
      presence: as many images of every collection, or else shares follow the sizes.
      least: objects in fewer images are left out.

    Returns:
      `least`; `left_out`, the number of rarer objects; `objects` by name: `images`, and `shares` by collection with
      Wilson intervals; `top` by collection: the names with the largest shares, ties by number of images.

    Raises:
      UserError: no object is in so many images.
    """
    count = len(presence.collections)
    counts = np.stack([presence.present[presence.labels == k].sum(axis=0) for k in range(count)])
    total = counts.sum(axis=0)
    kept = np.flatnonzero(total >= least)
    if not len(kept):
        raise UserError(
            f"No object is in {least} images; the most frequent one is in {total.max()}. Lower objects.least."
        )
    found = {
        presence.names[f]: {
            "images": int(total[f]),
            "shares": {
                name: wilson(int(counts[k, f]), int(total[f])).to_json() for k, name in enumerate(presence.collections)
            },
        }
        for f in kept
    }
    top = {}
    for k, name in enumerate(presence.collections):
        order = kept[np.lexsort((-total[kept], -counts[k, kept] / total[kept]))]
        top[name] = [presence.names[f] for f in order[:TOP]]
    return {"least": least, "left_out": len(total) - len(kept), "objects": found, "top": top}


def majority(presence: Presence, split: Split) -> Predict:
    """The rule without parameters: an image belongs to the collection to which most images with its object do.

    Of several objects the collections' shares are added; an image without objects counts as one with an object of its
    own. With one label per image this is the published rule.

    Args:
      presence: all images.
      split: rows to count.

    Returns:
      A function from rows `[k]` to their collections `[k]`.
    """
    nothing = ~presence.present.any(axis=1, keepdims=True)
    present = np.concatenate([presence.present, nothing], axis=1)
    labels = split.labels[split.train]
    counts = np.stack([present[split.train][labels == k].sum(axis=0) for k in range(int(labels.max()) + 1)])
    parts = counts / np.maximum(counts.sum(axis=0), 1)
    return lambda rows: (present[rows] @ parts.T).argmax(axis=1)


def unique_counts(presence: Presence) -> dict[str, dict[str, float]]:
    """Different objects per image of every collection, as the numbers of a box plot.

    Returns:
      By collection: `low` and `high` (ends of the whiskers), `q1`, `median`, `q3`, `mean`, `n`.
    """
    found, counts = {}, presence.present.sum(axis=1)
    for k, name in enumerate(presence.collections):
        own = counts[presence.labels == k]
        q1, median, q3 = np.quantile(own, (0.25, 0.5, 0.75))
        within = own[(own >= q1 - WHISKER * (q3 - q1)) & (own <= q3 + WHISKER * (q3 - q1))]
        found[name] = {
            "low": float(within.min()),
            "q1": float(q1),
            "median": float(median),
            "q3": float(q3),
            "high": float(within.max()),
            "mean": float(own.mean()),
            "n": len(own),
        }
    return found


def correlation(presence: Presence, right: np.ndarray, rows: np.ndarray, least: int) -> dict[str, Any]:
    """Whether a reference model is right where an object betrays the collection.

    Args:
      presence: all images; majority shares are of these, as if all collections had one size.
      right: `[m]` bool, whether the reference model names the collection of an image that it was not trained on.
      rows: `[m]` of these images.
      least: objects in fewer of these images are left out.

    Returns:
      `objects` by name: `majority`, the largest share of a collection, `accuracy` of the reference model on its images
      with Wilson interval; `pearson` with Fisher's interval and `spearman` over objects, None with fewer than 4.
    """
    from scipy.stats import spearmanr  # slow to import

    counts = np.stack([presence.present[presence.labels == k].sum(axis=0) for k in range(len(presence.collections))])
    asked, hits = presence.present[rows].sum(axis=0), presence.present[rows][np.asarray(right, bool)].sum(axis=0)
    kept = np.flatnonzero(asked >= max(1, least))
    rates = counts / np.bincount(presence.labels, minlength=len(counts))[:, None]  # as if all had one size
    largest = rates.max(axis=0) / np.maximum(rates.sum(axis=0), 1e-30)
    objects = {
        presence.names[f]: {"majority": float(largest[f]), "accuracy": wilson(int(hits[f]), int(asked[f])).to_json()}
        for f in kept
    }
    x, y = largest[kept], hits[kept] / np.maximum(asked[kept], 1)
    if len(kept) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return {"least": least, "objects": objects, "pearson": None, "spearman": None}
    value = float(np.corrcoef(x, y)[0, 1])
    half = float(special.ndtri(0.5 + CONFIDENCE / 2)) / np.sqrt(len(kept) - 3)
    middle = np.arctanh(np.clip(value, -1 + 1e-12, 1 - 1e-12))
    pearson = Estimate(value, float(np.tanh(middle - half)), float(np.tanh(middle + half)), len(kept))
    rank: Any = spearmanr(x, y)
    return {
        "least": least,
        "objects": objects,
        "pearson": pearson.to_json(),
        "spearman": float(rank.statistic),
    }


def analyse(presence: Presence, sizes: Sizes, least: int) -> dict[str, Any]:
    """All that objects say without a reference model.

    Args:
      presence: images of the collections; the larger collections are cut to the size of the smallest.
      sizes: repeats, controls and subsets of the regression.
      least: images that an object needs to be shown and to be a feature.

    Returns:
      `images` of every collection; `shares`, see `shares`; `regression`: `protocol.summary` of a logistic regression
      (L2, C = 1) on standardised presence; `majority`: the same of the rule without parameters; `named`, see
      `ranking.rank`, of the first repeat; `unique`, see `unique_counts`.

    Raises:
      UserError: too few images, or no object frequent enough.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    presence = presence.balanced(sizes.seed)
    shown, examples = shares(presence, least), presence.labelled
    kept = [f for f, name in enumerate(presence.names) if name in shown["objects"]]
    values, names = presence.present[:, kept].astype(float), [presence.names[f] for f in kept]
    chosen = sizes.splits(examples)
    fit = regression.estimator(lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)), values)
    fitted, _ = regression.try_all(fit, chosen, examples.num_classes)
    rule, _ = regression.try_all(lambda split: majority(presence, split), chosen, examples.num_classes)
    named = ranking.rank(Table(names, values, examples.groups), chosen[0][0], presence.collections)
    return {
        "chance": 1 / examples.num_classes,
        "digest": examples.facts["digest"],
        "images": {name: int((presence.labels == k).sum()) for k, name in enumerate(presence.collections)},
        "shares": shown,
        "regression": fitted,
        "majority": rule,
        "named": named,
        "unique": unique_counts(presence),
    }
