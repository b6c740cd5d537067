"""Decision regions of networks on the plane of the test images' two principal components.

As in Zeng et al. 2025: pixels standardised over the test set, two components, a grid over the images' range and one
unit more on each side, mapped back to images without clipping. Unlike there, the components are unique (exact
eigenvectors, a sign convention) and every cell has the colour of its own class: filled contours would draw bands of
classes that nobody predicted between neighbouring cells.
"""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import nets, parallel
from jaxweights.data import Dataset
from jaxweights.population import Population
from jaxweights.report import style
from jaxweights.report.style import Series

RESOLUTION = 300
_PAD = 1.0
_DENSE_SIZE = 1024  # pixels up to which all of the reduction is done at once
_SHOWN_IMAGES = 500
_PANEL = 3.0  # inches, the longer side of a picture
_TINT = 0.42  # strength of a class colour in its region; full strength is for the images


@dataclasses.dataclass(frozen=True)
class Plane:
    """The plane of the first two principal components of a set of D-pixel images.

    Attributes:
      mean: `[D]` float64, of every pixel.
      basis: `[2, D]` float64; a point `(x, y)` of the plane is the image `mean + (x, y) @ basis`.
      points: `[T, 2]` where the images lie.
    """

    mean: np.ndarray
    basis: np.ndarray
    points: np.ndarray

    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top: the range of the points and one unit more on each side."""
        low, high = self.points.min(axis=0) - _PAD, self.points.max(axis=0) + _PAD
        return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def fit_plane(images: np.ndarray) -> Plane:
    """Principal components of `[T, H, W, C]` images after standardising every pixel (constant ones are only centred).

    The component's largest entry is positive, so that no library's or machine's convention mirrors the picture.
    """
    flat = images.reshape(len(images), -1).astype(np.float64)
    mean, scale = flat.mean(axis=0), flat.std(axis=0)
    scale[scale == 0] = 1.0
    flat = (flat - mean) / scale
    components = _leading_eigenvectors(flat.T @ flat)
    largest = np.abs(components).argmax(axis=1)
    components *= np.where(components[np.arange(2), largest] < 0, -1.0, 1.0)[:, None]
    return Plane(mean, components * scale, flat @ components.T)


def _leading_eigenvectors(matrix: np.ndarray) -> np.ndarray:
    """`[2, D]` eigenvectors of a symmetric matrix with the largest eigenvalues, up to sign; zeros where D is 1."""
    import scipy.linalg
    import scipy.sparse.linalg

    size = len(matrix)
    if size > _DENSE_SIZE:  # a full reduction would take half a minute for colour images
        start = np.random.default_rng(0).normal(size=size)
        values, vectors = scipy.sparse.linalg.eigsh(matrix, k=2, v0=start)
        vectors = vectors[:, np.argsort(values)]
    else:
        vectors = scipy.linalg.eigh(matrix, subset_by_index=[max(size - 2, 0), size - 1])[1]
    components = np.zeros((2, size))
    components[: vectors.shape[1]] = vectors.T[::-1]
    return components


def classify(
    net: nets.TaskNet, weights: np.ndarray, plane: Plane, mesh: jax.sharding.Mesh, resolution: int = RESOLUTION
) -> np.ndarray:
    """Predicted classes on a regular grid of the plane.

    Args:
      net: the task network.
      weights: `[m, P]` float32.
      plane: where.
      mesh: networks are sharded over it.
      resolution: grid points per side.

    Returns:
      `[m, resolution, resolution]` integers, the row with the lowest second component first.
    """
    left, right, bottom, top = plane.extent()
    x, y = np.linspace(left, right, resolution), np.linspace(bottom, top, resolution)
    grid = np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32)
    state = (grid, plane.basis.astype(np.float32), plane.mean.astype(np.float32))

    def predict(state, vectors):
        grid, basis, mean = state

        def line(points):
            images = (points @ basis + mean[None, :]).reshape((-1,) + net.input_shape)
            logits = jax.vmap(net.apply, in_axes=(0, None))(vectors, images)
            return jnp.argmax(logits, axis=-1).astype(jnp.uint16)

        return jax.lax.map(line, grid).transpose(1, 0, 2)

    return np.asarray(parallel.map_rows(predict, mesh)(state, np.asarray(weights, np.float32)))


def draw(
    subject: Series,
    train: Population,
    classes: np.ndarray,
    plane: Plane,
    dataset: Dataset,
    folder: pathlib.Path,
    name: str = "decision_boundaries",
) -> pathlib.Path:
    """Generated networks on the left, each beside its nearest training network.

    Args:
      subject: the generator's measurements.
      train: the training networks that they refer to.
      classes: `[2k, r, r]` from `classify`: the first k generated networks, then their nearest training networks.
      plane: the same.
      dataset: whose test images made the plane.
      folder: for the files.
      name: of the files.
    """
    labels = dataset.test_labels
    count = len(classes) // 2
    extent = plane.extent()
    tall = (extent[3] - extent[2]) / (extent[1] - extent[0])
    wide, high = max(_PANEL * min(1, 1 / tall), 2.4), _PANEL * min(1, tall)
    figure = style.new_figure(2 * wide + 0.5, count * (high + 0.45) + 0.9)
    grid = figure.subplots(count, 2, squeeze=False)
    colours = class_colours(dataset.num_classes)
    shown = np.sort(np.random.default_rng(0).permutation(len(labels))[:_SHOWN_IMAGES])
    measured = subject.measured
    for i, (left, right) in enumerate(grid):
        row = int(measured.nearest_row[i])
        agreement = float(np.mean(classes[i] == classes[count + i]))
        texts = (
            f"{subject.label}, sample {i}\naccuracy {100 * measured.accuracy[i]:.1f} %",
            f"nearest: run {train.records['run'][row]}, {100 * train.records['accuracy'][row]:.1f} %\nagrees on "
            f"{100 * agreement:.0f} % of the plane",
        )
        for axes, regions, text in zip((left, right), (classes[i], classes[count + i]), texts, strict=True):
            axes.imshow(
                1 - _TINT * (1 - colours[regions]),
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
    _legend(figure, colours)
    figure.supxlabel("first principal component of the test images", fontsize=9.5)
    figure.supylabel("second principal component", fontsize=9.5)
    return style.save(figure, folder, name)


def class_colours(count: int) -> np.ndarray:
    """`[count, 3]` colours: tab10 as far as it reaches, then tab20, then hues around the circle."""
    import matplotlib

    if count <= 20:
        return np.array(matplotlib.colormaps["tab10" if count <= 10 else "tab20"].colors)[:count]
    return matplotlib.colormaps["hsv"](np.linspace(0, 1, count, endpoint=False))[:, :3]


def _legend(figure, colours: np.ndarray) -> None:
    from matplotlib.patches import Patch

    if len(colours) <= 20:
        handles = [Patch(facecolor=tuple(c), label=str(i)) for i, c in enumerate(colours)]
        figure.legend(
            handles=handles,
            loc="outside upper center",
            ncols=min(10, len(handles)),
            title="predicted class (regions), true class (test images)",
            title_fontsize=8.5,
            handlelength=1,
            columnspacing=1.0,
            handletextpad=0.4,
        )
