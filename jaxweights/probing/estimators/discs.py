"""Size, place and hue of a disc."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.errors import UserError
from jaxweights.probing.data import DesignedData, Discs
from jaxweights.probing.estimators.base import Estimator
from jaxweights.probing.estimators.batches import Progress, over

_FAINT = 0.1  # colour below which a pixel is background


@dataclasses.dataclass(frozen=True)
class DiscsEstimator(Estimator):
    """Measures a disc by its colour: a pixel counts as much as its smallest channel lacks to white, which is the share
    of it that a disc of a saturated colour covers. The sum is the area, the mean place the centre, and the hue that of
    the sum of the colours."""

    KIND: ClassVar[str] = "discs"

    def check(self, data: DesignedData) -> None:
        """See `Estimator.check`."""
        if not isinstance(data, Discs):
            raise UserError(f"The estimator {self.KIND} measures discs; the images are {data.KIND}.")

    def measure(
        self, state: Any, data: DesignedData, images: np.ndarray, progress: Progress = lambda done, total: None
    ) -> np.ndarray:
        """See `Estimator.measure`; an image without colour has size 0, and no place; without a largest or a smallest
        channel it has no hue."""
        del state
        self.check(data)
        return over(_measured, images, progress)


def _measured(images: jax.Array) -> jax.Array:
    half, lacking = images.shape[1] / 2, 1 - images
    cover = jnp.max(lacking, axis=-1)
    cover = jnp.where(cover > _FAINT, cover, 0.0)
    area = jnp.sum(cover, axis=(1, 2))
    total = jnp.where(area > 0, area, jnp.nan)
    places = (jnp.arange(images.shape[1], dtype=jnp.float32) + 0.5) / half - 1
    y, x = (jnp.einsum(f"nij,{axis}->n", cover, places) / total for axis in "ij")
    colour = 1 - jnp.sum(jnp.where(cover[..., None] > 0, lacking, 0.0), axis=(1, 2)) / total[:, None]
    return jnp.stack([jnp.sqrt(area / jnp.pi) / half, x, y, _hue(colour)], axis=1)


def _hue(colours: jax.Array) -> jax.Array:
    """Hues in [0, 1) of colours `[n, 3]`; NaN of greys."""
    red, green, blue = colours.T
    spread = jnp.max(colours, axis=1) - jnp.min(colours, axis=1)
    spread = jnp.where(spread > 0, spread, jnp.nan)
    by_largest = jnp.stack([(green - blue) / spread, (blue - red) / spread + 2, (red - green) / spread + 4])
    return jnp.take_along_axis(by_largest, jnp.argmax(colours, axis=1)[None], axis=0)[0] / 6 % 1
