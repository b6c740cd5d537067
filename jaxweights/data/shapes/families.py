"""Families of procedural shapes: parameters, their distribution, and the solids they define.

A family is a table `name: (low, high)` of parameters, drawn uniformly and independently, and a function that turns them
into parts. `solids.fit` brings every shape to the same size. x points forward, y to the left (shapes are mirrored in
y = 0), z up. Parameters named `..._kind` are drawn from 0 to 1 and compared with the shares in the table's comments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np

from jaxweights.data.shapes.aeroplanes import PLANE, plane
from jaxweights.data.shapes.furniture import CHAIR, TABLE, chair, table
from jaxweights.data.shapes.parts import Parameters
from jaxweights.data.shapes.solids import Solid

# Shapes that are drawn at once.
_DRAWS = 64

FAMILIES: dict[str, tuple[dict[str, tuple[float, float]], Callable[[Parameters], Solid]]] = {
    "planes": (PLANE, plane),
    "chairs": (CHAIR, chair),
    "tables": (TABLE, table),
}


def draw(family: str, seed: int, indices) -> np.ndarray:
    """Uniform draws from [0, 1) that determine the parameters of shapes; shape i has its own key, fold_in(seed, i).

    Args:
      family: a key of `FAMILIES`.
      seed: random seed of the shapes.
      indices: `[n]` int, numbers of the shapes.

    Returns:
      `[n, number of parameters]` float32, in the order of the family's table.
    """
    indices, size = np.asarray(indices, np.int32), len(FAMILIES[family][0])
    # In blocks of one size, so that one program serves any number of shapes.
    blocks = np.resize(indices, (-(-len(indices) // _DRAWS), _DRAWS))
    return np.concatenate([_draw(seed, block, size) for block in blocks])[: len(indices)]


@functools.partial(jax.jit, static_argnums=2)
def _draw(seed: jax.Array, indices: jax.Array, size: int) -> jax.Array:
    key = jax.random.key(seed)
    return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), (size,)))(indices)


def parameters(family: str, draws) -> dict[str, jax.Array]:
    """Parameters by name, `[...]` float32, from draws `[..., number of parameters]`."""
    ranges = FAMILIES[family][0]
    return {name: low + (high - low) * draws[..., i] for i, (name, (low, high)) in enumerate(ranges.items())}
