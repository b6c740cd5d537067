"""The metric of checkpoints that G.pt is conditioned on."""

from __future__ import annotations

import numpy as np

from jaxweights.errors import UserError
from jaxweights.population import Population


def of(population: Population, conditioning: str, what: str, section: str) -> np.ndarray:
    """The metric of evaluated networks.

    Args:
      population: N networks.
      conditioning: "error", "return", or a column of the records, see `GPT`.
      what: what the networks are, for errors.
      section: where a config has the generator's settings, for errors.

    Returns:
      `[N]` float32.

    Raises:
      UserError: rows without this metric, or with one that is not finite.
    """
    if conditioning == "error":
        metric = 100.0 * (1.0 - population.records["accuracy"])
    elif conditioning == "return":
        metric = -population.records["loss"]
    elif conditioning in population.records:
        metric = population.records[conditioning]
    else:
        raise UserError(
            f"{section}.conditioning is {conditioning!r}, but {what} have no such column. Set it to "
            f'"error", "return" or one of {", ".join(sorted(population.records))}.'
        )
    if metric.dtype.kind not in "fiu" or not np.isfinite(metric).all():
        raise UserError(
            f"{section}.conditioning is {conditioning!r}, but {what} do not all have a finite number "
            "under that name. Measure these networks, or set conditioning to another column."
        )
    return metric.astype(np.float32)
