"""Networks that another program generated: a file stands in for the generator, the audit is the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import population_files
from jaxweights.errors import UserError
from jaxweights.generators.base import ClosedFormGenerator, Samples
from jaxweights.population import Population
from jaxweights.spec import WeightSpec


@dataclasses.dataclass(frozen=True)
class Imported(ClosedFormGenerator):
    """The networks of a file, in their order.

    Attributes:
      path: file of weights `[n, P]` or of state dicts, see `population_files.read`, or the folder of a population.
    """

    name: str = "file"
    path: str = ""

    def read(self, spec: WeightSpec, count: int = 1) -> np.ndarray:
        """The weights `[n, P]` in the file.

        Raises:
          UserError: a file without finite `[n, P]` weights (see `population_files.load`), or fewer than `count` rows.
        """
        weights = population_files.load(self.path, spec, f"{self.section}.path").weights[:]
        self._check_count(count, len(weights))
        return weights

    def _check_count(self, count: int, rows: int) -> None:
        if count > rows:
            raise UserError(
                f"{count} networks are to be audited, but {self.path} has {rows}. Lower num_samples "
                f"(--config.num_samples={rows})."
            )

    def fit(self, training: Population) -> dict[str, Any]:
        """Reads the file; raises `UserError` unless it holds finite `[n, P]` weights."""
        return {"weights": jnp.asarray(self.read(training.spec))}

    def sample(self, state: dict[str, Any], keys: jax.Array) -> Samples:
        """The first rows; raises `UserError` when the file has fewer than are asked for."""
        count, rows = keys.shape[0], state["weights"].shape[0]
        self._check_count(count, rows)
        return Samples.new(state["weights"][:count])
