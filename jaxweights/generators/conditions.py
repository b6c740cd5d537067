"""What is known of training networks, as the input of a generator that is asked for networks of which it holds.

A condition is a column of the records: a number such as the accuracy, or the set of classes that a network was taught
(`population.TAUGHT`, one bit each). Numbers are standardised, those of hyper-parameters that are all positive by their
logarithms. What is not known, or not asked for, is zero, and marked as such; training forgets some of what it knows, so
that one model serves all questions (classifier-free guidance, Ho and Salimans 2022, arXiv 2207.12598).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.errors import UserError
from jaxweights.population import HYPER, PROPERTY, TAUGHT

MOST_CLASSES = 52
"""Classes of a set, which a float64 has a bit for."""


class Facts(NamedTuple):
    """What is known of networks.

    Attributes:
      values: `[n, F]` float32, standardised numbers, and one entry of 0 or 1 for every class of a set.
      known: `[n, C]` bool, of which conditions that is.
    """

    values: Any
    known: Any


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Columns of the records that a generator is conditioned on.

    Attributes:
      names: theirs.
      section: settings of the generator, for messages.
    """

    names: tuple[str, ...]
    section: str

    def read(self, records: Mapping[str, np.ndarray], num_classes: int) -> tuple[Facts, dict[str, np.ndarray]]:
        """The facts of networks, and the scales that they have.

        Args:
          records: columns `[N]`; numbers that are not finite are not known.
          num_classes: classes of a set, at least; more where a network was taught one.

        Returns:
          Facts of N networks, and `shift` and `scale` `[F]` float32 and `log` `[F]` bool for `facts`.

        Raises:
          UserError: a column that is absent, no numbers, or known of no network.
        """
        columns = [self._column(records, name) for name in self.names]
        sets = [classes(column, num_classes) for column, name in zip(columns, self.names, strict=True) if is_set(name)]
        width = max([num_classes, *(found.shape[1] for found in sets)], default=0)
        shift, scale, log = [], [], []
        for column, name in zip(columns, self.names, strict=True):
            if is_set(name):
                shift, scale, log = shift + [0.5] * width, scale + [0.5] * width, log + [False] * width
                continue
            found = column[np.isfinite(column)]
            logarithm = name.startswith(HYPER) and bool((found > 0).all())
            found = np.log(found) if logarithm else found
            shift, scale, log = [*shift, found.mean()], [*scale, found.std() or 1.0], [*log, logarithm]
        scales = {
            "shift": np.array(shift, np.float32),
            "scale": np.array(scale, np.float32),
            "log": np.array(log, bool),
        }
        return self.facts(scales, np.stack(columns, axis=1) if columns else np.zeros((len(records["run"]), 0))), scales

    def facts(self, scales: Mapping[str, np.ndarray], values: Any) -> Facts:
        """Facts of numbers `[n, C]`, one per condition (of a set its bits), NaN where it is not known."""
        values = np.asarray(values, np.float64)
        known = np.isfinite(values)
        filled = np.where(known, values, 1.0)
        width = len(scales["shift"]) - (len(self.names) - sum(map(is_set, self.names)))
        parts = [
            classes(column, width) if is_set(name) else column[:, None]
            for column, name in zip(filled.T, self.names, strict=True)
        ]
        raw = np.concatenate(parts, axis=1) if parts else np.zeros((len(values), 0))
        if raw.shape[1] != len(scales["shift"]):
            raise UserError(f"{self.section} is asked for classes that no training network was taught.")
        raw = np.where(scales["log"], np.log(np.where(scales["log"], np.maximum(raw, 1e-30), 1.0)), raw)
        standard = (raw - scales["shift"]) / scales["scale"]
        return Facts((standard * spread(known, self.names, raw.shape[1])).astype(np.float32), known)

    def _column(self, records: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        if name not in records:
            raise UserError(
                f"{self.section} is conditioned on {name!r}, which the records of the training networks do not have; "
                f"they have {', '.join(records)}."
            )
        column = np.asarray(records[name])
        if column.dtype.kind not in "biuf":
            raise UserError(f"{self.section} is conditioned on {name!r}, whose values are no numbers. Leave it out.")
        column = column.astype(np.float64)
        if not np.isfinite(column).any():
            raise UserError(
                f"{self.section} is conditioned on {name!r}, which is known of no training network. Leave it out, or "
                "evaluate the networks first."
            )
        if is_set(name) and not ((column >= 0) & (column < 2.0**MOST_CLASSES) & (column == np.rint(column))).all():
            raise UserError(f"{self.section} is conditioned on {name!r}, whose values are no sets of classes.")
        return column


def is_set(name: str) -> bool:
    """Whether a column holds sets of classes, one bit each."""
    return name.removeprefix(PROPERTY) == TAUGHT


def classes(bits: np.ndarray, num_classes: int = 0) -> np.ndarray:
    """Which classes sets `[n]` have, `[n, K]` bool; K is at least `num_classes`, and more where a set has another."""
    bits = np.asarray(bits, np.int64)
    width = max(num_classes, int(bits.max(initial=0)).bit_length())
    return (bits[:, None] >> np.arange(width)) % 2 == 1


def spread(known: Any, names: Sequence[str], width: int) -> Any:
    """Known conditions `[n, C]` by the entries of facts, `[n, width]`; NumPy or JAX."""
    sets = width - sum(not is_set(name) for name in names)
    repeats = np.array([sets if is_set(name) else 1 for name in names], np.int64)
    return known[:, np.repeat(np.arange(len(names)), repeats)]


def told(facts: Facts, known: Any, names: Sequence[str]) -> Facts:
    """Those facts alone that are `known` `[n, C]`."""
    return Facts(facts.values * spread(known, names, facts.values.shape[1]), known)


def remembered(known: jax.Array, keys: jax.Array, share: float) -> jax.Array:
    """What is left of known conditions `[n, C]` where a share of the networks forgets all of them, and where there are
    several, the others a share of each."""
    drawn = jax.vmap(lambda key: jax.random.uniform(key, (1 + known.shape[1],)))(keys)
    return known & (drawn[:, :1] >= share) & ((drawn[:, 1:] >= share) | (known.shape[1] == 1))


def features(facts: Facts) -> jax.Array:
    """Facts as the input of a network, `[n, F + C]`."""
    return jnp.concatenate([facts.values, facts.known.astype(facts.values.dtype)], axis=1)
