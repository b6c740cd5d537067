"""The exact field of flow matching as a generator: a positive control that an audit has to flag."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxweights import flow as flows
from jaxweights.generators import canonical
from jaxweights.generators.base import Samples, Training
from jaxweights.generators.baselines import Baseline
from jaxweights.generators.flow import exact
from jaxweights.population import Population
from jaxweights.settings import setting

_AT_ONCE = 64  # samples that are followed at a time


@dataclasses.dataclass(frozen=True)
class Copier(Baseline):
    """What flow matching leads to in the limit: the velocity of least loss, which ends in training networks.

    Attributes:
      order: see `Flow`, as are all others.
      scale: scale of hidden units.
      source_std: standard deviation of the noise at time 0, or None for that of the networks.
      sigma: standard deviation of the noise on points of the paths; samples are that far from training networks.
      sampling_steps: Euler steps of a sample; the field without sigma has a pole at time 1, which they do not ask.
    """

    TINY: ClassVar[Mapping[str, Any]] = {"sampling_steps": 3}

    name: str = "copier"
    order: canonical.Order = "first"
    scale: Literal["none", "balanced"] = "none"
    source_std: float | None = setting(None, above=0)
    sigma: float = setting(0.0, at_least=0)
    sampling_steps: int = setting(99, at_least=1, at_most=100_000)

    def fit(self, training: Population) -> dict[str, Any]:
        """Keeps the training networks in one form."""
        self.check(Training.of(training))
        _, rows = canonical.Form.of(training, self.order, self.scale)
        std = float(rows.std()) if self.source_std is None else self.source_std
        return {"rows": jnp.asarray(rows), "source_std": jnp.float32(std)}

    def sample(self, state: Mapping[str, Any], keys: jax.Array) -> Samples:
        """Follows the exact field; the parent is the training network whose paths lead there."""
        rows, std = state["rows"], state["source_std"]
        size = rows.shape[1]

        def follow(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
            start = std * jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)
            times = flows.grid(self.sampling_steps)
            end = flows.solve(lambda x, t: exact.field(x, t, rows, std, self.sigma), start, times)
            nearest = exact.posterior(end, jnp.full(len(end), times[-2]), rows, std, self.sigma)
            return end, jnp.argmax(nearest, axis=1).astype(jnp.int32)

        block = max(size for size in range(1, _AT_ONCE + 1) if len(keys) % size == 0)
        ends, parents = jax.lax.map(follow, keys.reshape(-1, block))
        return Samples(ends.reshape(-1, rows.shape[1]), parents.reshape(-1))
