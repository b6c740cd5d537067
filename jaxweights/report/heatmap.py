"""Weights of generated networks over those of their nearest training networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxweights.auditing import Measured
from jaxweights.auditing.alignment.aligners import onto
from jaxweights.population import Population
from jaxweights.report import style
from jaxweights.report.style import Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_NETWORKS = 3
SHOWN_PARAMETERS = 64


def nearest_training(
    measured: Measured, train: Population, samples: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest training networks of a series' first `count` networks, by the distance that the tests use.

    Returns:
      Rows `[count, k]` of `train`, and their weights `[count, k, P]`; where there is an alignment, with the hidden
      units in the order, the scale and with the signs of the network `samples[i]` `[P]` that they are nearest to.
    """
    if not measured.aligned_min_l2.size:
        return measured.nearest[:count], train.weights[measured.nearest[:count]]
    rows = measured.aligned_nearest[:count]
    moves = measured.aligned_permutation[:count], measured.aligned_sign[:count]
    return rows, onto(train.spec, train.weights[rows], *moves, samples[:count])


def draw(subject: Series, generated: Population, train: Population, seed: int) -> Figure:
    """The first three generated networks, each over its nearest training networks, at 64 parameters.

    Args:
      subject: the generator's measurements.
      generated: its samples `[n, P]`, in the same order.
      train: training networks; where there is an alignment, their hidden units are brought into the sample's order.
      seed: random seed that chooses parameters.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    count = min(SHOWN_NETWORKS, len(generated))
    nearest, neighbours = nearest_training(subject.measured, train, generated.weights, count)
    rng = np.random.default_rng(seed)
    size = min(SHOWN_PARAMETERS, train.spec.num_params)
    columns = np.sort(rng.choice(train.spec.num_params, size, replace=False))
    lines = nearest.shape[1]
    apart = np.linalg.norm(neighbours.astype(np.float64) - generated.weights[:count, None], axis=2)
    distances = np.reshape(style.alike(apart.ravel()), apart.shape)
    heights = ([1, lines, 0.5] * count)[:-1]  # a sample, its neighbours, and a gap between groups
    figure = style.new_figure(9.8, 0.8 + 0.33 * sum(heights))
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(h_pad=0.035, hspace=0)
    grid = figure.add_gridspec(len(heights), 2, width_ratios=[1, 0.013], height_ratios=heights)
    for i in range(count):
        names = [f"{style.network(train, r)}, L2 {d}" for r, d in zip(nearest[i], distances[i], strict=True)]
        places = grid[3 * i, 0], grid[3 * i + 1, 0], grid[3 * i : 3 * i + 2, 1]
        top, bottom, bar = (figure.add_subplot(place) for place in places)
        strips = generated.weights[i : i + 1, columns], neighbours[i][:, columns]
        low, high = min(s.min() for s in strips), max(s.max() for s in strips)
        image = _strip(top, strips[0], low, high, [f"{subject.label}, sample {i}"])
        _strip(bottom, strips[1], low, high, names)
        labels = [text.get_text() for text in top.get_yticklabels()]
        top.set_yticks(top.get_yticks(), labels, color="#d62728", fontweight="bold")
        top.spines[:].set(color="#d62728", linewidth=2.6)
        figure.colorbar(image, cax=bar).outline.set_linewidth(0.5)
    _leaf_ticks(bottom, train, columns)
    return figure


def _strip(axes, values: np.ndarray, low: float, high: float, names: Sequence[str]):
    """One coloured row of cells per network, with its name."""
    image = axes.imshow(values, cmap="viridis", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set(visible=True, color="black", linewidth=1.2)
    for line in range(1, len(names)):
        axes.axhline(line - 0.5, color="white", linewidth=1.6)
    return image


def _leaf_ticks(axes, train: Population, columns: np.ndarray) -> None:
    """Names the tensors that the shown parameters belong to, where a tensor has enough of them for its name."""
    ticks = []
    for leaf, span in train.spec.spans():
        inside = np.flatnonzero((columns >= span.start) & (columns < span.stop))
        if not inside.size:
            continue
        if inside[0] > 0:
            axes.axvline(inside[0] - 0.5, ymin=-0.12, ymax=0, color="#444444", linewidth=1, clip_on=False)
        if 1.6 * inside.size > len(leaf.name):
            ticks.append((inside.mean(), leaf.name))
    axes.set_xticks([x for x, _ in ticks], [name for _, name in ticks])
    total = train.spec.num_params
    which = (
        f"{len(columns)} of {total:,} parameters, drawn at random"
        if len(columns) < total
        else f"all {total} parameters"
    )
    axes.set_xlabel(f"{which}, in the order of the weight vector")
