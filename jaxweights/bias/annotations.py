"""Objects, captions and yes/no questions of collections in one folder: sections `objects`, `language` and `questions`
of a config.

Everything is computed anew in every run, in seconds; only the answers of a language model and what a sentence encoder
says of a subset are kept.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from jaxweights import files, locks, processes, provenance, settings
from jaxweights.bias import annotation_page, embeddings, language, objects, questions, study
from jaxweights.bias.adapters import clip
from jaxweights.bias.language import Captions, ChatEndpoint, PromptSettings, encoder, proposals, queries
from jaxweights.bias.language.encoder import EncoderSettings
from jaxweights.bias.language.prompts import Query
from jaxweights.bias.language.proposals import ProposalSettings
from jaxweights.bias.subject import Sizes
from jaxweights.errors import UserError
from jaxweights.settings import Settings, make, refuse_unknown, setting

SECTIONS = ("objects", "language", "questions")

_ANSWERS = "answers"


@dataclasses.dataclass(frozen=True)
class _Sized(Settings):
    """Collections, and the sizes of what is tried on them.

    Attributes:
      collections: by name, the file of each.
      repeats: fits, each with a fresh subset.
      controls: fits on pseudo-collections.
      num_train: images or captions of each collection to learn from; 0 for all others.
      num_validation: images or captions of each collection to be asked about.
    """

    collections: Mapping[str, str] = dataclasses.field(default_factory=dict)
    repeats: int = setting(3, at_least=1, at_most=1000)
    controls: int = setting(3, at_least=1, at_most=1000)
    num_train: int = setting(0, at_least=0)
    num_validation: int = setting(200, at_least=1)

    def sizes(self, seed: int) -> Sizes:
        """Sizes of the protocol."""
        return Sizes(self.repeats, self.controls, self.num_train, self.num_validation, seed)


@dataclasses.dataclass(frozen=True)
class ObjectSettings(_Sized):
    """Named objects of images.

    Attributes:
      collections: by name, a table each, see `objects.read`; empty for the words of the captions in section `language`.
      repeats: fits, each with a fresh subset.
      controls: fits on pseudo-collections.
      num_train: images of each collection to learn from; 0 for all others.
      num_validation: images of each collection to be asked about.
      least: images that an object needs.
      least_score: least certainty of a detection.
      reference: table of a reference model's predictions, see `objects.read_reference`; empty for none.
      names: words that are looked for in captions; empty for the most frequent ones.
    """

    SECTION: ClassVar[str] = "objects"

    least: int = setting(20, at_least=1)
    least_score: float = setting(0.0, at_least=0.0)
    reference: str = ""
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class LanguageSettings(_Sized):
    """Captions of images.

    Attributes:
      collections: by name, a file each, see `language.read`.
      repeats: fits, each with a fresh subset.
      controls: fits on pseudo-collections.
      num_train: captions of each collection to learn from; 0 for all others.
      num_validation: captions of each collection to be asked about.
      encoder: see `EncoderSettings`.
      prompts: see `PromptSettings`.
      proposals: see `ProposalSettings`.
      endpoint: see `ChatEndpoint`; may differ between runs in one workdir.
    """

    SECTION: ClassVar[str] = "language"

    encoder: EncoderSettings = EncoderSettings()
    prompts: PromptSettings = PromptSettings()
    proposals: ProposalSettings = ProposalSettings()
    endpoint: ChatEndpoint = ChatEndpoint()


@dataclasses.dataclass(frozen=True)
class QuestionSettings(Settings):
    """Answers of a model that sees the images to yes/no questions.

    Attributes:
      collections: by name, a table each, see `questions.read`.
    """

    SECTION: ClassVar[str] = "questions"

    collections: Mapping[str, str] = dataclasses.field(default_factory=dict)


def is_one(config: Mapping[str, Any]) -> bool:
    """Whether a config is of annotations, and of nothing else."""
    return "bias" not in config and any(section in config for section in SECTIONS)


def facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config compares, as JSON data: the settings of its sections."""
    return {key: settings.plain(one) for key, one in parse(config).items()}


def parse(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the sections that a config has, checked.

    Raises:
      UserError: settings that there are not, or no collections.
    """
    refuse_unknown(config, ("seed", *SECTIONS), "")
    kinds = {"objects": ObjectSettings, "language": LanguageSettings, "questions": QuestionSettings}
    found: dict[str, Any] = {key: make(kinds[key], config[key], key) for key in SECTIONS if key in config}
    for key in ("language", "questions"):
        if key in found and not found[key].collections:
            raise UserError(f"{key}.collections is empty; give a name and a file for two or more.")
    if "language" in found:
        _check_proposals(found["language"])
    if "objects" in found and not found["objects"].collections and "language" not in found:
        raise UserError("objects.collections is empty; give a name and a table for two or more, or section language.")
    return found


def rows(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a config compares and asks, line by line: names and texts.

    Raises:
      UserError: see `parse`.
    """
    found = parse(config)
    lines = [(key, " / ".join(one.collections) or "words of the captions") for key, one in found.items()]
    if "language" in found:
        chosen, count = found["language"], len(found["language"].collections)
        if chosen.encoder.model:
            ways = ["frozen"] * chosen.encoder.frozen + [
                f"trained by {len(chosen.encoder.recipes)} recipes"
            ] * chosen.encoder.tuned
            lines.append(("encoder", f"{chosen.encoder.model}, {' and '.join(ways) or 'not used'}"))
        prompts = chosen.prompts.queries * count + chosen.prompts.summaries if chosen.prompts.queries else 0
        lines.append(("prompts", f"{prompts + chosen.proposals.rounds * count:,}"))
        lines.append(("asked", chosen.endpoint.model or "no model"))
    return lines


def _check_proposals(chosen: LanguageSettings) -> None:
    named, ranking = set(chosen.collections), set(chosen.proposals.embeddings)
    if chosen.proposals.rounds and named != ranking:
        raise UserError(
            f"language.proposals.embeddings is of {', '.join(sorted(ranking)) or 'no collection'}, but descriptions of "
            f"{', '.join(sorted(named))} are to be ranked. Give what launch.annotate --task=embed wrote of each."
        )


def run(config: Mapping[str, Any], workdir: pathlib.Path | str) -> dict[str, Any]:
    """Analyses objects and captions, writes prompts and the page, and asks a model where one is given.

    Args:
      config: `seed`, and sections `objects`, `language`, `questions`, see `ObjectSettings`, `LanguageSettings`,
        `QuestionSettings`.
      workdir: gets `metrics.json`, `report.html`, `figures/`, `encoder/`, `prompts/`, and `answers/<model>/`; answers
        of other models in such folders are scored as well.

    Returns:
      The content of `metrics.json`.

    Raises:
      UserError: a config or files that cannot be used, or a folder of another comparison.
    """
    options, folder, seed = parse(config), pathlib.Path(workdir), int(config.get("seed", 0))
    with processes.in_turn("folder of the comparison"):
        files.make_dir(folder)
    with locks.locked(folder):
        with processes.in_turn("config of the comparison"):
            bound = facts(config)
            bound.get("language", {}).pop("endpoint", None)  # who answers may change
            study.claim(folder, {"seed": seed, **bound})
        result: dict[str, Any] = {"kind": "annotations"}
        with processes.in_turn("comparison"):
            if processes.is_first():
                result |= _analysed(options, folder, seed) | {"versions": provenance.versions()}
                files.write_json(folder / study.RESULT, result)
                annotation_page.write(folder, result)
        return processes.agreed(result)


def _analysed(options: Mapping[str, Any], folder: pathlib.Path, seed: int) -> dict[str, Any]:
    found, captions = {}, None
    if "language" in options:
        chosen = options["language"]
        captions = language.read(chosen.collections)
        found["language"] = language.analyse(captions, chosen.sizes(seed))
        if chosen.encoder.model:
            told = encoder.classify(captions, chosen.sizes(seed), chosen.encoder, folder / "encoder")
            found["language"]["encoder"] = told
        found["language"]["models"] = _asked(captions, chosen, folder, seed)
        found["language"]["proposals"] = _proposed(captions, chosen, folder, seed)
    if "objects" in options:
        found["objects"] = _objects(options["objects"], captions, options.get("language"), seed)
    if "questions" in options:
        found["questions"] = questions.rates(questions.read(options["questions"].collections))
    return found


def _objects(chosen: ObjectSettings, captions: Captions | None, told: Any, seed: int) -> dict[str, Any]:
    if chosen.collections or captions is None:
        presence = objects.read(chosen.collections, chosen.least_score).balanced(seed)
        found = objects.analyse(presence, chosen.sizes(seed), chosen.least)
        if not chosen.reference:
            return found
        said = objects.read_reference(chosen.reference, presence)
        return found | {"correlation": objects.correlation(presence, *said, chosen.least)}
    presence = objects.from_captions(captions, chosen.names)
    found = objects.analyse(presence, chosen.sizes(seed), chosen.least)
    sizes = told.sizes(seed)
    _, outcomes = language.classify(captions, sizes)
    splits, control = sizes.splits(captions.labelled)
    real = [(s, o) for s, o, c in zip(splits, outcomes, control, strict=True) if not c]
    rows = np.concatenate([s.validation for s, _ in real])
    right = np.concatenate([s.labels[s.validation] == o.predictions for s, o in real])
    return found | {"correlation": objects.correlation(presence, right, rows, max(5, chosen.least // 4))}


def _asked(captions: Captions, chosen: LanguageSettings, folder: pathlib.Path, seed: int) -> dict[str, Any]:
    """Writes the prompts, asks the model, and scores the answers of all models that there are."""
    if not chosen.prompts.queries:
        return {}
    asked = language.in_context(captions, chosen.prompts, seed)
    asked += language.summaries(captions, chosen.prompts, seed)
    own, said = _put(asked, chosen.endpoint, folder)
    if chosen.endpoint.url:
        queries.ask(chosen.endpoint, _condensed(captions, asked, said), own)
    found = {path.name: _scored(captions, asked, path) for path in _models(folder)}
    return {name: one for name, one in found.items() if one}


def _put(asked: list[Query], endpoint: ChatEndpoint, folder: pathlib.Path) -> tuple[pathlib.Path, dict[str, str]]:
    """Writes prompts and asks the model of an endpoint, if there is one; the folder of its answers, and these."""
    queries.write(asked, folder / "prompts")
    own = folder / _ANSWERS / re.sub(r"[^\w.-]+", "_", endpoint.name)
    return own, queries.ask(endpoint, asked, own) if endpoint.url else {}


def _models(folder: pathlib.Path) -> list[pathlib.Path]:
    """Folders of answers, one per model."""
    answered = folder / _ANSWERS
    return sorted(path for path in answered.iterdir() if path.is_dir()) if answered.exists() else []


def _proposed(captions: Captions, chosen: LanguageSettings, folder: pathlib.Path, seed: int) -> dict[str, Any]:
    """What every model says to be truer of one collection than of the others, as images rank it."""
    if not chosen.proposals.rounds:
        return {}
    asked, names = proposals.queries(captions, chosen.proposals, seed), captions.collections
    _put(asked, chosen.endpoint, folder)
    said = {path.name: proposals.read(queries.answers(asked, path), len(names)) for path in _models(folder)}
    said = {model: own for model, own in said.items() if any(own)}
    if not said:
        return {}
    images = embeddings.read({name: chosen.proposals.embeddings[name] for name in names}, seed)
    ranked = {}
    for model, own in said.items():
        vectors = clip.embed_texts(images.model, [text for texts in own for text in texts])
        ends = np.cumsum([len(texts) for texts in own])[:-1]
        scores = np.split(vectors @ images.vectors.T, ends)
        ranked[model] = proposals.rank(own, scores, images.labels, names, seed)
    return ranked


def _condensed(captions: Captions, asked: list[Query], said: Mapping[str, str]) -> list[Query]:
    return language.condensing(captions, [said[q.name] for q in asked if not q.truth and q.name in said])


def _scored(captions: Captions, asked: list[Query], folder: pathlib.Path) -> dict[str, Any]:
    """What one model's answers are worth, and its condensed summaries; empty without answers."""
    said = queries.answers(asked, folder)
    guesses = [query for query in asked if query.truth]
    if not any(query.name in said for query in guesses):
        return {}
    condensed = _condensed(captions, asked, said)
    bullets = queries.answers(condensed, folder)
    summary = {
        captions.collections[int(query.name.rpartition("_")[2]) - 1]: bullets[query.name]
        for query in condensed
        if query.name in bullets
    }
    return {**queries.score(guesses, said, len(captions.collections)), "summary": summary}
