"""Signals that zoos of neural fields are fitted to: one per run, given by samples at points of its domain."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Signals:
    """n shapes or images, sampled.

    Attributes:
      kind: "occupancy" (values are 0 or 1) or "image" (real values).
      names: n unique names.
      points: `[n, S, d]` float32 coordinates of samples, about -0.5 to 0.5, or `[1, S, d]` where all signals were
        sampled at the same points. d is 2 for images, 3 for shapes, 4 for shapes that move (x, y, z, t).
      values: occupancy `[n, ceil(S / 8)]` uint8, bits in the order of `numpy.packbits`, or colours `[n, S, k]` float32.
      surface: `[n, M, 3]` float32 points on the shapes' surfaces, evenly by area; M is 0 where there are none.
    """

    kind: Literal["occupancy", "image"]
    names: tuple[str, ...]
    points: np.ndarray
    values: np.ndarray
    surface: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_points(self) -> int:
        """Number of samples of each signal, S."""
        return self.points.shape[1]

    @property
    def dimensions(self) -> int:
        """Number of coordinates of a point, d."""
        return self.points.shape[2]

    @property
    def channels(self) -> int:
        """Number of values at a point, k; 1 for occupancy."""
        return self.values.shape[2] if self.kind == "image" else 1
