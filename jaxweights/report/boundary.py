"""Decision regions of networks on the plane of the test images' two principal components.

As in Zeng et al. 2025: pixels standardised over the test set, two components, a grid over the images' range and one
unit more on each side, mapped back to images; of more than ten classes ten, drawn as there, their images and their
logits alone. Unlike there, the components are unique (exact eigenvectors, a sign convention), every cell has the colour
of its own class (filled contours would draw bands of classes that no network predicts between neighbouring cells), and
pixels outside of a channel's range are clamped: the published code keeps them, or, for P-diff, lets them wrap around
modulo 256, the streaks in its figure.
"""

from __future__ import annotations

import dataclasses
import pathlib
import random
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import nets, parallel
from jaxweights.evaluation import accuracy
from jaxweights.population import Population
from jaxweights.report import components, style
from jaxweights.report.style import Series

MAX_CLASSES = 10
_CLASS_SEED = 42  # seed of Python's generator in the published code; of 100 classes: 3 13 14 17 28 31 35 81 86 94
_PAD = 1.0
_FIT_BYTES = 2 << 30  # size of the float64 images that the components are computed from
_SHOWN_IMAGES = 500
_PANEL = 3.0  # inches, the longer side of a picture
_TINT = 0.42  # strength of a class colour in its region; full strength is for the images


@dataclasses.dataclass(frozen=True)
class Plane:
    """The plane of the first two principal components of a set of D-pixel images.

    Attributes:
      mean: `[D]` float64, of every pixel.
      basis: `[2, D]` float64; a point `(x, y)` of the plane is the image `mean + (x, y) @ basis`, clamped to
      low, high: `[D]` float64, the range of values in the pixel's channel.
      points: `[T, 2]` where the images lie.
      labels: `[T]` their classes.
      classes: `[k]` the classes that are distinguished, ascending.
    """

    mean: np.ndarray
    basis: np.ndarray
    low: np.ndarray
    high: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    classes: np.ndarray

    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top: the range of the points and one unit more on each side."""
        low, high = self.points.min(axis=0) - _PAD, self.points.max(axis=0) + _PAD
        return float(low[0]), float(high[0]), float(low[1]), float(high[1])

    def grid(self, resolution: int) -> np.ndarray:
        """`[resolution ** 2, 2]` regular points over the extent, the row with the lowest second component first."""
        left, right, bottom, top = self.extent()
        x, y = np.linspace(left, right, resolution), np.linspace(bottom, top, resolution)
        return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def shown_classes(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """All classes if they are at most ten, else ten of those with images, drawn as in the published code; ascending."""
    if num_classes <= MAX_CLASSES:
        return np.arange(num_classes)
    present = np.unique(labels).tolist()
    return np.array(sorted(random.Random(_CLASS_SEED).sample(present, min(MAX_CLASSES, len(present)))))


def fit_plane(images: np.ndarray, labels: np.ndarray, num_classes: int) -> Plane:
    """The plane of test images, after standardising every pixel (constant ones are only centred).

    Args:
      images: `[T, H, W, C]` inputs of networks; of too many for the memory, evenly spaced ones are used.
      labels: `[T]` their classes; images of classes that are not shown are left out.
      num_classes: number of classes of the data set.
    """
    classes = shown_classes(labels, num_classes)
    rows = np.flatnonzero(np.isin(labels, classes))
    size = int(np.prod(images.shape[1:]))
    rows = rows[:: -(-8 * size * len(rows) // _FIT_BYTES)]
    flat = images[rows].reshape(len(rows), size).astype(np.float64)
    channels = flat.reshape(-1, images.shape[-1])
    low, high = (np.tile(limit(channels, axis=0), size // channels.shape[1]) for limit in (np.min, np.max))
    mean, scale = flat.mean(axis=0), flat.std(axis=0)
    scale[scale == 0] = 1.0
    flat -= mean
    flat /= scale
    directions = components.leading(flat)
    return Plane(mean, directions * scale, low, high, flat @ directions.T, labels[rows], classes)


def classify(
    net: nets.TaskNet, weights: np.ndarray, plane: Plane, mesh: jax.sharding.Mesh, resolution: int
) -> np.ndarray:
    """Predicted classes on a regular grid of the plane, among the plane's classes alone.

    The grid is split over the devices and converted to images a few at a time; what all networks compute alike
    (`TaskNet.prepare`) is computed once.

    Args:
      net: the task network.
      weights: `[m, P]` float32.
      plane: plane of the grid.
      mesh: devices.
      resolution: grid points per side.

    Returns:
      `[m, resolution, resolution]` uint16, the row with the lowest second component first.
    """
    points = plane.grid(resolution).astype(np.float32)
    tile = min(accuracy.block_shape(net, jax.default_backend()).images, -(-len(points) // mesh.size))
    state = (np.asarray(weights, np.float32), net.frozen, plane.mean, plane.basis, plane.low, plane.high)
    state = jax.tree.map(lambda x: np.asarray(x, np.float32), state)

    def predict(state, points):
        vectors, frozen, mean, basis, low, high = state
        bound = net.bind(frozen)

        def one_tile(points):
            pixels = jnp.clip(points @ basis + mean[None, :], low[None, :], high[None, :])
            prepared = bound.prepare(pixels.reshape((-1,) + net.input_shape))
            logits = jax.vmap(bound.apply, in_axes=(0, None))(vectors, prepared)
            return jnp.argmax(logits[..., plane.classes], axis=-1).astype(jnp.uint16).T

        found = jax.lax.map(one_tile, points.reshape(-1, tile, 2))
        return found.reshape(-1, len(vectors))

    padded = parallel.pad_rows(points, tile * mesh.size)
    found = np.asarray(parallel.map_rows(predict, mesh)(state, padded))[: len(points)]
    return plane.classes.astype(np.uint16)[found.T.reshape(-1, resolution, resolution)]


def draw(
    subject: Series,
    train: Population,
    regions: np.ndarray,
    plane: Plane,
    folder: pathlib.Path,
    name: str = "decision_boundaries",
) -> pathlib.Path:
    """Generated networks on the left, each beside its nearest training network.

    Args:
      subject: the generator's measurements.
      train: the training networks that they refer to.
      regions: `[2k, r, r]` from `classify`: the first k generated networks, then their nearest training networks.
      plane: plane of the grid.
      folder: output folder.
      name: file name without suffix.
    """
    count = len(regions) // 2
    places, labels = (np.searchsorted(plane.classes, x) for x in (regions, plane.labels))
    extent = plane.extent()
    tall = (extent[3] - extent[2]) / (extent[1] - extent[0])
    wide, high = max(_PANEL * min(1, 1 / tall), 2.4), _PANEL * min(1, tall)
    figure = style.new_figure(2 * wide + 0.5, count * (high + 0.45) + 0.9)
    grid = figure.subplots(count, 2, squeeze=False)
    colours = class_colours(len(plane.classes))
    shown = np.sort(np.random.default_rng(0).permutation(len(labels))[:_SHOWN_IMAGES])
    measured = subject.measured
    for i, (left, right) in enumerate(grid):
        row = int(measured.nearest_row[i])
        agreement = float(np.mean(regions[i] == regions[count + i]))
        texts = (
            f"{subject.label}, sample {i}\naccuracy {100 * measured.accuracy[i]:.1f} %",
            f"nearest: {style.network(train, row)}, {100 * train.records['accuracy'][row]:.1f} %\nagrees on "
            f"{100 * agreement:.0f} % of the plane",
        )
        for axes, cells, text in zip((left, right), (places[i], places[count + i]), texts, strict=True):
            axes.imshow(
                1 - _TINT * (1 - colours[cells]),
                extent=extent,
                origin="lower",
                interpolation="nearest",
                aspect="equal",
            )
            axes.scatter(
                *plane.points[shown].T,
                s=5,
                color=colours[labels[shown]],
                edgecolors="white",
                linewidths=0.25,
                rasterized=True,
            )
            axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
            axes.set_title(text, fontsize=8.8)
            axes.spines[:].set_visible(True)
        left.spines[:].set(color="#d62728", linewidth=1.6)
    _legend(figure, plane.classes.tolist(), colours)
    figure.supxlabel("first principal component of the test images", fontsize=9.5)
    figure.supylabel("second principal component", fontsize=9.5)
    return style.save(figure, folder, name)


def class_colours(count: int) -> np.ndarray:
    """`[count, 3]` colours of up to ten classes, those of tab10."""
    import matplotlib

    return matplotlib.colormaps["tab10"](np.arange(count))[:, :3]


def _legend(figure, classes: Sequence[int], colours: np.ndarray) -> None:
    from matplotlib.patches import Patch

    style.legend(
        figure,
        [Patch(facecolor=tuple(c)) for c in colours],
        [str(i) for i in classes],
        title="predicted class (regions), true class (test images)",
        title_fontsize=8.5,
        handlelength=1,
        columnspacing=1.0,
        handletextpad=0.4,
    )
