"""Source classifiers: which collection does an example come from?

To add one, write a file with a frozen dataclass derived from `Classifier` and a line of `CLASSIFIERS`. `train` trains
all trials of a comparison in one program; `recipe.train` trains those of a `Recipe`, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxweights import settings
from jaxweights.bias.classifiers.base import Classifier
from jaxweights.bias.classifiers.cnn import CNN
from jaxweights.bias.classifiers.linear import Linear
from jaxweights.bias.classifiers.mlp import Perceptron
from jaxweights.bias.classifiers.recipe import Recipe
from jaxweights.bias.classifiers.trainer import train
from jaxweights.bias.classifiers.units import Units

__all__ = ["CLASSIFIERS", "CNN", "Classifier", "Linear", "Perceptron", "Recipe", "Units", "build", "train"]

CLASSIFIERS: dict[str, type[Classifier]] = {kind.KIND: kind for kind in (Linear, Perceptron, CNN, Units, Recipe)}


def build(config: Mapping[str, Any]) -> Classifier:
    """The classifier that a config names.

    Args:
      config: `kind`, a key of `CLASSIFIERS`, and any of its settings.

    Raises:
      UserError: an unknown kind or setting, or a value that a setting cannot have.
    """
    return settings.make_kind(CLASSIFIERS, config, Classifier.SECTION)
