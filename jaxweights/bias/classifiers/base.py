"""What every source classifier is: a module, and how it is trained."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.settings import Settings, setting
from jaxweights.spec import WeightSpec

_LEAST_DEVIATION = 1e-6  # of a feature; one that varies less is constant


@dataclasses.dataclass(frozen=True)
class Classifier(Settings, abc.ABC):
    """A source classifier that trains many at a time; AdamW, the learning rate warmed up and then a half cosine.

    Attributes:
      epochs: passes over the training rows.
      batch_size: examples per step; all training rows where they are fewer.
      learning_rate: of AdamW, at its highest.
      weight_decay: of AdamW.
      warmup: share of the steps with a rising learning rate.
      label_smoothing: share of each label that lies on all classes evenly.
    """

    SECTION: ClassVar[str] = "bias.classifier"
    KIND: ClassVar[str] = ""
    IMAGES: ClassVar[bool] = False
    """Whether inputs have to be images `[H, W, C]`, which are standardised channel by channel."""
    NETWORKS: ClassVar[bool] = False
    """Whether inputs have to be weight vectors of networks."""

    epochs: int = setting(20, at_least=1)
    batch_size: int = setting(64, at_least=1)
    learning_rate: float = setting(1e-3, above=0)
    weight_decay: float = setting(1e-2, at_least=0)
    warmup: float = setting(0.05, at_least=0, at_most=1)
    label_smoothing: float = setting(0.0, at_least=0, below=1)

    @abc.abstractmethod
    def module(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """The network from standardised inputs `[B, *input_shape]` to logits `[B, num_classes]`; its parameters are
        declared by `nn.parameters`.

        Raises:
          UserError: inputs that it cannot take.
        """

    def of_spec(self, spec: WeightSpec) -> Classifier:
        """This classifier for weight vectors `[P]` of a spec.

        Raises:
          UserError: networks that it cannot take.
        """
        del spec
        return self

    def standardisation(self, examples: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Scale and shift that give every feature, or every channel of images, mean 0 and standard deviation 1.

        Args:
          examples: training examples `[m, *input_shape]`.

        Returns:
          Two arrays with as many axes.
        """
        axes = tuple(range(examples.ndim - 1)) if self.IMAGES else (0,)
        values = examples.astype(jnp.float32)
        mean, deviation = jnp.mean(values, axes, keepdims=True), jnp.std(values, axes, keepdims=True)
        scale = jnp.where(deviation > _LEAST_DEVIATION, 1 / jnp.maximum(deviation, _LEAST_DEVIATION), 0.0)
        return scale, -mean * scale

    def width(self, input_shape: tuple[int, ...]) -> int:
        """Trials under `vmap` on a device: on CPU one at a time keeps its working set in cache and wins for images and
        long vectors, see `zoo.supervised`; accelerators want many."""
        if jax.default_backend() != "cpu":
            return 64
        return 1 if self.IMAGES or math.prod(input_shape) > 256 else 16
