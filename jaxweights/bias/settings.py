"""The section `bias` of a config: collections, transformations, the source classifier, and sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from jaxweights import checks
from jaxweights.bias import classifiers, collections, transformations
from jaxweights.bias.classifiers import Classifier
from jaxweights.bias.collections import Reading, Source
from jaxweights.bias.transformations import Pretrained, Transformation
from jaxweights.errors import UserError
from jaxweights.settings import Settings, make, refuse_unknown, setting

WEIGHTS = "weights"
"""Kind of a comparison of networks; all others are of images."""
SECTIONS = ("task", "data", "net", "zoo")
"""Sections of a config that collections of networks have in common."""
_FORM = ("shrink", "size", "quality")  # of `Reading`, what a part of a collection may have of its own


@dataclasses.dataclass(frozen=True)
class SetSettings(Settings):
    """What is compared: several collections, or one that is cut.

    Attributes:
      collections: by name, what is read; see `collections.SOURCES`.
      of: instead, the one that is cut.
      cut: "identical": at random, into parts that nothing tells apart but what `parts` says; "classes": by what the
        images show.
      parts: by name, how the images of every part are re-encoded (`shrink`, `size`, `quality`); empty for not at all.
    """

    SECTION: ClassVar[str] = "bias.sets"

    collections: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    of: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cut: Literal["identical", "classes"] = "identical"
    parts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def sources(self, section: str) -> dict[str, Source]:
        """What is read, by name; the one that is cut has the empty name.

        Raises:
          UserError: fewer than two collections or parts, or both, or settings that these do not have.
        """
        if bool(self.collections) == bool(self.of):
            raise UserError(f"{section} has no collections, or too much: give `collections`, or `of` and `parts`.")
        if self.collections and (self.parts or self.cut != SetSettings().cut):
            raise UserError(
                f"{section} has collections, and cut or parts of none. Give `of`, which is cut, or remove them."
            )
        named = self.collections or self.parts
        if len(named) < 2:
            raise UserError(f"{section} compares {len(named)} collections; give two or more.")
        if self.of:
            self.forms(section)
            return {"": collections.make(self.of, f"{section}.of")}
        return {k: collections.make(v, f"{section}.collections.{k}") for k, v in sorted(self.collections.items())}

    def forms(self, section: str) -> dict[str, Reading]:
        """How the images of every part are re-encoded, by name."""
        found = {}
        for name, values in sorted(self.parts.items()):
            refuse_unknown(values, _FORM, f"{section}.parts.{name}")
            found[name] = make(Reading, values, f"{section}.parts.{name}")
        return found


@dataclasses.dataclass(frozen=True)
class BiasSettings(Settings):
    """Settings of a comparison of collections.

    Attributes:
      kind: collections of images, or of networks (weights).
      sets: what is compared, by name; every one is tried under every transformation. Of images see `SetSettings`; of
        networks `collections` by name, see `weights.zoos.ZooSource`.
      main: name of the set that the tables begin with.
      transformations: by name; each a mapping with its `kind` and settings, see `transformations.TRANSFORMATIONS` and
        `weights.TRANSFORMATIONS`.
      classifier: `kind` and settings of the source classifier, see `classifiers.CLASSIFIERS`.
      repeats: trainings of each, with a fresh subset.
      controls: trainings on pseudo-collections.
      num_train: images, or runs of networks, of each collection to learn from, in every repeat; 0 for all others.
      num_validation: images, or runs of networks, of each collection to be asked about, in every repeat.
      repeated: what is done about an image that is in two collections.
      shown: example images of every collection in the report.
    """

    SECTION: ClassVar[str] = "bias"

    kind: Literal["images", "weights"] = "images"
    sets: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    main: str = ""
    transformations: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classifier: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"kind": "cnn"})
    repeats: int = setting(3, at_least=1, at_most=1000)
    controls: int = setting(3, at_least=1, at_most=1000)
    num_train: int = setting(0, at_least=0)
    num_validation: int = setting(200, at_least=1)
    repeated: Literal["refuse", "remove"] = "refuse"
    shown: int = setting(4, at_least=1, at_most=20)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("sets", "transformations"):
            if not getattr(self, field):
                self.refuse(field, "give one entry at least")
        if self.main not in self.sets:
            self.refuse("main", f"give the name of a set; {checks.suggest(self.main, list(self.sets))}")
        for name in (*self.sets, *self.transformations):
            if not name.replace("_", "").replace("-", "").isalnum():
                raise UserError(f"{name!r} is no name of a set or a transformation; use letters, digits, - and _.")

    def chosen_sets(self) -> dict[str, SetSettings]:
        """The sets by name, the main one first."""
        order = sorted(self.sets, key=lambda name: (name != self.main, name))
        found = {name: make(SetSettings, self.sets[name], f"bias.sets.{name}") for name in order}
        for name, one in found.items():
            one.sources(f"bias.sets.{name}")
        return found

    def chosen_transformations(self) -> dict[str, Transformation]:
        """The transformations by name, those of a kind together, in the order of the registry."""
        known = list(transformations.TRANSFORMATIONS)
        made = {k: transformations.make(v, f"bias.transformations.{k}") for k, v in self.transformations.items()}
        return dict(sorted(made.items(), key=lambda item: (known.index(item[1].KIND), item[0])))

    def chosen_classifier(self) -> Classifier:
        """The source classifier."""
        return classifiers.build(self.classifier)


def parse(config: Mapping[str, Any]) -> BiasSettings:
    """The section of a config, all of it checked.

    Raises:
      UserError: see `BiasSettings`, and what sets, transformations and classifiers refuse.
    """
    if "bias" not in config:
        raise UserError(
            "The config has no section bias, objects, language or questions: there is nothing to compare. Give one "
            "such as configs/bias_images.py; experiments are run by launch.run."
        )
    found = make(BiasSettings, config["bias"])
    if found.chosen_classifier().NETWORKS and found.kind != WEIGHTS:
        raise UserError(
            f"bias.classifier.kind is {found.classifier['kind']!r}, which is for networks, but bias.kind is images. "
            "Set the first to cnn, mlp or linear."
        )
    if found.chosen_classifier().IMAGES and found.kind == WEIGHTS:
        raise UserError(
            f"bias.classifier.kind is {found.classifier['kind']!r}, which is for images, but bias.kind is weights. "
            "Set the first to linear, mlp or units."
        )
    refuse_unknown(config, ("seed", "bias", *(SECTIONS if found.kind == WEIGHTS else ())), "")
    if found.kind != WEIGHTS:  # sets and transformations of networks are checked where these are read
        names = sorted({name for one in found.chosen_sets().values() for name in one.collections or one.parts})
        for made in found.chosen_transformations().values():
            if isinstance(made, Pretrained):
                made.check_collections(names)
    return found
