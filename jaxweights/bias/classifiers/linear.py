"""The linear probe."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from flax import linen as nn

from jaxweights.bias.classifiers.base import Classifier
from jaxweights.nets.mlp import MLP
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class Linear(Classifier):
    """Multinomial logistic regression on standardised inputs, of vectors or of flattened images."""

    KIND: ClassVar[str] = "linear"

    learning_rate: float = setting(1e-2, above=0)
    epochs: int = setting(40, at_least=1)

    def module(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        del input_shape
        return MLP((), num_classes)
