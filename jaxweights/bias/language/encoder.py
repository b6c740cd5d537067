"""A classifier of captions on a sentence encoder: a regression on its embeddings, or the whole encoder trained."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from jaxweights import files
from jaxweights.bias import protocol, regression
from jaxweights.bias.adapters import models, sentences
from jaxweights.bias.adapters.models import ModelSettings
from jaxweights.bias.adapters.sentences import Recipe
from jaxweights.bias.language.captions import Captions
from jaxweights.bias.protocol import Outcome, Split
from jaxweights.bias.subject import Sizes
from jaxweights.errors import UserError
from jaxweights.progress import Progress
from jaxweights.settings import plain, setting

_WARMUP = 1562 / 23437  # of the published steps of an epoch
_HELD_OUT = 0.1  # of the training captions


@dataclasses.dataclass(frozen=True)
class EncoderSettings(ModelSettings):
    """A sentence encoder of sentence-transformers; none where `model` is empty.

    All pairs of `epochs` and `learning_rates` are tried; the best one is chosen.

    Attributes:
      batch_size: captions of a step.
      frozen: whether a logistic regression on its embeddings is fitted.
      tuned: whether the whole encoder is trained with a linear layer, as published.
      epochs: lengths of the training that are tried.
      learning_rates: largest learning rates that are tried.
      last_learning_rate: where the cosine ends.
      warmup: share of the steps in which the learning rate grows.
      chosen_on: what epochs and learning rate are chosen on: "training", a tenth of the training captions, after which
        the encoder is trained on all of them, or "validation", the captions that are reported, as published.
    """

    SECTION: ClassVar[str] = "language.encoder"

    batch_size: int = setting(128, at_least=1)
    frozen: bool = True
    tuned: bool = False
    epochs: tuple[int, ...] = setting((1, 2, 4, 6), at_least=1, length=(1, None))
    learning_rates: tuple[float, ...] = setting((1e-3, 1e-4, 1e-5), above=0.0, length=(1, None))
    last_learning_rate: float = setting(1e-6, at_least=0.0)
    warmup: float = setting(_WARMUP, at_least=0.0, below=1.0)
    chosen_on: Literal["training", "validation"] = "training"

    @property
    def recipes(self) -> list[Recipe]:
        """All that are tried, the first of equally good ones first."""
        rest = self.last_learning_rate, self.warmup, self.batch_size
        return [Recipe(epochs, rate, *rest) for epochs in self.epochs for rate in self.learning_rates]


class _Told(NamedTuple):
    """What a classifier says of a subset.

    Attributes:
      outcome: see `Outcome`.
      chosen: epochs and learning rate, where these were chosen.
    """

    outcome: Outcome
    chosen: dict[str, float] | None


def classify(captions: Captions, sizes: Sizes, options: EncoderSettings, folder: pathlib.Path) -> dict[str, Any]:
    """Tries an encoder on every subset.

    Args:
      captions: of the collections.
      sizes: repeats, controls and subsets.
      options: the encoder, and how it is trained.
      folder: keeps what is told of every subset, which is then not computed again.

    Returns:
      `model` and `weights`; `frozen` and `tuned`, where asked for, see `protocol.summary`; `tuned` has `chosen`, epochs
      and learning rate of every repeat.

    Raises:
      UserError: too few captions, or an encoder that cannot be loaded.
    """
    files.make_dir(folder)
    chosen = sizes.splits(captions.labelled)
    found: dict[str, Any] = {"model": options.model, "weights": models.identity(options)}
    fits = {"frozen": _frozen(captions, options)} if options.frozen else {}
    fits |= {"tuned": _tuned(captions, options, sizes.seed)} if options.tuned else {}
    for name, tell in fits.items():
        facts = [captions.labelled.facts["digest"], found["weights"], plain(options)]
        found[name] = _try_all(folder / name, facts, tell, chosen)
    return found


def _try_all(
    path: pathlib.Path,
    facts: list[Any],
    tell: Callable[[Split], _Told],
    chosen: tuple[Sequence[Split], Sequence[bool]],
) -> dict[str, Any]:
    """What a classifier says of all subsets; `facts` is what it depends on, and files begin with `path`."""
    told, trials = [], []
    with Progress(len(chosen[0]), f"captions, {path.name} encoder", "fits") as progress:
        for i, split in enumerate(chosen[0]):
            kept = path.with_name(f"{path.name}-{i}.json")
            told.append(_kept(kept, _digest(facts, split), lambda split=split: tell(split)))
            trials.append(split.trial(0, i))
            progress.update(i + 1)
    count = int(max(split.labels[split.train].max() for split in chosen[0])) + 1
    found = protocol.summary(trials, [one.outcome for one in told], count, chosen[1])
    picked = [one.chosen for one, control in zip(told, chosen[1], strict=True) if not control]
    return found if None in picked else found | {"chosen": picked}


def _kept(path: pathlib.Path, digest: str, tell: Callable[[], _Told]) -> _Told:
    """What a file has of a subset, if it is of the same captions and settings; else it is computed and written."""
    if path.exists():
        shape = {"of": str, "predictions": [int], "train_accuracy": float}
        kept = files.read_json(path, "outcome of an encoder", f"Remove {path} and run the same command again.", shape)
        if kept["of"] == digest:
            outcome = Outcome(np.array(kept["predictions"], np.int32), kept["train_accuracy"])
            return _Told(outcome, kept.get("chosen"))
    told = tell()
    facts = {"of": digest, "predictions": told.outcome.predictions.tolist()}
    files.write_json(path, {**facts, "train_accuracy": told.outcome.train_accuracy, "chosen": told.chosen})
    return told


def _digest(facts: list[Any], split: Split) -> str:
    found = hashlib.sha256(json.dumps(facts).encode())
    for array in (split.train, split.validation, split.labels[split.train]):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _frozen(captions: Captions, options: EncoderSettings) -> Callable[[Split], _Told]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    embedded: list[np.ndarray] = []  # once, where it is needed

    def tell(split: Split) -> _Told:
        if not embedded:
            embedded.append(sentences.embed(options, captions.texts))
        fit = regression.estimator(
            lambda: make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)), embedded[0]
        )
        return _Told(regression.outcome(fit(split), split), None)

    return tell


def _tuned(captions: Captions, options: EncoderSettings, seed: int) -> Callable[[Split], _Told]:
    count, groups = len(captions.collections), captions.labelled.groups

    def trained(split: Split, recipe: Recipe) -> regression.Predict:
        texts = [captions.texts[i] for i in split.train]
        classify = sentences.train(options, texts, split.labels[split.train], count, recipe, seed)
        return lambda rows: classify([captions.texts[i] for i in rows])

    def tell(split: Split) -> _Told:
        recipe, *others = options.recipes
        if options.chosen_on == "validation" or not others:
            recipe, outcome = _best([recipe, *others], split, trained)
        else:
            recipe, _ = _best([recipe, *others], _inner(split, groups, seed), trained)
            outcome = regression.outcome(trained(split, recipe), split)
        return _Told(outcome, {"epochs": recipe.epochs, "learning_rate": recipe.learning_rate})

    return tell


def _best(
    recipes: Sequence[Recipe], split: Split, trained: Callable[[Split, Recipe], regression.Predict]
) -> tuple[Recipe, Outcome]:
    """The recipe that is right most often about the validation rows of a subset, and its outcome."""
    tried = [(recipe, regression.outcome(trained(split, recipe), split)) for recipe in recipes]
    truth = split.labels[split.validation]
    return max(tried, key=lambda one: np.mean(one[1].predictions == truth))


def _inner(split: Split, groups: np.ndarray, seed: int) -> Split:
    """The training rows of a subset in two parts, of which the smaller one is to choose on.

    Raises:
      UserError: a collection with a single group.
    """
    rng, asked = np.random.default_rng([seed, 6]), []
    for label in np.unique(split.labels[split.train]):
        own = np.unique(groups[split.train[split.labels[split.train] == label]])
        if len(own) < 2:
            raise UserError(
                "A collection has one training caption, so that none is left to choose epochs and learning rate on. "
                "Raise language.num_train."
            )
        asked.append(rng.permutation(own)[: max(1, round(_HELD_OUT * len(own)))])
    held = np.isin(groups[split.train], np.concatenate(asked))
    return Split(split.labels, split.train[~held], split.train[held])
