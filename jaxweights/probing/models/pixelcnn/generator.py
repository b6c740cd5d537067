"""PixelCNN++ as an image model: how the network is trained on images and draws new ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights.errors import UserError
from jaxweights.generators.base import Stage, Training
from jaxweights.population import Population
from jaxweights.probing.models.base import ImageModel
from jaxweights.probing.models.pixelcnn import logistics, network, sampling
from jaxweights.settings import setting

STAGE = "network"
FIRST = "first_batch"
"""Name among the constants of the images `[init_batch_size, H, W, C]` that initial parameters are fitted to."""

_MOMENTS = (0.95, 0.9995)  # of Adam; this and the next from the published code
_DECAY = 0.999995  # of the learning rate, at every step
_EPSILON = 1e-8  # below Adam's root, for the gradient of a batch's sum


@dataclasses.dataclass(frozen=True)
class PixelCNN(ImageModel):
    """PixelCNN++ (Salimans et al. 2017, arXiv 1701.05517); the defaults are those of arXiv 1811.03259 for images of 32
    pixels.

    Images have one channel or three, and are brought to 256 levels. The loss is the negative log likelihood of an image
    in nats; the metric `bits` is that in bits per value.

    Attributes:
      resnets: gated residual layers of every stage.
      filters: channels of the maps.
      mixtures: logistics of a pixel's distribution.
      levels: resolutions, each half of the one before; sides of images are multiples of `2 ** (levels - 1)`.
      dropout: probability of dropping a value inside a residual layer.
      steps: optimizer steps; published: 5,000 epochs, here of 29,600 images.
      batch_size: images per step; published: 16 on each of 8 GPUs.
      init_batch_size: training images that initial parameters are fitted to.
      learning_rate: of the first step; every step multiplies it by 0.999995.
      ema_decay: decay of the averaged parameters, which samples are drawn with, or None for no average.
      sampler: "cached" or "naive" (a pass of the whole network per pixel, the same samples).
    """

    KIND: ClassVar[str] = "pixelcnn"
    SAMPLING: ClassVar[frozenset[str]] = frozenset({"sampler"})
    TRACED: ClassVar[frozenset[str]] = frozenset({"learning_rate", "ema_decay"})
    TINY: ClassVar[Mapping[str, Any]] = {
        "resnets": 1,
        "filters": 4,
        "mixtures": 2,
        "levels": 2,
        "steps": 4,
        "batch_size": 8,
        "init_batch_size": 4,
    }

    name: str = "pixelcnn"
    resnets: int = setting(5, at_least=1, at_most=100)
    filters: int = setting(160, at_least=1, at_most=65_536)
    mixtures: int = setting(10, at_least=1, at_most=1000)
    levels: int = setting(3, at_least=1, at_most=8)
    dropout: float = setting(0.5, at_least=0, below=1)
    steps: int = setting(5000 * 29_600 // 128, at_least=1)
    batch_size: int = setting(128, at_least=1)
    init_batch_size: int = setting(16, at_least=1)
    learning_rate: float = setting(1e-3, above=0)
    ema_decay: float | None = setting(0.9995, at_least=0, below=1)
    sampler: Literal["cached", "naive"] = "cached"

    def check(self, training: Training) -> None:
        """Refuses images whose sides cannot be halved as often, or whose channels it has no distribution of."""
        super().check(training)
        self._check_shape(training.spec.leaves[0].shape)

    def prepare(self, training: Population) -> tuple[np.ndarray, dict[str, Any]]:
        """Images `[N, H, W, C]`, an empty one, and some of them, evenly spaced, for the first parameters.

        Raises:
          UserError: images of a shape that it cannot draw.
        """
        found, constants = super().prepare(training)
        self._check_shape(found.shape[1:])
        return found, self.constants_of(constants, found, np.arange(len(found)))

    def constants_of(self, constants: Any, data: Any, rows: Any) -> dict[str, Any]:
        """With the first batch among these rows."""
        spaced = np.linspace(0, len(rows) - 1, min(self.init_batch_size, len(rows))).round().astype(int)
        return constants | {FIRST: data[rows[spaced]]}

    def stages(self) -> tuple[Stage, ...]:
        """Returns the one stage "network"."""
        rate = optax.exponential_decay(self.learning_rate, 1, _DECAY)
        # The loss is a mean over the batch, the published one a sum.
        root = _EPSILON / self.batch_size**2
        return (
            Stage(
                name=STAGE,
                steps=self.steps,
                batch_size=self.batch_size,
                optimizer=optax.adam(rate, *_MOMENTS, eps=0.0, eps_root=root),
                init=self._init,
                loss=self._loss,
                ema_decay=self.ema_decay,
                stacked=tuple(f"{way}_{level}" for way in ("down", "up") for level in range(self.levels)),
            ),
        )

    def draw(self, state: Mapping[str, Any], keys: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
        """Images `[n, H, W, C]` of 256 levels in [0, 1]; both samplers draw the same but for rounding."""
        a, params = self.architecture, state[STAGE]["params"]
        run = sampling.cached if self.sampler == "cached" else sampling.naive

        def choose(outputs: jax.Array, given: logistics.Noise) -> tuple[jax.Array, jax.Array]:
            pixel = logistics.draw(outputs, given)
            return pixel, pixel

        found = run(a, params, (len(keys), *shape), choose, logistics.noise(keys, shape, self.mixtures))
        return (jnp.moveaxis(found, 2, 0) + 1) / 2

    @property
    def architecture(self) -> network.Architecture:
        """Sizes of the network."""
        return network.Architecture(self.resnets, self.filters, self.mixtures, self.levels)

    def _init(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        images = logistics.quantised(jnp.asarray(done["constants"][FIRST]))
        return network.initial(key, self.architecture, images), {}

    def _loss(self, params, model_state, done, batch, keys, axis_name):
        del done, axis_name
        images = logistics.quantised(batch)
        height, width, channels = images.shape[1:]
        masks = network.dropout(keys, self.architecture, height, width, self.dropout) if self.dropout else None
        outputs, _ = network.network(self.architecture, params, images, masks, self.dropout)
        nats = -jnp.mean(jnp.sum(logistics.log_likelihood(outputs, images), axis=(1, 2)))
        return nats, (model_state, {"bits": logistics.bits_per_dimension(nats, height * width * channels)})

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        height, width, channels = shape
        if channels not in logistics.CHANNELS:
            raise UserError(
                f"{self.section} models images of {' or '.join(map(str, logistics.CHANNELS))} channels, but these have "
                f"{channels}."
            )
        multiple = 2 ** (self.levels - 1)
        if height % multiple or width % multiple:
            self.refuse(
                "levels", f"images of {height} x {width} pixels cannot be halved {self.levels - 1} times, lower it"
            )
