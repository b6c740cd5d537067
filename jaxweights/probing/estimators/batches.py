"""Images through a program, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import parallel, programs

_BLOCK = 1024  # images at a time, over all devices
Progress = Callable[[int, int], None]


def over(
    function: Callable[[jax.Array], jax.Array], images: np.ndarray, progress: Progress, mesh: Mesh | None = None
) -> np.ndarray:
    """Applies a pure function of images `[n, H, W, C]`, row by row independent, to all of them.

    Args:
      function: to `[n, ...]`; one that can be compared shares its program with equal ones.
      images: `[N, H, W, C]`.
      progress: called with images done and in all.
      mesh: devices; None for all.
    """
    program, block = _program(function, parallel.resolve(mesh)), min(_BLOCK, len(images))
    out = []
    for first in range(0, len(images), max(block, 1)):
        part = np.asarray(images[first : first + block], np.float32)
        out.append(np.asarray(program((), parallel.pad_rows(part, block)))[: len(part)])
        progress(first + len(part), len(images))
    return np.concatenate(out)


@programs.shared
def _program(function: Callable[[jax.Array], jax.Array], mesh: Mesh):
    return parallel.map_rows(lambda _, images: function(images), mesh)
