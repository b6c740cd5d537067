"""Flow matching: straight paths from noise to data, and how samples follow a velocity; shared by every flow.

Lipman et al. (2023, arXiv 2210.02747) and rectified flow (Liu et al., 2023, arXiv 2209.03003): time 0 is noise and time
1 data, and a network learns the velocity `data - noise` at `x_t = (1 - t) noise + t data`. Arrays are `[n, ...]`, one
example per row, and times `[n]` float32. See `diffusion` for steps from noise to data by Gaussian diffusion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

Solver = Literal["euler", "heun", "rk4"]
Velocity = Callable[[jax.Array, jax.Array], jax.Array]
"""`(x [n, ...], times [n]) -> [n, ...]`."""
Move = Callable[[jax.Array, jax.Array], jax.Array]
"""`(x [n, ...], displacement [n, ...]) -> [n, ...]`."""


def along(values: jax.Array, like: jax.Array) -> jax.Array:
    """Numbers `[n]` with axes of length 1, so that they scale the rows of `[n, ...]`."""
    return values.reshape((-1,) + (1,) * (like.ndim - 1))


def between(noise: jax.Array, data: jax.Array, times: jax.Array) -> jax.Array:
    """The points `[n, ...]` of straight paths at times `[n]`; the velocity there is `data - noise`."""
    t = along(times, data)
    return (1 - t) * noise + t * data


def grid(steps: int) -> np.ndarray:
    """Times `[steps + 1]` of equal steps from 0 to 1, float32."""
    return np.linspace(0, 1, steps + 1).astype(np.float32)


def solve(
    velocity: Velocity, start: jax.Array, times: np.ndarray, solver: Solver = "euler", move: Move = jnp.add
) -> jax.Array:
    """Follows a velocity from the first of some times to the last; one `lax.scan`.

    Args:
      velocity: the right-hand side; asked once per step by "euler", twice by "heun", four times by "rk4".
      start: `[n, ...]` at the first time.
      times: `[steps + 1]`, ascending or descending.
      solver: Euler's method, Heun's (the mean of the velocities at both ends of Euler's step), or the classical method
        of Runge and Kutta of order 4.
      move: where a displacement leads, for points of a manifold its exponential map (with "euler"); by default the sum.

    Returns:
      `[n, ...]` at the last time.

    Raises:
      ValueError: an unknown solver.
    """
    if solver not in get_args(Solver):
        raise ValueError(f"unknown solver {solver!r}; known: {', '.join(get_args(Solver))}")

    def at(x: jax.Array, time: jax.Array) -> jax.Array:
        return velocity(x, jnp.full(len(x), time))

    def advance(x: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        time, size = step
        first = at(x, time)
        if solver == "euler":
            return move(x, size * first), None
        if solver == "heun":
            return move(x, 0.5 * size * (first + at(move(x, size * first), time + size))), None
        second = at(move(x, 0.5 * size * first), time + 0.5 * size)
        third = at(move(x, 0.5 * size * second), time + 0.5 * size)
        fourth = at(move(x, size * third), time + size)
        return move(x, size / 6 * (first + 2 * second + 2 * third + fourth)), None

    spaced = np.asarray(times, np.float64)
    steps = spaced[:-1].astype(np.float32), np.diff(spaced).astype(np.float32)
    return jax.lax.scan(advance, start, jax.tree.map(jnp.asarray, steps))[0]
