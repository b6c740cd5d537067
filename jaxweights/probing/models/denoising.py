"""What diffusion and flow matching share: a network that denoises, and how it is trained."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.generators.base import Stage, Training
from jaxweights.nn.parameters import initialise
from jaxweights.probing.models.base import SHAPE, ImageModel
from jaxweights.probing.models.denoisers import MLP, Network, UNet
from jaxweights.probing.models.networks import Shape
from jaxweights.settings import setting

STAGE = "train"
_WARM_UP = 0.05  # share of the steps over which the learning rate rises


@dataclasses.dataclass(frozen=True)
class Denoising(ImageModel, abc.ABC):
    """Images by steps from noise.

    Attributes:
      network: a U-Net, or residual dense layers for the smallest images.
      width: channels of the largest maps, or units of a dense layer.
      multiples: of a U-Net, channels of each resolution in units of the width.
      blocks: residual blocks, of a U-Net at each resolution.
      patch: of a U-Net, pixels of a side of a position of the largest map.
      steps: optimizer steps.
      batch_size: images per step.
      learning_rate: of Adam, its largest value; it rises over a twentieth of the steps and falls like a cosine.
      ema_decay: decay of the averaged parameters that samples are drawn with, or None for the last ones.
      sampling_steps: steps of a sample.
    """

    SAMPLING: ClassVar[frozenset[str]] = frozenset({"sampling_steps"})
    TRACED: ClassVar[frozenset[str]] = frozenset({"learning_rate"})
    TINY: ClassVar[Mapping[str, Any]] = {
        "network": "mlp",
        "width": 8,
        "blocks": 1,
        "steps": 3,
        "batch_size": 4,
        "sampling_steps": 2,
    }

    network: Network = "unet"
    width: int = setting(16, at_least=1)
    multiples: tuple[int, ...] = setting((1, 2), at_least=1, length=(1, None))
    blocks: int = setting(1, at_least=1)
    patch: int = setting(2, at_least=1)
    steps: int = setting(4000, at_least=1)
    batch_size: int = setting(32, at_least=1)
    learning_rate: float = setting(2e-3, above=0)
    ema_decay: float | None = setting(0.995, at_least=0, below=1)
    sampling_steps: int = setting(50, at_least=1)

    def check(self, training: Training) -> None:
        """Refuses, besides too few images, those whose sides the U-Net cannot halve."""
        super().check(training)
        height, width, _ = training.spec.leaves[0].shape
        multiple = self.patch * 2 ** (len(self.multiples) - 1)
        if self.network == "unet" and (height % multiple or width % multiple):
            raise UserError(
                f"{self.section} halves images to {multiple} pixels a position, but they are {height} x {width}. Lower "
                "its patch or give fewer multiples."
            )

    @property
    def module(self) -> nn.Module:
        """The network."""
        if self.network == "mlp":
            return MLP(self.width, self.blocks)
        return UNet(self.width, self.multiples, self.blocks, self.patch)

    def predict(self, params: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """`(images [n, H, W, C] with noise, times [n] in [0, 1]) -> [n, H, W, C]`."""

        def apply(images: jax.Array, times: jax.Array) -> jax.Array:
            return self.module.apply({"params": params}, images, times)  # type: ignore[return-value]

        return apply

    def rate(self, step: jax.Array) -> jax.Array:
        """Learning rate at a step."""
        rising = jnp.minimum(1.0, (step + 1) / max(1, round(_WARM_UP * self.steps)))
        return self.learning_rate * rising * 0.5 * (1 + jnp.cos(jnp.pi * step / self.steps))

    def stages(self) -> tuple[Stage, ...]:
        """See `LearnedGenerator.stages`."""
        optimizer = optax.adam(self.rate)  # type: ignore[arg-type]
        stage = Stage(
            STAGE, self.steps, self.batch_size, optimizer, self._init, self._loss, self.ema_decay, gradient_clip=1.0
        )
        return (stage,)

    def _init(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[Any, Any]:
        blank = done["constants"][SHAPE][None]
        return initialise(self.module, key, blank, jnp.zeros((1,)))["params"], {}

    def _loss(self, params, model_state, done, batch, keys, axis_name):
        del done, axis_name
        return self.error(self.predict(params), 2 * batch - 1, keys), (model_state, {})

    @abc.abstractmethod
    def error(self, predict: Callable[..., jax.Array], images: jax.Array, keys: jax.Array) -> jax.Array:
        """Loss of predictions for images `[n, H, W, C]` in [-1, 1] and keys `[n]`."""

    @abc.abstractmethod
    def denoised(self, predict: Callable[..., jax.Array], keys: jax.Array, shape: Shape) -> jax.Array:
        """Samples `[n, *shape]` in [-1, 1] of keys `[n]`."""

    def draw(self, state: Mapping[str, Any], keys: jax.Array, shape: Shape) -> jax.Array:
        """See `ImageModel.draw`."""
        return 0.5 * self.denoised(self.predict(state[STAGE]["params"]), keys, shape) + 0.5
