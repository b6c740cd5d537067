"""Adversarial models: the WGAN with gradient penalty of Zhao et al. (2018), and the losses of the DCGAN.

A step updates the critic, and every `critic_steps`-th one the generator as well, both from the same parameters: the
published order. Generator and critic are parts of one tree of parameters with an optimizer each.
"""

from __future__ import annotations

import abc
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

_CRITIC = "critic"
_LATENT, _EPSILON, _BATCH_EPSILON = range(3)  # purposes of keys
_SMALL = 1e-12  # below the root of a squared slope


@dataclasses.dataclass(frozen=True)
class Adversarial(LatentModel, abc.ABC):
    """A generator that is trained against a critic.

    Attributes:
      critic_steps: updates of the critic per update of the generator, of which there are `steps`.
      same_batch: whether all of these see the same images and latents, as published; by default each draws its own.
      uniform_latents: whether latents are uniform in [-1, 1], as published for CLEVR; else standard normal.
      beta_1: decay of Adam's mean.
      beta_2: decay of Adam's mean square.
      halving: share of the steps after which the learning rate is halved, again and again; 0 for a constant one.
        Published: 30,000 of 200,000 steps.
      ema_decay: decay of the averaged parameters that samples are drawn with, per update of the critic, or None for the
        last ones, as published.
    """

    TRACED: ClassVar[frozenset[str]] = frozenset({"learning_rate"})

    critic_steps: int = setting(2, at_least=1)
    same_batch: bool = False
    uniform_latents: bool = False
    beta_1: float = setting(0.5, at_least=0, below=1)
    beta_2: float = setting(0.9, at_least=0, below=1)
    halving: float = setting(0.15, at_least=0)
    ema_decay: float | None = setting(None, at_least=0, below=1)

    def noise(self, keys: jax.Array) -> jax.Array:
        """See `LatentModel.noise`."""
        if self.uniform_latents:
            return jax.vmap(lambda key: jax.random.uniform(key, (self.latents,), minval=-1.0))(keys)
        return super().noise(keys)

    @property
    def inward(self) -> Inward:
        """The critic."""
        return Inward(self.architecture.critic, 1, self.architecture)

    def score(self, params: Any, seen: jax.Array, axis_name: Any = None) -> jax.Array:
        """The critic's outputs `[n]` for images as it sees them."""
        return apply_inward(self.inward, params, seen, axis_name)[:, 0]

    @abc.abstractmethod
    def critic_loss(
        self, params: Any, real: jax.Array, fake: jax.Array, epsilon: jax.Array, axis_name: Any
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Loss of the critic, and metrics.

        Args:
          params: the critic's.
          real: `[n, H, W, C]` training images, as critics see them.
          fake: `[n, H, W, C]` generated ones.
          epsilon: `[n]` in [0, 1].
          axis_name: axes of devices that the batch is split over.
        """

    @abc.abstractmethod
    def generator_loss(self, score: jax.Array) -> jax.Array:
        """Loss of the generator for the critic's outputs `[n]` for its images."""

    def optimizer(self) -> optax.GradientTransformation:
        """Adam for both parts, the generator's at every `critic_steps`-th step alone."""

        def adam(period: int) -> optax.GradientTransformation:
            rate: Any = self.learning_rate
            if self.halving:
                rate = optax.exponential_decay(rate, max(1, round(self.halving * period)), 0.5, staircase=True)
            return optax.adam(rate, b1=self.beta_1, b2=self.beta_2)

        generator = adam(self.steps)
        if self.critic_steps > 1:
            generator = optax.conditionally_mask(generator, self._due)
        parts: Any = {GENERATOR: generator, _CRITIC: adam(self.steps * self.critic_steps)}
        return optax.partition(parts, {GENERATOR: GENERATOR, _CRITIC: _CRITIC})

    def _due(self, step: Any, **given: Any) -> jax.Array:
        """Whether a step updates the generator."""
        del given
        return step % self.critic_steps == self.critic_steps - 1

    def stages(self) -> tuple[Stage, ...]:
        """See `LearnedGenerator.stages`."""
        stage = Stage(
            STAGE,
            self.steps * self.critic_steps,
            self.batch_size,
            self.optimizer(),
            self._init,
            self._loss,
            ema_decay=self.ema_decay,
            auxiliary=(_CRITIC,),
            repeats=self.critic_steps if self.same_batch else 1,
        )
        return (stage,)

    def _init(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[Any, Any]:
        blank, (first, second, own) = done["constants"][SHAPE], jax.random.split(key, 3)
        critic = initialise(self.inward, first, jnp.stack([blank] * 2))["params"]
        generator, statistics = self.start(second, blank.shape)
        state = {"step": jnp.int32(0), "key": jax.random.key_data(own), "statistics": statistics}
        return {GENERATOR: generator, _CRITIC: critic}, state

    def epsilons(self, model_state: Any, keys: jax.Array) -> jax.Array:
        """Uniform draws `[n]` of examples in [0, 1], other ones for every update of the critic."""
        drawn = keys_for(keys_for(keys, _EPSILON), model_state["step"] % self.critic_steps)
        return jax.vmap(jax.random.uniform)(drawn)

    def _loss(self, params, model_state, done, batch, keys, axis_name):
        module, seen = self.outward(done["constants"][SHAPE].shape), self.architecture.seen
        latents, step = self.noise(keys_for(keys, _LATENT)), model_state["step"]

        def generated(own: Any) -> tuple[jax.Array, Any]:
            images, statistics = apply_outward(module, own, model_state["statistics"], latents, axis_name)
            return seen(images), statistics

        def of_generator(own: Any) -> jax.Array:
            score = self.score(jax.lax.stop_gradient(params[_CRITIC]), generated(own)[0], axis_name)
            return self.generator_loss(score)

        fake, statistics = jax.lax.stop_gradient(generated(params[GENERATOR]))
        epsilon = self.epsilons(model_state, keys)
        value, metrics = self.critic_loss(params[_CRITIC], seen(batch), fake, epsilon, axis_name)
        # The generator makes its images once more, so that no derivative is calculated in the other steps.
        own = jax.lax.cond(self._due(step), of_generator, lambda own: 0 * value, params[GENERATOR])
        state = {"step": step + 1, "key": model_state["key"], "statistics": statistics}
        return value + own, (state, metrics)


@dataclasses.dataclass(frozen=True)
class WGAN(Adversarial):
    """The Wasserstein GAN with gradient penalty (Gulrajani et al., 2017): the critic's slope between a training image
    and a generated one is drawn to 1, at a point of its own for every pair.

    Attributes:
      penalty: weight of the squared difference of slopes from 1.
      published_penalty: whether one epsilon places the points of all pairs of a batch, and nothing is added below the
        root of the squared slope, as in the published code.
    """

    KIND: ClassVar[str] = "wgan"
    TINY: ClassVar[Mapping[str, Any]] = {"latents": 4, "steps": 2, "batch_size": 4}
    TRACED: ClassVar[frozenset[str]] = frozenset({"learning_rate", "penalty"})

    penalty: float = setting(10.0, at_least=0)
    published_penalty: bool = False

    def epsilons(self, model_state: Any, keys: jax.Array) -> jax.Array:
        """See `Adversarial.epsilons`."""
        if not self.published_penalty:
            return super().epsilons(model_state, keys)
        key = jax.random.wrap_key_data(model_state["key"])
        drawn = jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, _BATCH_EPSILON), model_state["step"]))
        return jnp.full(keys.shape, drawn)

    def slopes(self, params: Any, images: jax.Array, axis_name: Any = None) -> jax.Array:
        """Norms `[n]` of the critic's gradient by images `[n, H, W, C]` as it sees them."""
        gradient = jax.grad(lambda x: jnp.sum(self.score(params, x, axis_name)))(images)
        square = jnp.sum(jnp.square(gradient), axis=(1, 2, 3))
        return jnp.sqrt(square if self.published_penalty else square + _SMALL)

    def critic_loss(self, params, real, fake, epsilon, axis_name):
        """See `Adversarial.critic_loss`."""
        between = real + epsilon[:, None, None, None] * (fake - real)
        penalty = jnp.mean(jnp.square(self.slopes(params, between, axis_name) - 1))
        distance = jnp.mean(self.score(params, real, axis_name)) - jnp.mean(self.score(params, fake, axis_name))
        return self.penalty * penalty - distance, {"distance": distance, "penalty": penalty}

    def generator_loss(self, score: jax.Array) -> jax.Array:
        """See `Adversarial.generator_loss`."""
        return -jnp.mean(score)


@dataclasses.dataclass(frozen=True)
class DCGAN(Adversarial):
    """The non-saturating losses of Goodfellow et al. (2014), as in the DCGAN (Radford et al., 2016): the critic's
    output is the logit that an image is from the training set.

    Attributes:
      critic_steps: one by default.
    """

    KIND: ClassVar[str] = "dcgan"
    TINY: ClassVar[Mapping[str, Any]] = WGAN.TINY

    critic_steps: int = setting(1, at_least=1)

    def critic_loss(self, params, real, fake, epsilon, axis_name):
        """See `Adversarial.critic_loss`."""
        del epsilon
        of_real, of_fake = self.score(params, real, axis_name), self.score(params, fake, axis_name)
        right = jnp.mean(0.5 * (of_real > 0) + 0.5 * (of_fake < 0))
        return jnp.mean(jax.nn.softplus(-of_real) + jax.nn.softplus(of_fake)), {"right": right}

    def generator_loss(self, score: jax.Array) -> jax.Array:
        """See `Adversarial.generator_loss`."""
        return jnp.mean(jax.nn.softplus(-score))
