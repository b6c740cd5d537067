"""Baselines that mix training networks of which the hidden units are brought into one order first, on the devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxweights import parallel
from jaxweights.auditing.alignment import climbing
from jaxweights.auditing.alignment.canonical import balance
from jaxweights.generators.base import Samples, Training, keys_for
from jaxweights.generators.baselines import Baseline, Static, different_rows
from jaxweights.population import Population
from jaxweights.settings import setting
from jaxweights.spec import WeightSpec

_SWEEPS = 100


@dataclasses.dataclass(frozen=True)
class Aligned(Baseline):
    """Mixtures in the space of balanced networks, see `auditing.canonical`: of rescaled copies one is the other."""

    least: ClassVar[int] = 2

    def fit(self, training: Population) -> dict[str, Any]:
        """Keeps the training rows, balanced."""
        self.check(Training.of(training))
        weights = balance(training.spec, training.weights[:])
        return {"weights": jnp.asarray(weights, jnp.float32), "spec": Static(training.spec)}


@dataclasses.dataclass(frozen=True)
class AlignedInterpolation(Aligned):
    """Points at a uniform position on the segment between two different training networks, the second with its hidden
    units in the order and with the signs of the first's."""

    name: str = "aligned_interpolation"

    def sample(self, state: dict[str, Any], keys: jax.Array) -> Samples:
        """Mixtures; the parent is the nearer end."""
        weights, spec = state["weights"], state["spec"].value
        pairs = different_rows(keys_for(keys, 0), weights.shape[0], 2)
        t = jax.vmap(lambda k: jax.random.uniform(k, ()))(keys_for(keys, 1))

        def mix(pairs, t):
            first, second = weights[pairs[:, 0]], weights[pairs[:, 1]]
            return (1 - t)[:, None] * first + t[:, None] * bring(spec, first, second)

        mixed = parallel.in_parts(mix, spec.num_params, pairs, t)
        return Samples(mixed, jnp.where(t < 0.5, pairs[:, 0], pairs[:, 1]).astype(jnp.int32))


@dataclasses.dataclass(frozen=True)
class Soup(Aligned):
    """Means of `k` different training networks, all with their hidden units in the order of the first's.

    Attributes:
      k: networks per mean.
    """

    TINY: ClassVar[Mapping[str, Any]] = {"k": 3}

    name: str = "soup"
    k: int = setting(16, at_least=2)

    @property
    def least(self) -> int:  # type: ignore[override]
        """As many as one mean takes."""
        return self.k

    def sample(self, state: dict[str, Any], keys: jax.Array) -> Samples:
        """Means of rows drawn without replacement; no parents."""
        weights, spec = state["weights"], state["spec"].value
        chosen = different_rows(keys, weights.shape[0], self.k)

        def mean(rows):
            first, others = weights[rows[:, :1]], weights[rows[:, 1:]]
            flat = (
                jnp.broadcast_to(first, others.shape).reshape(-1, spec.num_params),
                others.reshape(-1, spec.num_params),
            )
            return (first[:, 0] + jnp.sum(bring(spec, *flat).reshape(others.shape), axis=1)) / self.k

        averaged = parallel.in_parts(mean, self.k * spec.num_params, chosen)
        return Samples.new(averaged)


def bring(spec: WeightSpec, ours: jax.Array, theirs: jax.Array) -> jax.Array:
    """Networks with their hidden units in the order and with the signs of others', pair by pair: the largest inner
    product that weight matching finds, see `auditing.climbing`; exact for one group of units.

    Args:
      spec: meaning of the vectors.
      ours: `[S, P]` float32.
      theirs: `[S, P]` float32, what is reordered.

    Returns:
      `[S, P]`, the functions of `theirs`.
    """
    if not spec.groups:
        return theirs
    found = climbing.climb(spec, ours, theirs, climbing.unordered(spec, len(ours), _SWEEPS))
    return climbing.reordered(spec, theirs, found.permutations, found.signs)
