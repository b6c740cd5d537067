"""What is compared: sets of labelled examples, and transformations of them."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jax.sharding import Mesh

from jaxweights.bias import protocol
from jaxweights.bias.classifiers import Classifier
from jaxweights.bias.protocol import Split
from jaxweights.bias.transfer import Transfer
from jaxweights.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """Examples of several collections.

    Attributes:
      names: of the K collections.
      labels: `[n]` int32 in `0 ... K - 1`.
      groups: `[n]`, what must not be on both sides of a split.
      facts: JSON data: what the collections are; `digest` changes with the examples.
      asked: `[n]` bool, examples that classifiers are asked about and never learn from, while they learn from the
        others; None where any example may be either.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    facts: Mapping[str, Any]
    asked: np.ndarray | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How often a classifier is trained, and on how much.

    Attributes:
      repeats: trainings, each with a fresh subset.
      controls: trainings on pseudo-collections.
      num_train: groups of each collection to learn from; 0 for all that are left.
      num_validation: groups of each collection to be asked about.
      seed: random seed.
    """

    repeats: int
    controls: int
    num_train: int
    num_validation: int
    seed: int

    def splits(self, examples: Labelled) -> tuple[list[Split], list[bool]]:
        """The subsets of repeats and controls, and whether each is a control.

        Raises:
          UserError: see `protocol.splits` and `Transfer.splits`.
        """
        labels, groups, train = examples.labels, examples.groups, self.num_train
        if examples.asked is not None:
            drawing = Transfer(labels, groups, examples.asked, train, self.num_validation, self.seed)
            real, pseudo = drawing.splits(self.repeats), drawing.control_splits(self.controls)
            return real + pseudo, [False] * len(real) + [True] * len(pseudo)
        counts = [len(np.unique(groups[labels == i])) for i in range(examples.num_classes)]
        if not train:
            train = max(1, min(counts) - self.num_validation)
        needed = max(self.repeats * self.num_validation, train + self.num_validation)
        if min(counts) < needed:
            raise UserError(
                f"{examples.names[int(np.argmin(counts))]} has {min(counts)} independent examples, but {self.repeats} "
                f"repeats of {self.num_validation} for validation and {train} for training need {needed}. Give more, "
                "or lower bias.num_train, bias.num_validation or bias.repeats."
            )
        real = protocol.splits(labels, groups, train, self.num_validation, self.repeats, self.seed)
        pseudo = protocol.control_splits(labels, groups, train, self.num_validation, self.controls, self.seed)
        return real + pseudo, [False] * len(real) + [True] * len(pseudo)


class Subject(abc.ABC):
    """A kind of examples.

    Attributes:
      classifier: settings of the source classifier.
      sizes: see `Sizes`.
      transformations: JSON data of every transformation by name, in order: `kind` and settings.
    """

    KIND: ClassVar[str]
    """What `bias.kind` is in a config."""

    classifier: Classifier
    sizes: Sizes
    transformations: Mapping[str, Mapping[str, Any]]

    @property
    def source_classifier(self) -> Classifier:
        """The classifier as it is trained on these examples."""
        return self.classifier

    @abc.abstractmethod
    def sets(self) -> Mapping[str, Labelled]:
        """What is compared, by name, the main one first."""

    @abc.abstractmethod
    def transformed(self, of: str, name: str, rows: np.ndarray, unseen: np.ndarray, mesh: Mesh) -> np.ndarray:
        """Transformed examples.

        Args:
          of: name of a set.
          name: name of a transformation.
          rows: `[m]` examples that are wanted.
          unseen: `[k]` examples that classifiers are asked about, which nothing may be fitted to.
          mesh: devices.

        Returns:
          `[m, ...]` uint8 or float32.
        """

    def check(self) -> None:
        """Refuses what would fail after the first trainings only.

        Raises:
          UserError: a set that is too small, or a transformation that does not fit the examples.
        """
        for of, examples in self.sets().items():
            try:
                self.sizes.splits(examples)
            except UserError as error:
                raise UserError(f"The set {of} cannot be compared: {error}") from error

    def named(self, of: str, split: Split, mesh: Mesh) -> dict[str, Any]:
        """Which named features tell the collections apart, as JSON data; nothing where examples have none.

        Args:
          of: name of the set.
          split: subset of a repeat.
          mesh: devices.
        """
        del of, split, mesh
        return {}

    def shown(self, of: str, transformed: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
        """Examples for the report, `[K, s, H, W, C]` uint8; None where there is nothing to see.

        Args:
          of: name of the set.
          transformed: `[m, ...]`, of `transformed`.
          rows: `[m]`, the examples that these are.
        """
        del of, transformed, rows
        return None
