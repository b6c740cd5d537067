"""Pictures of image fields: their values on a regular grid, finer than the pixels that they were fitted to."""

from __future__ import annotations

import pathlib

import jax
import numpy as np

from jaxweights import nets, parallel
from jaxweights.population import Population
from jaxweights.report import style
from jaxweights.report.style import Series

RESOLUTION = 96
_PANEL = 1.7  # inches


def render(net: nets.TaskNet, weights: np.ndarray, mesh: jax.sharding.Mesh, resolution: int = RESOLUTION) -> np.ndarray:
    """Values of image fields on a regular grid, clipped to 0 ... 1.

    Args:
      net: an image field of two coordinates.
      weights: `[m, P]` float32.
      mesh: devices, over which networks are sharded.
      resolution: number of grid points per side.

    Returns:
      `[m, resolution, resolution, k]` float32, in the order of the rows and columns of an image.
    """
    sides = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution - 0.5
    points = np.stack(np.meshgrid(sides, sides, indexing="ij"), axis=-1).reshape(-1, 2)

    def values(points, vectors):
        return jax.vmap(net.apply, in_axes=(0, None))(vectors, points)

    found = np.asarray(parallel.map_rows(values, mesh)(points, np.asarray(weights, np.float32)))
    return np.clip(found, 0.0, 1.0).reshape(len(weights), resolution, resolution, -1)


def draw(
    subject: Series, train: Population, shown: np.ndarray, folder: pathlib.Path, name: str = "images"
) -> pathlib.Path:
    """Generated images in a row, below each that of the nearest training network.

    Args:
      subject: the generator's measurements.
      train: the training networks that they refer to.
      shown: `[2m, r, r, k]` from `render`: the first m generated networks, then their nearest training networks.
      folder: output folder.
      name: file name without suffix.
    """
    count = len(shown) // 2
    figure = style.new_figure(count * (_PANEL + 0.15) + 0.4, 2 * (_PANEL + 0.4))
    grid = figure.subplots(2, count, squeeze=False)
    for i, (image, axes) in enumerate(zip(shown, grid.ravel(), strict=True)):
        row = int(subject.measured.nearest_row[i % count])
        title = f"{subject.label}, sample {i}" if i < count else f"nearest: {style.network(train, row)}"
        axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=8)
        axes.spines[:].set_visible(True)
        if i < count:
            axes.spines[:].set(color="#d62728", linewidth=1.6)
    return style.save(figure, folder, name)
