"""Networks rebuilt from few numbers, which loses what few networks have in common: what a VAE is to images."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.bias.weights.base import Architecture, WeightTransformation
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class PCA(WeightTransformation):
    """Reconstruction from principal components of networks of all collections.

    Attributes:
      components: number of components.
      fitted: networks that the components are found of, at most.
    """

    KIND: ClassVar[str] = "pca"
    NETWORK: ClassVar[bool] = True
    KEEPS: ClassVar[str] = "the directions in which networks differ most"

    components: int = setting(32, at_least=1)
    fitted: int = setting(2048, at_least=2)

    def fit(self, of: Architecture, weights: np.ndarray, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean `[P]` and components `[k, P]`, orthonormal; at most one fewer than there are networks."""
        some = np.asarray(weights, np.float64)
        if len(some) > self.fitted:
            some = some[np.asarray(jax.random.choice(key, len(some), (self.fitted,), replace=False))]
        if self.components >= min(some.shape):
            self.refuse(
                "components",
                f"{len(some)} networks of {some.shape[1]} weights lie in a space of fewer dimensions, so set it to at "
                f"most {min(some.shape) - 1}",
            )
        mean = some.mean(axis=0)
        # The smaller Gram matrix: networks are few, or their weights are.
        centred = some - mean
        if len(some) <= some.shape[1]:
            values, vectors = np.linalg.eigh(centred @ centred.T)
            vectors = centred.T @ vectors[:, ::-1][:, : self.components]
            vectors /= np.maximum(np.linalg.norm(vectors, axis=0), np.finfo(np.float32).tiny)
        else:
            values, vectors = np.linalg.eigh(centred.T @ centred)
            vectors = vectors[:, ::-1][:, : self.components]
        return jnp.asarray(mean, jnp.float32), jnp.asarray(vectors.T, jnp.float32)

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """The reconstruction `[P]`."""
        mean, components = state
        return mean + (components @ (row - mean)) @ components
