"""Words of captions: frequent phrases, topics, distinctive words, and a classifier of sentences."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxweights.bias import regression
from jaxweights.bias.language.captions import Captions
from jaxweights.bias.protocol import wilson
from jaxweights.bias.subject import Sizes
from jaxweights.errors import UserError

PHRASES, TOPICS, TOPIC_WORDS = 100, 5, 5
"""Phrases of a cloud, topics of a collection, and words of a topic, as published."""
PRIOR = 500.0
"""Words that the informative prior of `distinctive` counts for."""
DISTINCTIVE = 20
"""Distinctive words of a collection that are kept."""
_LONGEST = 3  # words of a phrase
_TOKEN = r"(?u)\b[^\W\d_]{2,}\b"


def phrases(captions: Captions, most: int = PHRASES) -> dict[str, list[dict[str, Any]]]:
    """The most frequent phrases of every collection: one to three words without stop words.

    A phrase that only occurs within a longer one is left out.

    Args:
      captions: of the collections.
      most: phrases of a collection.

    Returns:
      By collection `{"phrase", "count", "captions"}`, the most frequent first; `captions` is the share of the
      captions that have it, with its Wilson interval.
    """
    counts, names = _counts(captions, (1, _LONGEST))
    found = {}
    for k, collection in enumerate(captions.collections):
        own = counts[captions.labels == k]
        total, holders = np.asarray(own.sum(axis=0)).ravel(), np.asarray((own > 0).sum(axis=0)).ravel()
        order = [i for i in np.lexsort((names, -total)) if total[i] > 0][: 3 * most]
        chosen = [i for i in order if not _within(i, order, names, total)][:most]
        found[collection] = [
            {
                "phrase": str(names[i]),
                "count": int(total[i]),
                "captions": wilson(int(holders[i]), own.shape[0]).to_json(),
            }
            for i in chosen
        ]
    return found


def _within(place: int, others: list[int], names: np.ndarray, total: np.ndarray) -> bool:
    """Whether a phrase is part of a longer one that is as frequent."""
    name = f" {names[place]} "
    return any(i != place and total[i] == total[place] and name in f" {names[i]} " for i in others)


def topics(captions: Captions, seed: int, count: int = TOPICS, words: int = TOPIC_WORDS) -> dict[str, list[Any]]:
    """Topics of every collection by latent Dirichlet allocation (Blei et al. 2003).

    Args:
      captions: of the collections.
      seed: of the initial topics.
      count: topics of a collection.
      words: words of a topic.

    Returns:
      By collection `{"words", "share"}`, the largest first: its most probable words, and the share of the collection's
      words that belong to it.
    """
    from sklearn.decomposition import LatentDirichletAllocation

    counts, names = _counts(captions, (1, 1))
    found = {}
    for k, collection in enumerate(captions.collections):
        own = counts[captions.labels == k]
        model = LatentDirichletAllocation(count, random_state=seed, max_iter=20)
        mixture = model.fit_transform(own)
        weight = np.asarray(own.sum(axis=1)).ravel() @ mixture
        order = np.argsort(-weight, kind="stable")
        found[collection] = [
            {
                "words": [str(names[i]) for i in np.argsort(-model.components_[t], kind="stable")[:words]],
                "share": float(weight[t] / weight.sum()),
            }
            for t in order
        ]
    return found


def log_odds(own: np.ndarray, others: np.ndarray, prior: float = PRIOR) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds ratios of words with an informative Dirichlet prior (Monroe, Colaresi and Quinn 2008, section 3.5).

    With counts y and z of a word here and elsewhere, n and m of all words, and `a` its share of the prior:
    `log((y + a) / (n + p - y - a)) - log((z + a) / (m + p - z - a))`, of variance `1 / (y + a) + 1 / (z + a)`.

    Args:
      own: `[W]` counts in a collection.
      others: `[W]` counts in all others.
      prior: words p that the prior counts for, in the proportions of all collections.

    Returns:
      The log-odds ratios `[W]`, and their z-scores.
    """
    own, others = np.asarray(own, float), np.asarray(others, float)
    share = prior * (own + others) / (own + others).sum()
    here, there = own + share, others + share
    ratio = np.log(here / (own.sum() + prior - here)) - np.log(there / (others.sum() + prior - there))
    return ratio, ratio / np.sqrt(1 / here + 1 / there)


def distinctive(captions: Captions, most: int = DISTINCTIVE, prior: float = PRIOR) -> dict[str, list[dict[str, Any]]]:
    """The words that set every collection apart from all others, see `log_odds`.

    Returns:
      By collection `{"word", "z", "log_odds", "count", "elsewhere"}`, the largest z-score first.
    """
    counts, names = _counts(captions, (1, 1))
    by = np.stack([np.asarray(counts[captions.labels == k].sum(axis=0)).ravel() for k in range(_count(captions))])
    found = {}
    for k, collection in enumerate(captions.collections):
        others = by.sum(axis=0) - by[k]
        ratio, z = log_odds(by[k], others, prior)
        found[collection] = [
            {
                "word": str(names[i]),
                "z": float(z[i]),
                "log_odds": float(ratio[i]),
                "count": int(by[k, i]),
                "elsewhere": int(others[i]),
            }
            for i in np.lexsort((names, -z))[:most]
        ]
    return found


def classify(captions: Captions, sizes: Sizes) -> tuple[dict[str, Any], list[Any]]:
    """A classifier of sentences: TF-IDF of words and pairs of words, logistic regression.

    Returns:
      See `regression.try_all`.

    Raises:
      UserError: too few captions.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = np.array(captions.texts, object)
    fit = regression.estimator(
        lambda: make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10.0, max_iter=2000)
        ),
        texts,
    )
    return regression.try_all(fit, sizes.splits(captions.labelled), _count(captions))


def analyse(captions: Captions, sizes: Sizes) -> dict[str, Any]:
    """All that captions say without a language model.

    Args:
      captions: of the collections.
      sizes: repeats, controls and subsets of the classifier.

    Returns:
      `captions` of every collection, `notes`, and `classifier`, `phrases`, `topics`, `distinctive` of the functions
      with these names.
    """
    examples = captions.labelled
    return {
        "chance": 1 / examples.num_classes,
        "digest": examples.facts["digest"],
        "captions": {name: len(captions.of(k)) for k, name in enumerate(captions.collections)},
        "notes": list(captions.notes),
        "classifier": classify(captions, sizes)[0],
        "phrases": phrases(captions),
        "topics": topics(captions, sizes.seed),
        "distinctive": distinctive(captions),
    }


def _count(captions: Captions) -> int:
    return len(captions.collections)


def _counts(captions: Captions, lengths: tuple[int, int]) -> tuple[Any, np.ndarray]:
    """Sparse counts `[n, W]` of words or phrases without stop words, and their names `[W]`."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(stop_words="english", ngram_range=lengths, token_pattern=_TOKEN)
    try:
        counts = vectorizer.fit_transform(captions.texts)
    except ValueError as error:
        raise UserError(f"The captions have no words but stop words ({error}). Give sentences in English.") from error
    return counts, vectorizer.get_feature_names_out()
