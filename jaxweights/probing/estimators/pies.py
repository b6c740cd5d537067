"""Size, place and red share of pies."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.errors import UserError
from jaxweights.probing.data import DesignedData, Pies
from jaxweights.probing.estimators.base import Estimator
from jaxweights.probing.estimators.batches import Progress, over

_WHITE, _BELOW = 3.0, 0.3  # sum of red, green and blue; what is darker than the background by more is of the pie


@dataclasses.dataclass(frozen=True)
class PiesEstimator(Estimator):
    """Measures pies as the published code does: the radius of a disc of as many pixels as are not white (red, green and
    blue sum to less than 2.7), their mean place, and the share of them in which red is the largest.

    Attributes:
      background: "white", as published, takes an off-white background for a part of the pie; "measured" compares with
        the median of the pixels at the border, where that is darker than white.
    """

    KIND: ClassVar[str] = "pies"

    background: Literal["measured", "white"] = "measured"

    def check(self, data: DesignedData) -> None:
        """See `Estimator.check`."""
        if not isinstance(data, Pies):
            raise UserError(f"The estimator {self.KIND} measures pies; the images are {data.KIND}.")

    def measure(
        self, state: Any, data: DesignedData, images: np.ndarray, progress: Progress = lambda done, total: None
    ) -> np.ndarray:
        """See `Estimator.measure`; an image of background alone has size 0, and no place and share."""
        del state
        self.check(data)
        assert isinstance(data, Pies)
        return over(functools.partial(_measured, self.background == "measured", data.faithful), images, progress)


def _measured(adapt: bool, faithful: bool, images: jax.Array) -> jax.Array:
    half, sums = images.shape[1] / 2, jnp.sum(images, axis=-1)
    limit = jnp.full((len(images), 1, 1), _WHITE)
    if adapt:
        border = jnp.concatenate([sums[:, 0], sums[:, -1], sums[:, :, 0], sums[:, :, -1]], axis=1)
        limit = jnp.minimum(limit, jnp.median(border, axis=1)[:, None, None])
    inside = (sums < limit - _BELOW).astype(jnp.float32)
    area = jnp.sum(inside, axis=(1, 2))
    total = jnp.where(area > 0, area, jnp.nan)
    places = jnp.arange(images.shape[1], dtype=jnp.float32) / half - 1
    down = jnp.einsum("nij,i->n", inside, places) / total
    across = jnp.einsum("nij,j->n", inside, places) / total
    red = jnp.sum(inside * (images[..., 0] > jnp.max(images[..., 1:], axis=-1)), axis=(1, 2)) / total
    x, y = (down, across) if faithful else (across, down)
    return jnp.stack([jnp.sqrt(area / jnp.pi) / half, x, y, red], axis=1)
