"""Networks of a conditional latent flow: what an autoencoder adds to principal components, an encoder of data sets, and
a velocity that is told what networks are asked for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxweights.generators import conditions
from jaxweights.generators.latent_flow.context import Context
from jaxweights.generators.velocity import Velocity
from jaxweights.nn.activations import gelu
from jaxweights.nn.dense import Dense
from jaxweights.nn.parameters import FAN_IN_UNIFORM, Initialiser

_ZERO = Initialiser(lambda u, i, o: jnp.zeros_like(u), lambda u, i, o: jnp.zeros_like(u))


class Correction(nn.Module):
    """One hidden layer, zero before training.

    Attributes:
      width: hidden units.
      outputs: of the last layer.
    """

    width: int
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, D]` to `[n, outputs]`."""
        hidden = gelu(_dense(self.width, "hidden")(x))
        return Dense(self.outputs, _ZERO, convention="flax", name="out")(hidden)


class Codec(nn.Module):
    """What an autoencoder adds to principal components.

    Attributes:
      size: weights of a network.
      latents: dimensions of the latents.
      width: hidden units of the encoder and of the decoder.
    """

    size: int
    latents: int
    width: int

    def setup(self) -> None:
        self.encoder = Correction(self.width, 2 * self.latents)
        self.decoder = Correction(self.width, self.size)

    def __call__(self, networks: jax.Array, latents: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """Both, for initialisation."""
        return self.encode(networks), self.decode(latents)

    def encode(self, networks: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What is added to the means `[n, L]` and the log-variances `[n, L]` of latents of networks `[n, P]`."""
        mean, log_variance = jnp.split(self.encoder(networks), 2, axis=1)
        return mean, log_variance

    def decode(self, latents: jax.Array) -> jax.Array:
        """What is added to the networks `[n, P]` of latents `[n, L]`."""
        return self.decoder(latents)


class SetEncoder(nn.Module):
    """An embedding of examples that does not depend on their order: the mean of what a network makes of each (Zaheer et
    al. 2017, arXiv 1703.06114).

    Attributes:
      width: hidden units.
      features: size of the embedding.
      num_classes: classes of the labels.
    """

    width: int
    features: int
    num_classes: int

    @nn.compact
    def __call__(self, context: Context) -> jax.Array:
        """Embeds `n` sets, `[n, features]`; zero where none is shown."""
        x = jnp.concatenate([context.images, jax.nn.one_hot(context.labels, self.num_classes)], axis=2)
        for number in range(2):
            x = gelu(_dense(self.width, f"example_{number}")(x))
        pooled = _dense(self.features, "pooled")(jnp.mean(x, axis=1))
        return jnp.where(context.shown[:, None], pooled, 0.0)


class ConditionalVelocity(nn.Module):
    """The velocity of latents, given what is known of the networks.

    Attributes:
      width: see `Velocity`, as are `time_width`, `extra` and `dropout`.
      condition_width: size of the embeddings of facts and of data sets.
      context_width: hidden units of the encoder of data sets.
      num_classes: classes of the labels there.
    """

    width: int
    time_width: int
    extra: int
    dropout: float
    condition_width: int
    context_width: int
    num_classes: int

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        times: jax.Array,
        facts: conditions.Facts,
        context: Context | None = None,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Maps `[n, L]` at `times` `[n]` to `[n, L]`; `keys` `[n]` are those of dropout, in training."""
        given = []
        if facts.known.shape[1]:
            hidden = gelu(_dense(self.condition_width, "facts_0")(conditions.features(facts)))
            given.append(_dense(self.condition_width, "facts_1")(hidden))
        if context is not None:
            encoder = SetEncoder(self.context_width, self.condition_width, self.num_classes, name="context")
            given += [encoder(context), context.shown[:, None].astype(x.dtype)]
        condition = jnp.concatenate(given, axis=1) if given else None
        velocity = Velocity(self.width, self.time_width, self.extra, self.dropout, name="velocity")
        return velocity(x, times, keys, condition)


def _dense(width: int, name: str) -> Dense:
    return Dense(width, FAN_IN_UNIFORM, convention="flax", name=name)
