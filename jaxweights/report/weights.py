"""Figures of weight vectors: values of single parameters, t-SNE, and training trajectories.

The first two follow Zeng et al. 2025 (arXiv 2506.07998), with seeded draws.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxweights import auditing
from jaxweights.population import Population
from jaxweights.report import components, style
from jaxweights.report.style import Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST = 8  # smallest number of networks of a series whose distribution is drawn
SHOWN_VALUES = 5
PERPLEXITY = 30.0
LEAST_CHECKPOINTS = 10  # smallest number of checkpoints of a run whose path is drawn
_KDE_NETWORKS = 1000  # largest number per series
_KDE_POINTS = 400
_TALLEST = 3.0  # largest peak of a density, relative to that of the training networks; higher ones are cut
PATHS, UNSEEN_PATHS = 3, 16  # training and held-out runs whose paths are drawn
_PATH_CHECKPOINTS = 400  # largest number per run
_REACH = 0.5  # margin of a picture around the trained networks, relative to their range
_TITLE_LETTERS = 120  # in a line across a picture
_SMALL = 0.5  # area of markers beside a path, relative to the usual one
_MIXTURES = ("average", "gaussian")
_TRAINED = (auditing.TRAINING, auditing.HELDOUT)


@dataclasses.dataclass(frozen=True)
class Cloud:
    """A series with its weights.

    Attributes:
      series: the series, with its colour and marker.
      weights: `[n, P]` float32, an array or anything that can be indexed like one.
    """

    series: Series
    weights: np.ndarray

    def draw(self, count: int, seed: int) -> np.ndarray:
        """Rows `[min(n, count), P]` drawn without replacement, in their order."""
        rng = np.random.default_rng([seed, *self.series.name.encode()])
        return self.weights[np.sort(rng.permutation(len(self.weights))[:count])]


def clouds(
    series: Sequence[Series], train: Population, heldout: Population | None, samples: Mapping[str, Population]
) -> list[Cloud]:
    """Training networks, held-out runs if given, learned generators, averages and Gaussians."""
    known = {auditing.TRAINING: train, **({auditing.HELDOUT: heldout} if heldout is not None else {}), **samples}
    subjects = [s.name for s in style.subjects(series)]
    return [
        Cloud(s, known[s.name].weights)
        for s in series
        if s.name in known and (s.role in _TRAINED or s.name in subjects or s.kind in _MIXTURES)
    ]


def varying_values(train: Population, values: np.ndarray, seed: int) -> tuple[str, int, np.ndarray]:
    """Five parameters that differ between networks, of the first tensor with as many of them (or with any).

    Args:
      train: training networks, for their spec.
      values: `[n, P]` weights of some networks.
      seed: random seed of the choice.

    Returns:
      Name and first column of the tensor, and at most five columns `[k]`, ascending; none where all networks are equal.
    """
    varies = (values != values[:1]).any(axis=0)
    tensors = [(leaf.name, span.start, span.start + np.flatnonzero(varies[span])) for leaf, span in train.spec.spans()]
    for least in (SHOWN_VALUES, 1):
        for name, first, columns in tensors:
            if len(columns) >= least:
                return name, first, np.sort(np.random.default_rng(seed).permutation(columns)[:SHOWN_VALUES])
    return "", 0, np.zeros(0, np.int64)


def value_distributions(found: Sequence[Cloud], train: Population, seed: int) -> Figure | None:
    """Densities of five parameters over training, held-out and generated networks.

    Gaussian kernels of Scott's bandwidth over at most 1,000 networks per series; the parameters are drawn from those of
    the first tensor that vary. A series in which a parameter has one value is a vertical line, and a density that is
    more than three times as high as that of the training networks is cut. The range is that of the trained networks
    plus half of its width on each side.

    Args:
      found: result of `clouds`; averages and Gaussians are not drawn.
      train: training networks.
      seed: random seed of the choices.

    Returns:
      The figure, or None where there are too few networks, or none differ.
    """
    from scipy.stats import gaussian_kde

    shown = [c for c in found if c.series.kind not in _MIXTURES and len(c.weights) >= LEAST]
    if not shown or shown[0].series.role != auditing.TRAINING:
        return None
    rows = [c.draw(_KDE_NETWORKS, seed) for c in shown]
    name, first, columns = varying_values(train, rows[0], seed)
    if not len(columns):
        return None
    figure = style.new_figure(9.8, 2.9)
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        values = [r[:, column].astype(np.float64) for r in rows]
        seen = [c.series.role in _TRAINED for c in shown]
        grid = _density_grid(*([v for v, s in zip(values, seen, strict=True) if s == kind] for kind in (True, False)))
        limit = np.inf
        for cloud, one in zip(shown, values, strict=True):
            s = cloud.series
            if np.ptp(one) <= 1e-9 * np.ptp(grid):
                axes.axvline(one[0], color=s.colour, linewidth=1.7, label=s.label)
                continue
            density = gaussian_kde(one, "scott")(grid)
            limit = min(limit, _TALLEST * density.max()) if s.role == auditing.TRAINING else limit
            axes.plot(grid, density, color=s.colour, linewidth=1.7, label=s.label)
            if s.role != auditing.HELDOUT:
                axes.fill_between(grid, density, color=s.colour, alpha=0.12, linewidth=0)
        axes.set_ylim(0, min(axes.get_ylim()[1], limit))
        axes.set(title=f"parameter {column - first}", yticks=[])
        axes.locator_params(axis="x", nbins=4)
        axes.grid(axis="x")
    panels[0].set_ylabel("density")
    figure.supxlabel(f"value in {name}", fontsize=9.5)
    style.legend(figure, *panels[0].get_legend_handles_labels())
    return figure


def _density_grid(trained: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> np.ndarray:
    """Points over the range of all series between their 1 % and 99 % quantiles, with a margin."""
    low, high = _range(*([np.quantile(v, (0.01, 0.99)) for v in some] for some in (trained, others)))
    pad = 0.35 * (high - low) or max(abs(low), 1.0) * 1e-3
    return np.linspace(low - pad, high + pad, _KDE_POINTS)


def _range(trained: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> tuple[float, float]:
    """Smallest and largest of all values, others being clipped to half a range beyond the trained ones."""
    low, high = min(v.min() for v in trained), max(v.max() for v in trained)
    reach = _REACH * (high - low)
    far = np.clip(np.concatenate([*others, [low, high]]), low - reach, high + reach)
    return float(far.min()), float(far.max())


def places(found: Sequence[Cloud], seed: int) -> list[np.ndarray] | None:
    """t-SNE of raw weight vectors, at most 100 networks per series.

    scikit-learn's defaults, as published: perplexity 30 (less for few networks), initialised with principal
    components. It runs in one thread, since sums over several threads differ in their last bits from call to call, and
    t-SNE amplifies them.

    Args:
      found: result of `clouds`.
      seed: random seed of the choice of networks and of t-SNE.

    Returns:
      Places `[n, 2]` of every series, or None where there are fewer than eight different networks.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rows = [c.draw(style.MAX_POINTS, seed) for c in found]
    stacked = np.concatenate(rows)
    if len(np.unique(stacked, axis=0)) < LEAST or stacked.shape[1] < 2:
        return None
    perplexity = min(PERPLEXITY, (len(stacked) - 1) / 3)
    with threadpool_limits(1):
        placed = TSNE(2, perplexity=perplexity, init="pca", random_state=seed % 2**32).fit_transform(stacked)
    return np.split(placed, np.cumsum([len(r) for r in rows])[:-1])


def tsne(found: Sequence[Cloud], seed: int, at: Sequence[np.ndarray] | None = None) -> Figure | None:
    """The figure of `places`, those that are given or its own; None where there are none."""
    at = places(found, seed) if at is None else at
    if at is None:
        return None
    figure = style.new_figure(6.4, 5.6)
    axes = figure.subplots()
    for cloud, (x, y) in zip(found, (place.T for place in at), strict=True):
        style.scatter(axes, cloud.series, x, y)
    axes.set(xlabel="t-SNE dimension 1", ylabel="t-SNE dimension 2", xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    style.legend(figure, *axes.get_legend_handles_labels(), markerscale=1.3, handletextpad=0.2)
    return figure


@dataclasses.dataclass(frozen=True)
class Path:
    """Checkpoints of one run in the order of its training.

    Attributes:
      run: number of the run.
      steps: `[k]` optimizer steps.
      weights: `[k, P]` weights.
    """

    run: int
    steps: np.ndarray
    weights: np.ndarray


def paths(networks: Population, count: int) -> list[Path]:
    """The first runs that have at least ten checkpoints, with at most 400 evenly spaced ones of each."""
    runs, sizes = np.unique(networks.records["run"], return_counts=True)
    found = []
    for run in runs[sizes >= LEAST_CHECKPOINTS][:count]:
        rows = np.flatnonzero(networks.records["run"] == run)
        rows = rows[np.argsort(networks.records["step"][rows], kind="stable")]
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, _PATH_CHECKPOINTS).round().astype(int))]
        found.append(Path(int(run), networks.records["step"][rows], networks.weights[rows]))
    return found


def distance_to_mean(found: Sequence[Cloud], train: Sequence[Path], seed: int) -> dict[str, float]:
    """Median distance to the mean of the training checkpoints by series, at most 100 networks each."""
    centre = np.concatenate([p.weights for p in train]).mean(axis=0, dtype=np.float64)
    return {
        c.series.name: float(np.median(np.linalg.norm(c.draw(style.MAX_POINTS, seed) - centre, axis=1))) for c in found
    }


def _outside(samples: Sequence[tuple[Series, np.ndarray]], limits: Sequence[tuple[float, float]]) -> str:
    """Numbers of networks beyond the limits of a picture, in words; empty if there are none."""
    counts = {}
    for s, at in samples:
        beyond = np.any([(x < low) | (x > high) for x, (low, high) in zip(at, limits, strict=True)], axis=0)
        if beyond.any():
            counts[s.label] = f"{int(beyond.sum())} of {len(beyond)} of {s.label}"
    return f"Outside of a panel: {', '.join(counts.values())}." if counts else ""


def trajectory(found: Sequence[Cloud], train: Sequence[Path], heldout: Sequence[Path], seed: int) -> Figure:
    """Training checkpoints on the plane of their two principal components, and all other networks projected onto it.

    The right panel shows the distance from the plane, which a projection hides. The path of any run with many steps
    looks like an arc, as a random walk does (Antognini and Sohl-Dickstein 2018, arXiv 1806.08805); what matters is
    where samples lie relative to it. Panels extend half a width beyond trained networks and baselines; generated ones
    beyond are counted.

    Args:
      found: result of `clouds`.
      train: paths of training runs, see `paths`; not empty.
      heldout: paths of held-out runs; may be empty.
      seed: random seed that chooses at most 100 networks per series.
    """
    from matplotlib import patheffects

    rows = np.concatenate([p.weights for p in train]).astype(np.float64)
    centre = rows.mean(axis=0)
    plane = components.leading(rows - centre)
    shares = ((rows - centre) @ plane.T).var(axis=0) / max((rows - centre).var(axis=0).sum(), np.finfo(float).tiny)

    def project(weights):
        offsets = weights - centre
        at = offsets @ plane.T
        off = np.sqrt(np.maximum((offsets**2).sum(axis=1) - (at**2).sum(axis=1), 0.0))
        return np.stack([*at.T, off])

    lines = [project(p.weights) for p in (*train, *heldout)]
    samples = [(c.series, project(c.draw(style.MAX_POINTS, seed))) for c in found if c.series.role != auditing.TRAINING]
    known = [*lines, *(at for s, at in samples if s.role != style.LEARNED)]
    learned = [at for s, at in samples if s.role == style.LEARNED]
    limits = [_range([at[i] for at in known], [at[i] for at in learned]) for i in range(3)]
    figure = style.new_figure(9.8, 4.6)
    panels = figure.subplots(1, 2, sharex=True)
    steps = np.concatenate([p.steps for p in train])
    for axes, height in zip(panels, (1, 2), strict=True):
        for i, at in enumerate(lines[len(train) :]):
            axes.plot(at[0], at[height], color="#b5b5b5", linewidth=0.7, zorder=1, label=None if i else "held-out runs")
        for at in lines[: len(train)]:
            axes.plot(at[0], at[height], color="#777777", linewidth=0.6, zorder=2)
        points = np.concatenate(lines[: len(train)], axis=1)[[0, height]]
        image = axes.scatter(*points, c=steps, cmap="viridis", s=11, linewidths=0, zorder=2.5, rasterized=True)
        for s, at in samples:
            style.scatter(axes, s, at[0], at[height], _SMALL)
        for axis, (low, high) in ((axes.set_xlim, limits[0]), (axes.set_ylim, limits[height])):
            axis(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes.set_xlabel(f"first principal component ({100 * shares[0]:.0f} % of the variance)")
        axes.grid()
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    text = {"textcoords": "offset points", "fontsize": 9, "zorder": 6, "path_effects": halo}
    panels[0].plot(0, 0, color="black", marker="+", markersize=13, markeredgewidth=1.8, zorder=6, linestyle="")
    panels[0].annotate("mean", (0, 0), (7, 6), **text)
    panels[0].set_ylabel(f"second principal component ({100 * shares[1]:.0f} %)")
    panels[1].set(ylabel="distance from the plane of the two", ylim=(0, None))
    outside = _outside(samples, limits)
    if outside:
        figure.suptitle(textwrap.fill(outside, _TITLE_LETTERS), fontsize=8.5, color="#555555")
    runs = f"run {train[0].run}" if len(train) == 1 else f"{len(train)} training runs"
    figure.colorbar(image, ax=panels[1], label=f"step of {runs}", pad=0.01)
    entries = panels[0].get_legend_handles_labels()
    style.legend(figure, *entries, below=True, markerscale=1.4, handletextpad=0.4)
    return figure
