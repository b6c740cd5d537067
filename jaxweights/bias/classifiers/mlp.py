"""The multi-layer perceptron."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from flax import linen as nn

from jaxweights.bias.classifiers.base import Classifier
from jaxweights.nets.mlp import MLP
from jaxweights.nn.activations import ACTIVATIONS
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class Perceptron(Classifier):
    """A multi-layer perceptron on standardised inputs, of vectors or of flattened images.

    Attributes:
      hidden: widths of the hidden layers.
      activation: activation function after each.
    """

    KIND: ClassVar[str] = "mlp"

    hidden: tuple[int, ...] = setting((128,), at_least=1)
    activation: str = setting("relu", one_of=ACTIVATIONS)

    def module(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        del input_shape
        return MLP(self.hidden, num_classes, self.activation)
