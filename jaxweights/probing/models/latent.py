"""What the models share that make an image of a latent vector in one pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxweights import programs
from jaxweights.generators.base import Training
from jaxweights.nn.parameters import initialise
from jaxweights.probing.models.base import SHAPE, ImageModel
from jaxweights.probing.models.networks import ARCHITECTURES, Architecture, Outward, Shape, Size, apply_outward
from jaxweights.settings import setting

STAGE = "train"
GENERATOR = "generator"
"""Key of the parameters that make images."""
_STATISTICS = "statistics"
_SAMPLED = 256  # images whose statistics published samples are normalised by


@dataclasses.dataclass(frozen=True)
class LatentModel(ImageModel):
    """Images as a network's function of random latents.

    Attributes:
      size: networks, see `networks.ARCHITECTURES`.
      latents: numbers that an image is made of.
      steps: optimizer steps of the generator.
      batch_size: images per step.
      learning_rate: of Adam.
      sampled_statistics: whether batch normalisation of samples is by the statistics of 256 of them, drawn once after
        training, where the published code takes those of each batch that it draws; by default it is by the running
        statistics of training. A sample depends on its own latents alone in both.
    """

    TRACED: ClassVar[frozenset[str]] = frozenset({"learning_rate"})

    size: Size = "tiny"
    latents: int = setting(100, at_least=1)
    steps: int = setting(6000, at_least=1)
    batch_size: int = setting(100, at_least=2)
    learning_rate: float = setting(1e-4, above=0)
    sampled_statistics: bool = False

    @property
    def architecture(self) -> Architecture:
        """Sizes of the networks."""
        return ARCHITECTURES[self.size]

    def check(self, training: Training) -> None:
        """Refuses, besides too few images, those whose sides the networks cannot halve."""
        super().check(training)
        self.architecture.check(training.spec.leaves[0].shape, self.section)  # type: ignore[arg-type]

    def noise(self, keys: jax.Array) -> jax.Array:
        """Latents `[n, Z]` of keys `[n]`."""
        return jax.vmap(lambda key: jax.random.normal(key, (self.latents,)))(keys)

    def outward(self, shape: Shape) -> Outward:
        """The network that makes images."""
        return Outward(self.architecture, shape)

    def start(self, key: jax.Array, shape: Shape) -> tuple[Any, Any]:
        """Parameters and running statistics of that network."""
        variables = initialise(self.outward(shape), key, jnp.zeros((1, self.latents)))
        return variables["params"], variables.get("batch_stats", {})

    def finish(self, state: Mapping[str, Any], data: Any) -> dict[str, Any]:
        """The statistics of sampled images, where samples are normalised by these."""
        del data
        if not (self.architecture.norm and self.sampled_statistics):
            return {}
        program = _sampled_statistics(self, tuple(state["constants"][SHAPE].shape))
        return {_STATISTICS: program(state[STAGE]["params"][GENERATOR])}

    def draw(self, state: Mapping[str, Any], keys: jax.Array, shape: Shape) -> jax.Array:
        """See `ImageModel.draw`."""
        trained = state[STAGE]
        statistics = state.get(_STATISTICS, trained["model_state"][_STATISTICS])
        variables = {"params": trained["params"][GENERATOR], "batch_stats": statistics}
        images: Any = self.outward(shape).apply(variables, self.noise(keys))
        return images


@programs.shared
def _sampled_statistics(model: LatentModel, shape: Shape):
    module = Outward(model.architecture, shape, momentum=1.0)

    @jax.jit
    def program(params: Any) -> Any:
        _, empty = model.start(jax.random.key(0), shape)
        latents = model.noise(jax.random.split(jax.random.key(0), _SAMPLED))
        return apply_outward(module, params, empty, latents)[1]

    return program
