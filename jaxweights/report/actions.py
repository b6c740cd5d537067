"""Mean actions of policies over the pole's angle and angular velocity, with the cart at rest in the middle."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import nets, parallel
from jaxweights.population import Population
from jaxweights.report import style
from jaxweights.report.style import Series

RESOLUTION = 200
_ANGLE, _TURNING = 0.5, 3.0  # half the range of the axes, rad and rad/s: several times the range of initial states
_PANEL = 3.0  # inches


def chart(net: nets.TaskNet, weights: np.ndarray, mesh: jax.sharding.Mesh, resolution: int = RESOLUTION) -> np.ndarray:
    """Mean actions on a regular grid of angles and angular velocities.

    Args:
      net: a policy.
      weights: `[m, P]` float32.
      mesh: devices, over which networks are sharded.
      resolution: number of grid points per side.

    Returns:
      `[m, resolution, resolution]` float32 in -1 ... 1, the row with the lowest angular velocity first.
    """
    grid = np.zeros((resolution, resolution, 4), np.float32)
    grid[..., 3], grid[..., 2] = np.meshgrid(
        np.linspace(-_TURNING, _TURNING, resolution), np.linspace(-_ANGLE, _ANGLE, resolution), indexing="ij"
    )

    def act(seen, vectors):
        return jnp.clip(jax.vmap(net.apply, in_axes=(0, None))(vectors, seen)[..., 0], -1.0, 1.0)

    actions = parallel.map_rows(act, mesh)(grid.reshape(-1, 4), np.asarray(weights, np.float32))
    return np.asarray(actions).reshape(-1, resolution, resolution)


def draw(
    subject: Series, train: Population, actions: np.ndarray, folder: pathlib.Path, name: str = "actions"
) -> pathlib.Path:
    """Generated policies on the left, each beside its nearest training policy.

    Args:
      subject: the generator's measurements.
      train: the training policies that they refer to.
      actions: `[2k, r, r]` from `chart`: the first k generated policies, then their nearest training policies.
      folder: output folder.
      name: file name without suffix.
    """
    count = len(actions) // 2
    figure = style.new_figure(2 * _PANEL + 1.4, count * (_PANEL + 0.2) + 0.6)
    grid = figure.subplots(count, 2, squeeze=False, sharex=True, sharey=True)
    measured = subject.measured
    for i, (left, right) in enumerate(grid):
        row = int(measured.nearest_row[i])
        apart = float(np.mean(np.abs(actions[i] - actions[count + i])))
        texts = (
            f"{subject.label}, sample {i}\nreturn {-measured.loss[i]:.0f}",
            f"nearest: {style.network(train, row)}, return {-train.records['loss'][row]:.0f}\n"
            f"actions differ by {apart:.2f} on average",
        )
        for axes, values, text in zip((left, right), (actions[i], actions[count + i]), texts, strict=True):
            image = axes.imshow(
                values,
                extent=(-_ANGLE, _ANGLE, -_TURNING, _TURNING),
                origin="lower",
                aspect="auto",
                cmap="RdBu_r",
                vmin=-1,
                vmax=1,
                interpolation="nearest",
            )
            axes.set_title(text, fontsize=8.8)
            axes.spines[:].set_visible(True)
        left.spines[:].set(color="#d62728", linewidth=1.6)
    figure.colorbar(image, ax=grid, label="mean action (share of the largest force)", shrink=0.8)
    figure.supxlabel("angle of the pole (rad)", fontsize=9.5)
    figure.supylabel("angular velocity (rad/s)", fontsize=9.5)
    return style.save(figure, folder, name)
