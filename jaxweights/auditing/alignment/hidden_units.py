"""Hidden units of networks with one hidden layer: which places of a weight vector move together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxweights.auditing.distances.products import Frame


@dataclass(frozen=True)
class HiddenUnits:
    """Which places of a vector belong to which hidden unit: `units` `[n, F]`, and `rest` `[R]`, all other places."""

    units: np.ndarray
    rest: np.ndarray

    def check(self, width: int) -> None:
        """Raises ValueError unless every place of a vector of this width is named exactly once."""
        named = np.concatenate([self.units.reshape(-1), self.rest.reshape(-1)])
        if self.units.ndim != 2 or not np.array_equal(np.sort(named), np.arange(width)):
            raise ValueError(
                f"units {self.units.shape} and rest {self.rest.shape} must name each of the {width} places exactly once"
            )

    def split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rearranges vectors `[..., P]` to the units `[..., n, F]` and the rest `[..., R]`, in float64."""
        return rows[..., self.units].astype(np.float64), rows[..., self.rest].astype(np.float64)


def apply_permutation(vector: np.ndarray, units: np.ndarray, permutation: np.ndarray) -> np.ndarray:
    """Reorders hidden units: unit u of the result is unit `permutation[u]` of the vector. The input is not changed.

    Args:
      vector: `[..., P]`.
      units: `[n, F]` integers.
      permutation: `[..., n]` integers with the same leading axes.

    Returns:
      `[..., P]`, a copy.
    """
    vector, units = np.asarray(vector), np.asarray(units)
    result = vector.copy()
    moved = np.take_along_axis(vector[..., units], np.asarray(permutation)[..., None], axis=-2)
    result[..., units] = moved
    return result


def unit_frame(frame: Frame, hidden: HiddenUnits, odd: bool = False) -> Frame:
    """Replaces the mean of each unit by the mean unit: permutations mix units, so all must be shifted alike, and not at
    all where they may change sign."""
    centre = frame.centre.copy()
    centre[hidden.units] = 0 if odd else frame.centre[hidden.units].mean(axis=0)[None, :]
    return Frame(centre, frame.scale)
