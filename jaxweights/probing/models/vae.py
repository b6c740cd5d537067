"""The variational autoencoder of Zhao et al. (2018)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from jaxweights.generators.base import Stage, keys_for
from jaxweights.nn.parameters import initialise
from jaxweights.probing.models.base import SHAPE
from jaxweights.probing.models.latent import GENERATOR, STAGE, LatentModel
from jaxweights.probing.models.networks import Inward, apply_inward, apply_outward
from jaxweights.settings import setting

_ENCODER = "encoder"
_POSTERIOR = 0  # purpose of an example's key
_PUBLISHED_ANNEALING = 50_000.0  # steps
_LEAST_SIGMA = 0.01


@dataclasses.dataclass(frozen=True)
class VAE(LatentModel):
    """A variational autoencoder with a reconstruction loss of squared plus half the absolute error, summed over pixels.

    The divergence of the posterior from N(0, I) has the weight `beta` times 1 - exp(-t / tau) at step t. Published is
    tau = 50,000 of 200,000 steps, so that the weight ends at 0.98 `beta`; a quarter of `steps` is the default here, and
    the rise is scaled to end at `beta`.

    Attributes:
      beta: weight of the divergence.
      published_annealing: whether the weight rises as published, whatever `steps` are.
      published_sigma: whether standard deviations of the posterior are published max(sigmoid, 0.01), so at most 1;
        else any positive number.
    """

    KIND: ClassVar[str] = "vae"
    TINY: ClassVar[Mapping[str, Any]] = {"latents": 4, "steps": 3, "batch_size": 4}
    TRACED: ClassVar[frozenset[str]] = frozenset({"learning_rate", "beta"})

    beta: float = setting(1.0, at_least=0)
    published_annealing: bool = False
    published_sigma: bool = False

    def prior_weight(self, step: jax.Array) -> jax.Array:
        """Weight of the divergence at a step."""
        if self.published_annealing:
            return self.beta * (1 - jnp.exp(-step / _PUBLISHED_ANNEALING))
        return self.beta * jnp.expm1(-4 * step / self.steps) / jnp.expm1(-4.0)

    def posterior(self, params: Any, images: jax.Array, axis_name: Any = None) -> tuple[jax.Array, jax.Array]:
        """Means and standard deviations `[n, Z]` of the latents of images `[n, H, W, C]`."""
        module = Inward(self.architecture.encoder, 2 * self.latents, self.architecture)
        mean, raw = jnp.split(apply_inward(module, params, images, axis_name), 2, axis=-1)
        return mean, jnp.maximum(jax.nn.sigmoid(raw), _LEAST_SIGMA) if self.published_sigma else jnp.exp(raw)

    def stages(self) -> tuple[Stage, ...]:
        """See `LearnedGenerator.stages`."""
        optimizer = optax.adam(self.learning_rate, b1=0.5, b2=0.9)
        return (Stage(STAGE, self.steps, self.batch_size, optimizer, self._init, self._loss, auxiliary=(_ENCODER,)),)

    def _init(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[Any, Any]:
        blank, (first, second) = done["constants"][SHAPE], jax.random.split(key)
        module = Inward(self.architecture.encoder, 2 * self.latents, self.architecture)
        encoder = initialise(module, first, jnp.stack([blank] * 2))["params"]
        generator, statistics = self.start(second, blank.shape)
        return {_ENCODER: encoder, GENERATOR: generator}, {"step": jnp.int32(0), "statistics": statistics}

    def _loss(self, params, model_state, done, batch, keys, axis_name):
        mean, sigma = self.posterior(params[_ENCODER], batch, axis_name)
        latents = mean + sigma * self.noise(keys_for(keys, _POSTERIOR))
        module = self.outward(done["constants"][SHAPE].shape)
        images, statistics = apply_outward(module, params[GENERATOR], model_state["statistics"], latents, axis_name)
        error = reconstruction(batch, images)
        prior = divergence(mean, sigma)
        value = jnp.mean(error + self.prior_weight(model_state["step"]) * prior)
        metrics = {"reconstruction": jnp.mean(error), "divergence": jnp.mean(prior)}
        return value, ({"step": model_state["step"] + 1, "statistics": statistics}, metrics)


def reconstruction(images: jax.Array, found: jax.Array) -> jax.Array:
    """Squared error plus half the absolute error `[n]` of images `[n, H, W, C]`, summed over pixels."""
    error = images - found
    return jnp.sum(jnp.square(error) + 0.5 * jnp.abs(error), axis=(1, 2, 3))


def divergence(mean: jax.Array, sigma: jax.Array) -> jax.Array:
    """Kullback-Leibler divergences `[n]` of N(mean, sigma ** 2) `[n, Z]` from N(0, I), in nats."""
    return jnp.sum(0.5 * (jnp.square(mean) + jnp.square(sigma) - 1) - jnp.log(sigma), axis=-1)
