"""Images through a program, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import parallel, programs

_BLOCK = 1024  # images at a time, over all devices
Progress = Callable[[int, int], None]


def over(
    function: Callable[..., jax.Array],
    images: np.ndarray,
    progress: Progress,
    state: Any = None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Applies a pure function, whose rows are independent, to all images.

    Args:
      function: of images `[n, H, W, C]`, or of a state and images, to `[n, ...]`; equal ones share a program.
      images: `[N, H, W, C]`.
      progress: called with images done and in all.
      state: a pytree of arrays for functions that have one, else None.
      mesh: devices; None for all.
    """
    program, block = _program(function, state is not None, parallel.resolve(mesh)), min(_BLOCK, len(images))
    out = []
    for first in range(0, len(images), max(block, 1)):
        part = np.asarray(images[first : first + block], np.float32)
        out.append(np.asarray(program(state, parallel.pad_rows(part, block)))[: len(part)])
        progress(first + len(part), len(images))
    return np.concatenate(out)


@programs.shared
def _program(function: Callable[..., jax.Array], stateful: bool, mesh: Mesh):
    return parallel.map_rows(function if stateful else lambda _, images: function(images), mesh)
