"""Networks that another program generated: an `.npz` file stands in for the generator, the audit is the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxweights.errors import UserError
from jaxweights.generators.base import ClosedFormGenerator, Samples
from jaxweights.population import Population, load_npz


@dataclasses.dataclass(frozen=True)
class Imported(ClosedFormGenerator):
    """The rows of `weights` in an `.npz` file, in their order.

    Attributes:
      path: `.npz` file with `weights` `[n, P]`.
    """

    name: str = "file"
    path: str = ""

    def fit(self, training: Population) -> dict[str, Any]:
        """Reads the file; raises `UserError` unless it holds finite `[n, P]` weights."""
        return {"weights": jnp.asarray(load_npz(self.path, training.spec).weights)}

    def sample(self, state: dict[str, Any], keys: jax.Array) -> Samples:
        """The first rows; raises `UserError` when the file has fewer than are asked for."""
        count, rows = keys.shape[0], state["weights"].shape[0]
        if count > rows:
            raise UserError(
                f"{count} networks are to be audited, but {self.path} has {rows}. Lower num_samples "
                f"(--config.num_samples={rows})."
            )
        return Samples(state["weights"][:count], jnp.full((count,), -1, jnp.int32))
