"""Images whose features are chosen; a part of the suite `probing`.

In the column of plain JAX is the published way: one image after the other, dots and discs by matplotlib, whose
configurations of dots are rejected as wholes, pies by NumPy, pixel by pixel of a table of angles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxweights.probing import data, estimators
from jaxweights.probing.data import pies
from jaxweights.probing.features import Design
from launch.benchmarks.measure import Case, Work

SIDE = 64
_MANY, _FEW = 2048, 32  # images per round, of ours and of one after the other

OneImage = Callable[[np.random.Generator], np.ndarray]


def cases() -> list[Case]:
    """Every kind of images but scenes, and counting of dots."""
    faithful = {"kind": "dots", "faithful": True}
    listed: list[tuple[str, dict[str, Any], list[list[float]], OneImage]] = [
        *((f"{k} dots, {SIDE} px", faithful, [[k]], functools.partial(_dots, k)) for k in (1, 6, 10)),
        (f"pies, {SIDE} px", {"kind": "pies", "faithful": True}, [[np.nan] * 4], _pie),
        (f"discs, {SIDE} px", {"kind": "discs", "side": SIDE}, [[np.nan] * 4], _disc),
        ("triples of digits, 8 x 24 px", {"kind": "triples"}, [[np.nan] * 3], _triple),
    ]
    drawing = [_case(name, settings, values, one) for name, settings, values, one in listed]
    counting = {"ours": functools.partial(_counted, "distance"), "plain_jax": functools.partial(_counted, "hough")}
    return [*drawing, Case(f"counting 1 to 12 dots, {SIDE} px", "images/s", None, counting)]


def _case(name: str, settings: dict[str, Any], values: list[list[float]], one: OneImage) -> Case:
    build = {"ours": functools.partial(_ours, settings, values), "plain_jax": functools.partial(_one_by_one, one)}
    return Case(name, "images/s", None, build)


def _ours(settings: dict[str, Any], values: list[list[float]]) -> Work:
    made = data.make(settings)
    design = Design(made.features, np.array(values))

    def run(times: int) -> None:
        for time in range(times):
            data.draw(made, design, _MANY, seed=time)

    return Work(run, lambda times: times * _MANY)


def _one_by_one(one: OneImage) -> Work:
    rng = np.random.default_rng(0)

    def run(times: int) -> None:
        for _ in range(times * _FEW):
            one(rng)

    return Work(run, lambda times: times * _FEW)


def _counted(method: str) -> Work:
    """Ours, and the published counter by OpenCV, image by image."""
    made = data.make("dots")
    images = data.images_of(data.draw(made, Design(made.features, np.array([[np.nan]])), _MANY))
    estimator = estimators.make({"kind": "dots", "method": method})

    def run(times: int) -> None:
        for _ in range(times):
            estimator.measure(None, made, images)

    return Work(run, lambda times: times * _MANY)


def _drawn(places: np.ndarray, radius: float, colours: np.ndarray, margin: int) -> np.ndarray:
    """Discs in the unit square by matplotlib, and a margin of pixels cut off."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    inches = (SIDE + 2 * margin) / 100
    figure = Figure(figsize=(inches, inches), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    for place, colour in zip(places, colours, strict=True):
        axes.add_patch(Circle(tuple(place), radius, color=tuple(colour), linewidth=0))
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32) / 255
    return pixels[margin : margin + SIDE, margin : margin + SIDE]


def _dots(count: int, rng: np.random.Generator) -> np.ndarray:
    first, second = np.triu_indices(count, 1)
    while True:
        places = rng.uniform(0.08, 0.92, (count, 2))
        if (np.linalg.norm(places[first] - places[second], axis=1) > 2.1 * 0.08).all():
            break
    image = _drawn(places, 0.08, rng.uniform(0, 0.9, (count, 3)), 5)
    image = image + 0.03 * rng.normal(size=image.shape)
    return np.abs(1 - np.abs(1 - image))


def _disc(rng: np.random.Generator) -> np.ndarray:
    place, radius = 0.5 + rng.uniform(-0.23, 0.23, (1, 2)), rng.uniform(0.125, 0.25)
    return _drawn(place, radius, rng.uniform(0, 1, (1, 3)), 0)


def _pie(rng: np.random.Generator) -> np.ndarray:
    size, red = rng.choice(pies.SIZES), round(1000 * rng.choice(pies.SHARES))
    down, across = rng.choice(pies.PLACES, 2)
    weights = rng.uniform(0.01, 1, 3)
    ends = [*np.round(red + (1000 - red) * np.cumsum(weights)[:2] / weights.sum()).astype(int), 1000]
    slots, last = np.zeros(1000, int), red
    for colour, end in enumerate(ends, 1):
        slots[last:end], last = colour, end
    for _ in range(3):
        start = rng.integers(0, 491)
        length = rng.integers(10, 501 - start)
        other = rng.integers(500, 1001 - length)
        kept = slots[start : start + length].copy()
        slots[start : start + length] = slots[other : other + length]
        slots[other : other + length] = kept
    palette = rng.uniform(0, 0.9, (4, 3)) * [0, 1, 1]
    palette[0] = rng.uniform(0.8, 0.9), 0, 0
    pixels = np.arange(SIDE) - SIDE / 2
    dx, dy = (pixels - SIDE / 2 * across)[None], (pixels - SIDE / 2 * down)[:, None]
    slot = np.maximum(np.ceil((np.arctan2(dy, dx) / (2 * np.pi) + 0.5) * 1000).astype(int) - 1, 0)
    inside = dx**2 + dy**2 < (size * SIDE / 2) ** 2
    return np.where(inside[..., None], palette[slots[slot]], 1.0)


def _triple(rng: np.random.Generator) -> np.ndarray:
    images = data.Triples().images
    chosen = [images[digit, rng.integers(images.shape[1])] for digit in rng.integers(0, 10, 3)]
    return np.concatenate(chosen, axis=1) / np.float32(255)
