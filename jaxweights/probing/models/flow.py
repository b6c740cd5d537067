"""Flow matching along straight lines (Lipman et al., 2023; rectified flow, Liu et al., 2023)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxweights import flow
from jaxweights.probing.models.denoising import Denoising
from jaxweights.probing.models.networks import Shape
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class Flow(Denoising):
    """A velocity that carries noise at time 0 to images at time 1, learned from (1 - t) noise + t image.

    Attributes:
      solver: Euler's method, or Heun's, which asks the network twice per step.
    """

    KIND: ClassVar[str] = "flow"
    SAMPLING: ClassVar[frozenset[str]] = Denoising.SAMPLING | {"solver"}

    solver: Literal["euler", "heun"] = "heun"
    sampling_steps: int = setting(25, at_least=1)

    def error(self, predict: Callable[..., jax.Array], images: jax.Array, keys: jax.Array) -> jax.Array:
        """See `Denoising.error`."""

        def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            first, second = jax.random.split(key)
            return jax.random.uniform(first), jax.random.normal(second, images.shape[1:])

        times, noise = jax.vmap(draw)(keys)
        return jnp.mean(jnp.square(predict(flow.between(noise, images, times), times) - (images - noise)))

    def denoised(self, predict: Callable[..., jax.Array], keys: jax.Array, shape: Shape) -> jax.Array:
        """See `Denoising.denoised`."""
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        return flow.solve(predict, noise, flow.grid(self.sampling_steps), self.solver)
