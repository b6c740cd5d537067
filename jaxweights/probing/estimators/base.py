"""What every estimator of features offers."""

from __future__ import annotations

import abc
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights.probing.data import DesignedData
from jaxweights.settings import Settings


@dataclasses.dataclass(frozen=True)
class Estimator(Settings, abc.ABC):
    """Measures the features of images, as `DesignedData.features` lists them.

    Training, held-out and generated images are measured in the same way, since an estimator's errors look like a
    model's.
    """

    SECTION: ClassVar[str] = "probing.estimator"
    KIND: ClassVar[str] = ""

    def check(self, data: DesignedData) -> None:
        """Raises `UserError` where it does not know the features of such images."""
        del data

    def fit(
        self, data: DesignedData, key: jax.Array, mesh: Mesh | None = None, folder: pathlib.Path | None = None
    ) -> Any:
        """The state, for estimators that learn from rendered truth; the default is None. With a folder, all
        processes of a job call it at the same time.

        Args:
          data: what it is to measure.
          key: PRNG key.
          mesh: devices; None for all.
          folder: folder of checkpoints; None for none.
        """
        del data, key, mesh, folder
        return None

    @abc.abstractmethod
    def measure(
        self,
        state: Any,
        data: DesignedData,
        images: np.ndarray,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> np.ndarray:
        """Features `[n, F]` float32 of images `[n, H, W, C]` float32 in [0, 1]; NaN where one is not defined, as the
        place of an object that is not there. Finite for all others, whatever the image. `progress` is called with
        images done and in all."""
